"""Before the first step of train.py: what its batches, pixels and checkpoints are."""

import math
from dataclasses import asdict

import torch

from augment import AUGMENTS
from checkpoint import provenance
from models import build_model
from training.distributed import world_size
from training.schedule import sizes
from training.settings import network_options, recorded
from utils import UserError

MEAN_STD = {
    "fixed": ([0.5] * 3, [0.5] * 3),
    "unit": ([0.0] * 3, [1.0] * 3),
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),  # that torchvision's networks are trained with
}


def check_batch_size(settings, data):
    """A batch holds at most every picture, and at least one for each of its parts."""
    settings.batch_size = min(settings.batch_size, len(data.indices))
    parts = world_size() * settings.accumulate
    if settings.batch_size < parts:
        raise UserError(f"a batch of {settings.batch_size} pictures has too few for {parts} parts; raise --batch_size")


def check_smallest_part(settings):
    """Raise UserError where batch norm would get a single value per channel in training."""
    pictures = settings.batch_size // world_size() // settings.accumulate
    side = sizes(settings.start_size, settings.image_size)[0]
    with torch.device("meta"):
        model = build_model(settings.model, **network_options(settings)).train()
        try:
            model(torch.empty(pictures, settings.in_channels, side, side))
        except ValueError:
            raise UserError(
                f"batch norm cannot train on {pictures} picture of {side}x{side}: one value per channel at the "
                f"network's bottom; use larger pictures or batches, or fewer --accumulate"
            ) from None


def mean_and_std(settings, dataset, checkpoint=None):
    """What pixels in [0, 1] are scaled by: two lists, a number per channel.

    checkpoint: of --weights, or of the run to resume.
    """
    if settings.mean_std == "weights" or (checkpoint and settings.resume):
        return checkpoint["mean"], checkpoint["std"]
    if settings.mean_std != "train":
        return tuple(values[: settings.in_channels] for values in MEAN_STD[settings.mean_std])
    total, squares, count = 0, 0, 0
    low, high = torch.tensor(torch.inf), torch.tensor(-torch.inf)
    for first in range(0, len(dataset), 64):
        pixels = dataset[list(range(first, min(first + 64, len(dataset))))]["image"].double() / 255
        total, squares = total + pixels.sum((0, 2, 3)), squares + (pixels**2).sum((0, 2, 3))
        count += pixels.numel() // pixels.shape[1]
        low = torch.minimum(low, pixels.amin((0, 2, 3)))
        high = torch.maximum(high, pixels.amax((0, 2, 3)))
    mean = total / count
    std = (squares / count - mean**2).clamp(min=0).sqrt()
    std[low == high] = 1  # of a channel that is the same everywhere
    return mean.tolist(), std.tolist()


def about(settings, scaling, runtime):
    """What a checkpoint says of the run beside weights, epoch and scores."""
    return {
        "name": settings.model,
        "options": network_options(settings),
        "dataset": settings.dataset,
        "mean": scaling[0],
        "std": scaling[1],
        "border": settings.border,
        "precision": runtime.precision,
        "speeds": runtime.speeds,
        "settings": recorded(settings),
        "augmentation": asdict(AUGMENTS[settings.augment]),
        **provenance(runtime.device),
    }


def advice(settings):
    """What to do where memory runs out."""
    pictures = math.ceil(settings.batch_size / world_size() / settings.accumulate / 2)
    return (
        f"use --accumulate {2 * settings.accumulate} (the same batch of {settings.batch_size}, in parts of "
        f"{pictures} pictures) or a smaller --image_size"
    )
