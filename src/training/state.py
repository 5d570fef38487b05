"""The state of a run: the network and what changes its weights, the progress, and the scores."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RAdam

from runtime import Runtime
from training.distributed import gather, rank, world_size
from training.ema import EMA
from training.muon import Muon, split_parameters
from training.schedule import at_largest_size
from utils import dice_score


@dataclass
class TrainState:
    """State of a run besides weights, optimizer and EMA, restored by --resume.

    step: optimizer steps taken. seconds: of training, without evaluation. elapsed: of the whole run, for --hours.
    max_size: the largest size of the training images so far. warmup: steps in which the learning rate rises.
    first_epoch: the first one considered for "best"; checkpoints of earlier epochs are gone.
    history: a dict per epoch, a row of NAME.csv. scores: of the last epoch, on the validation split.
    """

    step: int = 0
    seconds: float = 0.0
    elapsed: float = 0.0
    max_size: int = 0
    warmup: int = 0
    learning_rate: float = 0.0
    first_epoch: int = 0
    threshold: float = 0.5
    scores: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)

    @property
    def best(self) -> float:
        """The highest validation Dice among the epochs at the largest image size that the run has reached."""
        return max((row["valid_dice"] for row in at_largest_size(self.history[self.first_epoch :])), default=0.0)

    def is_best(self) -> bool:
        """Check that the last epoch has the largest images, and the highest Dice of all epochs with that size."""
        *before, last = at_largest_size(self.history[self.first_epoch :])
        return last is self.history[-1] and all(row["valid_dice"] < last["valid_dice"] for row in before)

    def end_epoch(self, image_size: int, train: tuple[float, float], scores: dict, threshold: float, valid_loss: float):
        """Add an epoch to the history. train: mean loss and Dice. scores: on the validation split."""
        self.scores, self.threshold = {"valid": scores}, threshold
        row: dict = {"epoch": len(self.history) + 1, "step": self.step, "image_size": image_size}
        row |= {"train_loss": train[0], "train_dice": train[1], "valid_loss": valid_loss}
        row |= {"valid_dice": scores["dice"], "valid_jaccard": scores["jaccard"], "learning_rate": self.learning_rate}
        self.history.append(row)

    def state_dict(self) -> dict:
        return asdict(self)

    def load_state_dict(self, state: dict):
        vars(self).update(state)


class TrainMeter:
    """The mean loss and Dice of an epoch's training images, counted without waiting for the GPU."""

    def __init__(self):
        self.epoch_sums = torch.zeros(3, dtype=torch.float64)  # loss, Dice, images
        self.pending: list[tuple] = []  # losses and pixel counts that are still on the device
        self.highest = -math.inf  # loss since the process began

    def add(self, loss: torch.Tensor, counts: torch.Tensor):
        """Add a micro-batch's mean loss and its images' pixel counts (N, 4)."""
        self.pending.append((loss, counts))

    def flush(self):
        """Bring pending values from the device into the sums."""
        for loss, counts in self.pending:
            scores, value = dice_score(counts.cpu()), loss.cpu().double()
            self.epoch_sums += torch.stack([value * len(scores), scores.sum(), scores.new_tensor(len(scores))])
            self.highest = max(self.highest, value.item())  # NaN compares as False, and is left out
        self.pending.clear()

    def means(self) -> tuple[float, float]:
        """Return the mean loss and Dice of the epoch so far. Collective."""
        self.flush()
        loss, dice_sum, images = gather(self.epoch_sums).sum(0).tolist()
        return loss / max(images, 1), dice_sum / max(images, 1)

    def reset(self):
        self.epoch_sums.zero_()

    def state_dict(self) -> dict:
        """Return the sums of each process. Collective."""
        self.flush()
        return {"epoch_sums": gather(self.epoch_sums)}

    def load_state_dict(self, state: dict):
        sums = state["epoch_sums"]
        if len(sums) != world_size():
            sums = torch.cat([sums.sum(0, keepdim=True), torch.zeros(world_size() - 1, 3, dtype=sums.dtype)])
        self.epoch_sums.copy_(sums[rank()])


def build_optimizer(name: str, model: nn.Module, learning_rate: float, weight_decay: float) -> Optimizer:
    """Make the optimizer of --optimizer. Muon and AdamW do not decay norms and biases."""
    kwargs: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if name == "muon":
        matrices, others, decayed = split_parameters(model)
        return Muon(matrices, others, decayed=decayed, **kwargs)
    parameters = list(model.parameters())
    if name == "adamw":
        groups: list[dict] = [{"params": [p for p in parameters if p.ndim > 1]}]
        groups += [{"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]
        return AdamW([group for group in groups if group["params"]], fused=True, **kwargs)
    if name == "sgd":
        return SGD(parameters, momentum=0.9, **kwargs)  # fused, it begins with a first step that overflowed
    return RAdam(parameters, **kwargs) if name == "radam" else Adam(parameters, fused=True, **kwargs)


@dataclass
class Learner:
    """The network and what changes its weights.

    train_model: `model` as it is called in training: compiled, or averaging gradients over processes.
    """

    model: nn.Module
    train_model: nn.Module
    criterion: Callable
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    ema: EMA | None
    runtime: Runtime
    scheduler: Any = None  # an LRScheduler, or ReduceLROnPlateau, which steps with a loss

    @property
    def eval_model(self) -> nn.Module:
        """The network to evaluate and keep: the average of the weights, if there is one."""
        return self.ema.module if self.ema else self.model

    def state_dict(self) -> dict:
        names = ("model", "ema", "optimizer", "scheduler", "scaler")
        kept = {name: part.state_dict() for name in names if (part := getattr(self, name)) is not None}
        kept["scheduler"].pop("lr_lambdas", None)  # follow from the arguments
        return kept

    def load_state_dict(self, kept: dict):
        """Load what `state_dict` returned, but not the scheduler, which is built from the optimizer's state."""
        self.model.load_state_dict(kept["model"])
        if self.ema:
            self.ema.load_state_dict(kept["ema"])
        self.optimizer.load_state_dict(kept["optimizer"])
        for parameter, values in self.optimizer.state.items():  # fused steps need them in the parameter's memory layout
            for name, value in values.items():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    values[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
        if kept["scaler"]:  # empty if the run was not in float16
            self.scaler.load_state_dict(kept["scaler"])
