"""Checkpoint files: saving, loading, state_dicts of other code, and files that are refused."""

import pickle

import pytest
import torch
from conftest import error_of, make_checkpoint, read_scores, script
from PIL import Image
from torch import nn

from checkpoint import load, restore_model, save
from models import MODELS, build_model
from runtime import Runtime
from utils import UserError

NETWORKS = [
    ("unet", {}),
    ("unet", {"norm": "none", "depth": 3}),
    ("unet_add", {"dropout": 0.5}),
    ("unet_shallow", {"in_channels": 1, "out_channels": 2}),
    ("resnet34_unet", {"decoder": "nearest"}),
    ("resnet34_unet", {"decoder": "upconv"}),
    ("resnet34_unet", {"decoder": "transposed"}),
]


@pytest.mark.parametrize("name, options", NETWORKS)
def test_folding_batch_norm_does_not_change_the_output(name, options, tmp_path):
    checkpoint = load(make_checkpoint(tmp_path / "a.pth", name, **options))
    plain, folded = (restore_model(checkpoint, "a.pth", Runtime(), folded) for folded in (False, True))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    image = torch.randn(2, options.get("in_channels", 3), 45, 70)
    with torch.inference_mode():
        expected = plain(image)
        torch.testing.assert_close(folded(image), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


def test_saving_and_loading_gives_the_same_fields(tmp_path):
    checkpoint = load(make_checkpoint(tmp_path / "a.pth", threshold=0.45))
    checkpoint.trained_on = None
    save(checkpoint, tmp_path / "b.pth")
    first, second = vars(checkpoint), vars(load(tmp_path / "b.pth"))
    first_weights, second_weights = first.pop("model"), second.pop("model")
    assert first == second and first["threshold"] == 0.45 and first["trained_on"] is None
    assert all(torch.equal(value, second_weights[name]) for name, value in first_weights.items())


@pytest.mark.parametrize(
    "wrapper, prefix",
    [(None, ""), ("state_dict", "module."), ("model_state_dict", "_orig_mod."), ("model", "module._orig_mod.")],
)
def test_wrappers_and_prefixes_of_other_code_are_removed(wrapper, prefix, tmp_path):
    weights = load(make_checkpoint(tmp_path / "a.pth")).model
    other = {prefix + name: value for name, value in weights.items()}
    torch.save({wrapper: other, "epoch": 3} if wrapper else other, tmp_path / "b.pth")
    restored = restore_model(load(tmp_path / "b.pth", "unet"), "b.pth").state_dict()
    assert all(torch.equal(value, restored[name]) for name, value in weights.items())


@pytest.mark.parametrize("name, options", NETWORKS)
def test_the_options_of_a_state_dict_are_inferred(name, options, tmp_path):
    start = load(make_checkpoint(tmp_path / "a.pth", name, **options))
    torch.save(start.model, tmp_path / "plain.pth")
    found = load(tmp_path / "plain.pth", name)
    restored = restore_model(found, "plain.pth").state_dict()
    assert all(torch.equal(value, restored[key]) for key, value in start.model.items())
    known = options.items() - {"dropout": 0.5}.items()  # dropout has no weights
    assert known <= found.options.items()


class Hostile:
    """Prints a word if it is unpickled."""

    def __reduce__(self):
        return print, ("executed",)


def saved(**changes):
    return lambda values, path: torch.save({**values, **changes}, path)


BROKEN = {
    "missing": lambda values, path: path.unlink(),
    "truncated": lambda values, path: path.write_bytes(path.read_bytes()[:1000]),
    "empty": lambda values, path: path.write_bytes(b""),
    "text": lambda values, path: path.write_text("some text"),
    "pickled code": lambda values, path: path.write_bytes(pickle.dumps(Hostile())),
    "a list": lambda values, path: torch.save([1, 2], path),
    "no mean": lambda values, path: torch.save({key: values[key] for key in values.keys() - {"mean"}}, path),
    "a state_dict without --model_type": lambda values, path: torch.save(values["model"], path),
    "no weights": saved(model={}),
    "weights of fewer levels": saved(model=build_model("unet", width=4, depth=3).state_dict()),
    "weights of another network": saved(model=build_model("resnet34_unet").state_dict()),
    "another network's name": saved(name="resnet34_unet", options={"in_channels": 3}),
    "an unknown option": saved(options={"in_channels": 3, "save_dir": "/"}),
    "a huge width": saved(options={"in_channels": 3, "width": 10**12}),
    "a huge depth": saved(options={"in_channels": 3, "depth": 10**12}),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_checkpoint_is_refused_in_one_line_and_runs_nothing(kind, tmp_path, capsys):
    path = make_checkpoint(tmp_path / "a.pth")
    BROKEN[kind](torch.load(path, weights_only=True), path)
    with pytest.raises(UserError, match=r"a\.pth") as refused:
        restore_model(load(path), path)
    assert "\n" not in str(refused.value) and "executed" not in capsys.readouterr().out


def test_a_network_that_this_copy_lacks_is_named(tmp_path):
    path = make_checkpoint(tmp_path / "a.pth")
    saved(name="mynet")(torch.load(path, weights_only=True), path)
    with pytest.raises(UserError, match="mynet.*MODELS"):
        load(path)


def test_no_command_runs_code_in_a_checkpoint(tmp_path):
    torch.save({"model": Hostile()}, tmp_path / "harm.pth")
    commands = [(name, "--model") for name in ("evaluate", "inference", "report")]
    commands += [("train", "--resume"), ("train", "--model", "resnet34_unet", "--encoder_weights")]
    for command in commands:
        done = script(*command, "harm.pth", cwd=tmp_path, expect=2)
        assert "harm.pth" in error_of(done) and "executed" not in done.stdout


def test_model_type_does_not_override_the_metadata_of_a_checkpoint(tmp_path):
    path = make_checkpoint(tmp_path / "own.pth", image_size=96)
    checkpoint = torch.load(path, weights_only=True) | {"mean": [0.4] * 3, "std": [0.2] * 3, "threshold": 0.3}
    torch.save(checkpoint, path)
    found = load(path, "unet")
    assert all(getattr(found, key) == checkpoint[key] for key in ("image_size", "mean", "std", "threshold"))
    for other in MODELS.keys() - {"unet"}:
        with pytest.raises(UserError, match=f"unet.*{other}.*--model_type"):
            load(path, other)


def test_a_state_dict_predicts_if_model_type_names_its_network(tmp_path):
    weights = build_model("unet", width=4).state_dict()
    torch.save({name: value.half() for name, value in weights.items()}, tmp_path / "half.pth")
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    flags = ("--model", "half.pth", "a.png", "--image_size", 32, "--output", "out", "--overwrite")
    script("predict", *flags, "--model_type", "unet", cwd=tmp_path)
    assert Image.open(tmp_path / "out/a.png").size == (50, 40)
    done = script("predict", *flags, "--model_type", "resnet34_unet", cwd=tmp_path, expect=2)
    assert "--model_type resnet34_unet" in error_of(done)
    assert "--model_type" in error_of(script("predict", *flags, cwd=tmp_path, expect=2))


def test_provenance_is_written_with_the_scores(tmp_path):
    script("train", "--dataset", "shapes", "--limit", 4, "--width", 2, "--epochs", 1, "--steps", 1, cwd=tmp_path)
    script("evaluate", "--model", "saved_models/unet.pth", "--limit", 2, "--output", "s", cwd=tmp_path)
    found = read_scores(tmp_path, "s")["provenance"]
    assert "train.py" in found["command"] and found["args"]["width"] == 2 and found["epoch"] == 1
    assert found["versions"]["torch"] == torch.__version__ and found["device"] == "cpu" and "commit" in found["git"]
