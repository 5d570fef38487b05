"""Checkpoint files: written atomically, and loaded without executing pickled code."""

import math
import pickle
import platform
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from data import DATASETS
from files import write_atomically
from models import build_model, options_of
from runtime import Runtime
from splits import BORDERS
from utils import LARGEST_SIDE, UserError, command


@dataclass
class Checkpoint:
    """Contents of a checkpoint file, which is a dict of these fields.

    Needed to use the network:
    model: its state_dict. name, options: as `build_model` takes them. dataset: its name. image_size: side of the
    network's input, in pixels. mean, std: of each channel, by which pixels in [0, 1] are normalized. border: the
    trimap's border rule. threshold: probability at which the validation Dice is highest. intensity_range: the values
    of deep images that become black and white.

    Provenance: epoch, seconds, scores: of the weights. args: every flag of train.py with its value. augmentation:
    parameters of the --augment preset. precision, speeds: of the arithmetic. command, versions, device, git.
    trained_on: hashes of the images that this run and the runs it started from were trained on. validated_on: a hash of
    the validation set. training: in NAME.last.pth, all that --resume needs.
    """

    model: dict[str, torch.Tensor]
    name: str
    options: dict
    dataset: str = "pets"
    image_size: int = 256
    mean: list[float] = field(default_factory=lambda: [0.5] * 3)
    std: list[float] = field(default_factory=lambda: [0.5] * 3)
    border: str = "foreground"
    threshold: float | None = None
    intensity_range: list[float] | None = None
    epoch: int = 0
    seconds: float = 0.0
    scores: dict = field(default_factory=dict)
    args: dict = field(default_factory=dict)
    augmentation: dict | None = None
    precision: str | None = None
    speeds: dict = field(default_factory=dict)
    command: str | None = None
    versions: dict = field(default_factory=dict)
    device: str | None = None
    git: dict = field(default_factory=dict)
    trained_on: list[str] | None = None
    validated_on: str | None = None
    training: dict | None = None

    def is_valid(self) -> bool:
        """Check the fields that are used to build the network and to prepare its input."""
        channels = self.options.get("in_channels") if isinstance(self.options, dict) else None
        lists = (self.mean, self.std, self.trained_on or [], self.intensity_range or [])
        dicts = (self.model, self.args, self.scores)
        return bool(
            channels in (1, 3)
            and isinstance(self.image_size, int)
            and 0 < self.image_size <= LARGEST_SIDE
            and all(isinstance(value, list) for value in lists)
            and all(isinstance(value, dict) for value in dicts)
            and len(self.mean) == len(self.std) == channels
            and all(isinstance(value, float) and math.isfinite(value) for value in (*self.mean, *self.std))
            and [type(end) for end in self.intensity_range or [0.0, 1.0]] == [float, float]
            and min(self.std) > 0
            and (self.border in BORDERS and self.dataset in DATASETS and isinstance(self.name, str))
            and (self.threshold is None or isinstance(self.threshold, float) and 0 < self.threshold < 1)
        )

    def to_dict(self) -> dict:
        """Return the fields that are set, as they are saved in a file."""
        return {name: value for name, value in vars(self).items() if value is not None}


def save(checkpoint: Checkpoint, path: Path):
    """Write a checkpoint atomically. Raises UserError if there is no room for it."""
    try:
        write_atomically(path, lambda file: torch.save(checkpoint.to_dict(), file))
    except RuntimeError as error:  # raised by torch if the disk is full
        raise UserError(f"{path} cannot be written ({error}); free some space or choose another folder") from None


