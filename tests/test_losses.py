import math

import pytest
import torch
import torch.nn.functional as F

from losses import LOSSES, bce, bce_dice, dice, jaccard


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
