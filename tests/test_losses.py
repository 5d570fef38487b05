import math

import pytest
import torch
import torch.nn.functional as F
from conftest import error_of, script
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from losses import LOSSES, bce, bce_dice, build_loss, dice, focal, jaccard, tversky
from models import MODELS

RUN = ("--dataset", "shapes", "--image_size", 32, "--limit", 8, "--batch_size", 4, "--steps", 2, "--epochs", 1)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(3, 1, 6, 5), torch.randint(0, 2, (3, 1, 6, 5), dtype=torch.uint8)


def test_bce_is_pytorchs(batch):
    logits, mask = batch
    torch.testing.assert_close(bce(logits, mask), F.binary_cross_entropy_with_logits(logits, mask.float()))


def test_bce_of_two_channels_is_the_mean_of_both(batch):
    logits, mask = torch.cat([batch[0], 2 * batch[0]], 1), batch[1]
    expected = F.binary_cross_entropy_with_logits(logits, torch.cat([1 - mask, mask], 1).float())
    torch.testing.assert_close(bce(logits, mask), expected)


def test_soft_scores_of_a_known_picture():
    logits = torch.tensor([[[[100.0, 100, -100, -100]]]])
    mask = torch.tensor([[[[1, 0, 1, 0]]]], dtype=torch.uint8)
    assert dice(logits, mask).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert jaccard(logits, mask).item() == pytest.approx(1 - (1 + 1) / (3 + 1))
    assert dice(torch.zeros_like(logits), mask).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))


def test_dice_is_the_mean_over_pictures_not_over_the_batch():
    logits = torch.full((2, 1, 4, 4), 100.0)
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    mask[0] = 1
    assert dice(logits, mask).item() == pytest.approx((0 + 1 - 1 / 17) / 2)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_count_nowhere(name, channels, batch):
    logits, mask = batch[0].repeat(1, channels, 1, 1).requires_grad_(), batch[1].clone()
    mask[:, :, :, 2:] = 255
    loss = LOSSES[name](logits, mask)
    torch.testing.assert_close(loss, LOSSES[name](logits[..., :2], mask[..., :2]))
    loss.backward()
    assert (logits.grad[..., 2:] == 0).all() and (logits.grad[..., :2] != 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_wholly_ignored_batch_gives_a_number(name, batch):
    logits = batch[0].requires_grad_()
    loss = LOSSES[name](logits, torch.full_like(batch[1], 255))
    loss.backward()
    assert math.isfinite(loss.item()) and (logits.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_may_be_cut_into_parts(name, batch):
    logits, mask = batch[0], batch[1].clone()
    mask[0, :, :4] = 255  # pictures with different numbers of known pixels
    parts = LOSSES[name](logits[:1], mask[:1]) / 3 + LOSSES[name](logits[1:], mask[1:]) * 2 / 3
    torch.testing.assert_close(LOSSES[name](logits, mask), parts)


def test_bce_dice_is_the_sum(batch):
    torch.testing.assert_close(bce_dice(*batch), bce(*batch) + dice(*batch))


def test_focal_is_torchvisions(batch):
    logits, mask = batch
    torch.testing.assert_close(focal(logits, mask), sigmoid_focal_loss(logits, mask.float(), reduction="mean"))


@pytest.mark.parametrize("loss", [tversky, focal])
def test_two_channels_weigh_mistakes_as_one_does(loss):
    """The background's channel says the opposite of the foreground's: its false positive is a missed foreground."""
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    mask[..., :4] = 1
    right = torch.where(mask == 1, 9.0, -9.0)
    invented, missed = right.clone(), right.clone()
    invented[:, :, 0, 4], missed[:, :, 0, 0] = 9.0, -9.0
    one, two = ([loss(part(logits), mask) for logits in (invented, missed)] for part in (alone, both_channels))
    assert abs(math.log(one[0] / one[1])) > 0.5
    assert two[0] / two[1] == pytest.approx((one[0] / one[1]).item(), rel=0.1)


def alone(logits):
    return logits


def both_channels(logits):
    return torch.cat([-logits, logits], 1)


def test_tversky_of_a_known_picture():
    logits = torch.tensor([[[[100.0, 100, 100, -100, -100]]]])
    mask = torch.tensor([[[[1, 0, 0, 1, 0]]]], dtype=torch.uint8)  # 1 true positive, 2 false ones, 1 false negative
    assert tversky(logits, mask).item() == pytest.approx(1 - (1 + 1) / (1 + 0.3 * 2 + 0.7 * 1 + 1))
    assert tversky(logits, mask, 1, 1).item() == pytest.approx(jaccard(logits, mask).item())


@pytest.mark.parametrize("name", LOSSES)
def test_a_name_alone_is_the_function_itself(name):
    assert build_loss(name) is build_loss(f"{name}:1") is LOSSES[name]


def test_a_sum_of_weighted_losses(batch):
    assert torch.equal(build_loss("bce:1,dice:1")(*batch), bce_dice(*batch))
    assert torch.equal(build_loss("bce, dice")(*batch), bce_dice(*batch))
    torch.testing.assert_close(build_loss("focal:20,tversky:.5")(*batch), 20 * focal(*batch) + 0.5 * tversky(*batch))


@pytest.mark.parametrize(
    "text, words",
    [
        ("hinge", "'hinge' is not a loss; there are bce, dice, bce_dice, jaccard, focal, tversky"),
        ("bce:1,hinge:2", "'hinge' is not a loss"),
        ("bce:1,", "'' is not a loss"),
        ("bce:many", "many is not a weight for bce; give a number above 0, as in bce:1"),
        ("bce:0", "0 is not a weight for bce"),
        ("bce:-1", "-1 is not a weight for bce"),
        ("bce:nan", "nan is not a weight for bce"),
        ("dice,dice:2", "dice,dice:2 names a loss twice"),
    ],
)
def test_what_is_no_loss_is_one_line(text, words, tmp_path):
    assert words in error_of(script("train", "--loss", text, cwd=tmp_path, expect=2))


def test_a_run_with_a_sum_is_the_run_with_its_name(tmp_path):
    for name, text in (("named", "bce_dice"), ("sum", "bce:1,dice:1")):
        script("train", *RUN, "--width", 2, "--loss", text, "--name", name, cwd=tmp_path)
    named, total = (torch.load(tmp_path / f"saved_models/{name}.pth", weights_only=True) for name in ("named", "sum"))
    assert all(torch.equal(value, total["model"][key]) for key, value in named["model"].items())
    assert total["settings"]["loss"] == "bce:1,dice:1"


def squared(logits, mask):
    """A user's own loss: the mean squared error of the probability."""
    return ((logits.sigmoid() - (mask == 1).float()) ** 2).mean()


class OneConvolution(nn.Module):
    """A user's own network."""

    def __init__(self, in_channels=3, out_channels=1, kernel=3):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)

    def forward(self, image):
        return self.conv(image)


def test_a_loss_and_a_network_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setitem(LOSSES, "squared", squared)
    monkeypatch.setitem(MODELS, "one_convolution", (OneConvolution, {}))
    flags = ("--model", "one_convolution", "--loss", "squared:2,bce:.1", "--name", "own")
    script("train", *RUN, *flags, cwd=tmp_path)
    script("train", "--resume", "saved_models/own.last.pth", "--epochs", 2, cwd=tmp_path)
    out = script("evaluate", "--model", "saved_models/own.pth", "--split", "valid", cwd=tmp_path).stdout
    assert "valid split, 100 pictures" in out
