"""Scores, and the few things every script shares."""

import argparse
import ctypes
import os
import random
import signal
import sys
from contextlib import contextmanager, suppress

import numpy as np
import torch
import torch.nn.functional as F

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt

# ---------------------------------------------------------------------------------------- scores


def foreground(logits):
    """Logits (N, C, H, W) -> the foreground's (N, 1, H, W)."""
    return logits[:, -1:]


def to_size(probability, size):
    """Probability (h, w) -> (H, W), bilinearly; size is (width, height)."""
    if probability.shape == size[::-1]:
        return probability
    return F.interpolate(probability[None, None], size=size[::-1], mode="bilinear", align_corners=False)[0, 0]


def confusion(prediction, mask):
    """Count pixels per picture. prediction (N, 1, H, W) bool, mask (N, 1, H, W) of 0, 1, 255.

    -> int64 (N, 4): true positives, false positives, false negatives, true negatives. 255 counts nowhere.
    """
    truth, false = mask == 1, mask == 0
    pairs = (prediction & truth, prediction & false, ~prediction & truth, ~prediction & false)
    return torch.stack([pair.flatten(1).sum(1) for pair in pairs], dim=1)


def ratio(part, whole):
    """part / whole, and 1 where whole is 0."""
    part, whole = part.double(), whole.double()
    return torch.where(whole > 0, part / whole.clamp(min=1e-12), 1.0)


def dice(counts, smooth=0.0):
    """Counts (N, 4) -> Dice (N,), 2|A and B| / (|A| + |B|); 1 where both are empty.

    With the same `smooth`, Jaccard = Dice / (2 - Dice).
    """
    tp, fp, fn, _ = counts.double().unbind(1)
    return ratio(2 * tp + 2 * smooth, 2 * tp + fp + fn + 2 * smooth)


def jaccard(counts, smooth=0.0):
    """Counts (N, 4) -> Jaccard (N,), |A and B| / |A or B|; 1 where both are empty."""
    tp, fp, fn, _ = counts.double().unbind(1)
    return ratio(tp + smooth, tp + fp + fn + smooth)


def scores(counts):
    """Counts (N, 4) of a split -> dict of its scores, each the mean over pictures, and the pooled Dice."""
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
    """What a user can cause and mend: one line that names the file or flag and says what to do."""


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
share = number(float, lambda x: 0 <= x < 1, "a number of at least 0 and below 1")


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


def run(main):
    """Call `main`; a UserError becomes one line on stderr and exit status 2, SIGTERM an exit that cleans up."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        sys.exit(main())
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


# ------------------------------------------------------------------- device, precision, and seeds


def add_device_flags(parser, precision="auto"):
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto: CUDA when there, else the CPU"
    )
    parser.add_argument(
        "--precision",
        default=precision,
        choices=("auto", "float32", "bfloat16", "float16"),
        help="of the network's arithmetic; auto: bfloat16 where the hardware multiplies in it, "
        "float16 on older GPUs, else float32; default %(default)s",
    )


def pick_device(name):
    """A --device value -> torch.device. Raises UserError for one that cannot be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # one GPU for each process of torchrun
        processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if processes > gpus:
            raise UserError(f"{processes} processes for {gpus} GPUs; lower --nproc_per_node, or take --device cpu")
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise UserError(f"--device {name} cannot be used ({reason}); use --device cpu") from None
    return device


def pick_precision(name, device):
    """A --precision value -> torch dtype for autocast."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu":
        # Private, and so looked up: torch has no public question for "multiplies in bfloat16".
        for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            if getattr(torch.cpu, check, bool)():
                return torch.bfloat16
    return torch.float32


def to_device(model, device, precision=torch.float32):
    """The network on a device, in the faster layout: channels last, but for a wide U-Net in float32 on a CPU.

    There 64 channels at full size were measured 1.3 x as fast in the default layout, 16 channels 1.2 x as slow.
    """
    device = torch.device(device)
    if device.type == "cpu":
        keep_freed_memory()
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    wide = first.out_channels >= 64 and first.stride == (1, 1)
    if wide and device.type == "cpu" and precision == torch.float32:
        return model.to(device, memory_format=torch.contiguous_format)
    return model.to(device, memory_format=torch.channels_last)


def keep_freed_memory():
    """Have the C library keep what is freed, for the next batch: glibc alone; elsewhere nothing is done.

    By default it gives large blocks back to the system, which then clears every page of the next batch's activations:
    a tenth of a training step on the CPU, a quarter of a small network's prediction.
    """
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def in_layout_of(model, image):
    """A batch of images in the memory layout of the network's weights."""
    weight = max((value for value in model.parameters() if value.dim() == 4), key=torch.numel)
    last = weight.is_contiguous(memory_format=torch.channels_last)
    return image.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def autocast(device, precision):
    """A context in which the network computes in `precision`."""
    return torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32)


def seed_everything(seed, deterministic=False):
    """Seed Python, NumPy and torch on every device; with `deterministic`, only deterministic algorithms."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.set_float32_matmul_precision("highest" if deterministic else "high")
