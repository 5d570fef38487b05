"""Exported files give the checkpoint's predictions."""

import pytest
import torch
from conftest import error_of, make_checkpoint, script

from checkpoint import load, restore_model
from export import READERS, WRITERS, export
from predictor import load_predictor
from runtime import Runtime
from utils import UserError


@pytest.mark.parametrize("kind", ["pt2", pytest.param("onnx", marks=pytest.mark.integration)])
@pytest.mark.parametrize("name", ["unet", pytest.param("resnet34_unet", marks=pytest.mark.integration)])
def test_an_export_gives_the_predictions_of_the_checkpoint(kind, name, tmp_path):
    if kind == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    path = make_checkpoint(tmp_path / "a.pth", name, image_size=33)
    assert export(load(path), tmp_path / "a", kind) <= 1e-4
    exported, predictor = READERS[kind](tmp_path / "a"), load_predictor(path, Runtime())
    for height, width in ((64, 96), (41, 77)):
        pixels = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        with torch.no_grad():
            found = exported(pixels / 255)
        torch.testing.assert_close(found, predictor.probability(pixels).clone(), atol=1e-3, rtol=0)


def test_a_checkpoint_in_half_precision_is_smaller_and_computed_in_float32(tmp_path):
    path = make_checkpoint(tmp_path / "a.pth", width=16, threshold=0.45)
    script("export", "--model", "a.pth", "--format", "half", cwd=tmp_path)
    half = tmp_path / "a.half.pth"
    assert half.stat().st_size < 0.55 * path.stat().st_size
    kept, pixels = load(half), torch.randint(0, 256, (1, 3, 40, 50), dtype=torch.uint8)
    assert kept.threshold == 0.45 and kept.command == "python src/train.py" and kept.training is None
    assert all(value.dtype == torch.float32 for value in restore_model(kept, half).parameters())
    one, two = (load_predictor(file, Runtime()).probability(pixels) for file in (half, path))
    torch.testing.assert_close(one, two, atol=0.02, rtol=0)


def test_the_output_is_next_to_the_checkpoint_unless_output_is_given(tmp_path):
    make_checkpoint(tmp_path / "a.pth")
    (tmp_path / "exp").mkdir()
    for output, written in ((None, "a"), ("exp", "exp/a"), ("exp/b", "exp/b"), ("new/c", "new/c")):
        flags = ("--output", output) if output else ()
        script("export", "--model", "a.pth", "--format", "half", *flags, cwd=tmp_path)
        assert (tmp_path / f"{written}.half.pth").is_file()
    torch.save(load(tmp_path / "a.pth").model, tmp_path / "s.pth")
    flags = ("--model", "s.pth", "--format", "half")
    assert "--model_type" in error_of(script("export", *flags, cwd=tmp_path, expect=2))
    script("export", *flags, "--model_type", "unet", cwd=tmp_path)


def test_an_export_with_wrong_predictions_is_not_written(tmp_path, monkeypatch):
    path = make_checkpoint(tmp_path / "a.pth")
    monkeypatch.setitem(WRITERS, "pt2", lambda program, target: target.touch())
    monkeypatch.setitem(READERS, "pt2", lambda file: lambda image: image[:, :1] * 0)
    with pytest.raises(UserError, match=r"a\.pt2"):
        export(load(path), tmp_path / "a.pt2", "pt2")
    assert not (tmp_path / "a.pt2").exists()
