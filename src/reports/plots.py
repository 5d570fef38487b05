"""The pictures that training and inference write: the curve of a run, and panels of predictions."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch.utils.data import Dataset

from files import write_whole
from predictor import Predictor
from reports.statistics import Numbers, best_median_worst
from training.schedule import of_largest_size
from utils import confusion, dice, foreground

TRAIN, VALID, RATE = "tab:blue", "tab:orange", "tab:gray"
FOREGROUND, IGNORED = "red", "blue"


def save_figure(figure: Figure, path: Path, comment: str = ""):
    """Write a figure as PNG, whole or not at all, and close it. Raises UserError where it cannot be written."""
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=100, metadata={"Comment": comment}))
    plt.close(figure)


def plot_history(history: list[dict], title: str, path: Path, best_from: int = 0):
    """Loss and Dice of train and valid, and the learning rate, by epoch. history: the rows of NAME.csv.

    best_from: the epochs whose best weights are lost.
    Dotted lines mark where the pictures grow: losses and Dice on either side are not comparable.
    """
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) < 30 else None

    def line(axis, key, color, label):
        axis.plot(epochs, [row[key] for row in history], color=color, label=label, marker=marker, markersize=3)

    line(axes[0], "train_loss", TRAIN, "train")
    line(axes[0], "valid_loss", VALID, "valid")
    line(axes[1], "train_dice", TRAIN, "train")
    line(axes[1], "valid_dice", VALID, "valid")
    line(axes[2], "learning_rate", RATE, "learning rate")
    best = max(of_largest_size(history[best_from:]) or of_largest_size(history), key=lambda row: row["valid_dice"])
    grown = [row["epoch"] for before, row in pairwise(history) if row["image_size"] != before["image_size"]]
    names = ("loss", f"Dice, best {best['valid_dice']:.4f} in epoch {best['epoch']}", "learning rate, last step")
    for axis, name in zip(axes, names, strict=True):
        axis.set(title=name, xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        for epoch in grown:
            axis.axvline(epoch - 0.5, color="black", linestyle=":", linewidth=0.8)
    axes[0].legend()
    axes[1].legend()
    figure.suptitle(title + "; dotted: the pictures grow" * bool(grown))
    save_figure(figure, path)


def panel_rows(predictor: Predictor, dataset: Dataset, indices: Sequence[int], threshold: float = 0.5) -> list[dict]:
    """Predict a few pictures of a dataset, for `plot_panels`. threshold: probability of the prediction."""
    batch = dataset[list(indices)]
    logits = foreground(predictor.logits(batch["image"]))
    predicted = logits.cpu() >= math.log(threshold / (1 - threshold))
    dices = dice(confusion(predicted, batch["mask"].cpu())).tolist()
    masks = (batch["mask"][:, 0].cpu(), logits.sigmoid()[:, 0].cpu(), predicted[:, 0])
    columns = (batch["name"], batch["image"].cpu(), *masks, dices)
    names = ("name", "image", "mask", "probability", "predicted", "dice")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def example_rows(predictor: Predictor, dataset: Dataset, dices: Numbers, threshold: float = 0.5) -> list[dict]:
    """The `panel_rows` of the three best, median and worst pictures, with the group as their note.

    dices: of every picture, (N,) numbers, on the CPU.
    """
    chosen = best_median_worst(dices)
    rows = panel_rows(predictor, dataset, [index for _, index in chosen], threshold)
    return [{**row, "note": f"{group}: "} for row, (group, _) in zip(rows, chosen, strict=True)]


def plot_batch(images: torch.Tensor, masks: torch.Tensor, title: str, path: Path):
    """Training pictures as the network sees them, in rows of four, with their masks drawn over: foreground is red,
    what is ignored is blue.

    images: float (N, C, H, W) of about 0 to 1, masks: uint8 (N, 1, H, W) of 0, 1, 255; on the CPU.
    """
    count, size = len(images), max(images.shape[2:])
    figure, axes = plt.subplots(-(-count // 4), 4, figsize=(9, 2.35 * -(-count // 4) + 0.5), layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, mask in zip(axes.flat, images, masks, strict=False):
        picture = image.clamp(0, 1).expand(3, *image.shape[1:]).permute(1, 2, 0).numpy()
        axis.imshow(picture, interpolation="nearest" if size < 128 else "antialiased")
        for value, color in ((1, FOREGROUND), (255, IGNORED)):
            over = np.zeros((*mask.shape[1:], 4))
            over[mask[0].numpy() == value] = (*to_rgb(color), 0.45)
            axis.imshow(over, interpolation="nearest")
    figure.suptitle(title)
    save_figure(figure, path)


def plot_panels(rows: list[dict], title: str, path: Path, comment: str = ""):
    """A grid with a row per picture: picture, truth, probability, prediction.

    rows: dicts of `name`, `image` uint8 (C, H, W), `mask` uint8 (H, W) of 0, 1, 255, `probability` float
    (H, W), `predicted` bool (H, W) and `dice`; arrays or tensors on the CPU. An optional `note` is put before the name.
    """
    figure, axes = plt.subplots(len(rows), 4, figsize=(9, 2.35 * len(rows) + 0.5), layout="constrained", squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        image = np.asarray(row["image"]).transpose(1, 2, 0)
        mask, probability = np.asarray(row["mask"]), np.asarray(row["probability"], dtype=np.float32)
        line[0].imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        line[1].imshow(np.where(mask == 255, 0.5, mask), cmap="gray", vmin=0, vmax=1)
        line[2].imshow(probability, cmap="magma", vmin=0, vmax=1)
        line[3].imshow(np.asarray(row["predicted"]), cmap="gray", vmin=0, vmax=1)
        line[0].set_title(f"{row.get('note', '')}{row['name']}", fontsize=9)
        line[1].set_title("truth", fontsize=9)
        line[2].set_title("probability, 0 black to 1 bright", fontsize=9)
        line[3].set_title(f"prediction, Dice {row['dice']:.4f}", fontsize=9)
        for axis in line:
            axis.set_axis_off()
    figure.suptitle(title)
    save_figure(figure, path, comment)
