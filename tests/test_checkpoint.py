import pytest
import torch
from conftest import make_checkpoint
from torch import nn

from checkpoint import load, restore_model
from runtime import Runtime


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
@pytest.mark.parametrize("height, width", [(64, 64), (45, 70)])
def test_folding_batch_norm_changes_nothing_but_the_speed(name, options, height, width, tmp_path):
    checkpoint = load(make_checkpoint(tmp_path / "a.pth", name, **options))
    plain, folded = (restore_model(checkpoint, "a.pth", Runtime(), folded) for folded in (False, True))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    image = torch.randn(2, options.get("in_channels", 3), height, width)
    with torch.inference_mode():
        expected = plain(image)
        torch.testing.assert_close(folded(image), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


def test_a_checkpoint_in_half_precision_is_computed_in_single(tmp_path):
    checkpoint = load(make_checkpoint(tmp_path / "a.pth"))
    checkpoint["model"] = {
        name: value.half() if value.is_floating_point() else value for name, value in checkpoint["model"].items()
    }
    torch.save(checkpoint, tmp_path / "half.pth")
    model = restore_model(load(tmp_path / "half.pth"), "half.pth", Runtime())
    assert all(value.dtype == torch.float32 for value in model.parameters())
    assert model(torch.randn(1, 3, 32, 32)).isfinite().all()