def load(
    path: Path | str, model_type: str | None = None, flag: str = "--model", type_flag: str = "--model_type"
) -> Checkpoint:
    """Load a checkpoint, or a plain state_dict of the network model_type, onto the CPU. Raises UserError."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{flag} {path} not found; run python src/train.py to train one")
    values = read(path)
    needed = {"model", "name", "options", "image_size", "mean", "std", "border", "dataset"}
    if not (isinstance(values, dict) and needed <= values.keys()):  # a plain state_dict
        if not model_type:
            hint = f"; for a plain state_dict, pass its network with {type_flag}" if isinstance(values, dict) else ""
            raise UserError(f"{path} is not a checkpoint of src/train.py; {flag} takes saved_models/NAME.pth{hint}")
        weights = unwrap(values) if isinstance(values, dict) else {}
        try:
            options = options_of(model_type, weights)
        except ValueError as error:
            raise UserError(f"{path} does not fit {type_flag} {model_type}: {error}") from None
        half = [0.5] * options["in_channels"]  # train.py's default
        return Checkpoint(weights, model_type, options, mean=half, std=half)
    if "settings" in values:  # the name in earlier versions
        values["args"] = values["settings"]
    known = {entry.name for entry in fields(Checkpoint)}
    checkpoint = Checkpoint(**{name: value for name, value in values.items() if name in known})
    if not checkpoint.is_valid():
        raise UserError(f"{path} is damaged: its metadata is not valid; train it again")
    if model_type not in (None, checkpoint.name):
        raise UserError(f"{path} is a {checkpoint.name}, not a {model_type}; omit {type_flag}")
    return checkpoint


def read(path: Path):
    """Load a torch.save file that holds only tensors and plain values. Raises UserError."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path} is damaged or contains pickled objects; refusing to load it") from None
    except Exception as error:  # zip, unpickling and storage errors of every kind
        raise UserError(f"{path} is damaged or not a checkpoint ({type(error).__name__})") from None


# what other code stores weights under, and what DataParallel and torch.compile put before their names
WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "network", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def unwrap(weights: dict) -> dict:
    """Remove the wrapper and the prefixes that other code puts around a state_dict."""
    for wrapper in WRAPPERS:
        if isinstance(weights.get(wrapper), dict):
            return unwrap(weights[wrapper])
    for prefix in PREFIXES:
        if weights and all(str(name).startswith(prefix) for name in weights):
            return unwrap({name.removeprefix(prefix): value for name, value in weights.items()})
    return weights


def restore_model(checkpoint: Checkpoint, path, runtime: Runtime | None = None, folded: bool = False) -> nn.Module:
    """Build a checkpoint's network, for evaluation. folded: fold batch norms, which is faster. Raises UserError."""
    try:
        with torch.device("meta"):  # allocates and initializes nothing
            model = build_model(checkpoint.name, **checkpoint.options)
        model.load_state_dict(checkpoint.model, assign=True)
        if any(value.is_meta for value in model.buffers()):  # not in the state_dict
            model = build_model(checkpoint.name, **checkpoint.options)
            model.load_state_dict(checkpoint.model)
        model.float()
    except (ValueError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not fit the network recorded in it ({reason}); train it again") from None
    if not all(value.sum().isfinite() for value in model.state_dict().values() if value.is_floating_point()):
        raise UserError(f"{path} has weights that are not finite numbers; use an earlier checkpoint")
    model = (runtime.suited_to(model).to_device(model) if runtime else model).eval()
    if folded and getattr(model, "norm_follows_convolution", False):
        fold_batch_norms(model)
    return model


def fold_batch_norms(model: nn.Module):
    """Fold each batch norm into the convolution declared before it: for networks with `norm_follows_convolution`."""
    for module in model.modules():
        for (name, first), (next_name, second) in pairwise(list(module.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, next_name, nn.Identity())


def load_encoder(model: nn.Module, path: Path):
    """Load torchvision's resnet34 weights, with `fc` or without, into the encoder. Raises UserError."""
    if not hasattr(model, "encoder"):
        raise UserError("--encoder_weights only applies to --model resnet34_unet; omit it")
    if not path.is_file():
        raise UserError(f"--encoder_weights {path} not found")
    weights = read(path)
    try:
        convolutions = {name: value for name, value in weights.items() if not name.startswith("fc.")}
        model.encoder.load_state_dict(convolutions)  # type: ignore[union-attr]
    except (AttributeError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--encoder_weights {path} is not a resnet34 state_dict ({reason})") from None


def provenance(device: torch.device) -> dict:
    """Return the command line, versions, device, git commit and whether the working tree was clean."""

    def git(*words):
        with suppress(OSError, subprocess.SubprocessError):
            folder = Path(__file__).parent
            done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10)
            return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return {
        "command": command(*sys.argv),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            **{name: version(name) for name in ("torchvision", "numpy", "pillow")},
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "git": {"commit": commit, "clean": None if changes is None else changes == ""},
    }
