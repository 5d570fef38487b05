import pytest
import torch
from conftest import make_checkpoint

from checkpoint import load, restore_model
from predictor import load_predictor
from runtime import Runtime


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "name, options",
    [
        ("unet", {}),
        ("unet", {"norm": "none"}),
        ("unet_add", {"dropout": 0.5}),
        ("unet_shallow", {"in_channels": 1, "out_channels": 2}),
        ("resnet34_unet", {"decoder": "nearest"}),
        ("resnet34_unet", {"decoder": "upconv"}),
        ("resnet34_unet", {"decoder": "transposed"}),
    ],
)
def test_weights_cast_once_give_the_logits_of_weights_cast_by_autocast(name, options, dtype, tmp_path):
    path, runtime = make_checkpoint(tmp_path / "a.pth", name, **options), Runtime(dtype=dtype)
    predictor = load_predictor(path, runtime, tta=True)
    assert {weight.dtype for weight in predictor.network.parameters()} == {dtype}
    pixels = torch.randint(0, 256, (2, options.get("in_channels", 3), 45, 70), dtype=torch.uint8)
    logits = predictor.logits(pixels)
    predictor.network = restore_model(load(path), path, runtime, folded=True)
    expected = predictor.logits(pixels)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=0, rtol=0)
