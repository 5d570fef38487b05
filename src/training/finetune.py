"""--weights: a run that starts from the weights of a checkpoint, with a recipe of its own."""

from pathlib import Path

from torch import nn

from checkpoint import describe_weights, describes_itself, read, restore_model
from models import CHANNELS, options_of_network
from utils import UserError

HEAD = "head."  # what the names of the last layer's weights begin with
HEADS = (1, 2)  # channels of logits that train.py trains


def load_start(path: Path, model_type: str | None) -> dict:
    """The checkpoint of --weights; a plain state_dict is one of the network `model_type`. Raises UserError."""
    if not path.is_file():
        raise UserError(f"--weights {path} not found")
    checkpoint = read(path)
    if not describes_itself(checkpoint, path):
        if model_type is None:
            raise UserError(f"--weights {path} does not say which network it is of; name it by --model")
        checkpoint = describe_weights(checkpoint, model_type, path, "--model")
    restore_model(checkpoint, path)  # raises UserError where weights and description differ
    return checkpoint


def adopt_network(settings, given: dict, start: dict):
    """Give the settings the network and the scaling of the checkpoint `start`.

    given: the flags on the command line. Raises UserError where one of them asks for another network. Dropout has no
    weights and may differ; so may --out_channels, which makes the head anew.
    """
    if settings.encoder_weights:
        raise UserError("--weights brings the encoder's weights; leave out --encoder_weights")
    parameters = options_of_network(start["name"])
    options = {name: parameter.default for name, parameter in parameters.items()}
    options |= {"in_channels": 3, "out_channels": 1, **start["options"], "model": start["name"]}
    for flag in ("model", "in_channels", "width", "depth", "norm", "decoder"):
        if flag in given and given[flag] != options.get(flag):
            differs = f"has {options[flag]}" if flag in options else "has no such option"
            raise UserError(
                f"--{flag} {given[flag]}: the network of --weights {settings.weights} {differs}; leave it out"
            )
    known = {"model", *CHANNELS, *parameters} & {"model", *CHANNELS, *start["options"]}
    for name in known - ({"out_channels", "dropout"} & set(given)):
        setattr(settings, name, options[name])
    if settings.out_channels not in HEADS:
        settings.out_channels = 1
    if "mean_std" not in given:
        settings.mean_std = "weights"


def load_weights(model: nn.Module, start: dict, path: Path):
    """Load the weights of `start`; a head of other channels stays as it was made, and that is said."""
    weights, expected = start["model"], model.state_dict()
    other = [name for name in expected if name.startswith(HEAD) and weights[name].shape != expected[name].shape]
    model.load_state_dict({name: expected[name] if name in other else value for name, value in weights.items()})
    if other:
        channels = [len(values[f"{HEAD}bias"]) for values in (weights, expected)]
        print(f"--weights {path} has a head of {channels[0]} channels; one of {channels[1]} is made anew")
