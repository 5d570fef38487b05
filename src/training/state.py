"""Mutable training state: what changes during a run of train.py, and comes back with --resume."""

import math
import random
from collections.abc import Iterable
from operator import index

import numpy as np
import torch
from torch.optim import SGD, Adam, AdamW, Optimizer, RAdam

from losses import build_loss
from predictor import Predictor
from runtime import Runtime
from training.averaging import Average
from training.distributed import gather, rank, world_size, wrap
from training.muon import Muon, is_matrix
from training.schedule import build_schedule, of_largest_size, size_of, warmup_steps
from utils import UserError, dice


def build_optimizer(settings, parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
    """The optimizer of --optimizer; muon and adamw do not decay norms and biases."""
    parameters = list(parameters)
    kwargs = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "muon":
        matrices = [parameter for parameter in parameters if is_matrix(parameter)]
        return Muon(matrices, [parameter for parameter in parameters if not is_matrix(parameter)], **kwargs)
    if settings.optimizer == "adamw":
        weights = [parameter for parameter in parameters if parameter.ndim > 1]
        others = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups: list[dict] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
        return AdamW(groups, fused=True, **kwargs)
    if settings.optimizer == "sgd":
        return SGD(parameters, momentum=0.9, **kwargs)  # fused, it begins with a first step that overflowed
    return RAdam(parameters, **kwargs) if settings.optimizer == "radam" else Adam(parameters, fused=True, **kwargs)


def steps_per_epoch(settings, pictures: int) -> int:
    """--steps, else one pass over the pictures."""
    return settings.steps or -(-pictures // settings.batch_size)


class State:
    """The networks, the optimizer and its schedule, the history, and how far the run is.

    settings: of parse_args. model: on the runtime's device. pictures: how many an epoch passes over.
    scaling: mean and std of each channel, which pixels in [0, 1] are scaled by.
    """

    def __init__(self, settings, model: torch.nn.Module, pictures: int, scaling: tuple, runtime: Runtime):
        self.settings, self.model, self.pictures = settings, model, pictures
        self.scaling, self.runtime = scaling, runtime
        self.criterion = build_loss(settings.loss)
        self.steps_per_epoch = steps_per_epoch(settings, pictures)
        self.optimizer = build_optimizer(settings, model.parameters())
        self.warmup = warmup_steps(self.total_steps)  # stays when a run is resumed for more epochs
        rate, steps = settings.learning_rate, self.total_steps
        self.schedule = build_schedule(settings.schedule, self.optimizer, rate, steps, lambda: self.warmup)
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
        self.average = Average(model, settings.ema) if settings.ema else None
        self.forward = wrap(model, runtime.device, settings.batch_size // world_size() // settings.accumulate)
        if settings.compile:
            self.forward = torch.compile(self.forward)
        self.size = settings.image_size  # side of the pictures in this epoch
        self.reached = 0  # the largest side so far, also of an epoch that was cut off
        self.step = 0  # optimizer steps since the run began
        self.learning_rate = self.optimizer.param_groups[0]["lr"]  # of the last step
        self.sums = torch.zeros(3, dtype=torch.float64)  # of this epoch: loss, Dice, pictures
        self.uncounted: list[tuple] = []  # losses and pixel counts, on the device, that are not yet in `sums`
        self.highest = torch.zeros((), device=runtime.device)  # loss of a batch, since the process began
        self.history: list[dict] = []  # a dict per epoch, a row of NAME.csv
        self.scores: dict = {}  # of the last epoch, on the valid split
        self.best_from = 0  # epochs whose best weights are lost: "best" is among the later ones
        self.threshold = 0.5  # of probability, at which the last epoch's valid Dice is highest
        self.seconds = 0.0  # of training, evaluation not counted

    @property
    def total_steps(self) -> int:
        return self.settings.epochs * self.steps_per_epoch

    @property
    def finished(self) -> bool:
        return len(self.history) >= self.settings.epochs

    def begin_epoch(self):
        """Choose the side of the epoch's pictures: never below one that the run has reached."""
        settings, before = self.settings, self.reached
        planned = size_of(len(self.history), settings.epochs, settings.start_size, settings.image_size)
        self.size = self.reached = max(planned, before)
        if self.size > before and settings.schedule == "plateau":  # a loss at another size is another measure
            self.schedule.best, self.schedule.num_bad_epochs = math.inf, 0

    @property
    def weights(self) -> torch.nn.Module:
        """The network to evaluate and keep."""
        return self.average.module if self.average else self.model

    @property
    def best(self) -> float:
        """The highest valid Dice among the epochs at the largest picture size that the run has reached."""
        return max((row["valid_dice"] for row in self.contenders()), default=0.0)

    def is_best(self) -> bool:
        """Whether the last epoch has the largest pictures so far, and is better than all before it that had them."""
        *before, last = self.contenders()
        return last is self.history[-1] and all(row["valid_dice"] < last["valid_dice"] for row in before)

    def contenders(self) -> list[dict]:
        """The rows of the history that "best" is among."""
        return of_largest_size(self.history[self.best_from :])

    def forget_best(self):
        """Choose the best among the epochs from here on: the weights of the earlier ones are lost."""
        self.best_from = len(self.history)

    def predictor(self) -> Predictor:
        """The network to evaluate, with the run's scaling."""
        mean, std = self.scaling
        return Predictor(self.weights.eval(), mean, std, self.size, self.runtime)

    def count(self, loss: torch.Tensor, counts: torch.Tensor):
        """Note a batch's mean loss and its pictures' pixel counts (N, 4), without waiting for the device."""
        self.uncounted.append((loss.detach(), counts))
        self.highest = torch.fmax(self.highest, loss.detach().float())  # ignores NaN

    def sum_up(self):
        """Bring the counts from the device into `sums`."""
        for loss, counts in self.uncounted:
            dices = dice(counts.cpu())
            self.sums += torch.stack([loss.cpu().double() * len(dices), dices.sum(), dices.new_tensor(len(dices))])
        self.uncounted.clear()

    def means(self) -> tuple[float, float]:
        """Mean loss and Dice of this epoch so far. Collective: call on all ranks."""
        self.sum_up()
        loss, dice_sum, pictures = gather(self.sums).sum(0).tolist()
        return loss / pictures, dice_sum / pictures

    def end_step(self):
        """After the backward pass: move the weights, the learning rate and the average."""
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else 1.0
        self.learning_rate = self.optimizer.param_groups[0]["lr"]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        overflowed = self.scaler.is_enabled() and self.scaler.get_scale() < scale  # the optimizer was skipped
        if self.settings.schedule != "plateau" and not overflowed:
            self.schedule.step()
        if self.average:
            self.average.update()
        self.step += 1

    def end_epoch(self, valid_scores: dict, threshold: float, valid_loss: float):
        """Write the epoch into the history, and begin the next."""
        train_loss, train_dice = self.means()
        self.scores, self.threshold = {"valid": valid_scores}, threshold
        self.history.append(
            {
                "epoch": len(self.history) + 1,
                "step": self.step,
                "image_size": self.size,
                "train_loss": train_loss,
                "train_dice": train_dice,
                "valid_loss": valid_loss,
                "valid_dice": valid_scores["dice"],
                "valid_jaccard": valid_scores["jaccard"],
                "learning_rate": self.learning_rate,
            }
        )
        self.sums.zero_()
        if self.settings.schedule == "plateau":
            self.schedule.step(valid_loss)

    def state_dict(self) -> dict:
        """What NAME.last.pth holds as `training`: tensors and plain values. Collective: call on all ranks."""
        self.sum_up()
        kind, keys, *rest = np.random.get_state(legacy=True)
        return {
            "weights": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": {k: v for k, v in self.schedule.state_dict().items() if k != "lr_lambdas"},
            "scaler": self.scaler.state_dict(),
            "pictures": self.pictures,
            "step": self.step,
            "reached": self.reached,
            "warmup": self.warmup,
            "learning_rate": self.learning_rate,
            "sums": gather(self.sums),
            "history": self.history,
            "best_from": self.best_from,
            "scores": self.scores,
            "threshold": self.threshold,
            "seconds": self.seconds,
            "random": {
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "numpy": (kind, np.asarray(keys).tolist(), *rest),
                "python": random.getstate(),
            },
        }

    def load_state(self, state: dict):
        """Resume from what `state_dict` gave. Raises UserError where that is damaged, or of other data."""
        pictures = state.get("pictures", self.pictures) if isinstance(state, dict) else None
        if pictures != self.pictures:
            raise UserError(
                f"--resume: the run trained on {pictures} pictures, and here are {self.pictures}; name its own data "
                f"with --data_path, or start a new run with --weights"
            )
        try:
            self._load_state(state)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"--resume: the state is damaged ({reason}); use an earlier copy, or train again") from None

    def _load_state(self, state):
        self.model.load_state_dict(state["weights"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, kept in self.optimizer.state.items():  # fused steps need them in the parameter's memory layout
            for name, value in kept.items():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    kept[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
        self.learning_rate = state["learning_rate"]
        self.warmup = index(state.get("warmup", self.warmup))
        self.step, self.history, self.scores = index(state["step"]), state["history"], state["scores"]
        self.reached = index(max([state.get("reached", 0), *(row["image_size"] for row in self.history)]))
        if self.settings.schedule == "plateau":
            self.schedule.load_state_dict(state["schedule"])
        else:  # the rest follows from the settings, which may have more epochs now
            done = min(state["schedule"]["last_epoch"], self.total_steps)  # one cycle refuses to go beyond its end
            self.schedule.last_epoch = done - 1
            self.schedule._step_count = 2  # which has it not warn that no step was taken in this process
            self.schedule.step()
            self.schedule._step_count = state["schedule"]["_step_count"]
        if state["scaler"]:  # else of a run that was not in float16
            self.scaler.load_state_dict(state["scaler"])
        self.threshold, self.best_from = state["threshold"], index(state["best_from"])
        sums = state["sums"]  # of each process
        if len(sums) != world_size():
            sums = torch.cat([sums.sum(0, keepdim=True), torch.zeros(world_size() - 1, 3, dtype=sums.dtype)])
        self.sums.copy_(sums[rank()])
        self.seconds = state["seconds"]
        kept = state["random"]
        torch.set_rng_state(kept["torch"])
        torch.cuda.set_rng_state_all(kept["cuda"][: torch.cuda.device_count()])  # perhaps of a machine with more GPUs
        np.random.set_state(kept["numpy"])
        random.setstate(kept["python"])
