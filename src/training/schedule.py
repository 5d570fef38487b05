"""Learning-rate schedules and progressive image sizes."""

import math
from argparse import Namespace
from collections.abc import Callable

import numpy as np
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

SCHEDULES = ("none", "plateau", "cosine", "onecycle", "wsd")
WARMUP_STEPS = 200  # for wsd; a tenth of the run's steps if fewer
COOLDOWN = 1 / 3  # fraction of a run over which wsd falls to 0


def build_scheduler(name: str, optimizer: Optimizer, position: Callable, warmup: int, former: dict | None):
    """Build a scheduler. `plateau` steps on each epoch's validation loss, the others after each step.

    position: see `position_of`. warmup: steps over which `wsd` rises. former: the resumed scheduler's state.
    """

    def factor(step: int) -> float:
        now, end = position(step)
        if name == "cosine":
            return (1 + math.cos(math.pi * min(now / end, 1))) / 2
        if name == "wsd":
            return warmup_stable_decay(now, end, step, warmup)
        return 1.0

    if name == "plateau":
        scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
        if former:
            scheduler.load_state_dict(former)
        return scheduler
    done = former["last_epoch"] if former else 0
    if name == "onecycle":
        _, steps = position(done)
        done = min(done, steps)  # OneCycleLR fails beyond its end
        return OneCycleLR(optimizer, optimizer.defaults["lr"], steps, cycle_momentum=False, last_epoch=done - 1)
    return LambdaLR(optimizer, factor, last_epoch=done - 1)


def position_of(args: Namespace, state, steps_per_epoch: int) -> Callable:
    """Return a function that maps a step to the run's position and length: ints in steps, or floats in seconds."""
    if args.hours:
        return lambda step: (state.elapsed, 3600.0 * args.hours)
    return lambda step: (step, args.epochs * steps_per_epoch)


def warmup_steps(args: Namespace, steps_per_epoch: int) -> int:
    """Return wsd's warm-up, in steps."""
    return WARMUP_STEPS if args.hours else min(WARMUP_STEPS, args.epochs * steps_per_epoch // 10)


def warmup_stable_decay(now: float, end: float, step: int, warmup: int) -> float:
    """Return the fraction of the peak learning rate: a short linear rise, a constant phase, a linear fall to 0.

    Hägele et al., NeurIPS 2024 (arXiv 2405.18392), section 3.
    """
    rise = (step + 1) / (warmup + 1)
    if isinstance(end, float):  # the rise takes at most a tenth of a time budget
        rise = max(rise, 10 * now / end)
    fall = (end - now) / (end * COOLDOWN)
    return min(rise, 1, max(0.0, fall))


def sizes(start_size: int, image_size: int) -> list[int]:
    """Return a run's image sizes: start_size times powers of sqrt(2), rounded to multiples of 32, then image_size."""
    if not 0 < start_size < image_size:
        return [image_size]
    steps = range(round(2 * math.log2(image_size / start_size)))
    growing = {max(32, 32 * round(start_size * 2 ** (step / 2) / 32)) for step in steps}
    return [*sorted(size for size in growing if size < image_size), image_size]


def size_at(progress: float, start_size: int, image_size: int, timed: bool = False) -> int:
    """Return the image size at a fraction of the run; each size gets epochs in proportion to 1/sqrt(size).

    progress: fraction of the epochs, including this one; if `timed`, of the time budget (epochs cost size²).
    """
    steps = sizes(start_size, image_size)
    ends = np.cumsum([size ** (1.5 if timed else -0.5) for size in steps])
    return steps[int(np.searchsorted(ends, min(progress, 1.0) * ends[-1] - 1e-9))]


def image_size_of(args: Namespace, state) -> int:
    """Return the next epoch's image size, which never shrinks."""
    if args.hours:
        size = size_at(state.elapsed / (3600 * args.hours), args.start_size, args.image_size, timed=True)
    else:
        size = size_at((len(state.history) + 1) / args.epochs, args.start_size, args.image_size)
    return max(size, state.max_size)


def at_largest_size(history: list[dict]) -> list[dict]:
    """Return the epochs at the largest image size so far, one of which is the best."""
    largest = max((int(row["image_size"]) for row in history), default=0)
    return [row for row in history if int(row["image_size"]) == largest]
