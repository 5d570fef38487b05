"""Prepare a run: network, normalization, checkpoint metadata, --resume, first lines of output."""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from augment import AUGMENTS
from checkpoint import Checkpoint, load_encoder, provenance
from data import TrainingData, hash_of_set, hashes
from folder import Folder
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
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),  # torchvision's pretrained networks
}


def build(args: Namespace, start: Checkpoint | None) -> nn.Module:
    """Build the network. start: the checkpoint of --weights or --resume, if any."""
    try:
        model = build_model(args.model, **network_options(args))
    except ValueError as error:
        raise UserError(f"--model {args.model}: {error}") from None
    if args.resume:
        return model
    if args.encoder_weights:
        load_encoder(model, args.encoder_weights)
    if start:
        own = model.state_dict()
        head = {name: own[name] for name, value in start.model.items() if value.shape != own[name].shape}
        if head:
            print(f"--weights {args.weights}: reinitializing {', '.join(head)} for --out_channels {args.out_channels}")
        model.load_state_dict(start.model | head)
    return model


def mean_and_std(args: Namespace, dataset, checkpoint: Checkpoint | None) -> tuple[list, list]:
    """Return each channel's mean and std, for pixels in [0, 1]."""
    if checkpoint and (args.resume or args.normalize == "weights"):
        return checkpoint.mean, checkpoint.std
    if args.normalize != "train":
        mean, std = MEAN_STD[args.normalize]
        return mean[: args.in_channels], std[: args.in_channels]
    total, squares, number = torch.zeros(3, args.in_channels, dtype=torch.float64)
    for indices in torch.arange(len(dataset)).split(64):
        pixels = dataset[indices.tolist()]["image"].double() / 255
        total += pixels.sum((0, 2, 3))
        squares += (pixels**2).sum((0, 2, 3))
        number += pixels[:, 0].numel()
    mean = total / number
    std = (squares / number - mean**2).clamp(min=0).sqrt()
    std[std < 1e-6] = 1  # constant channels
    return mean.tolist(), std.tolist()


def checkpoint_template(args, data: TrainingData, normalization, runtime: Runtime, checkpoint) -> Checkpoint:
    """Return a checkpoint with the run's constant fields. checkpoint: the run's start, if any."""
    former = (checkpoint.trained_on or []) if checkpoint else []
    intensities = Folder(data.options).intensity_range if args.dataset == "folder" else None
    earlier = []
    if args.resume:
        last = {name: getattr(checkpoint, name) for name in ("command", "git", "versions", "epoch")}
        earlier = [*checkpoint.earlier, last]
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
        intensity_range=list(intensities) if intensities else None,
        trained_on=list(dict.fromkeys(former + hashes(data.train, data.indices))),
        validated_on=hash_of_set(data.valid),
        earlier=earlier,
        **provenance(runtime.device),
    )


def resume_run(checkpoint, args, files: RunFiles, data, learner, state, meter) -> dict:
    """Load the saved state into learner, state and meter; return the scheduler's state. Raises UserError."""
    kept = checkpoint.training
    if kept["images"] != hash_of_set(data.train, data.indices):
        hint = "pass the original folder with --data_path, or start a new run with --weights"
        raise UserError(f"--resume {args.resume} was trained on different images; {hint}")
    learner.load_state_dict(kept)
    vars(state).update(kept["state"])
    meter.load_state_dict(kept["meter"])
    adopted = on_rank_zero(lambda: files.adopt_best(args.resume))
    if (state.history and not adopted) or checkpoint.validated_on != hash_of_set(data.valid):
        state.first_epoch = len(state.history)
        cause = "the validation images have changed" if adopted else f"no best checkpoint next to {args.resume}"
        note(f"{cause}; tracking the best checkpoint from here on")
    files.write_history(state.history)
    best = f", best validation Dice {state.best:.4f}" if state.best else ""
    print(f"resuming after step {state.step}{best}")
    if args.epochs and len(state.history) >= args.epochs:
        print(f"nothing left to train after {count_of(len(state.history), 'epoch')}; raise --epochs")
    return kept["scheduler"]


def describe_model(args: Namespace, model: nn.Module, runtime: Runtime) -> str:
    """Return a line about the network, device and data."""
    size = sum(value.numel() for value in model.parameters())
    data = args.data_path or "synthetic shapes"
    return f"{args.model}, {size:,} parameters, on {runtime.describe()}; data: {data}"


def describe_run(args: Namespace, data: TrainingData, steps_per_epoch: int) -> str:
    """Return a line about images, sizes, epochs and steps."""
    number = len(data.indices)
    images = count_of(number, "training image")
    if number < len(data.train):
        images += f" ({len(data.train) - number} without foreground left out)"
    growth = ", then ".join(f"{size}x{size}" for size in sizes(args.start_size, args.image_size))
    epochs = f"{args.hours:g} h of epochs" if args.hours else count_of(args.epochs, "epoch")
    steps = f"{count_of(steps_per_epoch, 'step')} of {count_of(args.batch_size, 'image')}"
    if world_size() > 1:
        steps += f" on {world_size()} processes"
    if args.steps:
        steps += f" (a full epoch would be {count_of(-(-number // args.batch_size), 'step')}; see --steps)"
    return f"{images}, {len(data.valid):,} for validation, {growth}; {epochs} of {steps}"
