"""Losses: one number for logits (N, C, H, W) and a mask (N, 1, H, W) of 0, 1 and 255.

Every loss is a mean over pictures, so that a batch may be cut into parts. Pixels of value 255 count
nowhere. One channel of logits is the foreground's; two are the background's and the foreground's,
each against its own mask.

To add a loss, write a function of logits and mask, and enter it in LOSSES. --loss then takes its name, alone or in a
weighted sum such as bce:1,dice:.5.
"""

import math
from collections.abc import Callable

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

SMOOTH = 1.0


def targets(logits, mask):
    """The truth (N, C, H, W) and which pixels are known (N, 1, H, W), both float32 of 0 and 1."""
    truth = (mask == 1).float()
    if logits.shape[1] == 2:
        truth = (mask == torch.arange(2, device=mask.device).view(1, 2, 1, 1)).float()
    return truth, (mask != 255).float()


def of_channels(first, second, values):
    """Two weights for values (N, C, ...), exchanged for the background's channel, where there is one.

    What the foreground wrongly has, the background misses.
    """
    if values.shape[1] == 1:
        return first, second
    background = torch.arange(2, device=values.device).view(2, *[1] * (values.dim() - 2)) == 0
    return torch.where(background, second, first), torch.where(background, first, second)


def mean_of_known(loss, known):
    """The mean of a loss (N, C, H, W) over the known pixels of each picture, then over the pictures."""
    return ((loss * known).sum((1, 2, 3)) / (known.sum((1, 2, 3)) * loss.shape[1]).clamp(min=1)).mean()


def bce(logits, mask):
    """Binary cross-entropy, averaged over the known pixels of each picture, then over the pictures."""
    truth, known = targets(logits, mask)
    return mean_of_known(binary_cross_entropy_with_logits(logits.float(), truth, reduction="none"), known)


def focal(logits, mask, alpha=0.25, gamma=2.0):
    """Focal loss, averaged as `bce` is (Lin et al., ICCV 2017, equation 5): easy pixels weigh little.

    Per pixel torchvision.ops.sigmoid_focal_loss, written out because importing torchvision takes seconds.
    """
    truth, known = targets(logits, mask)
    cross_entropy = binary_cross_entropy_with_logits(logits.float(), truth, reduction="none")
    probability = logits.float().sigmoid()
    wrong = probability + truth - 2 * probability * truth  # probability of the wrong class
    alpha, beta = of_channels(alpha, 1 - alpha, logits)
    weight = alpha * truth + beta * (1 - truth)
    return mean_of_known(weight * wrong**gamma * cross_entropy, known)


def overlap(logits, mask):
    """Per picture and channel (N, C): the sums of probability times truth, of probability, and of truth."""
    truth, known = targets(logits, mask)
    probability = logits.float().sigmoid() * known
    truth = truth * known
    return (probability * truth).sum((2, 3)), probability.sum((2, 3)), truth.sum((2, 3))


def dice(logits, mask):
    """1 - soft Dice per picture, smoothed by 1 (Milletari et al., "V-Net", 3DV 2016, section 3, plain sums)."""
    both, predicted, truth = overlap(logits, mask)
    return 1 - ((2 * both + SMOOTH) / (predicted + truth + SMOOTH)).mean()


def jaccard(logits, mask):
    """1 - soft Jaccard per picture, smoothed by 1 (Rahman and Wang, ISVC 2016, section 3)."""
    both, predicted, truth = overlap(logits, mask)
    return 1 - ((both + SMOOTH) / (predicted + truth - both + SMOOTH)).mean()


def tversky(logits, mask, alpha=0.3, beta=0.7):
    """1 - Tversky index per picture, smoothed by 1 (Salehi et al., MLMI 2017, equation 2 and section 3).

    alpha weighs foreground that is not there, beta foreground that was missed; 1/2 and 1/2 give Dice.
    """
    both, predicted, truth = overlap(logits, mask)
    alpha, beta = of_channels(alpha, beta, both)
    return 1 - ((both + SMOOTH) / (both + alpha * (predicted - both) + beta * (truth - both) + SMOOTH)).mean()


def bce_dice(logits, mask):
    """The sum of `bce` and `dice`."""
    return bce(logits, mask) + dice(logits, mask)


LOSSES = {"bce": bce, "dice": dice, "bce_dice": bce_dice, "jaccard": jaccard, "focal": focal, "tversky": tversky}


def build_loss(text: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss of --loss: a name in LOSSES, or a sum with weights as in "bce:1,dice:.5".

    A name without a weight has weight 1. Raises ValueError for what is neither.
    """
    terms = [weighted(term) for term in text.split(",")]
    if len({loss for loss, _ in terms}) < len(terms):
        raise ValueError(f"{text} names a loss twice")
    if len(terms) == 1 and terms[0][1] == 1:
        return terms[0][0]
    return lambda logits, mask: sum(weight * loss(logits, mask) for loss, weight in terms)


def weighted(term: str) -> tuple[Callable, float]:
    """ "bce:.5" is the loss bce and .5. Raises ValueError."""
    name, _, weight = term.strip().partition(":")
    if name not in LOSSES:
        raise ValueError(f"{name!r} is not a loss; there are {', '.join(LOSSES)}")
    try:
        number = float(weight or 1)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{weight} is not a weight for {name}; give a number above 0, as in {name}:1")
    return LOSSES[name], number
