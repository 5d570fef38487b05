"""Statistics of report.py: scores per image, threshold and group, confidence intervals, possible label errors."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from checkpoint import Checkpoint
from models import build_model
from predictor import Predictor, predictions
from scoring import DiceMeter
from splits import SegmentationDataset
from utils import dice_score, foreground, scores

Numbers = Sequence[float] | np.ndarray | torch.Tensor
RESAMPLING = {"n_resamples": 10_000, "batch": 100, "rng": 0}  # of scipy.stats; small batches keep memory small
AGREED = 0.9  # minimum Dice for two predictions to count as agreeing
CONTRADICTED = 0.8  # maximum Dice with the mask for a prediction to count as contradicting it


@dataclass
class Result:
    """Results of one checkpoint on a split of N images."""

    label: str
    parameters: int
    names: list[str]
    dice: np.ndarray  # (N,) at threshold 0.5
    scores: dict[str, float]
    by_threshold: np.ndarray  # mean Dice at each of THRESHOLDS
    foreground: np.ndarray  # (N,) fraction of the image that is foreground in the ground truth
    bits: np.ndarray  # uint8 (N, size * size / 8): predictions at threshold 0.5, eight pixels to a byte
    seconds: float  # for the whole evaluation


def collect(label: str, checkpoint: Checkpoint, predictor: Predictor, loader: DataLoader, size: int) -> Result:
    """Predict every image of `loader` once. size: of the predictions kept for `agreement`, in pixels."""
    dataset: SegmentationDataset = loader.dataset  # type: ignore[assignment]
    meter, start, bits = DiceMeter(dataset), time.perf_counter(), []
    for batch, logits in predictions(predictor, loader, label):
        meter.add(batch, logits)
        probability = foreground(logits).sigmoid().cpu()
        if probability.shape[-1] != size:
            probability = F.interpolate(probability, size=(size, size), mode="bilinear", align_corners=False)
        bits.append(np.packbits(probability.flatten(1).numpy() >= 0.5, axis=1))
    counts, by_threshold = meter.at(0.5), meter.counts()
    with torch.device("meta"):  # the predictor's own network has its batch norms folded away
        network = build_model(checkpoint.name, **checkpoint.options)
    return Result(
        label,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        names=list(dataset.names),
        dice=dice_score(counts).numpy(),
        scores=scores(counts),
        by_threshold=np.array([dice_score(part).mean().item() for part in by_threshold]),
        foreground=((counts[:, 0] + counts[:, 2]) / counts.sum(1).clamp(min=1)).numpy(),
        bits=np.concatenate(bits),
        seconds=time.perf_counter() - start,
    )


def confidence_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95% interval of the mean by the percentile bootstrap over images (Efron, 1979)."""
    from scipy.stats import bootstrap

    if np.ptp(values) == 0:  # one image, or all equal
        return float(values[0]), float(values[0])
    low, high = bootstrap((values,), np.mean, method="percentile", **RESAMPLING).confidence_interval
    return float(low), float(high)


def paired_test(difference: np.ndarray) -> float:
    """Return the p-value of the two-sided sign-flip permutation test: is the mean of paired differences 0?"""
    from scipy.stats import permutation_test

    if not difference.any() or len(difference) < 2:
        return 1.0
    test = permutation_test((difference,), np.mean, permutation_type="samples", **RESAMPLING)
    return float(test.pvalue)


def compare(first: Result, second: Result) -> dict:
    """Compare two results on the same images.

    Returns `better` and `worse` (by mean Dice), `mean` difference in Dice, its 95% interval `low` to `high`, `p`, and
    `wins`: the number of images on which the better one has the higher Dice.
    """
    better, worse = (first, second) if first.dice.mean() >= second.dice.mean() else (second, first)
    difference = better.dice - worse.dice
    low, high = confidence_interval(difference)
    found = {"mean": float(difference.mean()), "low": low, "high": high, "p": paired_test(difference)}
    return {"better": better, "worse": worse, **found, "wins": int((difference > 0).sum())}


def agreement(results: Sequence[Result]) -> np.ndarray:
    """Return the lowest Dice between any two results' predictions of each image, (N,); 1 if both are empty."""

    def pixels(bits):
        return np.array([np.unpackbits(row).sum(dtype=np.int64) for row in bits])

    lowest = np.ones(len(results[0].bits))
    for one, other in combinations([result.bits for result in results], 2):
        total = pixels(one) + pixels(other)
        lowest = np.minimum(lowest, np.where(total > 0, 2 * pixels(one & other) / np.maximum(total, 1), 1.0))
    return lowest


def possible_label_errors(results: Sequence[Result]) -> list[int]:
    """Return the images whose mask all results contradict while they agree with one another.

    Returns indices, sorted by decreasing gap between `agreement` and the highest Dice with the mask.
    """
    if len(results) < 2:
        return []
    between, with_mask = agreement(results), np.max([result.dice for result in results], axis=0)
    found = np.flatnonzero((between >= AGREED) & (with_mask <= CONTRADICTED))
    return found[np.argsort(with_mask[found] - between[found], kind="stable")].tolist()


def best_median_worst(dices: Numbers, best: int = 3, median: int = 3, worst: int = 3) -> list[tuple[str, int]]:
    """Choose examples of a split: pairs of "best", "median" or "worst" and an image's index.

    dices: (N,) numbers, on the CPU. The best come highest first, the median and the worst lowest first. A split with
    fewer images gives fewer examples.
    """
    worst_first = np.argsort(np.asarray(dices), kind="stable").tolist()
    middle = max(0, (len(worst_first) - median) // 2)
    middle_ones = worst_first[middle : middle + median]
    groups = {"best": worst_first[::-1][:best], "median": middle_ones, "worst": worst_first[:worst]}
    return [(group, index) for group, indices in groups.items() for index in indices]


def breed(name: str) -> str:
    """Return the breed in a pet's name: "great pyrenees" for great_pyrenees_12."""
    return name.rpartition("_")[0].replace("_", " ")


def species(name: str) -> str:
    """Return "cats" or "dogs": the dataset capitalizes the breeds of cats."""
    return "cats" if name[0].isupper() else "dogs"


def group_means(values: np.ndarray, groups: Iterable[str]) -> dict[str, tuple[float, int]]:
    """Return the mean and count of the values in each group, in ascending order of the mean."""
    names = np.array(list(groups))
    means = {name: (values[names == name].mean(), int((names == name).sum())) for name in sorted(set(names.tolist()))}
    return dict(sorted(means.items(), key=lambda item: item[1][0]))


def in_ranges(values: np.ndarray, edges: Sequence[float]) -> list[str]:
    """Return the range between two edges that holds each value, such as "10–20%"."""
    names = [f"{100 * low:.0f}–{100 * high:.0f}%" for low, high in zip(edges, edges[1:], strict=False)]
    return [names[index] for index in np.digitize(values, edges[1:-1])]
