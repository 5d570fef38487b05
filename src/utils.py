"""Dice and its relatives; what a user can get wrong."""

import argparse
import os
import shlex
import signal
import sys
from contextlib import contextmanager

import torch
import torch.nn.functional as F

LARGEST_SIDE = 2**14  # of the network's input, in pixels

# ---------------------------------------------------------------------------------------- scores


def foreground(logits):
    """Logits (N, C, H, W) to the foreground's (N, 1, H, W)."""
    return logits[:, -1:]


def to_size(probability, size):
    """Probability (h, w) to (H, W), bilinearly; size is (width, height)."""
    if probability.shape == size[::-1]:
        return probability
    return F.interpolate(probability[None, None], size=size[::-1], mode="bilinear", align_corners=False)[0, 0]


def confusion(prediction, mask):
    """Count pixels per picture. prediction (N, 1, H, W) bool, mask (N, 1, H, W) of 0, 1, 255.

    Returns int64 (N, 4): true positives, false positives, false negatives, true negatives. 255 counts nowhere.
    """
    truth, false = mask == 1, mask == 0
    pairs = (prediction & truth, prediction & false, ~prediction & truth, ~prediction & false)
    return torch.stack([pair.flatten(1).sum(1) for pair in pairs], dim=1)


def ratio(part, whole):
    """part / whole, and 1 where whole is 0."""
    part, whole = part.double(), whole.double()
    return torch.where(whole > 0, part / whole.clamp(min=1e-12), 1.0)


def dice(counts, smooth=0.0):
    """Counts (N, 4) to Dice (N,), 2|A and B| / (|A| + |B|); 1 where both are empty.

    With the same `smooth`, Jaccard = Dice / (2 - Dice).
    """
    tp, fp, fn, _ = counts.double().unbind(1)
    return ratio(2 * tp + 2 * smooth, 2 * tp + fp + fn + 2 * smooth)


def jaccard(counts, smooth=0.0):
    """Counts (N, 4) to Jaccard (N,), |A and B| / |A or B|; 1 where both are empty."""
    tp, fp, fn, _ = counts.double().unbind(1)
    return ratio(tp + smooth, tp + fp + fn + smooth)


def scores(counts):
    """Counts (N, 4) of a split to dict of its scores, each the mean over pictures, and the pooled Dice."""
    tp, fp, fn, tn = counts.unbind(1)
    per_picture = {
        "dice": dice(counts),
        "jaccard": jaccard(counts),
        "accuracy": ratio(tp + tn, counts.sum(1)),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
    }
    means = {name: values.mean().item() for name, values in per_picture.items()}
    return {**means, "pooled_dice": dice(counts.sum(0, keepdim=True)).item()}


# ------------------------------------------------------------------------------- user's mistakes


class UserError(Exception):
    """A mistake the user can fix: one line that names the file or flag and says what to do."""


class Parser(argparse.ArgumentParser):
    """argparse with underscored flags, defaults in the help, and one line for a mistake."""

    def __init__(self, doc):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message):
        print(f"error: {message}; {self.prog} --help lists every flag", file=sys.stderr)
        sys.exit(2)


def number(kind, fits, wanted):
    """An argparse type: `kind` of the text, where `fits` says so."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"{text} is not {wanted}")
        return value

    return convert


positive = number(int, lambda n: n >= 1, "a whole number of at least 1")
count = number(int, lambda n: n >= 0, "a whole number of at least 0")
rate = number(float, lambda x: 0 <= x < float("inf"), "a number of at least 0")
fraction = number(float, lambda x: 0 <= x < 1, "a number of at least 0 and below 1")
seed = number(int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2^63 - 1")
port = number(int, lambda n: 1 <= n < 2**16, "a whole number from 1 to 65,535")
workers = number(int, lambda n: 0 <= n <= 1024, "a whole number from 0 to 1,024")
side = number(int, lambda n: 1 <= n <= LARGEST_SIDE, f"a whole number from 1 to {LARGEST_SIDE:,}")


def threshold(text):
    """The argparse type of a probability, or `chosen` for the checkpoint's own."""
    wanted = "`chosen` or a number above 0 and below 1"
    return text if text == "chosen" else number(float, lambda value: 0 < value < 1, wanted)(text)


@contextmanager
def when_memory_runs_out(advice):
    """Turn a device's or the machine's lack of memory in the block into a UserError that ends in `advice`."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        lacking = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
        if not lacking:
            raise
        where = "the GPU's memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
        raise UserError(f"{where} is not enough; {advice}") from None


def command(script, *words, processes=1) -> str:
    """A command that can be pasted into a shell."""
    launcher = ["torchrun", "--nproc_per_node", processes] if processes > 1 else ["python"]
    return shlex.join(str(word) for word in (*launcher, script, *words))


def never_fail_to_print():
    """Let standard output and error show what their encoding lacks, as in a path, as \\xe9 or \\u72ac."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where it was replaced, as by a notebook
            stream.reconfigure(errors="backslashreplace")


def one_line(text) -> str:
    """Text in which what would end the line or steer a terminal, as in a file's name, is shown as \\n or \\x1b."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(text))


def run(main):
    """Call `main`; a UserError becomes one line on stderr and exit status 2, SIGTERM an exit that cleans up."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    never_fail_to_print()
    try:
        sys.exit(main())
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Python takes seconds to end where much memory is held
