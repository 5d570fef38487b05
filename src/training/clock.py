"""How long a run takes: measured on a few steps of a copy before it starts, and corrected as it goes.

Nothing here changes a number of the training: the copy has weights, optimizer and random state of its own.
"""

import math
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

import torch

from reports.plots import plot_batch
from runtime import Runtime
from scoring import Tally
from training.distributed import agree, rank, share, world_size
from training.schedule import epochs_of_sizes, size_of, sizes
from training.state import State

STEPS = 3  # rehearsed at each size; the first is warm-up
PATIENCE = 10.0  # seconds that a step may take, as predicted from smaller pictures, and still be rehearsed
SCOUT = 64  # side of the pictures that tell whether a larger size can be rehearsed within PATIENCE
FILES = 1.5  # seconds of drawing and saving after an epoch, where not measured
DRAWING = 1.8  # time of the panels and the curve, as a multiple of NAME.batch.png's
DISK = 3e8  # bytes per second
HOUR = 3600  # seconds


@dataclass
class Pace:
    """Seconds of a step, and of what follows an epoch: statistics of batch norm, the valid split, files."""

    step: float
    rest: float


class Clock:
    """When a run ends. rehearsed: the pace at each picture size. now: the time in seconds."""

    def __init__(self, rehearsed: dict[int, Pace], now: Callable[[], float] = time.perf_counter):
        self.rehearsed, self.now, self.mark = rehearsed, now, now()
        self.latest: int | None = None  # the size that the run was last timed at
        self.totals = {size: [2 * pace.step, 2, pace.rest / 4, 1 / 4] for size, pace in rehearsed.items()}

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self.mark = self.mark, self.now()
        return self.mark - before

    def note_steps(self, size: int, steps: int):
        """That many steps were taken since the last lap."""
        totals = self.totals[size]
        totals[0], totals[1], self.latest = totals[0] + self.lap(), totals[1] + steps, size

    def note_rest(self, size: int):
        """All that follows an epoch was done since the last lap."""
        self.totals[size][2] += self.lap()
        self.totals[size][3] += 1

    def pace(self, size: int) -> Pace:
        """As timed so far; of a size larger than the run's as rehearsed, times what the latest size differs by."""
        seconds, steps, rest, epochs = self.totals[size]
        pace = Pace(seconds / steps, rest / epochs)
        if self.latest is None or size <= self.latest:
            return pace
        now, before = self.pace(self.latest), self.rehearsed[self.latest]
        return Pace(pace.step * now.step / before.step, pace.rest * now.rest / before.rest)

    def left(self, state: State) -> float:
        """Seconds to the end of the run."""
        settings, done = state.settings, len(state.history)
        if state.finished:
            return 0.0
        planned = sizes_of_epochs(settings.epochs, settings.start_size, settings.image_size)[done:]
        rest = [max(size, state.reached) for size in planned]
        steps_done = state.step - done * state.steps_per_epoch
        return self.total(rest, state.steps_per_epoch) - steps_done * self.pace(rest[0]).step

    def total(self, epochs: Iterable[int], steps_per_epoch: int) -> float:
        """Seconds of epochs, given by the sizes of their pictures."""
        paces = {size: self.pace(size) for size in self.rehearsed}
        return sum(steps_per_epoch * paces[size].step + paces[size].rest for size in epochs)

    def epochs_in(self, seconds: float, settings, steps_per_epoch: int) -> int:
        """How many epochs fit into a time; their pictures grow as schedule.size_of says."""

        def fits(epochs):
            shares = epochs_of_sizes(epochs, settings.start_size, settings.image_size)
            return sum(times * self.total([size], steps_per_epoch) for size, times in shares.items()) <= seconds

        low, high = 0, 1
        while fits(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def words(self, state: State) -> str:
        """ "1.2 h left, until 14:05"."""
        seconds = self.left(state)
        return f"{duration(seconds)} left, until {time_of_day(seconds)}"


@lru_cache
def sizes_of_epochs(epochs: int, start_size: int, image_size: int) -> tuple[int, ...]:
    return tuple(size_of(epoch, epochs, start_size, image_size) for epoch in range(epochs))


def duration(seconds: float) -> str:
    """Seconds in words: "40 s", "25 min", "3.2 h", "4.1 days", "139 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    days = seconds / 86400
    return f"{days:.1f} days" if days < 10 else f"{days:,.0f} days"


def time_of_day(seconds: float, now: datetime | None = None) -> str:
    """The time in so many seconds: "14:05", "Tue 14:05" on another day, "3 Dec" in a week or later."""
    now = now or datetime.now()
    then = now + timedelta(seconds=min(seconds, 1e9))
    if then - now > timedelta(days=6):
        return f"{then.day} {then:%b %Y}"
    return f"{then:%H:%M}" if then.date() == now.date() else f"{then:%a %H:%M}"


# ------------------------------------------------------------------------------------- rehearsal


def rehearse(
    settings,
    model: torch.nn.Module,
    scaling: tuple,
    runtime: Runtime,
    train_step: Callable[[State, dict], None],
    passes: int,
    now: Callable[[], float] = time.perf_counter,
) -> dict[int, Pace]:
    """The pace of a run at each picture size, from a few steps of a copy. Collective: call on all ranks.

    model: on the runtime's device. train_step: as train.py's. passes: batches that an epoch's end predicts. Sizes at
    which a step would take longer than PATIENCE are predicted from smaller ones: time grows as the number of pixels.
    """
    run = sizes(settings.start_size, settings.image_size)
    epochs = len(run) + 1  # one for each size and the scout: one cycle refuses a step beyond its last
    quick = Namespace(**{**vars(settings), "compile": False, "epochs": epochs, "steps": STEPS})
    patience = patience_of(settings, runtime.device)
    paces: dict[int, Pace] = {}
    files = files_time(model, now) if settings.hours else FILES
    with torch.random.fork_rng([runtime.device] if runtime.device.type == "cuda" else []):
        state = State(quick, deepcopy(model), settings.batch_size, scaling, runtime)
        for size in sorted({min(SCOUT, run[0]), *run}):
            smaller = max(paces, default=None)
            area = (size / smaller) ** 2 if smaller else 0
            if smaller and paces[smaller].step * area > patience:
                before = paces[smaller]
                paces[size] = Pace(before.step * area, (before.rest - files) * area + files)
                continue
            with nullcontext() if size in run else suppress(ValueError, RuntimeError):  # a scout too small to train on
                step, batch = times_at(state, size, train_step, patience, now)
                paces[size] = Pace(step, batch * passes + files)
    return {size: paces[size] for size in run}


def patience_of(settings, device: torch.device) -> float:
    """Seconds that a step may take; endless on a GPU, where the first step at a size chooses its kernels for seconds,
    and the others are short."""
    if device.type != "cpu":
        return math.inf
    return max(PATIENCE, HOUR * settings.hours / 200) if settings.hours else PATIENCE


def times_at(state: State, size: int, train_step, patience: float, now) -> tuple[float, float]:
    """Seconds of a training step and of a valid batch of drawn pixels. Collective: call on all ranks."""
    mine = share(state.settings.batch_size, rank(), world_size())
    pictures = mine.stop - mine.start
    chance = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.randint(256, (pictures, state.settings.in_channels, size, size), generator=chance).byte(),
        "mask": torch.randint(2, (pictures, 1, size, size), generator=chance).byte(),
    }
    state.size = size
    state.model.train()

    def step():
        train_step(state, batch)
        state.sum_up()  # waits for the device

    def predict():
        moved = {**batch, "mask": state.runtime.move(batch["mask"])}
        tally = Tally([], criterion=state.criterion)  # type: ignore[arg-type]
        tally.add(moved, state.predictor().logits(batch["image"]))
        torch.stack(tally.losses).cpu()  # waits for the device

    return seconds_of(step, STEPS, patience, now), seconds_of(predict, 2, patience, now)


def seconds_of(action: Callable[[], None], times: int, patience: float, now) -> float:
    """The mean time of an action without the first; that of the first alone where it takes long. Collective."""
    taken: list[float] = []
    while len(taken) < times and sum(taken) <= patience / 2:
        start = now()
        action()
        taken.append(agree(round(1e6 * (now() - start)))[0] / 1e6)
    return max(sum(taken[1:]) / len(taken[1:]) if len(taken) > 1 else taken[0], 1e-6)


def files_time(model: torch.nn.Module, now) -> float:
    """Seconds of drawing and saving after an epoch. Collective: call on all ranks."""
    with tempfile.TemporaryDirectory() as folder:
        start = now()
        plot_batch(torch.zeros(16, 3, 64, 64), torch.ones(16, 1, 64, 64).byte(), "rehearsal", Path(folder) / "a.png")
        drawn = now() - start
    written = 6 * sum(value.nbytes for value in model.parameters())  # both checkpoints
    return agree(round(1e6 * (DRAWING * drawn + written / DISK)))[0] / 1e6
