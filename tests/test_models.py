import pytest
import torch
import torchvision
from conftest import load_shapes
from torch.nn.functional import binary_cross_entropy_with_logits

from models import build_model
from models.resnet34_unet import DECODERS
from models.unet import DoubleConv, convolve_joined
from scoring import confusion, dice_score


def count_parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_parameter_counts_match_other_implementations():
    # UNet(3, 1) of milesial/Pytorch-UNet. Unet("resnet34") of segmentation_models.pytorch has 24,436,369, with a
    # 3x3 head that has 128 weights more than a 1x1 head.
    assert count_parameters(build_model("unet")) == 31_037_633
    assert count_parameters(build_model("resnet34_unet")) == 24_436_369 - 128


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("name, depth, join", [("unet", 4, 2), ("unet_shallow", 2, 2), ("unet_add", 4, 1)])
def test_unets_have_the_parameters_of_the_papers_figure(name, depth, join, norm):
    """Two 3x3 convolutions per level and path, 2x2 up-convolutions, a 1x1 head. join: 2 if skips are concatenated."""

    def double(i, o):  # a bias, or a norm's scale and shift, per channel
        return 9 * (i + o) * o + 2 * o * (2 if norm == "batch" else 1)

    widths = [64 * 2**level for level in range(depth + 1)]
    expected = double(3, 64) + 64 + 1
    for narrow, wide in zip(widths, widths[1:], strict=False):
        expected += double(narrow, wide) + 4 * wide * narrow + narrow + double(join * narrow, narrow)
    assert count_parameters(build_model(name, norm=norm)) == expected


OPTIONS = [("unet", {"width": 4, **options}) for options in ({}, {"norm": "none"}, {"dropout": 0.5}, {"depth": 1})]
OPTIONS += [("unet_shallow", {"width": 4}), ("unet_add", {"width": 4})]
OPTIONS += [("resnet34_unet", {"decoder": decoder}) for decoder in DECODERS]


@pytest.mark.parametrize("name, options", OPTIONS)
def test_logits_have_the_size_of_the_input(name, options):
    model = build_model(name, in_channels=1, out_channels=2, **options).eval()
    for size in ((64, 64), (33, 47), (1, 5), (256, 1)):
        assert model(torch.rand(2, 1, *size)).shape == (2, 2, *size)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_convolve_joined_equals_the_convolution_of_the_concatenation(norm):
    torch.manual_seed(0)
    layers = DoubleConv(5, 4, norm).eval()
    first, second = torch.randn(2, 3, 7, 6, requires_grad=True), torch.randn(2, 2, 7, 6, requires_grad=True)
    separate, joined = convolve_joined(layers, first, second, 3), layers(torch.cat([first, second], 1))
    torch.testing.assert_close(separate, joined, rtol=0, atol=1e-5)
    wanted = [first, second, *layers.parameters()]
    gradients = [torch.autograd.grad(result.square().mean(), wanted) for result in (separate, joined)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)


def test_the_encoder_is_the_resnet34_of_torchvision():
    torch.manual_seed(0)
    reference = torchvision.models.resnet34(weights=None).eval()
    for module in reference.modules():  # running statistics that differ from 0 and 1, so that they matter
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    encoder = build_model("resnet34_unet").encoder.eval()
    weights = {name: value for name, value in reference.state_dict().items() if not name.startswith("fc.")}
    assert list(encoder.state_dict()) == list(weights)
    encoder.load_state_dict(weights)
    x = torch.randn(2, 3, 96, 64)
    expected, y = [], reference.relu(reference.bn1(reference.conv1(x)))
    expected.append(y)
    y = reference.maxpool(y)
    for layer in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
        y = layer(y)
        expected.append(y)
    for ours, theirs in zip(encoder(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["unet", "unet_shallow", "unet_add", pytest.param("resnet34_unet", marks=pytest.mark.integration)]
)
def test_every_network_overfits_eight_images(name):
    torch.manual_seed(0)
    batch = load_shapes("train", 32, limit=8)[list(range(8))]
    image, mask = batch["image"].float() / 255, batch["mask"]
    model = build_model(name, **({} if name == "resnet34_unet" else {"width": 8}))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        logits = model(image)
        if dice_score(confusion(logits >= 0, mask)).mean() >= 0.995:
            break
        loss = binary_cross_entropy_with_logits(logits, mask.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert dice_score(confusion(model(image) >= 0, mask)).mean() >= 0.99
