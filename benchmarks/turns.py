"""Contenders take turns, so that a machine whose speed drifts slows all of them; what is compared is turn with turn."""

import statistics
import time
from pathlib import Path

from utils import UserError

BUSY = 0.2  # cores that other processes may use while speeds are compared
NOISY = 1.5  # largest ratio over smallest of a row's turns above which its median says nothing


def in_turns(turns, rounds):
    """The seconds of each contender in each round. turns: functions that take a turn and tell its seconds."""
    seconds = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            seconds[name].append(turn())
    return seconds


def ratios_to(name, seconds):
    """The seconds of the contender called `name` over those of each contender, round by round."""
    return {
        other: [own / theirs for own, theirs in zip(seconds[name], values, strict=True)]
        for other, values in seconds.items()
    }


def quartiles(values):
    """The lower and the upper quartile."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * list(values)
    return low, high


def refuse_noise(spreads, limit=NOISY):
    """Raises UserError where a contender's spread (lowest and highest ratio) is too wide. spreads: by contender."""
    names = ", ".join(name for name, (low, high) in spreads.items() if high > limit * low)
    if names:
        raise UserError(f"the machine is too noisy to tell: turns of {names} differ by more than {limit}x; repeat it")


def busy_cores(seconds=1.0):
    """Return how many cores are in use by others while this process sleeps, or 0 on systems that do not tell."""

    def used():
        try:
            user, nice, system, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
        except OSError:
            return 0
        return (user + nice + system) / 100  # in ticks of 10 ms

    before = used()
    time.sleep(seconds)
    return (used() - before) / seconds
