"""Figures of report.py's page."""

from collections.abc import Sequence

import numpy as np

from reports.plots import shorten, show, show_image, show_mask, subplots
from reports.statistics import Result, group_means
from scoring import THRESHOLDS

FALSE_NEGATIVE, FALSE_POSITIVE = (230, 97, 0), (93, 58, 155)  # color-blind safe


def chart(title: str, x: str, y: str, size: tuple[float, float] = (8, 4.2)):
    """Return a figure and its only axes."""
    figure, [[axis]] = subplots(size=size)
    axis.set(title=title, xlabel=x, ylabel=y)
    axis.grid(alpha=0.3)
    return figure, axis


def curves(results: Sequence[Result], histories: dict[str, list[dict]]):
    """Plot validation Dice and losses by epoch. histories: rows of NAME.csv by label."""
    figure, [[dices, losses]] = subplots(1, 2, (10, 4.2))
    lines = ((dices, "valid_dice", "-"), (losses, "train_loss", "--"), (losses, "valid_loss", "-"))
    for index, result in enumerate(results):
        rows = histories.get(result.label, [])
        epochs = [int(row["epoch"]) for row in rows]
        for axis, key, style in lines:
            values = [float(row[key]) for row in rows]
            axis.plot(epochs, values, style, color=f"C{index}", label=result.label if rows else None)
    dices.set(title="Validation Dice", ylabel="mean Dice")
    losses.set(title="Loss (dashed: training, solid: validation)", ylabel="loss")
    dices.legend(fontsize=8)
    for axis in (dices, losses):
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        axis.locator_params(axis="x", integer=True)
    return figure


def histogram(results: Sequence[Result]):
    """Plot the number of images by Dice."""
    figure, axis = chart("Dice per image", "Dice", "number of images")
    bins = np.linspace(0, 1, 41).tolist()
    for result in results:
        axis.hist(result.dice, bins, histtype="step", linewidth=1.8, label=result.label)
    axis.legend(loc="upper left")
    return figure


def breeds(results: Sequence[Result], groups: Sequence[str]):
    """Plot mean Dice by breed, in the first result's ascending order. groups: each image's breed."""
    order = list(group_means(results[0].dice, groups))
    figure, axis = chart("Dice by breed", "mean Dice", "breed (number of images)", (8, 2 + 0.26 * len(order)))
    for result in results:
        means = group_means(result.dice, groups)
        axis.plot([means[name][0] for name in order], order, "o", label=result.label)
    axis.set_yticks(range(len(order)), [f"{name} ({groups.count(name)})" for name in order], fontsize=8)
    axis.margins(y=0.4 / len(order))
    axis.legend()
    return figure


def sizes(results: Sequence[Result], groups: Sequence[str]):
    """Plot mean Dice by foreground size. groups: each image's range, from `in_ranges`."""
    figure, axis = chart("Dice by foreground size", "foreground, % of the image (number of images)", "mean Dice")
    order = sorted(set(groups), key=lambda name: int(name.partition("–")[0]))
    labels = [f"{name} ({groups.count(name)})" for name in order]
    for result in results:
        means = group_means(result.dice, groups)
        axis.plot(labels, [means[name][0] for name in order], "o-", label=result.label)
    axis.legend()
    return figure


def thresholds(results: Sequence[Result]):
    """Plot mean Dice at each of THRESHOLDS."""
    figure, axis = chart("Dice by threshold", "probability threshold", "mean Dice")
    for result in results:
        axis.plot(THRESHOLDS, result.by_threshold, "o-", label=result.label, markersize=3)
    axis.axvline(0.5, color="gray", linewidth=0.8)
    axis.legend()
    return figure


def error_map(row: dict) -> np.ndarray:
    """Return the gray image with its errors in color, uint8 (H, W, 3). row: one of `panel_rows`."""
    image, mask, predicted = (np.asarray(row[key]) for key in ("image", "mask", "predicted"))
    shown = np.repeat(image.mean(0)[..., None], 3, axis=2) * 0.6 + 90
    shown[(mask == 1) & ~predicted] = FALSE_NEGATIVE
    shown[(mask == 0) & predicted] = FALSE_POSITIVE
    return shown.clip(0, 255).astype(np.uint8)


def examples(results: Sequence[Result], notes: Sequence[str], shown: Sequence[Sequence[dict]]):
    """Draw each image, its ground truth and each result's errors. shown: each result's `panel_rows`."""
    columns = 2 + len(results)
    figure, axes = subplots(len(notes), columns, (2.3 * columns, 2.6 * len(notes)))
    for line, note, rows in zip(axes, notes, zip(*shown, strict=True), strict=True):
        show_image(line[0], rows[0]["image"], f"{note}\n{shorten(rows[0]['name'])}")
        show_mask(line[1], rows[0]["mask"], "ground truth")
        for axis, row, result in zip(line[2:], rows, results, strict=True):
            show(axis, error_map(row), f"{shorten(result.label)}\nDice {row['dice']:.3f}")
    return figure
