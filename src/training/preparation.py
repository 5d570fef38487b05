"""Preparation of train.py before the first step: normalization, the checkpoint's metadata, the first lines."""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from augment import AUGMENTS
from checkpoint import Checkpoint, load_encoder, provenance
from data import TrainingData, hash_of_set, hashes, module_of
from models import build_model
from runtime import Runtime
from training.args import network_options
from training.distributed import on_rank_zero, world_size
from training.run_files import RunFiles
from training.schedule import sizes
from utils import UserError, count_of, note

MEAN_STD = {
    "fixed": ([0.5] * 3, [0.5] * 3),
    "unit": ([0.0] * 3, [1.0] * 3),
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),  # of torchvision's pretrained networks
}


def build(args: Namespace, start: Checkpoint | None) -> nn.Module:
    """Build the network of the arguments, with the weights of --encoder_weights, or of --weights (`start`)."""
    try:
        model = build_model(args.model, **network_options(args))
    except ValueError as error:
        raise UserError(f"--model {args.model}: {error}") from None
    if args.encoder_weights and not args.resume:
        load_encoder(model, args.encoder_weights)
    if start and not args.resume:
        weights, expected = start.model, model.state_dict()
        other = [name for name in expected if name.startswith("head.") and weights[name].shape != expected[name].shape]
        model.load_state_dict({**weights, **{name: expected[name] for name in other}})
        if other:
            print(f"--weights {args.weights}: its head does not match --out_channels; initializing it again")
    return model


def mean_and_std(args: Namespace, dataset, checkpoint: Checkpoint | None) -> tuple[list[float], list[float]]:
    """Return mean and std of each channel, for pixels in [0, 1]. checkpoint: of --weights or --resume."""
    if checkpoint and (args.resume or args.normalize == "weights"):
        return checkpoint.mean, checkpoint.std
    if args.normalize != "train":
        mean, std = MEAN_STD[args.normalize]
        return mean[: args.in_channels], std[: args.in_channels]
    sums = torch.zeros(3, args.in_channels, dtype=torch.float64)  # of pixels, their squares, their number
    for first in range(0, len(dataset), 64):
        pixels = dataset[list(range(first, min(first + 64, len(dataset))))]["image"].double() / 255
        sums += torch.stack([values.sum((0, 2, 3)) for values in (pixels, pixels**2, torch.ones_like(pixels))])
    means = sums[0] / sums[2]
    stds = (sums[1] / sums[2] - means**2).clamp(min=0).sqrt()
    stds[stds < 1e-6] = 1  # of a channel that is constant
    return means.tolist(), stds.tolist()


def checkpoint_template(args: Namespace, data: TrainingData, normalization, runtime: Runtime, checkpoint) -> Checkpoint:
    """Return the fields that stay the same during a run. checkpoint: that the run starts from."""
    former = (checkpoint.trained_on if checkpoint else None) or []
    deep = module_of("folder").Folder(data.options).intensity_range if args.dataset == "folder" else None
    return Checkpoint(
        model={},
        name=args.model,
        options=network_options(args),
        dataset=args.dataset,
        mean=normalization[0],
        std=normalization[1],
        border=args.border,
        args={flag: str(value) if isinstance(value, Path) else value for flag, value in vars(args).items()},
        augmentation=asdict(AUGMENTS[args.augment]),
        precision=runtime.precision,
        speeds=runtime.speeds,
        intensity_range=list(deep) if deep else None,
        trained_on=list(dict.fromkeys([*former, *hashes(data.train, data.indices)])),
        validated_on=hash_of_set(data.valid),
        **provenance(runtime.device),
    )


def resume_run(checkpoint, args, files: RunFiles, data, learner, state, meter) -> dict:
    """Load the state of the run to --resume, and return its scheduler's state. Raises UserError."""
    kept = checkpoint.training
    if kept["images"] != hash_of_set(data.train, data.indices):
        hint = "pass their folder with --data_path, or start a new run with --weights"
        raise UserError(f"--resume {args.resume} was trained on different images; {hint}")
    try:
        learner.load_state_dict(kept)
        state.load_state_dict(kept["state"])
        meter.load_state_dict(kept["meter"])
        former = kept["scheduler"]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--resume {args.resume} is damaged ({reason}); use an earlier copy, or train again") from None
    adopted = on_rank_zero(lambda: files.adopt_best(args.resume))
    if state.history and not adopted or checkpoint.validated_on != hash_of_set(data.valid):
        state.first_epoch = len(state.history)
        cause = "the validation images have changed" if adopted else f"no best checkpoint next to {args.resume}"
        note(f"{cause}; tracking the best checkpoint from here on")
    files.write_history(state.history)
    print(f"resuming after step {state.step}, best validation Dice {state.best:.4f}")
    if args.epochs and len(state.history) >= args.epochs:
        print(f"nothing left to train: already trained for {count_of(len(state.history), 'epoch')}; raise --epochs")
    return former


def opening(args: Namespace, model: nn.Module, runtime: Runtime) -> str:
    """Return the first line of a run: network, device, precision, data."""
    if args.dataset == "shapes":
        note("training on synthetic shapes; run python src/oxford_pet.py to download the pets")
    source = args.data_path or "synthetic shapes"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"{args.model}, {parameters:,} parameters, on {runtime.describe()}; data: {source}"


def describe_run(args: Namespace, data: TrainingData, steps_per_epoch: int) -> str:
    """Return a line about images, sizes, epochs and steps."""
    left_out = len(data.train) - len(data.indices)
    without = f" ({left_out} without foreground left out)" if left_out else ""
    growth = ", then ".join(f"{size}x{size}" for size in sizes(args.start_size, args.image_size))
    length = f"{args.hours:g} hours of epochs" if args.hours else count_of(args.epochs, "epoch")
    full = count_of(-(-len(data.indices) // args.batch_size), "step")
    shortened = f" (a full epoch would be {full}; see --steps)" if args.steps else ""
    processes = f" on {world_size()} processes" if world_size() > 1 else ""
    return (
        f"{count_of(len(data.indices), 'training image')}{without}, {len(data.valid):,} for validation, {growth}; "
        f"{length} of {count_of(steps_per_epoch, 'step')} of {count_of(args.batch_size, 'image')}{processes}{shortened}"
    )
