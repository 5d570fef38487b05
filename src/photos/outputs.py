"""A photo and its probability of foreground -> mask, overlay, cut-out, panel and rows of numbers.

photo is a PIL picture in mode RGB; probability a float32 tensor (H, W) of the photo's own size, on the CPU.
"""

import threading
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from files import write_whole
from photos.matting import compose, matte, to_bytes
from photos.pieces import drop_specks
from utils import to_size

KINDS = {"mask": ".png", "probability": ".png", "overlay": ".jpg", "cutout": ".png", "panel": ".jpg"}
COLOR = (255, 64, 64)
PANEL_SIZE = 480  # the longer side of each of a panel's three pictures, in pixels
LARGE = threading.Lock()  # photos of many pixels are drawn one at a time, so that memory is one photo's
MANY_PIXELS = 8_000_000


def mask_of(probability, threshold=0.5):
    """-> PIL picture of mode L: 255 where the probability is at least the threshold, else 0."""
    return Image.fromarray((probability >= threshold).to(torch.uint8).mul_(255).numpy())


def probability_picture(probability):
    """-> PIL picture of 16 bits: 0 for 0, 65535 for 1."""
    return Image.fromarray((probability.numpy() * 65535).round().astype(np.uint16))


def overlay(photo, probability, threshold=0.5):
    """-> the photo with the mask drawn over it, and its outline."""
    from torchvision.utils import draw_segmentation_masks  # importing it takes seconds

    image = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    mask = probability >= threshold
    width = 2 * max(1, round(max(photo.size) / 400)) + 1
    spread = F.max_pool2d(mask[None, None].half(), (width, 1), stride=1, padding=(width // 2, 0))
    outline = (F.max_pool2d(spread, (1, width), stride=1, padding=(0, width // 2))[0, 0] > 0) & ~mask
    for rows in torch.arange(photo.height).split(256):  # torchvision computes in floats of four times the size
        band = slice(rows[0], rows[-1] + 1)
        part, inside, edge = image[:, band], mask[band], outline[band]
        drawn = draw_segmentation_masks(part, inside, alpha=0.35, colors=COLOR)
        drawn = draw_segmentation_masks(drawn, edge, alpha=1.0, colors=COLOR)
        image[:, band] = torch.where(inside | edge, drawn, part)
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def cutout(photo, probability, threshold=0.5, crop=False, method="guided", background=None, keep=drop_specks):
    """The foreground in mode RGBA, its edge and colours from `matte`; on a background, in mode RGB.

    crop: to the foreground's box. method, keep: see `matte`. background: see `compose`. What is fully transparent is
    black, so that nothing of the old background is in the file.
    """
    alpha, foreground = matte(photo, probability, threshold, method, keep)
    shade = Image.fromarray(to_bytes(alpha).numpy())
    bounds = shade.getbbox() if crop else None
    if background is not None:
        picture = compose(alpha, foreground, background)
    else:
        foreground[to_bytes(alpha) == 0] = 0
        picture = Image.fromarray(foreground.numpy())
        picture.putalpha(shade)
    return picture.crop(bounds) if bounds else picture


def panel(photo, probability, threshold=0.5):
    """-> photo, probability and overlay side by side, each at most PANEL_SIZE pixels long."""
    small = photo.copy()
    small.thumbnail((PANEL_SIZE, PANEL_SIZE))
    probability = to_size(probability, small.size)
    grey = Image.fromarray(probability.mul(255).round().to(torch.uint8).numpy()).convert("RGB")
    pictures = (small, grey, overlay(small, probability, threshold))
    sheet = Image.new("RGB", (3 * small.width + 16, small.height), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index * (small.width + 8), 0))
    return sheet


def render(kind, photo, probability, threshold=0.5, crop=False):
    """One of KINDS -> a PIL picture. photo may be None for mask and probability."""
    if kind == "mask":
        return mask_of(probability, threshold)
    if kind == "probability":
        return probability_picture(probability)
    if kind == "cutout":
        return cutout(photo, probability, threshold, crop)
    return {"overlay": overlay, "panel": panel}[kind](photo, probability, threshold)


def save_picture(picture, path):
    """Write a PIL picture, whole or not at all, in the format of the path's suffix."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: encode(picture, file, path.suffix))


def encode(picture, file, suffix=".png"):
    if suffix == ".jpg":
        picture.save(file, "JPEG", quality=90)
    else:
        picture.save(file, "PNG", compress_level=4)


def foreground_share(mask):
    """mask (PIL, mode L) -> the share of its pixels that are foreground."""
    return np.count_nonzero(np.asarray(mask)) / (mask.width * mask.height)


def box(mask):
    """mask (PIL, mode L) -> left, top, right, bottom of its foreground in pixels, or four zeros."""
    return mask.getbbox() or (0, 0, 0, 0)


def run_lengths(mask):
    """mask (PIL, mode L) -> "start length start length ...": runs of foreground, column by column, counted from 1."""
    flat = np.asarray(mask).T.reshape(-1) > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends, strict=True))
