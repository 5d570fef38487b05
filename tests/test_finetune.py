"""--weights: fine-tune the network of another run with new training flags."""

import pytest
import torch
from conftest import error_of, make_checkpoint, script

from checkpoint import load
from models import build_model

RUN = ("--dataset", "shapes", "--image_size", 32, "--limit", 8, "--batch_size", 4, "--steps", 2, "--epochs", 1)
STILL = (*RUN, "--learning_rate", 0, "--weight_decay", 0, "--ema", 0, "--save_dir", "tuned", "--name", "a")


def trained_parameters(folder, saved="tuned"):
    """Return the final parameters of run a, and its last checkpoint."""
    checkpoint = load(folder / saved / "a.last.pth")
    model = build_model(checkpoint.name, **checkpoint.options)
    return {key: checkpoint.model[key] for key, _ in model.named_parameters()}, checkpoint


def test_network_and_normalization_are_taken_from_the_weights(tmp_path):
    path = make_checkpoint(tmp_path / "start.pth", in_channels=1, depth=2, norm="none")
    start = torch.load(path, weights_only=True)
    torch.save({**start, "mean": [0.4], "std": [0.3]}, path)
    script("train", *STILL, "--weights", path, cwd=tmp_path)
    parameters, tuned = trained_parameters(tmp_path)
    assert all(torch.equal(value, start["model"][key]) for key, value in parameters.items())
    assert tuned.options == start["options"] and (tuned.mean, tuned.std) == ([0.4], [0.3])
    script("train", *STILL, "--weights", path, "--normalize", "unit", "--depth", 2, "--name", "b", cwd=tmp_path)
    assert load(tmp_path / "tuned/b.pth").mean == [0.0]
    path.unlink()  # a run resumes without them
    script("train", "--resume", "tuned/a.last.pth", "--epochs", 2, cwd=tmp_path)


def test_a_state_dict_of_other_code_needs_the_model_flag(tmp_path):
    weights = build_model("unet", width=4, depth=2, out_channels=3).state_dict()
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in weights.items()}}
    torch.save(wrapped, tmp_path / "s.pth")
    for flags, channels in (((), 1), (("--out_channels", 2, "--save_dir", "two"), 2)):
        done = script("train", *STILL, "--weights", "s.pth", "--model", "unet", *flags, cwd=tmp_path)
        assert "s.pth: reinitializing head.weight, head.bias" in done.stdout
        parameters, _ = trained_parameters(tmp_path, "two" if flags else "tuned")
        assert torch.equal(parameters["stem.0.weight"], weights["stem.0.weight"])
        assert parameters["head.weight"].shape[0] == channels
    for flags in ((), ("--model", "resnet34_unet")):
        done = script("train", *STILL, "--weights", "s.pth", *flags, cwd=tmp_path, expect=2)
        assert "s.pth" in error_of(done) and "--model" in error_of(done)


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--model resnet34_unet", "--model"), ("--width 8", "--width 8"), ("--in_channels 1", "--in_channels 1"),
        ("--decoder nearest", "--decoder nearest"), ("--encoder_weights x.pth", "--encoder_weights"),
        ("--weights nowhere.pth", "--weights nowhere.pth"), ("--weights hostile.pth", "hostile.pth"),
    ],
)  # fmt: skip
def test_flags_that_contradict_the_weights_and_bad_files_are_refused(flags, words, tmp_path):
    path = make_checkpoint(tmp_path / "start.pth")
    hostile = {**torch.load(path, weights_only=True), "options": {"in_channels": 3, "save_dir": "/"}}
    torch.save(hostile, tmp_path / "hostile.pth")
    done = script("train", *RUN, "--weights", "start.pth", *flags.split(), cwd=tmp_path, expect=2)
    assert words in error_of(done)
