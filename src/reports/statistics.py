"""The numbers of report.py: per picture, per threshold, per group, over seeds, with their uncertainty."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from models import build_model
from predictor import Predictor, predictions
from scoring import Tally
from splits import SegmentationDataset
from utils import dice, foreground, scores

Numbers = Sequence[float] | np.ndarray | torch.Tensor
BINS = 10  # of probability, for calibration
RESAMPLES = 10_000
CHUNK = 100  # resamples at once, so that memory stays small
POPCOUNT = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)  # NumPy 2 has bitwise_count
SIGNIFICANT = 0.05  # p below which a difference is called significant
AGREED = 0.9  # Dice between predictions from which they are said to agree
DENIED = 0.8  # Dice with the mask up to which they are said to contradict it
SCORES = ("dice", "jaccard", "accuracy", "precision", "recall", "pooled_dice")


@dataclass
class Result:
    """What one checkpoint did on a split of N pictures."""

    label: str
    parameters: int
    names: list[str]
    dice: np.ndarray  # (N,) at threshold .5
    scores: dict[str, float]
    by_threshold: np.ndarray  # mean Dice at each of THRESHOLDS
    calibration: np.ndarray  # (BINS, 3): sum of probability, foreground pixels, pixels
    bits: np.ndarray  # uint8 (N, side * side / 8): the predictions at .5, eight pixels to a byte
    seconds: float  # of the whole evaluation


def collect(label: str, predictor: Predictor, loader: DataLoader, side: int) -> Result:
    """Predict every picture of `loader` once. Predictions are kept at side x side pixels, for `agreement`."""
    dataset: SegmentationDataset = loader.dataset  # type: ignore[assignment]
    tally, calibration = Tally(dataset), torch.zeros(BINS, 3, dtype=torch.float64)
    began, bits = time.perf_counter(), []
    for batch, logits in predictions(predictor, loader, label):
        tally.add(batch, logits)
        probability = foreground(logits).sigmoid().cpu()
        calibration += calibrate(probability, batch["mask"].cpu())
        if probability.shape[-1] != side:
            probability = F.interpolate(probability, size=(side, side), mode="bilinear", align_corners=False)
        bits.append(np.packbits(probability.flatten(1).numpy() >= 0.5, axis=1))
    at_half, by_threshold = tally.at(0.5), tally.counts()
    with torch.device("meta"):  # a predictor's own network has its batch norms folded away
        network = build_model(predictor.about["name"], **predictor.about["options"])
    return Result(
        label,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        names=list(dataset.names),
        dice=dice(at_half).numpy(),
        scores=scores(at_half),
        by_threshold=np.array([dice(part).mean().item() for part in by_threshold]),
        calibration=calibration.numpy(),
        bits=np.concatenate(bits),
        seconds=time.perf_counter() - began,
    )


# ---------------------------------------------------------------------------------- calibration


def calibrate(probability: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """By bin of probability: its sum, foreground pixels, pixels; ignored pixels (255) count nowhere.

    probability, mask: of one shape. Returns float64 (BINS, 3).
    """
    p, truth = probability[mask != 255].double(), (mask[mask != 255] == 1).double()
    place = (p * BINS).long().clamp(max=BINS - 1)
    return torch.stack([torch.bincount(place, values, minlength=BINS) for values in (p, truth, torch.ones_like(p))], 1)


def calibration_error(calibration: np.ndarray) -> float:
    """Expected calibration error (Guo et al., ICML 2017, equation 3): mean |probability - share| over pixels."""
    p, truth, pixels = calibration.T
    return float(np.abs(p - truth).sum() / pixels.sum())


# ---------------------------------------------------------------------------------- uncertainty


def bootstrap(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean, from RESAMPLES resamples of the pictures (Efron 1979, percentile)."""
    rng = np.random.default_rng(seed)
    n = len(values)
    means = [values[rng.integers(0, n, (CHUNK, n))].mean(1) for _ in range(RESAMPLES // CHUNK)]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(low), float(high)


def paired_test(first: np.ndarray, second: np.ndarray, seed: int = 0) -> float:
    """p of a paired sign-flip test: the share of random signs whose mean difference is at least as large."""
    rng = np.random.default_rng(seed)
    difference = first - second
    signs = (rng.integers(0, 2, (CHUNK, len(difference))) * 2 - 1 for _ in range(RESAMPLES // CHUNK))
    means = np.concatenate([(sign @ difference) / len(difference) for sign in signs])
    return float((np.sum(np.abs(means) >= abs(difference.mean()) - 1e-12) + 1) / (RESAMPLES + 1))


@dataclass(frozen=True)
class Comparison:
    """By how much `better` leads `worse`: a mean difference in Dice, its 95 % interval, p, and pictures won."""

    better: Result
    worse: Result
    mean: float
    low: float
    high: float
    p: float
    wins: int

    @property
    def significant(self) -> bool:
        return self.p < SIGNIFICANT


def compare(first: Result, second: Result) -> Comparison:
    """Which of two results on the same pictures has the higher mean Dice, and how certain that is."""
    difference = first.dice - second.dice
    low, high = bootstrap(difference)
    p = paired_test(first.dice, second.dice)
    better, worse = first, second
    if difference.mean() < 0:
        better, worse = second, first
        difference = -difference
        low, high = -high, -low
    return Comparison(better, worse, float(difference.mean()), low, high, p, int((difference > 0).sum()))


@dataclass(frozen=True)
class Spread:
    """A score over the seeds of one recipe: its mean, standard deviation (n - 1), minimum and maximum."""

    mean: float
    deviation: float
    low: float
    high: float


def over_seeds(results: Sequence[Result]) -> dict[str, Spread]:
    """The spread of each of SCORES over two or more runs that differ in nothing but the seed."""
    values = {name: np.array([result.scores[name] for result in results]) for name in SCORES}
    return {
        name: Spread(float(part.mean()), float(part.std(ddof=1)), float(part.min()), float(part.max()))
        for name, part in values.items()
    }


def agreement(results: Sequence[Result]) -> np.ndarray:
    """The lowest Dice of any two results' predictions of each picture, (N,); 1 where both are empty."""
    lowest = np.ones(len(results[0].bits))
    pixels = [POPCOUNT[result.bits].sum(1, dtype=np.int64) for result in results]
    for (one, of_one), (other, of_other) in combinations(zip(results, pixels, strict=True), 2):
        total = of_one + of_other
        both = POPCOUNT[one.bits & other.bits].sum(1, dtype=np.int64)
        lowest = np.minimum(lowest, np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0))
    return lowest


def doubtful(results: Sequence[Result]) -> list[int]:
    """Pictures whose mask may be wrong: all results agree with one another, and none of them with the mask.

    Returns indices, the widest gap between `agreement` and the highest Dice with the mask first; none for a single
    result, which has nothing to agree with.
    """
    if len(results) < 2:
        return []
    together, with_mask = agreement(results), np.max([result.dice for result in results], axis=0)
    found = np.flatnonzero((together >= AGREED) & (with_mask <= DENIED))
    return found[np.argsort(with_mask[found] - together[found], kind="stable")].tolist()


# --------------------------------------------------------------------------- groups of pictures


def best_median_worst(dices: Numbers, best: int = 3, median: int = 3, worst: int = 3) -> list[tuple[str, int]]:
    """Examples of a split: pairs of "best", "median" or "worst" and a picture's index, from its Dice.

    dices: (N,) numbers, on the CPU. The best come highest first, the median and the worst lowest first; fewer
    than asked where there are fewer pictures.
    """
    worst_first = np.argsort(np.asarray(dices), kind="stable").tolist()
    middle = max(0, (len(worst_first) - median) // 2)
    groups = {
        "best": worst_first[::-1][:best],
        "median": worst_first[middle : middle + median],
        "worst": worst_first[:worst],
    }
    return [(group, index) for group, indices in groups.items() for index in indices]


def breed(name: str) -> str:
    """The breed in a picture's name: Abyssinian of Abyssinian_12."""
    return name.rsplit("_", 1)[0]


def species(name: str) -> str:
    """The dataset writes cats' breeds with a capital and dogs' without."""
    return "cats" if name[0].isupper() else "dogs"


def properties(dataset: SegmentationDataset) -> dict[str, np.ndarray]:
    """What each picture is like, from its pixels and its mask: names with arrays (N,) of numbers in [0, 1]."""
    rows = []
    for index in range(len(dataset)):
        item = dataset[index]
        image, mask = item["image"].float().mean(0) / 255, item["mask"][0]
        inside, outside = mask == 1, mask == 0
        rim = torch.cat([inside[0], inside[-1], inside[1:-1, 0], inside[1:-1, -1]])
        contrast = (image[inside].mean() - image[outside].mean()).abs() if inside.any() and outside.any() else 0.0
        rows.append((inside.float().mean(), rim.float().mean(), image.mean(), contrast))
    columns = np.array(rows, dtype=np.float64).T
    return dict(zip(("foreground share", "share of the frame touched", "brightness", "contrast"), columns, strict=True))


def group_means(values: np.ndarray, groups: Iterable[str]) -> dict[str, tuple[float, int]]:
    """The mean and the number of the values in each group, in ascending order of the mean."""
    names = np.array(list(groups))
    means = {name: (values[names == name].mean(), int((names == name).sum())) for name in sorted(set(names.tolist()))}
    return dict(sorted(means.items(), key=lambda item: item[1][0]))


def in_ranges(values: np.ndarray, edges: Sequence[float]) -> tuple[list[str], list[str]]:
    """Labels such as "10–20 %" of the ranges between the edges, and the label of each value."""
    labels = [f"{100 * low:.0f}–{100 * high:.0f} %" for low, high in zip(edges, edges[1:], strict=False)]
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(labels) - 1)
    return labels, [labels[place] for place in places]


def what_the_worst_share(
    scored: np.ndarray, described: dict[str, np.ndarray], share: float = 0.1
) -> list[tuple[str, float, float, float]]:
    """Compare the worst tenth with the rest.

    Returns rows of a property, its mean over the worst, over the rest, and their gap in standard deviations; the
    widest gap first.
    """
    worst = np.argsort(scored)[: max(1, round(share * len(scored)))]
    is_worst = np.isin(np.arange(len(scored)), worst)
    if is_worst.all():
        return []
    rows = []
    for name, values in described.items():
        bad, rest = values[is_worst].mean(), values[~is_worst].mean()
        rows.append((name, bad, rest, (bad - rest) / (values.std() or 1.0)))
    return sorted(rows, key=lambda row: -abs(row[3]))
