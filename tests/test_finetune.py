"""--weights: another run's network and weights, with a recipe of one's own."""

import pytest
import torch
from conftest import error_of, make_checkpoint, script

from checkpoint import load
from models import build_model

RUN = ("--dataset", "shapes", "--image_size", 32, "--limit", 8, "--batch_size", 4, "--steps", 2, "--epochs", 1)
STILL = (*RUN, "--learning_rate", 0, "--weight_decay", 0, "--ema", 0, "--save_dir", "tuned", "--name", "a")


def trained_parameters(folder, name="a"):
    """The parameters that a run ended with, and its checkpoint."""
    checkpoint = load(folder / f"tuned/{name}.last.pth")
    model = build_model(checkpoint["name"], **checkpoint["options"])
    return {key: checkpoint["model"][key] for key, _ in model.named_parameters()}, checkpoint


def test_the_network_and_its_scaling_come_with_the_weights(tmp_path):
    path = make_checkpoint(tmp_path / "start.pth", in_channels=1, depth=2, norm="none")
    start = torch.load(path, weights_only=True)
    torch.save({**start, "mean": [0.4], "std": [0.3]}, path)
    script("train", *STILL, "--weights", path, cwd=tmp_path)
    parameters, tuned = trained_parameters(tmp_path)
    assert all(torch.equal(value, start["model"][key]) for key, value in parameters.items())
    assert tuned["options"] == start["options"] and (tuned["mean"], tuned["std"]) == ([0.4], [0.3])
    script("train", *STILL, "--weights", path, "--mean_std", "unit", "--depth", 2, "--name", "b", cwd=tmp_path)
    assert load(tmp_path / "tuned/b.pth")["mean"] == [0.0]


def test_a_run_from_weights_resumes_without_them(tmp_path):
    path = make_checkpoint(tmp_path / "start.pth", "resnet34_unet", decoder="nearest")
    script("train", *RUN, "--weights", path, "--name", "a", cwd=tmp_path)
    path.unlink()
    script("train", "--resume", "saved_models/a.last.pth", "--epochs", 2, cwd=tmp_path)


def test_a_head_of_other_channels_is_made_anew_and_that_is_said(tmp_path):
    path = make_checkpoint(tmp_path / "start.pth", depth=2)
    out = script("train", *STILL, "--weights", path, "--out_channels", 2, cwd=tmp_path).stdout
    assert f"--weights {path} has a head of 1 channels; one of 2 is made anew" in out
    parameters, tuned = trained_parameters(tmp_path)
    start = torch.load(path, weights_only=True)["model"]
    assert all(torch.equal(value, start[key]) for key, value in parameters.items() if not key.startswith("head."))
    assert parameters["head.weight"].shape[0] == 2 == tuned["options"]["out_channels"]


def test_a_plain_state_dict_in_a_strangers_wrapper_is_of_the_network_of_model(tmp_path):
    weights = build_model("unet", width=4, depth=2, out_channels=3).state_dict()
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in weights.items()}}, tmp_path / "s.pth"
    )
    out = script("train", *STILL, "--weights", "s.pth", "--model", "unet", cwd=tmp_path).stdout
    assert "a head of 3 channels; one of 1 is made anew" in out
    parameters, _ = trained_parameters(tmp_path)
    assert torch.equal(parameters["stem.0.weight"], weights["stem.0.weight"])
    done = script("train", *STILL, "--weights", "s.pth", cwd=tmp_path, expect=2)
    assert "--weights s.pth does not say which network it is of; name it by --model" in error_of(done)
    done = script("train", *STILL, "--weights", "s.pth", "--model", "resnet34_unet", cwd=tmp_path, expect=2)
    assert "s.pth does not fit --model resnet34_unet" in error_of(done)


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--model resnet34_unet", "--model resnet34_unet: the network of --weights start.pth has unet; leave it out"),
        ("--width 8", "--width 8: the network of --weights start.pth has 4; leave it out"),
        ("--depth 3", "--depth 3: the network of --weights start.pth has 4"),
        ("--in_channels 1", "--in_channels 1: the network of --weights start.pth has 3"),
        ("--decoder nearest", "--decoder nearest: the network of --weights start.pth has no such option"),
        ("--encoder_weights x.pth", "--weights brings the encoder's weights; leave out --encoder_weights"),
        ("--weights nowhere.pth", "--weights nowhere.pth not found"),
        ("--weights hostile.pth", "does not fit the network it names"),
        ("--weights list.pth --model unet", "list.pth does not fit --model unet"),
    ],
)
def test_what_does_not_go_together_is_one_line(flags, words, tmp_path):
    path = make_checkpoint(tmp_path / "start.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    hostile = {**torch.load(path, weights_only=True), "options": {"in_channels": 3, "save_dir": "/"}}
    torch.save(hostile, tmp_path / "hostile.pth")
    done = script("train", *RUN, "--weights", "start.pth", *flags.split(), cwd=tmp_path, expect=2)
    assert words in error_of(done)


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--mean_std weights", "--mean_std weights needs --weights"),
        ("--mean_std imagenet --in_channels 1", "--mean_std imagenet is of pictures in color"),
    ],
)
def test_a_scaling_that_there_is_not_is_one_line(flags, words, tmp_path):
    assert words in error_of(script("train", *RUN, *flags.split(), cwd=tmp_path, expect=2))


def test_imagenets_scaling_is_torchvisions(tmp_path):
    from torchvision.models import ResNet34_Weights

    script("train", *STILL, "--width", 4, "--mean_std", "imagenet", cwd=tmp_path)
    checkpoint, preset = load(tmp_path / "tuned/a.pth"), ResNet34_Weights.IMAGENET1K_V1.transforms()
    assert (checkpoint["mean"], checkpoint["std"]) == (preset.mean, preset.std)
