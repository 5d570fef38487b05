"""Losses: one number for logits (N, C, H, W) and a mask (N, 1, H, W) of 0, 1 and 255 (ignored).

Each is a mean over images, so that a batch can be split into micro-batches. One channel is the foreground; two are
the background and the foreground, each with its own sigmoid (no softmax). To add a loss, add a function to LOSSES.
"""

import math
from collections.abc import Callable

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

SMOOTH = 1.0


def targets(logits, mask):
    """Return the target (N, C, H, W) and the pixels not ignored (N, 1, H, W), float32 of 0 and 1."""
    target = (mask == 1).float()
    if logits.shape[1] == 2:
        target = (mask == torch.arange(2, device=mask.device).view(1, 2, 1, 1)).float()
    return target, (mask != 255).float()


def per_channel(first, second, values):
    """Return weights for values (N, C, ...), swapped for the background: its false positives are missed foreground."""
    if values.shape[1] == 1:
        return first, second
    shape = (2,) + (1,) * (values.dim() - 2)
    background = torch.arange(2, device=values.device).view(shape) == 0
    return torch.where(background, second, first), torch.where(background, first, second)


def mean_of_known(loss, known):
    """Average a loss (N, C, H, W) over the known pixels of each image, then over the images."""
    total = (loss * known).sum((1, 2, 3))
    number = known.sum((1, 2, 3)) * loss.shape[1]
    return (total / number.clamp(min=1)).mean()


def bce(logits, mask):
    """Return the binary cross-entropy."""
    target, known = targets(logits, mask)
    loss = binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return mean_of_known(loss, known)


def focal_loss(logits, mask, alpha=0.25, gamma=2.0):
    """Return the focal loss (Lin et al., ICCV 2017, equation 5)."""
    target, known = targets(logits, mask)
    loss = binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    probability = logits.float().sigmoid()  # torchvision's focal loss takes seconds to import
    wrong = probability + target - 2 * probability * target  # probability of the wrong class
    alpha, beta = per_channel(alpha, 1 - alpha, logits)
    weight = alpha * target + beta * (1 - target)
    return mean_of_known(weight * wrong**gamma * loss, known)


def overlap(logits, mask):
    """Return sums over the pixels, each (N, C): of probability times target, of probability, of target."""
    target, known = targets(logits, mask)
    probability, target = logits.float().sigmoid() * known, target * known
    return (probability * target).sum((2, 3)), probability.sum((2, 3)), target.sum((2, 3))


def dice_loss(logits, mask):
    """Return 1 - soft Dice per image, smoothed by 1 (Milletari et al., V-Net, 3DV 2016, section 3, without squares)."""
    both, predicted, target = overlap(logits, mask)
    return 1 - ((2 * both + SMOOTH) / (predicted + target + SMOOTH)).mean()


def jaccard_loss(logits, mask):
    """Return 1 - soft Jaccard per image, smoothed by 1 (Rahman and Wang, ISVC 2016, section 3)."""
    both, predicted, target = overlap(logits, mask)
    return 1 - ((both + SMOOTH) / (predicted + target - both + SMOOTH)).mean()


def tversky_loss(logits, mask, alpha=0.3, beta=0.7):
    """Return 1 - Tversky index per image, smoothed by 1 (Salehi et al., MLMI 2017, equation 2 and section 3).

    alpha weights false positives, beta false negatives. With both at 0.5, this is `dice_loss` smoothed by 2.
    """
    both, predicted, target = overlap(logits, mask)
    alpha, beta = per_channel(alpha, beta, both)
    numerator = both + SMOOTH
    denominator = both + alpha * (predicted - both) + beta * (target - both) + SMOOTH
    return 1 - (numerator / denominator).mean()


def bce_dice(logits, mask):
    return bce(logits, mask) + dice_loss(logits, mask)


LOSSES = {
    "bce": bce,
    "dice": dice_loss,
    "bce_dice": bce_dice,
    "jaccard": jaccard_loss,
    "focal": focal_loss,
    "tversky": tversky_loss,
}


def build_loss(text: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the loss named in LOSSES, or a weighted sum such as "bce:1,dice:0.5". Raises ValueError."""
    if text in LOSSES:
        return LOSSES[text]
    terms = []
    for term in text.split(","):
        name, _, weight = term.strip().partition(":")
        if name not in LOSSES:
            raise ValueError(f"{name!r} is not a loss; choose from {', '.join(LOSSES)}")
        number = float(weight or 1)
        if not 0 < number < math.inf:
            raise ValueError(f"{weight} is not a weight for {name}; use e.g. {name}:1")
        terms.append((number, LOSSES[name]))
    return lambda logits, mask: sum(number * loss(logits, mask) for number, loss in terms)
