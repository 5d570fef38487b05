import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from losses import LOSSES, bce, bce_dice, build_loss, dice_loss, focal_loss, jaccard_loss, tversky_loss


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(3, 1, 6, 5), torch.randint(0, 2, (3, 1, 6, 5), dtype=torch.uint8)


def test_bce_matches_pytorch_and_focal_torchvision(batch):
    logits, mask = batch
    torch.testing.assert_close(bce(logits, mask), F.binary_cross_entropy_with_logits(logits, mask.float()))
    torch.testing.assert_close(focal_loss(logits, mask), sigmoid_focal_loss(logits, mask.float(), reduction="mean"))


def test_bce_of_two_channels_is_the_mean_over_both(batch):
    logits, mask = torch.cat([batch[0], 2 * batch[0]], 1), batch[1]
    expected = F.binary_cross_entropy_with_logits(logits, torch.cat([1 - mask, mask], 1).float())
    torch.testing.assert_close(bce(logits, mask), expected)


def test_dice_and_jaccard_loss_of_a_known_mask():
    logits = torch.tensor([[[[100.0, 100, -100, -100]]]])
    mask = torch.tensor([[[[1, 0, 1, 0]]]], dtype=torch.uint8)
    assert dice_loss(logits, mask).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert jaccard_loss(logits, mask).item() == pytest.approx(1 - (1 + 1) / (3 + 1))
    assert dice_loss(torch.zeros_like(logits), mask).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_do_not_affect_loss_or_gradient(name, channels, batch):
    logits, mask = batch[0].repeat(1, channels, 1, 1).requires_grad_(), batch[1].clone()
    mask[:, :, :, 2:] = 255
    loss = LOSSES[name](logits, mask)
    torch.testing.assert_close(loss, LOSSES[name](logits[..., :2], mask[..., :2]))
    loss.backward()
    assert (logits.grad[..., 2:] == 0).all() and (logits.grad[..., :2] != 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_completely_ignored_batch_has_a_finite_loss_without_gradient(name, batch):
    logits = batch[0].requires_grad_()
    loss = LOSSES[name](logits, torch.full_like(batch[1], 255))
    loss.backward()
    assert math.isfinite(loss.item()) and (logits.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_batch_is_the_weighted_mean_over_micro_batches(name, batch):
    logits, mask = batch[0], batch[1].clone()
    mask[0, :, :4] = 255  # images with different numbers of known pixels
    parts = LOSSES[name](logits[:1], mask[:1]) / 3 + LOSSES[name](logits[1:], mask[1:]) * 2 / 3
    torch.testing.assert_close(LOSSES[name](logits, mask), parts)


@pytest.mark.parametrize("loss", [tversky_loss, focal_loss])
def test_two_channels_weight_errors_like_one(loss):
    """A false positive in the background channel is a missed foreground pixel."""
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    mask[..., :4] = 1
    right = torch.where(mask == 1, 9.0, -9.0)
    extra, missed = right.clone(), right.clone()
    extra[:, :, 0, 4], missed[:, :, 0, 0] = 9.0, -9.0
    one = [loss(logits, mask) for logits in (extra, missed)]
    two = [loss(torch.cat([-logits, logits], 1), mask) for logits in (extra, missed)]
    assert abs(math.log(one[0] / one[1])) > 0.5
    assert two[0] / two[1] == pytest.approx((one[0] / one[1]).item(), rel=0.1)


def test_tversky_loss_of_a_known_mask():
    logits = torch.tensor([[[[100.0, 100, 100, -100, -100]]]])
    mask = torch.tensor([[[[1, 0, 0, 1, 0]]]], dtype=torch.uint8)  # TP: 1, FP: 2, FN: 1
    assert tversky_loss(logits, mask).item() == pytest.approx(1 - (1 + 1) / (1 + 0.3 * 2 + 0.7 * 1 + 1))
    assert tversky_loss(logits, mask, 1, 1).item() == pytest.approx(jaccard_loss(logits, mask).item())


def test_build_loss_takes_names_and_weighted_sums(batch):
    assert all(build_loss(name) is function for name, function in LOSSES.items())
    torch.testing.assert_close(bce_dice(*batch), bce(*batch) + dice_loss(*batch))
    assert torch.equal(build_loss("bce:1,dice:1")(*batch), bce_dice(*batch))
    assert torch.equal(build_loss("bce, dice")(*batch), bce_dice(*batch))
    expected = 20 * focal_loss(*batch) + 0.5 * tversky_loss(*batch)
    torch.testing.assert_close(build_loss("focal:20,tversky:.5")(*batch), expected)


@pytest.mark.parametrize("text", ["hinge", "bce:1,hinge:2", "bce:1,", "bce:many", "bce:0", "bce:nan"])
def test_texts_that_are_not_losses_are_refused(text):
    with pytest.raises(ValueError, match="loss|weight|convert"):
        build_loss(text)
