"""The figures of report.py's page: one function each, from results to a matplotlib figure."""

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.statistics import Result, group_means
from scoring import THRESHOLDS

MISSED = (230, 97, 0)  # orange and purple differ for every kind of color vision
INVENTED = (93, 58, 155)

close = plt.close


def color(index: int) -> str:
    """The color of a result, the same in every figure."""
    return f"C{index % 10}"


def one_chart(title: str, x: str, y: str, size: tuple[float, float] = (8, 4.2)) -> tuple[Figure, Axes]:
    """A figure of one chart with a title, labelled axes and a grid; size in inches."""
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    axis.set(title=title, xlabel=x, ylabel=y)
    axis.grid(alpha=0.3)
    return figure, axis


def curves(results: Sequence[Result], histories: dict[int, list[dict]]) -> Figure:
    """Valid Dice, and the losses of train and valid, by epoch. histories: the rows of NAME.csv by a result's index."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for index, history in histories.items():
        epochs = [int(row["epoch"]) for row in history]
        label = results[index].label
        axes[0].plot(epochs, [float(row["valid_dice"]) for row in history], color=color(index), label=label)
        for part, style in (("train", "--"), ("valid", "-")):
            values = [float(row[f"{part}_loss"]) for row in history]
            axes[1].plot(epochs, values, style, color=color(index), label=f"{label}, {part}")
    axes[0].set(title="Dice on the valid split", xlabel="epoch", ylabel="mean Dice (0 to 1)")
    axes[1].set(title="Loss", xlabel="epoch", ylabel="loss")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def histogram(results: Sequence[Result]) -> Figure:
    """How many pictures have which Dice."""
    figure, axis = one_chart("Dice of each picture", "Dice (0 to 1)", "pictures")
    for index, result in enumerate(results):
        bins = np.linspace(0, 1, 41).tolist()
        axis.hist(result.dice, bins, histtype="step", linewidth=1.8, color=color(index), label=result.label)
    axis.legend(loc="upper left")
    return figure


def breeds(results: Sequence[Result], groups: Sequence[str]) -> Figure:
    """Mean Dice by breed, hardest for the first result at the bottom. groups: the breed of each picture."""
    order = list(group_means(results[0].dice, groups))
    figure, axis = one_chart("Dice by breed", "mean Dice (0 to 1)", "breed", (8, 1.5 + 0.26 * len(order)))
    for index, result in enumerate(results):
        means = group_means(result.dice, groups)
        values = [means[name][0] for name in order]
        axis.plot(values, range(len(order)), "o", color=color(index), label=result.label)
    axis.set_yticks(range(len(order)), [f"{name.replace('_', ' ')} ({groups.count(name)})" for name in order])
    axis.tick_params(axis="y", labelsize=8)
    axis.legend()
    return figure


def bars(results: Sequence[Result], labels: Sequence[str], groups: Sequence[str], title: str, x: str) -> Figure:
    """Mean Dice by group, a bar per result. labels: the groups from left to right. groups: that of each picture."""
    figure, axis = one_chart(title, x, "mean Dice (0 to 1)")
    width = 0.8 / len(results)
    lowest = 1.0
    for index, result in enumerate(results):
        means = group_means(result.dice, groups)
        lowest = min(lowest, *(mean for mean, _ in means.values()), 1.0)
        places = np.arange(len(labels)) + (index - (len(results) - 1) / 2) * width
        axis.bar(places, [means[label][0] for label in labels], width, color=color(index), label=result.label)
    axis.set_xticks(range(len(labels)), [f"{label}\n{groups.count(label)} pictures" for label in labels])
    axis.set_ylim(max(0, lowest - 0.1), 1)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def thresholds(results: Sequence[Result]) -> Figure:
    """Mean Dice at each of THRESHOLDS."""
    figure, axis = one_chart("Dice against threshold", "threshold of probability (0 to 1)", "mean Dice (0 to 1)")
    for index, result in enumerate(results):
        axis.plot(THRESHOLDS, result.by_threshold, "o-", color=color(index), label=result.label, markersize=3)
    axis.axvline(0.5, color="gray", linewidth=0.8)
    axis.legend()
    return figure


def calibration(results: Sequence[Result]) -> Figure:
    """The share of foreground against the mean probability, by tenths of probability."""
    figure, axis = one_chart("Calibration", "mean probability of the pixels in a bin", "share of foreground", (6, 5))
    axis.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
    for index, result in enumerate(results):
        p, truth, pixels = result.calibration[result.calibration[:, 2] > 0].T
        axis.plot(p / pixels, truth / pixels, "o-", color=color(index), label=result.label, markersize=4)
    axis.legend()
    return figure


def error_map(row: dict) -> np.ndarray:
    """A grey picture with missed and invented foreground in color, uint8 (H, W, 3). row: one of `panel_rows`."""
    image, mask = np.asarray(row["image"]), np.asarray(row["mask"])
    predicted = np.asarray(row["probability"]) >= 0.5
    shown = np.repeat(image.mean(0, keepdims=True), 3, 0).transpose(1, 2, 0) * 0.6 + 90
    shown[(mask == 1) & ~predicted] = MISSED
    shown[(mask == 0) & predicted] = INVENTED
    return shown.clip(0, 255).astype(np.uint8)


def examples(results: Sequence[Result], notes: Sequence[str], shown: Sequence[Sequence[dict]]) -> Figure:
    """A row per picture: the picture, its truth, and each result's errors.

    notes: a few words on each picture. shown: for each result, its `panel_rows` of the pictures.
    """
    columns = 2 + len(results)
    size = (2.3 * columns, 2.5 * len(notes))
    figure, axes = plt.subplots(len(notes), columns, figsize=size, layout="constrained", squeeze=False)
    for line, note, rows in zip(axes, notes, zip(*shown, strict=True), strict=True):
        image, mask = np.asarray(rows[0]["image"]), np.asarray(rows[0]["mask"])
        line[0].imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255)
        line[0].set_title(f"{note}\n{rows[0]['name']}", fontsize=8)
        line[1].imshow(np.where(mask == 255, 0.5, mask), cmap="gray", vmin=0, vmax=1)
        line[1].set_title("truth", fontsize=8)
        for axis, row, result in zip(line[2:], rows, results, strict=True):
            axis.imshow(error_map(row))
            axis.set_title(f"{result.label}\nDice {row['dice']:.3f}", fontsize=8)
        for axis in line:
            axis.set_axis_off()
    return figure
