"""Networks by name, as in --model."""

import inspect
from typing import Any

from torch import nn

from models.resnet34_unet import ResNet34UNet
from models.unet import UNet

MODELS: dict[str, tuple[Any, dict]] = {  # name: class, preset options
    "unet": (UNet, {}),
    "unet_shallow": (UNet, {"depth": 2}),
    "unet_add": (UNet, {"skip": "add"}),
    "resnet34_unet": (ResNet34UNet, {}),
}


def options_of_network(name: str) -> dict[str, inspect.Parameter]:
    """Return the options that a user can set for a network, besides its channels."""
    network, preset = MODELS[name]
    fixed = {"in_channels", "out_channels", "skip", *preset}
    parameters = inspect.signature(network).parameters
    return {option: parameters[option] for option in parameters if option not in fixed}


def build_model(name: str, in_channels: int = 3, out_channels: int = 1, **options) -> nn.Module:
    """Build a network: float images (N, in_channels, H, W) to logits (N, out_channels, H, W).

    Raises KeyError for an unknown network, ValueError for an unknown option.
    """
    network, preset = MODELS[name]
    allowed = options_of_network(name)
    unknown = options.keys() - allowed.keys() - preset.keys()
    if unknown:
        raise ValueError(f"{name} has no option {min(unknown)!r}; it has {', '.join(allowed)}")
    return network(in_channels, out_channels, **(preset | options))
