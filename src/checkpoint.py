"""Checkpoint files: written whole or not at all, opened without running anything that is in them.

A checkpoint is one dict: `model` (the weights), `name` and `options` of the network, `dataset`, `image_size`,
`mean`, `std`, `border`, `epoch`, `scores`, `threshold` (where the valid Dice is highest), and where it came from:
`command`, `settings` (every flag of train.py with its value), `augmentation` (what --augment meant), `versions`,
`device`, `git`, and `trained_on`, hashes of the pictures that this run and those it came from were trained on.
NAME.last.pth has, beside these, `training`: all that `train.py --resume` goes on from.
"""

import math
import pickle
import subprocess
import sys
import zipfile
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from data import DATASETS
from files import write_whole
from models import build_model, options_of
from runtime import Runtime
from splits import BORDERS
from utils import LARGEST_SIDE, UserError, command


def save(checkpoint, path):
    """Write a checkpoint to `path`, whole or not at all."""
    try:
        write_whole(path, lambda file: torch.save(checkpoint, file))
    except RuntimeError as error:  # what torch makes of a full disk
        raise UserError(f"{path} cannot be written ({error}); free some space or choose another folder") from None


def load(path, model_type=None):
    """The checkpoint at `path`, on the CPU. Raises UserError for a file that is not one of ours.

    model_type: the network's name, for a file that holds nothing but its state_dict.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} not found; python src/train.py makes a checkpoint, --model names it")
    checkpoint = read(path)
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} is not a checkpoint of src/train.py; --model wants saved_models/NAME.pth")
    if not describes_itself(checkpoint, path):
        if model_type:
            return describe_weights(checkpoint, model_type, path)
        plain = all(isinstance(value, torch.Tensor) for value in checkpoint.values())
        hint = "; for a plain state_dict say which network it is of, by --model_type" if plain else ""
        raise UserError(f"{path} is not a checkpoint of src/train.py; --model wants saved_models/NAME.pth{hint}")
    if model_type not in (None, checkpoint["name"]):
        raise UserError(f"{path} does not fit --model_type {model_type}: it is a {checkpoint['name']}; leave that out")
    return checkpoint


def describes_itself(checkpoint, path) -> bool:
    """Whether what was read from `path` is one of our checkpoints. Raises UserError if its metadata is invalid."""
    keys = {"model", "name", "options", "image_size", "mean", "std", "border", "dataset"}
    if not (isinstance(checkpoint, dict) and keys <= set(checkpoint)):
        return False
    check_description(checkpoint, path)
    return True


def read(path):
    """What torch.save wrote to `path`, if it is tensors and plain values alone and each byte is as it was written."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                    raise ValueError("it says it holds more than its size")
                damaged = archive.testzip()
                if damaged:
                    raise ValueError(f"the checksum of {damaged} differs")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path} holds more than weights and plain values, or is damaged; it was not opened") from None
    except Exception as error:  # zip, unpickling and storage errors of every kind
        raise UserError(f"{path} is not a checkpoint, or is damaged ({type(error).__name__}); train it again") from None


def describe_weights(weights, model_type, path, flag="--model_type"):
    """A state_dict as a checkpoint with the defaults of train.py for what the weights do not tell.

    flag: where the user named model_type. Raises UserError.
    """
    weights = unwrapped(weights) if isinstance(weights, dict) else {}
    try:
        options = options_of(model_type, weights)
    except ValueError:
        raise UserError(f"{path} does not fit {flag} {model_type}: {first_difference(weights, model_type)}") from None
    channels = options["in_channels"]
    return {
        "model": weights,
        "name": model_type,
        "options": options,
        "dataset": "pets",
        "image_size": 256,
        "mean": [0.5] * channels,
        "std": [0.5] * channels,
        "border": "foreground",
    }


WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "network", "weights")  # what others store weights under
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # what DataParallel, torch.compile and others put before names


