"""All that changes while a run of train.py goes on, and comes back with --resume."""

import math
import random
from operator import index

import numpy as np
import torch
from torch.optim import SGD, Adam, AdamW, RAdam
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.distributed import from_first, gather, rank, world_size, wrap
from training.muon import Muon, is_matrix
from utils import UserError

WARMUP_STEPS = 200  # of warmup_stable_decay; a tenth of the steps where that is less
COOLDOWN = 1 / 3  # share of the steps


def build_optimizer(args, parameters):
    """The optimizer of --optimizer; norms and biases are not decayed by muon and adamw."""
    parameters, kwargs = list(parameters), {"lr": args.learning_rate, "weight_decay": args.weight_decay}
    if args.optimizer == "muon":
        matrices = [parameter for parameter in parameters if is_matrix(parameter)]
        return Muon(matrices, [parameter for parameter in parameters if not is_matrix(parameter)], **kwargs)
    if args.optimizer == "adamw":
        weights = [parameter for parameter in parameters if parameter.ndim > 1]
        others = [parameter for parameter in parameters if parameter.ndim <= 1]
        return AdamW([{"params": weights}, {"params": others, "weight_decay": 0.0}], fused=True, **kwargs)
    if args.optimizer == "sgd":
        return SGD(parameters, momentum=0.9, fused=True, **kwargs)
    return RAdam(parameters, **kwargs) if args.optimizer == "radam" else Adam(parameters, fused=True, **kwargs)


def build_schedule(args, optimizer, steps):
    """A schedule over that many optimizer steps; `plateau` alone steps by epoch, on the valid loss."""
    if args.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    if args.schedule == "wsd":
        return LambdaLR(optimizer, lambda step: warmup_stable_decay(step, steps))
    if args.schedule == "onecycle":
        return OneCycleLR(optimizer, args.learning_rate, steps, cycle_momentum=False)
    if args.schedule == "cosine":
        return LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * min(step / steps, 1))) / 2)
    return LambdaLR(optimizer, lambda step: 1.0)


