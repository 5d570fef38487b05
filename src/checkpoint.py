"""Checkpoint files: written whole or not at all, opened without running anything that is in them.

A checkpoint is one dict: `model` (the weights), `name` and `options` of the network, `dataset`, `image_size`,
`mean`, `std`, `border`, `epoch`, `scores`, and where it came from: `command`, `versions`, `device`, `git`.
NAME.last.pth has, beside these, `training`: all that `train.py --resume` goes on from.
"""

import csv
import io
import os
import pickle
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import PIL
import torch

from models import build_model
from utils import UserError

UMASK = os.umask(0)  # it can only be read by setting it
os.umask(UMASK)


def write_whole(path, write):
    """Call write(binary file) on a new file beside `path`, then rename it over `path`, and wait for the disk.

    Whatever happens, `path` is the old file or the new one. Raises UserError where it cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~UMASK)
        os.replace(temporary, path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); free some space or choose another folder; "
            f"what was saved before is as it was"
        ) from None
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def write_table(path, header, rows, end="\r\n"):
    """Write a CSV file, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows([header, *rows])
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def save(checkpoint, path):
    """Write a checkpoint to `path`, whole or not at all."""
    try:
        write_whole(path, lambda file: torch.save(checkpoint, file))
    except RuntimeError as error:  # what torch makes of a full disk
        raise UserError(f"{path} cannot be written ({error}); free some space and --resume") from None


def load(path):
    """The checkpoint at `path`, on the CPU. Raises UserError for a file that is not one of ours."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not there; python src/train.py makes a checkpoint, --model names it")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path} holds more than weights and plain values, or is damaged; it was not opened") from None
    except Exception as error:  # zip, unpickling and storage errors of every kind
        raise UserError(f"{path} is not a checkpoint, or is damaged ({type(error).__name__}); train it again") from None
    if not isinstance(checkpoint, dict) or not {"model", "name", "options", "image_size"} <= set(checkpoint):
        raise UserError(f"{path} is not a checkpoint of src/train.py; --model wants saved_models/NAME.pth")
    return checkpoint


def restore_model(checkpoint, path="the checkpoint", device=None):
    """The network a checkpoint describes, with its weights, in evaluation mode; on a device in channels-last layout.

    Raises UserError.
    """
    try:
        model = build_model(checkpoint["name"], **checkpoint["options"])
        model.load_state_dict(checkpoint["model"])
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not fit the network it names ({reason}); train it again") from None
    if not all(torch.isfinite(value).all() for value in model.state_dict().values() if value.is_floating_point()):
        raise UserError(f"{path} has weights that are not finite numbers; use an earlier checkpoint")
    return (model.to(device, memory_format=torch.channels_last) if device else model).eval()


def load_encoder(model, path):
    """Load torchvision's resnet34 weights, with `fc` or without, into the encoder."""
    if not hasattr(model, "encoder"):
        raise UserError("--encoder_weights is for --model resnet34_unet")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        weights = {name: value for name, value in weights.items() if not name.startswith("fc.")}
        model.encoder.load_state_dict(weights)
    except FileNotFoundError:
        raise UserError(f"--encoder_weights {path} is not there") from None
    except Exception as error:  # not a weights file, or another network's
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
        "command": " ".join(["python", *sys.argv]),
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