def unwrapped(weights: dict) -> dict:
    """A state_dict without the wrapper and the prefixes that other code puts around it."""
    for wrapper in WRAPPERS:
        if isinstance(weights.get(wrapper), dict):
            return unwrapped(weights[wrapper])
    for prefix in PREFIXES:
        if weights and all(str(name).startswith(prefix) for name in weights):
            return unwrapped({name.removeprefix(prefix): value for name, value in weights.items()})
    return weights


def first_difference(weights: dict, model_type: str) -> str:
    """What sets names apart from those of a network, in words."""
    with torch.device("meta"):
        expected = build_model(model_type).state_dict()
    for name in expected:
        if name not in weights:
            found = next((str(other) for other in weights if other not in expected), "nothing else")
            return f"it has no {name}, but {found}"
    return "its values have other shapes"


def check_description(checkpoint, path):
    """Raise UserError if the metadata is invalid."""
    options, size = checkpoint["options"], checkpoint["image_size"]
    channels = options.get("in_channels") if isinstance(options, dict) else None
    lists = [checkpoint["mean"], checkpoint["std"]]
    if not (
        isinstance(channels, int)
        and channels in (1, 3)
        and isinstance(size, int)
        and 0 < size <= LARGEST_SIDE
        and all(isinstance(values, list) and len(values) == channels for values in lists)
        and all(isinstance(value, float) and math.isfinite(value) for values in lists for value in values)
        and all(value > 0 for value in checkpoint["std"])
        and all(isinstance(checkpoint[key], str) for key in ("name", "border", "dataset"))
        and checkpoint["border"] in BORDERS
        and checkpoint["dataset"] in DATASETS
        and isinstance(checkpoint.get("threshold", 0.5), float)
        and 0 < checkpoint.get("threshold", 0.5) < 1
        and isinstance(checkpoint["model"], dict)
        and isinstance(checkpoint.get("trained_on", []), list)
        and all(isinstance(text, str) for text in checkpoint.get("trained_on", []))
    ):
        raise UserError(f"{path} is damaged: its description is not one that src/train.py writes; train it again")


def restore_model(checkpoint: dict, path, runtime: Runtime | None = None, folded: bool = False) -> nn.Module:
    """The network a checkpoint describes, with its weights, in evaluation mode; on the runtime's device.

    folded: with each batch norm folded into the convolution before it, which is faster. Raises UserError.
    """
    try:
        with torch.device("meta"):  # sizes are compared before any memory is taken
            model = build_model(checkpoint["name"], **checkpoint["options"])
        model.load_state_dict(checkpoint["model"], assign=True)
        model.float()
    except (ValueError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not fit the network it names ({reason}); train it again") from None
    if not all(torch.isfinite(value).all() for value in model.state_dict().values() if value.is_floating_point()):
        raise UserError(f"{path} has weights that are not finite numbers; use an earlier checkpoint")
    model = (runtime.suited_to(model).place(model) if runtime else model).eval()
    return fold_batch_norms(model) if folded else model


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Fold every batch norm into the convolution that is defined right before it, in place."""
    for module in model.modules():
        for (name, first), (next_name, second) in pairwise(list(module.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, next_name, nn.Identity())
    return model


def load_encoder(model, path):
    """Load torchvision's resnet34 weights, with `fc` or without, into the encoder."""
    if not hasattr(model, "encoder"):
        raise UserError("--encoder_weights is for --model resnet34_unet")
    if not Path(path).is_file():
        raise UserError(f"--encoder_weights {path} not found")
    weights = read(Path(path))
    try:
        weights = {name: value for name, value in weights.items() if not name.startswith("fc.")}
        model.encoder.load_state_dict(weights)
    except (AttributeError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--encoder_weights {path} is not a resnet34 state_dict ({reason})") from None


def provenance(device):
    """Where a checkpoint comes from: command line, versions, device, git commit and whether the tree was clean."""

    def git(*words):
        folder = Path(__file__).parent
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        commit, changes = None, None
    return {
        "command": command(*sys.argv),
        "versions": {
            "python": sys.version.split()[0],
            "torch": str(torch.__version__),
            "torchvision": version("torchvision"),  # importing it takes seconds
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "git": {"commit": commit, "clean": None if changes is None else changes == ""},
    }
