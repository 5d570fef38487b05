"""Predictions of a split counted: Dice and its relatives at one threshold or many, and the mean loss."""

from collections.abc import Callable, Sequence

import torch
from torch.utils.data import DataLoader

from predictor import Predictor, predictions
from splits import SegmentationDataset
from training.distributed import gather, gather_rows
from utils import UserError, dice, foreground, number, to_size

THRESHOLDS = tuple(step / 20 for step in range(1, 20))
CHOSEN = "chosen"  # of --threshold: the checkpoint's own


class Tally:
    """Pixel counts of each picture at several thresholds of probability, and the mean loss.

    own_size: scale each prediction to its picture's own size and count against the mask as it came, not as packed.
    criterion: a loss of losses.py, or None. Under torchrun each rank adds its part; the results are of the whole.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        thresholds: Sequence[float] = THRESHOLDS,
        criterion: Callable | None = None,
        own_size: bool = False,
    ):
        self.dataset, self.thresholds, self.criterion, self.own_size = dataset, thresholds, criterion, own_size
        self.histograms: list[torch.Tensor] = []
        self.losses: list[torch.Tensor] = []
        self.broken: list[torch.Tensor] = []  # of each batch: whether an output was not a number

    def add(self, batch: dict, logits: torch.Tensor):
        """Count a batch of `predictions`: its mask and names, and the logits (N, C, H, W)."""
        if self.criterion:
            self.losses.append(self.criterion(logits, batch["mask"]) * len(logits))
        logits = foreground(logits)
        self.broken.append(logits.isnan().any())
        if not self.own_size:
            edges = torch.logit(torch.tensor(self.thresholds, dtype=torch.float64)).tolist()
            self.histograms.append(histogram(logits, batch["mask"], edges))
            return
        for name, probability in zip(batch["name"], logits.sigmoid()[:, 0].cpu(), strict=True):
            mask = self.dataset.original_mask(name)
            scaled = to_size(probability, mask.shape[:0:-1])[None, None]
            self.histograms.append(histogram(scaled, mask[None], self.thresholds))

    def counts(self) -> torch.Tensor:
        """int64 (thresholds, N, 4) as `utils.confusion` has them, on the CPU. Collective: call on all ranks.

        Raises UserError where the network's output was not a number.
        """
        broken = torch.stack(self.broken).sum().cpu().double() if self.broken else torch.zeros((), dtype=torch.float64)
        if gather(broken).sum():
            raise UserError(
                "what the network predicts is not a number; train it with a lower --learning_rate, or use --precision "
                "float32; what was saved before is as it was"
            )
        shape = (0, 2, len(self.thresholds) + 1)
        rows = torch.cat(self.histograms) if self.histograms else torch.zeros(shape, dtype=torch.int64)
        background, true = gather_rows(rows, len(self.dataset)).unbind(1)
        above = [part.flip(1).cumsum(1).flip(1)[:, 1:] for part in (true, background)]  # (N, thresholds)
        tp, fp = above
        fn, tn = true.sum(1, keepdim=True) - tp, background.sum(1, keepdim=True) - fp
        return torch.stack([tp, fp, fn, tn], dim=2).transpose(0, 1)

    def at(self, threshold: float) -> torch.Tensor:
        """int64 (N, 4): the counts at one of the thresholds. Collective: call on all ranks."""
        return self.counts()[self.thresholds.index(threshold)]

    def loss(self) -> float:
        """The mean loss over the pictures. Collective: call on all ranks."""
        total = torch.stack(self.losses).cpu().double().sum() if self.losses else torch.zeros((), dtype=torch.float64)
        return gather(total).sum().item() / len(self.dataset)


def histogram(values: torch.Tensor, mask: torch.Tensor, edges: Sequence[float]) -> torch.Tensor:
    """Pixels by truth and by how many edges, in ascending order, their value reaches.

    values (N, 1, H, W), mask (N, 1, H, W) of 0, 1, 255 (counted nowhere). Returns int64 (N, 2, edges + 1).
    """
    n, bins = len(values), len(edges) + 1
    boundaries = torch.tensor(edges, dtype=values.dtype, device=values.device)
    reached = torch.bucketize(values.contiguous(), boundaries, right=True, out_int32=True)
    pictures = torch.arange(n, device=mask.device, dtype=torch.int32).view(-1, 1, 1, 1)
    place = (2 * pictures + (mask == 1)) * bins + reached
    return torch.bincount(place[mask != 255], minlength=2 * bins * n).view(n, 2, bins)


def best_threshold(counts: torch.Tensor, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """The threshold of the highest mean Dice, of several the nearest to .5. counts: int64 (thresholds, N, 4)."""
    means = [dice(part).mean().item() for part in counts]
    best = [threshold for threshold, mean in zip(thresholds, means, strict=True) if mean == max(means)]
    return min(best, key=lambda threshold: abs(threshold - 0.5))


def evaluate(predictor: Predictor, loader: DataLoader, tally: Tally, title: str = "evaluate") -> Tally:
    """Predict and count every picture of `loader` into `tally`, and return it. Collective: call on all ranks."""
    for batch, logits in predictions(predictor, loader, title):
        tally.add(batch, logits)
    return tally


# -------------------------------------------------------------------------------- --threshold


def threshold(text: str) -> float | str:
    """An argparse type: "chosen", or a number between 0 and 1."""
    between = number(float, lambda x: 0 < x < 1, f"a number between 0 and 1, or {CHOSEN}")
    return CHOSEN if text == CHOSEN else between(text)


def add_threshold_flag(parser):
    parser.add_argument(
        "--threshold",
        type=threshold,
        default=0.5,
        metavar="VALUE|chosen",
        help="probability from which a pixel is foreground; chosen: where the checkpoint's valid Dice was highest; "
        "default %(default)s",
    )


def resolve_threshold(wanted: float | str, about: dict, path) -> float:
    """The number that --threshold means for a checkpoint. about: its entries. Raises UserError if it has none."""
    if wanted != CHOSEN:
        return float(wanted)
    if "threshold" not in about:
        raise UserError(f"--threshold chosen: {path} has no threshold of its own; give a number")
    return about["threshold"]


def describe_threshold(value: float, about: dict) -> str:
    """A threshold in words: ".45, chosen on valid" or ".3". about: the checkpoint's entries."""
    return f"{value:.4g}".lstrip("0") + (", chosen on valid" if value == about.get("threshold") else "")
