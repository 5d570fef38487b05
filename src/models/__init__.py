"""Names a user can type, and their networks."""

import inspect

from torch import nn

from models import resnet34_unet, unet
from models.resnet34_unet import ResNet34UNet
from models.unet import UNet

MODELS: dict[str, tuple[type[nn.Module], dict]] = {  # name: class, options that the name fixes
    "unet": (UNet, {}),
    "unet_shallow": (UNet, {"depth": 2}),
    "unet_add": (UNet, {"skip": "add"}),
    "resnet34_unet": (ResNet34UNet, {}),
}
OPTIONS_OF_WEIGHTS = {UNet: unet.options_of, ResNet34UNet: resnet34_unet.options_of}
CHANNELS = ("in_channels", "out_channels")


def options_of_network(name: str) -> dict[str, inspect.Parameter]:
    """The options that a user can give the network called `name`, beside its channels."""
    network, preset = MODELS[name]
    found = inspect.signature(network).parameters
    return {option: found[option] for option in found if option not in (*CHANNELS, *preset, "skip")}


def build_model(name: str, in_channels: int = 3, out_channels: int = 1, **options) -> nn.Module:
    """The network called `name`: float images (N, in_channels, H, W) to logits (N, out_channels, H, W).

    Raises ValueError for an unknown name, or an option that this network does not have.
    """
    if name not in MODELS:
        raise ValueError(f"no network is called {name!r}; there are {', '.join(MODELS)}")
    network, preset = MODELS[name]
    allowed = options_of_network(name)
    for option in options:
        if option not in allowed and option not in preset:
            raise ValueError(f"{name} has no option {option!r}; it has {', '.join(allowed)}")
    return network(in_channels, out_channels, **{**preset, **options})


def options_of(name: str, weights: dict) -> dict:
    """The options with which `build_model` makes the network that a state_dict of `name` fits.

    Raises ValueError where the state_dict is not one of that network.
    """
    network, _ = MODELS[name]
    try:
        return OPTIONS_OF_WEIGHTS[network](weights)
    except (KeyError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"it is not a state_dict of {name} ({error} is missing or of another shape)") from None
