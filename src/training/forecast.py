"""What train.py says of its length before it starts, and how --hours chooses the epochs."""

from argparse import ArgumentParser, Namespace

from training.clock import HOUR, Clock, Pace, duration, time_of_day
from training.distributed import agree, rank
from training.schedule import sizes
from training.state import State
from utils import UserError, command

LONG = 2 * HOUR  # of a run on a CPU: above it, a command that takes an hour is named
ENOUGH = 10  # epochs that make an hour's run worth it
NARROW = 16  # width of the U-Net for an hour


def fit_into_hours(settings, clock: Clock, seconds: float, steps_per_epoch: int):
    """Choose settings.epochs so that the run takes `seconds`. Raises UserError. Collective: call on all ranks."""
    [settings.epochs] = agree(clock.epochs_in(seconds, settings, steps_per_epoch))
    if settings.epochs == 0:
        one = duration(clock.total([settings.image_size], steps_per_epoch))
        raise UserError(
            f"--hours {settings.hours:g} is too little: one epoch takes {one}; use a smaller --image_size or network, "
            f"or fewer --steps"
        )


def forecast(state: State, clock: Clock, words: list[str]) -> str:
    """How long the run takes; on a CPU, where that is long, also a command that takes an hour. words: its own flags."""
    seconds = clock.left(state)
    said = f"about {duration(seconds)}, until {time_of_day(seconds)}"
    if state.runtime.device.type != "cpu" or seconds <= LONG or state.settings.resume or rank():
        return said
    flags = shorter(state, clock)
    return f"{said}; about an hour on this machine: {command('src/train.py', *without_epochs(words), *flags)}"


def shorter(state: State, clock: Clock) -> list:
    """Flags with which a run takes about an hour, and has ENOUGH epochs if any has: smaller pictures, a narrower U-Net.

    A step takes as long as it has pixels, and as the width to the power 1.5. The width of --weights is left alone.
    """
    settings, largest = state.settings, state.settings.image_size
    known = clock.pace(largest)
    width = getattr(settings, "width", None) or 64
    wide = settings.model.startswith("unet") and width > NARROW and not settings.weights
    narrow = ["--width", NARROW] if wide else []
    for flags, speed in (([], 1.0), (narrow, (NARROW / width) ** 1.5)):
        for size in (largest, *(size for size in (128, 96, 64) if size < largest)):
            planned = Namespace(start_size=settings.start_size, image_size=size)
            factors = {each: (each / largest) ** 2 * speed for each in sizes(settings.start_size, size)}
            paces = {each: Pace(known.step * factor, known.rest * factor) for each, factor in factors.items()}
            epochs = Clock(paces).epochs_in(HOUR, planned, state.steps_per_epoch)
            chosen = [*flags, *(["--image_size", size] if size < largest else []), "--hours", 1]
            if epochs >= ENOUGH:
                return chosen
    return chosen


def without_epochs(words: list[str]) -> list[str]:
    """A command line without --epochs and --hours, which the suggestion sets anew."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--epochs", "-e")
    parser.add_argument("--hours")
    return parser.parse_known_args(words)[1]
