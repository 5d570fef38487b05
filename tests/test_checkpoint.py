"""Checkpoint files: what is read back, whose files are read, what is refused."""

import pickle

import pytest
import torch
from conftest import make_checkpoint
from torch import nn

from checkpoint import load, restore_model, save
from models import MODELS, build_model
from runtime import Runtime
from utils import UserError

NETWORKS = [
    ("unet", {}),
    ("unet", {"norm": "none"}),
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


def test_a_checkpoint_in_half_precision_is_computed_in_single(tmp_path):
    values = torch.load(make_checkpoint(tmp_path / "a.pth"), weights_only=True)
    halved = {name: value.half() if value.is_floating_point() else value for name, value in values["model"].items()}
    torch.save({**values, "model": halved}, tmp_path / "half.pth")
    model = restore_model(load(tmp_path / "half.pth"), "half.pth", Runtime())
    assert all(value.dtype == torch.float32 for value in model.parameters())
    assert model(torch.randn(1, 3, 32, 32)).isfinite().all()


def test_saving_and_loading_gives_the_same_fields(tmp_path):
    checkpoint = load(make_checkpoint(tmp_path / "a.pth", threshold=0.45))
    checkpoint.trained_on = None
    save(checkpoint, tmp_path / "b.pth")
    first, second = checkpoint.to_dict(), load(tmp_path / "b.pth").to_dict()
    first_weights, second_weights = first.pop("model"), second.pop("model")
    assert first == second and first["threshold"] == 0.45 and "trained_on" not in first
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
def test_the_options_of_a_state_dict_are_found(name, options, tmp_path):
    start = load(make_checkpoint(tmp_path / "a.pth", name, **options))
    torch.save(start.model, tmp_path / "plain.pth")
    found = load(tmp_path / "plain.pth", name)
    build_model(name, **found.options).load_state_dict(start.model)
    assert {key: found.options[key] for key in options if key != "dropout"} == {
        key: value for key, value in options.items() if key != "dropout"
    }


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda values, path: path.write_bytes(path.read_bytes()[:1000]),
        lambda values, path: path.write_text("some text"),
        lambda values, path: path.unlink(),
        lambda values, path: path.write_bytes(pickle.dumps(Hostile())),
        lambda values, path: torch.save({"weight": torch.zeros(1)}, path),
        lambda values, path: torch.save([1, 2], path),
        lambda values, path: torch.save({**values, "image_size": 0}, path),
        lambda values, path: torch.save({**values, "std": [0.0] * 3}, path),
        lambda values, path: torch.save({**values, "mean": "abc"}, path),
        lambda values, path: torch.save({**values, "options": {"in_channels": 3, "save_dir": "/"}}, path),
        lambda values, path: torch.save({**values, "options": {"in_channels": 3, "width": 2**40}}, path),
        lambda values, path: torch.save({**values, "name": "resnet34_unet", "options": {"in_channels": 3}}, path),
        lambda values, path: values["model"]["head.bias"].fill_(torch.nan) and torch.save(values, path),
    ],
)
def test_a_broken_checkpoint_is_refused_and_runs_nothing(spoil, tmp_path, capsys):
    path = make_checkpoint(tmp_path / "a.pth")
    spoil(torch.load(path, weights_only=True), path)
    with pytest.raises(UserError, match=r"a\.pth"):
        restore_model(load(path), path)
    assert "executed" not in capsys.readouterr().out


def test_a_checkpoint_names_its_network(tmp_path):
    path = make_checkpoint(tmp_path / "a.pth")
    for other in MODELS.keys() - {"unet"}:
        with pytest.raises(UserError, match="--model_type"):
            load(path, other)
