"""A run's state and history, and the mean loss and Dice of the epoch in progress."""

import math
from dataclasses import dataclass, field

import torch

from scoring import dice_score
from training.distributed import all_gather, rank, world_size
from training.schedule import at_largest_size


@dataclass
class TrainState:
    """A run's progress and history.

    step: batches trained on. seconds: training time without validation. elapsed: seconds with validation, for --hours.
    max_size: the largest image size so far. warmup: steps over which wsd rises.
    first_epoch: index of the first epoch considered for "best"; earlier checkpoints are gone or not comparable.
    threshold, scores: from the last validation. history: a row of NAME.csv per epoch.
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
        """The highest validation Dice among the epochs at the largest image size, or 0."""
        rows = at_largest_size(self.history[self.first_epoch :])
        return max((row["valid_dice"] for row in rows), default=0.0)

    def is_best(self) -> bool:
        """Check whether the last epoch has the largest images and, among such epochs, the highest Dice."""
        *before, last = at_largest_size(self.history[self.first_epoch :])
        return last is self.history[-1] and all(row["valid_dice"] < last["valid_dice"] for row in before)

    def end_epoch(self, image_size: int, train: tuple, scores: dict, threshold: float, valid_loss: float):
        """Add an epoch to the history. train: mean loss and Dice. scores: on the validation split."""
        self.scores, self.threshold = {"valid": scores}, threshold
        row = {
            "epoch": len(self.history) + 1,
            "step": self.step,
            "image_size": image_size,
            "train_loss": train[0],
            "train_dice": train[1],
            "valid_loss": valid_loss,
            "valid_dice": scores["dice"],
            "valid_jaccard": scores["jaccard"],
            "learning_rate": self.learning_rate,
        }
        self.history.append(row)


class TrainMeter:
    """An epoch's mean loss and Dice. `add` does not wait for the GPU."""

    def __init__(self):
        self.epoch_sums = torch.zeros(3, dtype=torch.float64)  # loss, Dice, images
        self.pending = []  # losses and pixel counts on the device
        self.highest = -math.inf  # loss since the process began

    def add(self, loss: torch.Tensor, counts: torch.Tensor):
        """Add a micro-batch's mean loss and its images' pixel counts (N, 4)."""
        self.pending.append((loss, counts))

    def flush(self):
        """Add the pending values to the sums."""
        for loss, counts in self.pending:
            scores, value = dice_score(counts.cpu()), loss.cpu().double()
            self.epoch_sums += torch.stack([value * len(scores), scores.sum(), scores.new_tensor(len(scores))])
            self.highest = max(self.highest, value.item())  # NaN leaves it unchanged
        self.pending.clear()

    def means(self) -> tuple[float, float]:
        """Return the mean loss and Dice of the epoch so far. Collective."""
        self.flush()
        loss, dice_sum, images = all_gather(self.epoch_sums).sum(0).tolist()
        return loss / max(images, 1), dice_sum / max(images, 1)

    def reset(self):
        self.epoch_sums.zero_()

    def state_dict(self) -> dict:
        """Return the sums of each process. Collective."""
        self.flush()
        return {"epoch_sums": all_gather(self.epoch_sums)}

    def load_state_dict(self, state: dict):
        sums = state["epoch_sums"]
        if len(sums) == world_size():
            self.epoch_sums.copy_(sums[rank()])
        elif rank() == 0:  # saved by more or fewer processes
            self.epoch_sums.copy_(sums.sum(0))
