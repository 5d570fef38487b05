"""Losses: one number for logits (N, C, H, W) and a mask (N, 1, H, W) of 0, 1 and 255.

Every loss is a mean over pictures, so that a batch may be cut into parts. Pixels of value 255 count
nowhere. One channel of logits is the foreground's; two are the background's and the foreground's,
each against its own mask.
"""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

SMOOTH = 1.0


def targets(logits, mask):
    """The truth (N, C, H, W) and which pixels are known (N, 1, H, W), both float32 of 0 and 1."""
    truth = (mask == 1).float()
    if logits.shape[1] == 2:
        truth = (mask == torch.arange(2, device=mask.device).view(1, 2, 1, 1)).float()
    return truth, (mask != 255).float()


def bce(logits, mask):
    """Binary cross-entropy, averaged over the known pixels of each picture, then over the pictures."""
    truth, known = targets(logits, mask)
    loss = binary_cross_entropy_with_logits(logits.float(), truth, reduction="none")
    return ((loss * known).sum((1, 2, 3)) / (known.sum((1, 2, 3)) * logits.shape[1]).clamp(min=1)).mean()


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


def bce_dice(logits, mask):
    """The sum of `bce` and `dice`."""
    return bce(logits, mask) + dice(logits, mask)


LOSSES = {"bce": bce, "dice": dice, "bce_dice": bce_dice, "jaccard": jaccard}
