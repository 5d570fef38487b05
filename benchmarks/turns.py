"""Time contenders in turns, so that a machine whose speed drifts slows all of them, and compare them round by round."""

import statistics
import time
from pathlib import Path

from utils import UserError

BUSY = 0.2  # cores that other processes may use while speeds are compared
NOISY = 1.5  # if a row's largest ratio is more than this times its smallest, its median means nothing


def in_turns(turns, rounds):
    """Return the seconds of each contender in each round. turns: functions that take a turn and return its seconds."""
    seconds = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            seconds[name].append(turn())
    return seconds


def ratios_to(name, seconds):
    """Return the seconds of the contender `name` divided by the seconds of each contender, round by round."""
    return {
        other: [own / theirs for own, theirs in zip(seconds[name], values, strict=True)]
        for other, values in seconds.items()
    }


def quartiles(values):
    """Return the lower and the upper quartile."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * list(values)
    return low, high


def refuse_noise(spreads, limit=NOISY):
    """Raise UserError if a contender's ratios are too far apart. spreads: (lowest, highest) by contender."""
    names = ", ".join(name for name, (low, high) in spreads.items() if high > limit * low)
    if names:
        raise UserError(f"the machine is too noisy: turns of {names} differ by more than {limit}x; run this again")


def busy_cores(seconds=1.0):
    """Return how many cores other processes use while this one sleeps, or 0 if the system does not report it."""

    def used():
        try:
            user, nice, system, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
        except OSError:
            return 0
        return (user + nice + system) / 100  # in ticks of 10 ms

    before = used()
    time.sleep(seconds)
    return (used() - before) / seconds