def warmup_stable_decay(step, steps):
    """Share of the highest learning rate: a short linear rise, constant, then linear to 0 over the last third.

    Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", NeurIPS 2024 (arXiv
    2405.18392), section 3. A run resumed for more epochs returns to the constant part, and cools down again.
    """
    warmup = min(WARMUP_STEPS, steps // 10)
    return min((step + 1) / (warmup + 1), 1, max(0.0, (steps - step) / (steps * COOLDOWN)))


class State:
    """The networks, the optimizer and its schedule, the history, and how far the run is."""

    def __init__(self, args, model, steps_per_epoch, device, precision):
        self.args, self.model, self.steps_per_epoch = args, model, steps_per_epoch
        self.optimizer = build_optimizer(args, model.parameters())
        self.schedule = build_schedule(args, self.optimizer, args.epochs * steps_per_epoch)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        self.average = AveragedModel(model, multi_avg_fn=self.blend, use_buffers=True) if args.ema else None
        pictures = args.batch_size // world_size() // args.accumulate
        self.forward = wrap(model, device, pictures)  # the network as training calls it
        if args.compile:
            self.forward = torch.compile(self.forward)
        self.step = 0  # optimizer steps done since the run began
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # of this epoch: loss, Dice, pictures
        self.highest = torch.zeros((), device=device)  # loss of a batch, since the process began
        self.history = []  # a dict per epoch, a row of NAME.csv
        self.scores = {}  # of the last epoch, on the valid split
        self.threshold = 0.5  # of probability, at which the last epoch's valid Dice is highest
        self.seconds = 0.0  # of training, evaluation not counted

    def blend(self, averages, values, count):
        """Exponential average whose decay starts low, so that a short run is not held back by its first weights."""
        decay = min(self.args.ema, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(decay)(averages, values, count)

    @property
    def weights(self):
        """The network to evaluate and keep."""
        return self.average.module if self.average else self.model

    @property
    def best(self):
        """The highest valid Dice so far, of the epochs with the largest pictures."""
        return max((row["valid_dice"] for row in of_last_size(self.history)), default=0.0)

    def is_best(self):
        """Whether the last epoch is better than every one before it with pictures of its size."""
        *before, last = of_last_size(self.history)
        return all(row["valid_dice"] < last["valid_dice"] for row in before)

    def share_running_means(self):
        """Several processes differ in batch norm's running means alone; take those of process 0."""
        from_first(self.weights)

    def count(self, loss, dices):
        """Add the mean loss and the Dice of each picture to the epoch's sums, without waiting for the device."""
        self.sums += torch.stack([loss.double() * len(dices), dices.sum(), dices.new_tensor(len(dices))])
        self.highest = torch.fmax(self.highest, loss.detach().float())  # which passes over NaN

    def means(self):
        """Mean loss and Dice of this epoch so far, over all processes."""
        loss, dice, pictures = gather(self.sums).sum(0).tolist()
        return loss / pictures, dice / pictures

    def end_step(self):
        """After the backward pass: move the weights, the learning rate and the average."""
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        overflowed = self.scaler.get_scale() < scale  # in float16: the optimizer was passed over
        if self.args.schedule != "plateau" and not overflowed:
            self.schedule.step()
        if self.average:
            self.average.update_parameters(self.model)
        self.step += 1

    def end_epoch(self, valid_scores, threshold, valid_loss, size):
        """Write the epoch into the history, and begin the next. -> the epoch's row."""
        train_loss, train_dice = self.means()
        self.scores, self.threshold = {"valid": valid_scores}, threshold
        row = {
            "epoch": len(self.history) + 1,
            "step": self.step,
            "image_size": size,
            "train_loss": train_loss,
            "train_dice": train_dice,
            "valid_loss": valid_loss,
            "valid_dice": valid_scores["dice"],
            "valid_jaccard": valid_scores["jaccard"],
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        self.history.append(row)
        self.sums.zero_()
        if self.args.schedule == "plateau":
            self.schedule.step(valid_loss)
        return row

    def state_dict(self):
        """What NAME.last.pth holds as `training`: tensors and plain values. Every process must ask at once."""
        kind, keys, *rest = np.random.get_state()
        return {
            "weights": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": {k: v for k, v in self.schedule.state_dict().items() if k != "lr_lambdas"},
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "sums": gather(self.sums),
            "history": self.history,
            "scores": self.scores,
            "threshold": self.threshold,
            "seconds": self.seconds,
            "random": {
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "numpy": (kind, keys.tolist(), *rest),
                "python": random.getstate(),
            },
        }

    def load_state(self, state):
        """Go on from what `state_dict` gave. Raises UserError where that is damaged."""
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
        schedule = state["schedule"]
        if self.args.schedule != "plateau":  # the rest follows from the settings, which may have more epochs now
            schedule = {name: schedule[name] for name in ("last_epoch", "_step_count", "_last_lr")}
        self.schedule.load_state_dict({**self.schedule.state_dict(), **schedule})
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.history, self.scores = index(state["step"]), state["history"], state["scores"]
        self.threshold = state.get("threshold", self.threshold)
        sums = state["sums"]  # of each process
        if len(sums) != world_size():
            sums = torch.cat([sums.sum(0, keepdim=True), torch.zeros(world_size() - 1, 3, dtype=sums.dtype)])
        self.sums.copy_(sums[rank()])
        self.seconds = state["seconds"]
        kept = state["random"]
        torch.set_rng_state(kept["torch"])
        torch.cuda.set_rng_state_all(kept["cuda"][: torch.cuda.device_count()])  # of a machine with more GPUs, perhaps
        np.random.set_state(kept["numpy"])
        random.setstate(kept["python"])


def of_last_size(history):
    """The epochs whose pictures have the last one's size; the Dice of other sizes is another measure."""
    return [row for row in history if row.get("image_size") == history[-1].get("image_size")]
