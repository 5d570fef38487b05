import importlib.util

import numpy as np
import pytest
import torch
from conftest import error_of, make_checkpoint, script

from export import READERS
from inference import load_model, predict

RESNET = ("resnet34_unet", {})
CASES = [(kind, *network) for kind in ("onnx", "torchscript", "pt2") for network in (("unet", {}), RESNET)]
CASES += [("torchscript", "unet_add", {}), ("torchscript", "resnet34_unet", {"decoder": "transposed"})]
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@pytest.mark.parametrize("kind, name, options", CASES)
def test_an_export_gives_what_the_checkpoint_gives(kind, name, options, tmp_path):
    if kind == "onnx" and not all(importlib.util.find_spec(package) for package in PACKAGES):
        pytest.skip("needs requirements-export.txt")
    from checkpoint import load
    from export import export

    path = make_checkpoint(tmp_path / "a.pth", name, image_size=33, **options)
    assert export(load(path), tmp_path / "a", kind) <= 1e-4
    exported, model = READERS[kind](tmp_path / "a"), load_model(path, precision="float32")
    for height, width in ((64, 96), (41, 77), (33, 35)):
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            scaled = model.network((image - 0.5) / 0.5).sigmoid()
            torch.testing.assert_close(exported(image), scaled, atol=1e-4, rtol=0)
    square = picture[:33, :33]
    image = torch.from_numpy(square.copy()).permute(2, 0, 1)[None] / 255
    np.testing.assert_allclose(exported(image)[0, 0].detach(), predict(model, square), atol=1e-4)


def test_half_precision_is_a_smaller_checkpoint(tmp_path):
    path = make_checkpoint(tmp_path / "a.pth", width=16, threshold=0.45)
    out = script("export", "--model", "a.pth", "--format", "half", cwd=tmp_path).stdout
    assert "wrote a.half.pth" in out
    half = tmp_path / "a.half.pth"
    assert half.stat().st_size < 0.55 * path.stat().st_size
    kept = torch.load(half, weights_only=True)
    assert kept["threshold"] == 0.45 and kept["command"] == "python src/train.py"
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    np.testing.assert_allclose(predict(load_model(half), picture), predict(load_model(path), picture), atol=0.02)


def test_the_script(tmp_path):
    make_checkpoint(tmp_path / "a.pth")
    out = script("export", "--model", "a.pth", "--format", "torchscript", "pt2", cwd=tmp_path).stdout
    assert "wrote a.ts" in out and "wrote a.pt2" in out and out.count("largest difference") == 2
    done = script("export", "--model", "a.pth", "--format", "pt2", "--output", "no/a", cwd=tmp_path, expect=2)
    assert "no is not a folder" in error_of(done)


def test_an_output_that_is_a_folder(tmp_path):
    make_checkpoint(tmp_path / "a.pth")
    (tmp_path / "exp").mkdir()
    for output in ("exp", "."):
        script("export", "--model", "a.pth", "--format", "half", "--output", output, cwd=tmp_path)
        assert (tmp_path / output / "a.half.pth").is_file()


def test_a_wrong_export_is_not_written(tmp_path, monkeypatch):
    import export
    from checkpoint import load
    from utils import UserError

    path = make_checkpoint(tmp_path / "a.pth")
    monkeypatch.setitem(export.READERS, "pt2", lambda file: lambda image: image[:, :1] * 0)
    with pytest.raises(UserError, match="was not written: it differs"):
        export.export(load(path), tmp_path / "a.pt2", "pt2")
    assert not (tmp_path / "a.pt2").exists()
