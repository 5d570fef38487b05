"""Names a user can type -> networks."""

from models.resnet34_unet import ResNet34UNet
from models.unet import UNet

UNET_OPTIONS = ("width", "depth", "norm", "dropout")
MODELS = {
    "unet": (UNet, {}, UNET_OPTIONS),
    "unet_shallow": (UNet, {"depth": 2}, UNET_OPTIONS),
    "unet_add": (UNet, {"skip": "add"}, UNET_OPTIONS),
    "resnet34_unet": (ResNet34UNet, {}, ("decoder",)),
}


def build_model(name, in_channels=3, out_channels=1, **options):
    """The network called `name`: float images (N, in_channels, H, W) -> logits (N, out_channels, H, W).

    Raises ValueError for an unknown name, or an option that this network does not have.
    """
    if name not in MODELS:
        raise ValueError(f"no network is called {name!r}; there are {', '.join(MODELS)}")
    network, preset, allowed = MODELS[name]
    for option in options:
        if option not in allowed:
            raise ValueError(f"{name} has no option {option!r}; it has {', '.join(allowed)}")
    return network(in_channels, out_channels, **{**preset, **options})


def options_of(name, weights):
    """The options with which `build_model` makes the network that a state_dict of `name` fits.

    Raises ValueError where the state_dict is not one of that network.
    """
    try:
        out_channels = weights["head.weight"].shape[0]
        if name == "resnet34_unet":
            in_channels = weights["encoder.conv1.weight"].shape[1]
            decoder = "transposed" if "blocks.4.conv.0.weight" not in weights else "nearest"
            if "blocks.4.up.weight" in weights:
                decoder = "upconv"
            return {"in_channels": in_channels, "out_channels": out_channels, "decoder": decoder}
        width, in_channels = weights["stem.0.weight"].shape[:2]
        depth = len({key.split(".")[1] for key in weights if key.startswith("downs.")})
        norm = "none" if "stem.0.bias" in weights else "batch"
    except (KeyError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"it is not a state_dict of {name} ({error} is missing or of another shape)") from None
    return {"in_channels": in_channels, "out_channels": out_channels, "width": width, "depth": depth, "norm": norm}
