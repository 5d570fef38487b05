"""Checkpoint files: written atomically, and loaded without executing pickled code."""

import platform
import subprocess
import sys
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from textwrap import shorten

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from files import CannotWrite, write_atomically
from models import MODELS, build_model
from runtime import Runtime, device_name
from training.distributed import world_size
from utils import UserError, command, worker_died


@dataclass
class Checkpoint:
    """A checkpoint file: a dict of these fields."""

    # needed to use the network
    model: dict[str, torch.Tensor]  # its state_dict
    name: str  # name and options: as `build_model` takes them
    options: dict
    dataset: str = "pets"
    image_size: int = 256  # input size in pixels
    mean: list[float] = field(default_factory=lambda: [0.5] * 3)  # for pixels in [0, 1]
    std: list[float] = field(default_factory=lambda: [0.5] * 3)
    border: str = "foreground"  # class of trimap borders
    threshold: float | None = None  # with the highest validation Dice
    intensity_range: list[float] | None = None  # values that map to black and white
    # provenance
    epoch: int = 0  # last complete epoch
    seconds: float = 0.0  # of training, until the file was saved
    scores: dict = field(default_factory=dict)  # of the last complete epoch
    args: dict = field(default_factory=dict)  # every flag of train.py
    augmentation: dict | None = None  # parameters of the --augment preset
    precision: str | None = None
    speeds: dict = field(default_factory=dict)  # GFLOP/s per core, by precision
    command: str | None = None
    earlier: list[dict] = field(default_factory=list)  # a resumed run's earlier parts: command, git, versions, epoch
    versions: dict = field(default_factory=dict)
    device: str | None = None
    git: dict = field(default_factory=dict)
    trained_on: list[str] | None = None  # hashes of images, also of earlier runs if known
    validated_on: str | None = None  # hash of the validation set
    training: dict | None = None  # for --resume; only in NAME.last.pth


def save(checkpoint: Checkpoint, path: Path):
    """Write a checkpoint atomically. Raises UserError."""
    try:
        write_atomically(path, lambda file: torch.save(vars(checkpoint), file))
    except RuntimeError as error:  # torch's error for a full disk
        if worker_died(error):  # raised at any point of the main thread
            raise
        raise CannotWrite(path, OSError(str(error))) from None


def add_model_type_flag(add):
    add("--model_type", choices=MODELS, help="network, if --model is a plain state_dict")


def load(path: Path | str, model_type: str | None = None, flag="--model", type_flag="--model_type") -> Checkpoint:
    """Load a checkpoint, or a state_dict of the network `model_type`, onto the CPU. Raises UserError."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{flag} {path} not found; correct the path, or train a network with src/train.py")
    values = read(path)
    needed = {"model", "name", "options", "image_size", "mean", "std", "border", "dataset"}
    if not needed <= values.keys():  # a plain state_dict
        if not model_type:
            hint = f"; pass {type_flag} for a plain state_dict" if type_flag else ""
            raise UserError(f"{flag} {path} was not written by src/train.py{hint}")
        weights = unwrap(values)
        try:
            options = MODELS[model_type][0].options_of(weights)
        except (LookupError, AttributeError, ValueError) as error:
            reason = f"missing or mismatched tensors: {error}"
            raise UserError(f"{path} does not fit {type_flag} {model_type} ({reason}); try another network") from None
        half = [0.5] * options["in_channels"]
        return Checkpoint(weights, model_type, options, mean=half, std=half)
    if "settings" in values:  # earlier name of `args`, used in the released weights
        values["args"] = values["settings"]
    known = {entry.name for entry in fields(Checkpoint)}
    checkpoint = Checkpoint(**{name: value for name, value in values.items() if name in known})
    if model_type not in (None, checkpoint.name):
        raise UserError(f"{path} is a {checkpoint.name}, not a {model_type}; omit {type_flag}")
    if checkpoint.name not in MODELS:
        raise UserError(f"{path} is a {checkpoint.name}, which MODELS in src/models/__init__.py lacks; add it there")
    return checkpoint


def read(path: Path):
    """Load a dict from a torch.save file of only tensors and plain values. Raises UserError."""
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        return values if isinstance(values, dict) else {}
    except PermissionError:
        raise
    except Exception as error:  # zip, unpickling and storage errors
        reason = f"is damaged or contains more than tensors and plain values ({type(error).__name__})"
        raise UserError(f"{path} {reason}; pass another file, e.g. the network's state_dict") from None


# other code's keys and name prefixes
WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "network", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def unwrap(weights: dict) -> dict:
    """Remove the WRAPPERS and PREFIXES that other code adds to a state_dict."""
    for wrapper in WRAPPERS:
        if isinstance(weights.get(wrapper), dict):
            return unwrap(weights[wrapper])
    for prefix in PREFIXES:
        if weights and all(str(name).startswith(prefix) for name in weights):
            return unwrap({name.removeprefix(prefix): value for name, value in weights.items()})
    return weights


def restore_model(checkpoint: Checkpoint, path, runtime: Runtime | None = None, folded: bool = False) -> nn.Module:
    """Build a checkpoint's network, for evaluation. folded: fold batch norms. Raises UserError."""
    try:
        plain = "plain_layers" in vars(MODELS[checkpoint.name][0])  # a subclass may add layers or state
        with torch.device("meta") if plain else nullcontext():  # meta: allocates and initializes nothing
            model = build_model(checkpoint.name, **checkpoint.options)
        model.load_state_dict(checkpoint.model, assign=plain)
        model.float()
    except (ValueError, TypeError, RuntimeError, AttributeError, OverflowError, LookupError) as error:
        reason = shorten(str(error), 200)
        raise UserError(f"{path} does not match its network ({reason}); train the network again") from None
    model = (runtime.suited_to(model).to_device(model) if runtime else model).eval()
    if folded and plain:
        fold_batch_norms(model)
    return model


def fold_batch_norms(model: nn.Module):
    """Fold each batch norm into the convolution declared before it."""
    for module in model.modules():
        for (name, first), (next_name, second) in pairwise(list(module.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, next_name, nn.Identity())


def load_encoder(model: nn.Module, path: Path):
    """Load torchvision's resnet34 weights, without `fc`, into the encoder. Raises UserError."""
    if not hasattr(model, "encoder"):
        raise UserError("--encoder_weights only applies to --model resnet34_unet; omit it")
    if not path.is_file():
        raise UserError(f"--encoder_weights {path} not found; correct the path")
    try:
        encoder = {name: value for name, value in read(path).items() if not name.startswith("fc.")}
        model.encoder.load_state_dict(encoder)  # type: ignore[union-attr]
    except (AttributeError, TypeError, RuntimeError) as error:
        reason = shorten(str(error), 200)
        raise UserError(f"--encoder_weights {path} does not fit the encoder ({reason}); omit it") from None


def provenance(device: torch.device) -> dict:
    """Return the command line, versions, device, git commit and whether src/ is free of uncommitted changes."""

    def git(*words):
        with suppress(OSError, subprocess.SubprocessError):
            call = ["git", "-C", Path(__file__).parent, *words]
            return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    changes = git("status", "--porcelain", "--", ".")
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    versions |= {name: version(name) for name in ("torchvision", "numpy", "pillow")}
    return {
        "command": command(*sys.argv, processes=world_size()),
        "versions": versions,
        "device": device_name(device),
        "git": {"commit": git("rev-parse", "HEAD"), "clean": None if changes is None else not changes},
    }
