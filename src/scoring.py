"""Scores from each image's pixel counts at one or more thresholds, and the mean loss."""

from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader

from checkpoint import Checkpoint
from predictor import Predictor, foreground, predictions, to_size
from training.distributed import all_gather, gather_rows
from utils import UserError, checked

THRESHOLDS = tuple(step / 20 for step in range(1, 20))
CHOSEN = "chosen"  # value of --threshold: the checkpoint's threshold


def confusion(prediction: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Count pixels per image: bool (N, 1, H, W) against a mask (N, 1, H, W) of 0, 1 and 255 (ignored).

    Returns int64 (N, 4): true positives, false positives, false negatives, true negatives.
    """
    positive, negative = mask == 1, mask == 0
    pairs = (prediction & positive, prediction & negative, ~prediction & positive, ~prediction & negative)
    return torch.stack([pair.flatten(1).sum(1) for pair in pairs], dim=1)


def ratio(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Divide counts in float64; 1 if whole is 0."""
    return torch.where(whole > 0, part.double() / whole.clamp(min=1), 1.0)


def dice_score(counts: torch.Tensor) -> torch.Tensor:
    """Return Dice (N,) from counts (N, 4): 2|A∩B| / (|A| + |B|), or 1 if both masks are empty."""
    tp, fp, fn, _ = counts.unbind(1)
    return ratio(2 * tp, 2 * tp + fp + fn)


def jaccard_score(counts: torch.Tensor) -> torch.Tensor:
    """Return Jaccard (IoU) (N,) from counts (N, 4): |A∩B| / |A∪B|, or 1 if both masks are empty."""
    tp, fp, fn, _ = counts.unbind(1)
    return ratio(tp, tp + fp + fn)


def scores(counts: torch.Tensor) -> dict[str, float]:
    """Return scores from counts (N, 4): means over images, and the Dice of all pixels."""
    tp, fp, fn, tn = counts.unbind(1)
    per_image = {
        "dice": dice_score(counts),
        "jaccard": jaccard_score(counts),
        "accuracy": ratio(tp + tn, counts.sum(1)),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
    }
    means = {name: values.mean().item() for name, values in per_image.items()}
    means["pooled_dice"] = dice_score(counts.sum(0, keepdim=True)).item()
    return means


class DiceMeter:
    """Counts each image's pixels at probability thresholds, and averages the loss.

    criterion: a loss of losses.py, or None. original_size: count at each image's original size.
    Each rank adds its shard; the results cover the whole split.
    """

    def __init__(self, dataset, thresholds=THRESHOLDS, criterion=None, original_size=False):
        self.dataset, self.thresholds = dataset, thresholds
        self.criterion, self.original_size = criterion, original_size
        self.histograms, self.losses = [], []
        self.nan = []  # one per batch; read at the end, since reading waits for a GPU

    @torch.no_grad()  # for losses with parameters
    def add(self, batch: dict, logits: torch.Tensor):
        """Count a batch of `predictions` and its logits (N, C, H, W)."""
        if self.criterion:
            self.losses.append(self.criterion(logits, batch["mask"]) * len(logits))
        logits = foreground(logits)
        self.nan.append(logits.isnan().any())
        if not self.original_size:
            edges = torch.logit(torch.tensor(self.thresholds, dtype=torch.float64)).tolist()
            self.histograms.append(histogram(logits, batch["mask"], edges))
            return
        for name, probability in zip(batch["name"], logits.sigmoid()[:, 0].cpu(), strict=True):
            mask = self.dataset.original_mask(name)[None]
            height, width = mask.shape[2:]
            resized = to_size(probability, (width, height))[None, None]
            self.histograms.append(histogram(resized, mask, self.thresholds))

    def counts(self) -> torch.Tensor:
        """Return counts as in `confusion`: int64 (thresholds, N, 4). Raises UserError for NaN. Collective."""
        if all_gather(torch.as_tensor(sum(self.nan))).any():
            raise UserError("the network outputs NaN; train with a lower --learning_rate, or use --precision float32")
        rows = torch.zeros(0, 2, len(self.thresholds) + 1, dtype=torch.int64)
        if self.histograms:
            rows = torch.cat(self.histograms)
        pixels = gather_rows(rows, len(self.dataset))  # (N, 2, thresholds + 1)
        below = pixels.cumsum(2)[..., :-1]
        above = pixels.sum(2, keepdim=True) - below
        tn, fn = below.unbind(1)
        fp, tp = above.unbind(1)
        return torch.stack([tp, fp, fn, tn], dim=2).transpose(0, 1)

    def at(self, threshold: float) -> torch.Tensor:
        """Return the counts at one of the thresholds, int64 (N, 4). Collective."""
        return self.counts()[self.thresholds.index(threshold)]

    def loss(self) -> float:
        """Return the mean loss over images. Collective."""
        losses = torch.tensor([loss.item() for loss in self.losses], dtype=torch.float64)
        return all_gather(losses.sum()).sum().item() / len(self.dataset)


def histogram(values: torch.Tensor, mask: torch.Tensor, edges: Sequence[float]) -> torch.Tensor:
    """Count pixels by class and by how many of the ascending edges their value reaches: int64 (N, 2, edges + 1).

    values: (N, 1, H, W). mask: (N, 1, H, W) of 0, 1 and 255 (ignored).
    """
    n, bins = len(values), len(edges) + 1
    reached = torch.bucketize(values.contiguous(), values.new_tensor(edges), right=True, out_int32=True)
    images = torch.arange(n, device=mask.device, dtype=torch.int32).view(-1, 1, 1, 1)
    cell = (2 * images + (mask == 1)) * bins + reached
    return torch.bincount(cell[mask != 255], minlength=2 * bins * n).view(n, 2, bins)


def best_threshold(counts: torch.Tensor, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Return the threshold with the highest mean Dice; if tied, the one nearest to 0.5. counts: (thresholds, N, 4)."""
    means = [dice_score(part).mean().item() for part in counts]
    best = [value for value, mean in zip(thresholds, means, strict=True) if mean == max(means)]
    return min(best, key=lambda value: abs(value - 0.5))


def evaluate(predictor: Predictor, loader: DataLoader, meter: DiceMeter, title: str = "evaluate") -> DiceMeter:
    """Add predictions for a loader's images to the meter, and return it."""
    for batch, logits in predictions(predictor, loader, title):
        meter.add(batch, logits)
    return meter


def threshold(text: str) -> float | str:
    """Parse --threshold."""
    if text == CHOSEN:
        return CHOSEN
    return checked(float, lambda x: 0 < x < 1, f"a number between 0 and 1, or {CHOSEN}")(text)


def add_threshold_flag(parser):
    text = "minimum foreground probability; chosen: best on the validation split; default 0.5"
    parser.add_argument("--threshold", type=threshold, default=0.5, metavar="VALUE|chosen", help=text)


def resolve_threshold(wanted: float | str, checkpoint: Checkpoint, path) -> float:
    """Return the number that --threshold means. Raises UserError."""
    if wanted != CHOSEN:
        return float(wanted)
    if checkpoint.threshold is None:
        raise UserError(f"--threshold chosen: {path} has no chosen threshold; pass a number")
    return checkpoint.threshold
