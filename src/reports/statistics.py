"""The numbers of report.py: per picture, per threshold, per group, with their uncertainty."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader

from predictor import Predictor, predictions
from scoring import Tally
from utils import dice, foreground, scores

BINS = 10  # of probability, for calibration
RESAMPLES = 10_000
CHUNK = 100  # resamples at once, so that memory stays small


@dataclass
class Result:
    """What one checkpoint did on a split of N pictures."""

    label: str
    parameters: int
    names: list
    dice: np.ndarray  # (N,) at threshold .5
    scores: dict
    by_threshold: np.ndarray  # mean Dice at each of THRESHOLDS
    calibration: np.ndarray  # (BINS, 3): sum of probability, foreground pixels, pixels
    seconds: float  # of the whole evaluation


def collect(label: str, predictor: Predictor, loader: DataLoader) -> Result:
    """Predict every picture of `loader` once."""
    tally, calibration = Tally(loader.dataset), torch.zeros(BINS, 3, dtype=torch.float64)
    began = time.perf_counter()
    for batch, logits in predictions(predictor, loader, label):
        tally.add(batch, logits)
        calibration += calibrate(foreground(logits).sigmoid().cpu(), batch["mask"].cpu())
    at_half, by_threshold = tally.at(0.5), tally.counts()
    return Result(
        label,
        parameters=sum(parameter.numel() for parameter in predictor.network.parameters()),
        names=list(loader.dataset.names),
        dice=dice(at_half).numpy(),
        scores=scores(at_half),
        by_threshold=np.array([dice(part).mean().item() for part in by_threshold]),
        calibration=calibration.numpy(),
        seconds=time.perf_counter() - began,
    )


def calibrate(probability, mask):
    """-> float64 (BINS, 3): by bin of probability: its sum, foreground pixels, pixels; none of the ignored ones."""
    p, truth = probability[mask != 255].double(), (mask[mask != 255] == 1).double()
    place = (p * BINS).long().clamp(max=BINS - 1)
    return torch.stack([torch.bincount(place, values, minlength=BINS) for values in (p, truth, torch.ones_like(p))], 1)


def calibration_error(calibration):
    """Expected calibration error (Guo et al., ICML 2017, equation 3): mean |probability - share| over pixels."""
    p, truth, pixels = calibration.T
    return float(np.abs(p - truth).sum() / pixels.sum())


def bootstrap(values, seed=0):
    """The 95 % interval of the mean, from RESAMPLES resamples of the pictures (Efron 1979, percentile)."""
    rng = np.random.default_rng(seed)
    n = len(values)
    means = [values[rng.integers(0, n, (CHUNK, n))].mean(1) for _ in range(RESAMPLES // CHUNK)]
    return tuple(np.percentile(np.concatenate(means), (2.5, 97.5)))


def paired_test(first, second, seed=0):
    """p that a mean difference so large comes by chance: the signs of the pictures' differences, flipped at random."""
    rng = np.random.default_rng(seed)
    difference = first - second
    signs = (rng.integers(0, 2, (CHUNK, len(difference))) * 2 - 1 for _ in range(RESAMPLES // CHUNK))
    means = np.concatenate([(sign @ difference) / len(difference) for sign in signs])
    return float((np.sum(np.abs(means) >= abs(difference.mean()) - 1e-12) + 1) / (RESAMPLES + 1))


def breed(name):
    """Abyssinian_12 -> Abyssinian."""
    return name.rsplit("_", 1)[0]


def species(name):
    """The dataset writes cats' breeds with a capital and dogs' without."""
    return "cats" if name[0].isupper() else "dogs"


def properties(dataset):
    """What a picture is like, from its pixels and its truth. -> dict of names -> (N,) arrays, shares in [0, 1]."""
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


def group_means(values, groups):
    """-> dict of group -> (mean, number), in the order of the mean."""
    names = np.array(groups)
    means = {name: (values[names == name].mean(), int((names == name).sum())) for name in sorted(set(groups))}
    return dict(sorted(means.items(), key=lambda item: item[1][0]))


def in_ranges(values, edges):
    """-> a label such as "10-20 %" for each share, by the ranges between the edges."""
    labels = [f"{100 * low:.0f}–{100 * high:.0f} %" for low, high in zip(edges, edges[1:], strict=False)]
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(labels) - 1)
    return labels, [labels[place] for place in places]


def what_the_worst_share(scored, described, share=0.1):
    """Compare the worst tenth with the rest. -> rows of (property, mean of the worst, of the rest, gap in std)."""
    worst = np.argsort(scored)[: max(1, round(share * len(scored)))]
    is_worst = np.isin(np.arange(len(scored)), worst)
    if is_worst.all():
        return []
    rows = []
    for name, values in described.items():
        bad, rest = values[is_worst].mean(), values[~is_worst].mean()
        rows.append((name, bad, rest, (bad - rest) / (values.std() or 1.0)))
    return sorted(rows, key=lambda row: -abs(row[3]))
