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
