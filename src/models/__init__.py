"""Networks by their names in --model."""

import inspect

from torch import nn

from models import resnet34_unet, unet
from models.resnet34_unet import ResNet34UNet
from models.unet import UNet

MODELS: dict[str, tuple[type[nn.Module], dict]] = {  # name: class, options fixed by the name
    "unet": (UNet, {}),
    "unet_shallow": (UNet, {"depth": 2}),
    "unet_add": (UNet, {"skip": "add"}),
    "resnet34_unet": (ResNet34UNet, {}),
}
OPTIONS_OF_WEIGHTS = {UNet: unet.options_of, ResNet34UNet: resnet34_unet.options_of}
CHANNELS = ("in_channels", "out_channels")


def options_of_network(name: str) -> dict[str, inspect.Parameter]:
    """Return the options that a user can set for the network `name`, besides its channels."""
    network, preset = MODELS[name]
    found = inspect.signature(network).parameters
    return {option: found[option] for option in found if option not in (*CHANNELS, *preset, "skip")}


def build_model(name: str, in_channels: int = 3, out_channels: int = 1, **options) -> nn.Module:
    """Build a network: float images (N, in_channels, H, W) to logits (N, out_channels, H, W). Raises ValueError."""
    if name not in MODELS:
        raise ValueError(f"unknown network {name!r}; choose from {', '.join(MODELS)}")
    network, preset = MODELS[name]
    allowed = options_of_network(name)
    for option in options:
        if option not in allowed and option not in preset:
            raise ValueError(f"{name} has no option {option!r}; it has {', '.join(allowed)}")
    return network(in_channels, out_channels, **{**preset, **options})


def options_of(name: str, weights: dict) -> dict:
    """Return the options that `build_model` needs to build a state_dict's network. Raises ValueError."""
    try:
        return OPTIONS_OF_WEIGHTS[MODELS[name][0]](weights)
    except (KeyError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"it is not a state_dict of {name} ({error} is missing or has another shape)") from None
