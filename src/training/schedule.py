"""What follows from how far a run is: the learning rate, and the size of the pictures."""

import math
from collections.abc import Callable

import numpy as np
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

SCHEDULES = ("none", "plateau", "cosine", "onecycle", "wsd")
WARMUP_STEPS = 200  # of wsd; a tenth of the steps where that is less
COOLDOWN = 1 / 3  # share of the steps of wsd in which the rate falls


def warmup_steps(steps: int) -> int:
    """Of `wsd`, for a run of that many steps."""
    return min(WARMUP_STEPS, steps // 10)


def build_schedule(name: str, optimizer: Optimizer, learning_rate: float, steps: int, warmup: Callable[[], int]):
    """A schedule over that many optimizer steps; `plateau` alone steps by epoch, on the valid loss.

    warmup: gives the steps in which the rate of `wsd` rises.

    No schedule moves momentum or beta1: OneCycleLR's own cycle of it was not found to help.
    """
    if name == "plateau":
        return ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    if name == "onecycle":
        return OneCycleLR(optimizer, learning_rate, steps, cycle_momentum=False)
    if name == "wsd":
        return LambdaLR(optimizer, lambda step: warmup_stable_decay(step, steps, warmup()))
    if name == "cosine":
        return LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * min(step / steps, 1))) / 2)
    return LambdaLR(optimizer, lambda step: 1.0)


def warmup_stable_decay(step: int, steps: int, warmup: int) -> float:
    """Share of the highest learning rate: a short linear rise, constant, then linear to 0 over the last third.

    Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", NeurIPS 2024 (arXiv
    2405.18392), section 3. A run resumed for more epochs returns to the constant part, and cools down again.
    """
    return min((step + 1) / (warmup + 1), 1, max(0.0, (steps - step) / (steps * COOLDOWN)))


def sizes(start_size: int, image_size: int) -> list[int]:
    """Sides of the training pictures: multiples of 32 from start_size to image_size, each about sqrt(2) times the last.

    A start_size of 0, or one not below image_size, means no growth.
    """
    if not 0 < start_size < image_size:
        return [image_size]
    factors = range(round(2 * math.log2(image_size / start_size)))
    growing = {max(32, 32 * round(start_size * 2 ** (factor / 2) / 32)) for factor in factors}
    return sorted({size for size in growing if size < image_size} | {image_size})


def sizes_and_shares(start_size: int, image_size: int) -> tuple[list[int], np.ndarray]:
    """`sizes`, and the sum of the shares up to each: a side's share of the epochs is as 1/sqrt(side)."""
    steps = sizes(start_size, image_size)
    return steps, np.cumsum([size**-0.5 for size in steps])


def size_of(epoch: int, epochs: int, start_size: int, image_size: int) -> int:
    """Side of the training pictures in an epoch, counted from 0."""
    steps, shares = sizes_and_shares(start_size, image_size)
    reached = (epoch + 1) / epochs * shares[-1]
    return steps[int(np.searchsorted(shares, reached - 1e-9))]


def epochs_of_sizes(epochs: int, start_size: int, image_size: int) -> dict[int, int]:
    """How many of the epochs have pictures of each side, as `size_of` says."""
    steps, shares = sizes_and_shares(start_size, image_size)
    low, found = 0, {}
    for size, share in zip(steps, shares, strict=True):
        high = min(epochs, int((share + 1e-9) / shares[-1] * epochs))
        found[size] = high - low
        low = high
    return found


def of_largest_size(history: list[dict]) -> list[dict]:
    """The epochs with the largest pictures so far: the ones that "best" is chosen among. Dice at other sizes is
    another measure."""
    largest = max((int(row.get("image_size") or 0) for row in history), default=0)
    return [row for row in history if int(row.get("image_size") or 0) == largest]
