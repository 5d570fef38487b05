"""Recompute in plain Python every score of benchmarks/protocols.py, as an independent check.

It reads each trimap with Pillow, predicts one image at a time, and loops over its pixels.
"""

import math

import numpy as np
import torch
from PIL import Image

MEANING = {
    "foreground": {1: True, 2: False, 3: True},
    "background": {1: True, 2: False, 3: False},
    "ignore": {1: True, 2: False},
}


def predict_grids(predictor, folder, name):
    """Return the probability of one image as rows of floats, at the network's size and at the original size."""
    image = Image.open(folder / "images" / f"{name}.jpg").convert("RGB")
    pixels = np.array(image.resize((predictor.size, predictor.size), Image.Resampling.BILINEAR))
    probability = predictor.probability(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    size = image.size[::-1]
    original = torch.nn.functional.interpolate(probability, size=size, mode="bilinear", align_corners=False)
    return {"network": probability[0, 0].tolist(), "original": original[0, 0].tolist()}


def trimap_grids(folder, name, size):
    """Return the trimap of one image as rows of 1, 2 and 3, resized to size x size pixels and at its original size."""
    trimap = Image.open(folder / "annotations" / "trimaps" / f"{name}.png")
    small = trimap.resize((size, size), Image.Resampling.NEAREST)
    return {"network": np.array(small).tolist(), "original": np.array(trimap).tolist()}


def count(predicted, trimap, meaning):
    """Count true positives, false positives and false negatives of one image."""
    tp = fp = fn = 0
    for line, labels in zip(predicted, trimap, strict=True):
        for guess, label in zip(line, labels, strict=True):
            if label in meaning:
                tp += guess and meaning[label]
                fp += guess and not meaning[label]
                fn += meaning[label] and not guess
    return tp, fp, fn


def contour(mask):
    """Find the pixels (y, x) that differ from their right, lower or lower-right neighbor."""
    height, width = len(mask), len(mask[0])
    found = set()
    for y in range(height):
        for x in range(width):
            down, right = min(y + 1, height - 1), min(x + 1, width - 1)
            if len({mask[y][x], mask[y][right], mask[down][x], mask[down][right]}) > 1:
                found.add((y, x))
    return found


def matched(points, others, tolerance):
    """Count the points that have one of the others within the tolerance."""
    reach = range(-tolerance, tolerance + 1)
    disk = sorted(
        ((dy, dx) for dy in reach for dx in reach if dy * dy + dx * dx <= tolerance * tolerance),
        key=lambda step: step[0] ** 2 + step[1] ** 2,
    )
    return sum(any((y + dy, x + dx) in others for dy, dx in disk) for y, x in points)


def boundary_f(predicted, target):
    """Return the boundary F-measure of DAVIS for one image."""
    tolerance = math.ceil(0.008 * math.sqrt(len(target) ** 2 + len(target[0]) ** 2))
    ours, true = contour(predicted), contour(target)
    if not ours and not true:
        return 1.0
    if not ours or not true:
        return 0.0
    precision, recall = matched(ours, true, tolerance) / len(ours), matched(true, ours, tolerance) / len(true)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def ratio(part, whole):
    return part / whole if whole else 1.0


def recount(predictor, folder, names, thresholds):
    """Return scores by (border, size, average, pixels, threshold): Dice, IoU, and boundary F or None."""
    images = {}
    for name in names:
        guesses, trimaps = predict_grids(predictor, folder, name), trimap_grids(folder, name, predictor.size)
        for size in ("network", "original"):
            for threshold in thresholds:
                predicted = [[value >= threshold for value in line] for line in guesses[size]]
                for border, meaning in MEANING.items():
                    f = None
                    if border != "ignore":
                        f = boundary_f(predicted, [[meaning[label] for label in line] for line in trimaps[size]])
                    row = (*count(predicted, trimaps[size], meaning), f)
                    images.setdefault((border, size, threshold), []).append(row)
    scores = {}
    for (border, size, threshold), rows in images.items():
        n = len(rows)
        dice = sum(ratio(2 * tp, 2 * tp + fp + fn) for tp, fp, fn, _ in rows) / n
        iou = sum(ratio(tp, tp + fp + fn) for tp, fp, fn, _ in rows) / n
        f = None if border == "ignore" else sum(row[3] for row in rows) / n
        scores[border, size, "image", "all", threshold] = (dice, iou, f)
        tp, fp, fn = (sum(row[column] for row in rows) for column in range(3))
        pooled = ratio(2 * tp, 2 * tp + fp + fn), ratio(tp, tp + fp + fn), None
        scores[border, size, "pooled", "all", threshold] = pooled
        if (border, size) == ("foreground", "network"):
            of_target = sum(ratio(2 * tp, 2 * tp + fn) for tp, _, fn, _ in rows) / n
            scores[border, size, "image", "target's", threshold] = (of_target, iou, None)
    return scores


def differences(rows, scores):
    """Return by protocol each row's largest difference from the recount. Both must have the same protocols."""
    found = {}
    for row in rows:
        key = (row.border, row.size, row.average, row.pixels, row.threshold)
        pairs = zip((row.dice, row.iou, row.boundary), scores[key], strict=True)
        assert (row.boundary is None) == (scores[key][2] is None), key
        found[key] = max(abs(one - other) for one, other in pairs if one is not None)
    assert found.keys() == scores.keys()
    return found
