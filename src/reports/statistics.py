"""Statistics for report.py: scores by image, threshold and group, intervals, label errors."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import scipy  # loads scipy.stats lazily
import torch.nn.functional as F
from torch.utils.data import DataLoader

from checkpoint import Checkpoint, restore_model
from data import SegmentationDataset
from predictor import Predictor, foreground, predictions
from scoring import DiceMeter, best_threshold, dice_score, scores

AGREED = 0.9  # minimum Dice of two predictions that agree
CONTRADICTED = 0.8  # maximum Dice of a prediction that contradicts the mask


@dataclass
class Result:
    """Results of one checkpoint on a split of N images."""

    label: str
    parameters: int
    names: list[str]
    dice: np.ndarray  # (N,) at threshold 0.5
    scores: dict[str, float]
    by_threshold: np.ndarray  # mean Dice at each of THRESHOLDS
    threshold: float  # the best of them
    foreground: np.ndarray  # (N,) foreground fraction of the ground truth
    bits: np.ndarray  # predictions at threshold 0.5, uint8 (N, size * size / 8, rounded up)
    seconds: float  # of the evaluation
    megabytes: float = 0.0  # of the checkpoint file


def collect(label: str, checkpoint: Checkpoint, predictor: Predictor, loader: DataLoader, size: int) -> Result:
    """Score a checkpoint on every image. size: side of the predictions kept for `agreement`, in pixels."""
    dataset: SegmentationDataset = loader.dataset  # type: ignore[assignment]
    meter, bits = DiceMeter(dataset), []
    start = time.perf_counter()
    for batch, logits in predictions(predictor, loader, label):
        meter.add(batch, logits)
        probability = foreground(logits).sigmoid().cpu()
        if probability.shape[-1] != size:
            probability = F.interpolate(probability, size=(size, size), mode="bilinear", align_corners=False)
        bits.append(np.packbits(probability.flatten(1).numpy() >= 0.5, axis=1))
    by_threshold = meter.counts()
    counts, seconds = by_threshold[meter.thresholds.index(0.5)], time.perf_counter() - start
    tp, _, fn, _ = counts.unbind(1)
    network = restore_model(checkpoint, label)  # the predictor's own has its batch norms folded away
    return Result(
        label,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        names=list(dataset.names),
        dice=dice_score(counts).numpy(),
        scores=scores(counts),
        by_threshold=np.array([dice_score(part).mean().item() for part in by_threshold]),
        threshold=best_threshold(by_threshold),
        foreground=((tp + fn) / counts.sum(1).clamp(min=1)).numpy(),
        bits=np.concatenate(bits),
        seconds=seconds,
    )


def confidence_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95% interval of the mean by Student's t, which is also right for few images."""
    if len(values) == 1:
        return -math.inf, math.inf
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, values.mean(), scipy.stats.sem(values))
    return float(low), float(high)


def paired_test(difference: np.ndarray) -> float:
    """Return the p-value of the two-sided sign-flip permutation test for a mean of 0."""
    if not difference.any() or len(difference) < 2:
        return 1.0
    resampling = {"n_resamples": 10_000, "batch": 100, "rng": 0}  # small batches save memory
    return float(scipy.stats.permutation_test((difference,), np.mean, permutation_type="samples", **resampling).pvalue)


def compare(first: Result, second: Result) -> dict:
    """Compare two results on the same images."""
    worse, better = sorted((second, first), key=lambda result: result.dice.mean())
    difference = better.dice - worse.dice
    low, high = confidence_interval(difference)
    return {
        "better": better,
        "worse": worse,
        "mean": float(difference.mean()),
        "low": low,  # to high: 95% interval of the mean
        "high": high,
        "p": paired_test(difference),
        "wins": int((difference > 0).sum()),  # images on which the better one has higher Dice
        "losses": int((difference < 0).sum()),
    }


def agreement(results: Sequence[Result]) -> np.ndarray:
    """Return each image's lowest Dice between any two predictions, (N,); 1 if both are empty."""

    def pixels(bits):
        return np.array([np.unpackbits(row).sum(dtype=np.int64) for row in bits])

    lowest = np.ones(len(results[0].bits))
    for one, other in combinations([result.bits for result in results], 2):
        total = pixels(one) + pixels(other)
        dice = 2 * pixels(one & other) / np.maximum(total, 1)
        lowest = np.minimum(lowest, np.where(total > 0, dice, 1.0))
    return lowest


def possible_label_errors(results: Sequence[Result]) -> list[int]:
    """Return the indices of masks that agreeing results contradict, clearest first."""
    if len(results) < 2:
        return []
    between = agreement(results)
    with_mask = np.max([result.dice for result in results], axis=0)
    found = np.flatnonzero((between >= AGREED) & (with_mask <= CONTRADICTED))
    return found[np.argsort(with_mask[found] - between[found], kind="stable")].tolist()


def best_median_worst(dices, best: int = 3, median: int = 3, worst: int = 3) -> list[tuple[str, int]]:
    """Return pairs of "best", "median" or "worst" and an image's index. dices: (N,), on the CPU."""
    order = np.argsort(np.asarray(dices), kind="stable").tolist()
    middle = max(0, (len(order) - median) // 2)
    examples = [("best", index) for index in order[::-1][:best]]
    examples += [("median", index) for index in order[middle : middle + median]]
    examples += [("worst", index) for index in order[:worst]]
    return examples


def breed(name: str) -> str:
    """Return the breed in a pet's name: "great pyrenees" for great_pyrenees_12."""
    return name.rpartition("_")[0].replace("_", " ")


def species(name: str) -> str:
    """Return "cats" or "dogs": the dataset capitalizes cat breeds."""
    return "cats" if name[0].isupper() else "dogs"


def group_means(values: np.ndarray, groups: Iterable[str]) -> dict[str, tuple[float, int]]:
    """Return each group's mean and count, in ascending order of the mean."""
    names = np.array(list(groups))
    means = {}
    for name in sorted(set(names.tolist())):
        inside = values[names == name]
        means[name] = (inside.mean(), len(inside))
    return dict(sorted(means.items(), key=lambda item: item[1][0]))


def in_ranges(values: np.ndarray, edges: Sequence[float]) -> list[str]:
    """Return each value's range between edges, such as "10–20%"."""
    names = [f"{100 * low:.0f}–{100 * high:.0f}%" for low, high in pairwise(edges)]
    return [names[index] for index in np.digitize(values, edges[1:-1])]
