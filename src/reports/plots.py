"""Figures of training and inference: a run's curves, a training batch, and prediction panels."""

import io
import logging
import math
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from files import write_atomically
from predictor import Predictor, foreground
from scoring import confusion, dice_score
from training.schedule import at_largest_size

FOREGROUND, IGNORED = (1, 0, 0, 0.45), (0, 0, 1, 0.45)  # RGBA over an image
LONGEST_TITLE = 24  # characters that fit above a panel
# for Chinese, Japanese and Korean, on Linux, Windows and macOS
CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Microsoft YaHei",
             "Malgun Gothic", "PingFang SC", "Hiragino Sans", "Arial Unicode MS")  # fmt: skip


def subplots(rows: int = 1, columns: int = 1, size: tuple[float, float] = (8, 4.2)):
    """Return a figure and its axes, an array (rows, columns). size: (width, height) in inches."""
    from matplotlib.figure import Figure  # pyplot would keep the figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure, path: Path) -> bytes:
    """Write a figure as PNG, and return the bytes. Raises UserError."""
    from matplotlib.font_manager import fontManager
    from matplotlib.text import Text

    installed = {font.name for font in fontManager.ttflist}
    family = ["DejaVu Sans", *(name for name in CJK_FONTS if name in installed)]
    for text in figure.findobj(Text):
        shown = text.get_text().encode(errors="replace").decode()
        text.set(parse_math=False, family=family, text=shown)  # "$" does not start a formula
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # hides warnings about font weights
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(content, format="png", dpi=100)
    write_atomically(path, lambda file: file.write(content.getvalue()))
    return content.getvalue()


def show(axis, image, title: str = "", cmap: str = "gray", vmax: float = 1):
    """Draw an array (H, W) or (H, W, 3) without ticks."""
    axis.imshow(image, cmap=cmap, vmin=0, vmax=vmax)
    axis.set_title(title, fontsize=8)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def show_image(axis, image, title: str = ""):
    """Draw an image, uint8 (C, H, W) with 1 or 3 channels."""
    show(axis, np.asarray(image).transpose(1, 2, 0).squeeze(), title, vmax=255)


def show_mask(axis, mask, title: str = ""):
    """Draw a mask (H, W): 0 black, 1 white, 255 (ignored) gray."""
    show(axis, np.where(np.asarray(mask) == 255, 0.5, mask), title)


def shorten(name: str) -> str:
    """Cut the middle out of a name too long for a panel's title."""
    half = LONGEST_TITLE // 2
    return name if len(name) <= LONGEST_TITLE else f"{name[: half - 1]}…{name[-half:]}"


def plot_history(history: list[dict], title: str, path: Path, best_from: int = 0):
    """Plot the rows of NAME.csv. best_from: index of the first row that may be best."""
    figure, [[losses, dices, rates]] = subplots(1, 3, (13, 3.8))
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) < 30 else None

    def line(axis, key, color, label=None):
        values = [row[key] for row in history]
        axis.plot(epochs, values, color=color, label=label, marker=marker, markersize=3)

    for axis, key in ((losses, "loss"), (dices, "dice")):
        line(axis, f"train_{key}", "tab:blue", "training")
        line(axis, f"valid_{key}", "tab:orange", "validation")
        axis.legend()
    line(rates, "learning_rate", "tab:gray")
    best = max(at_largest_size(history[best_from:] or history), key=lambda row: row["valid_dice"])
    losses.set(title="Loss", ylabel="loss")
    dices.set(title=f"Dice (best: {best['valid_dice']:.4f} in epoch {best['epoch']})", ylabel="mean Dice")
    rates.set(title="Learning rate at the end of each epoch", ylabel="learning rate")
    # epochs at which images grow: losses and Dice before and after are not comparable
    larger = [row["epoch"] for before, row in pairwise(history) if row["image_size"] != before["image_size"]]
    for axis in (losses, dices, rates):
        axis.set_xlabel("epoch")
        axis.locator_params(axis="x", integer=True)
        axis.grid(alpha=0.3)
        for epoch in larger:
            axis.axvline(epoch - 0.5, color="black", linestyle=":", linewidth=0.8)
    if larger:
        title += " (dotted: image size increases)"
    figure.suptitle(title)
    save_figure(figure, path)


def plot_batch(images: torch.Tensor, masks: torch.Tensor, title: str, path: Path):
    """Draw training images, eight per row, with foreground in red and ignored pixels in blue.

    images: float (N, C, H, W) from about 0 to 1. masks: uint8 (N, 1, H, W) of 0, 1, 255. Both on the CPU.
    """
    columns = min(8, len(images))
    rows = math.ceil(len(images) / columns)
    figure, axes = subplots(rows, columns, (max(2 * columns, 6), 2 * rows + 0.5))
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, mask in zip(axes.flat, images, masks[:, 0].numpy(), strict=False):
        show(axis, image.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy())
        overlay = np.zeros((*mask.shape, 4))
        overlay[mask == 1] = FOREGROUND
        overlay[mask == 255] = IGNORED
        axis.imshow(overlay, interpolation="nearest")
    figure.suptitle(title)
    save_figure(figure, path)


def panel_rows(predictor: Predictor, dataset: Dataset, indices, threshold: float = 0.5) -> list[dict]:
    """Return rows for `plot_panels` of the images at `indices`."""
    batch = dataset[list(indices)]
    images, masks = batch["image"].cpu(), batch["mask"].cpu()
    logits = foreground(predictor.logits(batch["image"])).cpu()
    predicted = logits >= math.log(threshold / (1 - threshold))
    dices = dice_score(confusion(predicted, masks)).tolist()
    keys = ("name", "image", "mask", "probability", "predicted", "dice")
    columns = (batch["name"], images, masks[:, 0], logits[:, 0].sigmoid(), predicted[:, 0], dices)
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]


def plot_panels(rows: list[dict], title: str, path: Path):
    """Draw a column per image: the image, its ground truth, probability and prediction.

    rows: dicts with `name`, `image` uint8 (C, H, W), `mask` uint8 (H, W) of 0, 1, 255, `probability`
    float (H, W), `predicted` bool (H, W), `dice` and optionally `note`; arrays or CPU tensors.
    """
    cell = min(2.0, 16 / len(rows))  # inches; nine columns fit a screen of 1600 x 900 pixels
    figure, axes = subplots(4, len(rows), (max(cell * len(rows), 6), 4 * cell + 1))
    for row, (image, truth, probability, prediction) in zip(rows, axes.T, strict=True):
        note = f"{row['note']}\n" if row.get("note") else ""
        show_image(image, row["image"], note + shorten(row["name"]))
        show_mask(truth, row["mask"])
        show(probability, np.asarray(row["probability"], dtype=np.float32), cmap="magma")
        show(prediction, np.asarray(row["predicted"]), f"Dice {row['dice']:.4f}")
    labels = ("image", "ground truth", "probability", "prediction")
    for axis, label in zip(axes[:, 0], labels, strict=True):
        axis.set_ylabel(label, fontsize=9)
    figure.suptitle(title)
    save_figure(figure, path)
