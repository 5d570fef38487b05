"""From a photo and its probability of foreground to mask, overlay, cutout, panel and table rows.

photo is a PIL image of mode RGB, or RGBA if it has transparency. probability is a float32 tensor (H, W) of the photo's
original size, on the CPU. Outputs are sRGB without metadata.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy  # imports scipy.ndimage when it is first used
import torch
from PIL import Image, ImageChops, ImageColor

from files import write_atomically
from photos.components import drop_small, is_large, label, select
from photos.decode import ImageError, on_white, read_image
from photos.matting import compose, matte, to_bytes
from utils import UserError, to_size

KINDS = {"mask": ".png", "probability": ".png", "overlay": ".jpg", "cutout": ".png", "panel": ".jpg"}
COLOR = (255, 64, 64)
TINT = [(65 * level + 35 * color) // 100 for color in COLOR for level in range(256)]  # a table for Image.point
PANEL_SIZE = 480  # pixels of the longer side of each of a panel's three images


@dataclass(frozen=True)
class Style:
    """Options for drawing outputs.

    threshold: probability from which a pixel is foreground. largest: keep only the largest component. crop, method,
    background: see `cut_out`. each: write one cutout per animal.
    """

    threshold: float = 0.5
    largest: bool = False
    crop: bool = False
    method: str = "guided"
    background: tuple | Image.Image | None = None
    each: bool = False


def mask_of(probability, threshold=0.5):
    """Return a PIL image of mode L: 255 where the probability is at least the threshold, else 0."""
    return Image.fromarray((probability >= threshold).to(torch.uint8).mul_(255).numpy())


def overlay(photo, probability, threshold=0.5):
    """Draw the mask and its outline over the photo, on white. Returns mode RGB."""
    mask = mask_of(probability, threshold)
    width = max(1, round(max(photo.size) / 400))  # of the outline, in pixels
    grown = scipy.ndimage.maximum_filter(np.asarray(mask), 2 * width + 1)
    result = on_white(photo).copy()
    result.paste(result.point(TINT), mask=mask)
    result.paste(COLOR, mask=Image.fromarray(grown - np.asarray(mask)))
    return result


def cut_out(photo, probability, style=Style()):  # noqa: B008  # it is frozen
    """Return the foreground in mode RGBA with edge and colors from `matte`, or in mode RGB on style.background.

    Alpha never exceeds the photo's. Fully transparent pixels are black, so the old background is not in the file.
    style.crop: crop to the foreground's bounding box. style.method: see `matte`.
    """
    shown, opacity = photo, None
    if photo.mode == "RGBA":
        opacity = photo.getchannel("A")
        shown = Image.new("RGB", photo.size, "white")  # colors under transparent pixels are not background samples
        shown.paste(photo.convert("RGB"), mask=opacity.point(lambda value: 255 if value else 0))
    alpha, colors = matte(shown, probability, style.threshold, style.method)
    shade = Image.fromarray(to_bytes(alpha).numpy())
    if opacity:
        shade = ImageChops.darker(shade, opacity)
        alpha = torch.from_numpy(np.array(shade)).float().div_(255)
    if style.background is not None:
        image = compose(alpha, colors, style.background)
    else:
        colors.mul_(torch.from_numpy(np.array(shade)).bool()[..., None])
        image = Image.fromarray(colors.numpy())
        image.putalpha(shade)
    box = shade.getbbox() if style.crop else None
    return image.crop(box) if box else image


def read_background(text):
    """Return a color as a tuple of three, or the image in a file in mode RGB. Raises UserError."""
    with suppress(ValueError):
        return ImageColor.getrgb(text)[:3]
    try:
        return read_image(Path(text).expanduser())
    except ImageError as error:
        raise UserError(f"--background {text} {error}; choose a color, such as white or #00ff00, or an image") from None


def keep_largest(probability, threshold):
    """Set the probability to 0 in all but the largest component of the foreground."""
    mask = probability >= threshold
    return torch.where(drop_small(mask, fraction=1) | ~mask, probability, 0.0)


def panel(photo, probability, threshold=0.5):
    """Put photo, probability and overlay side by side, each at most PANEL_SIZE pixels long."""
    small = photo.copy()
    small.thumbnail((PANEL_SIZE, PANEL_SIZE))
    small = on_white(small)
    probability = to_size(probability, small.size)
    gray = Image.fromarray(to_bytes(probability).numpy()).convert("RGB")
    sheet = Image.new("RGB", (3 * small.width + 16, small.height), "white")
    for index, image in enumerate((small, gray, overlay(small, probability, threshold))):
        sheet.paste(image, (index * (small.width + 8), 0))
    return sheet


def render(kind, photo, probability, style=Style()):  # noqa: B008  # it is frozen
    """Return one of KINDS as a PIL image. photo may be None for mask and probability."""
    if kind == "mask":
        return mask_of(probability, style.threshold)
    if kind == "probability":
        return Image.fromarray((probability.numpy() * 65535).round().astype(np.uint16))
    if kind == "cutout":
        return cut_out(photo, probability, style)
    return {"overlay": overlay, "panel": panel}[kind](photo, probability, style.threshold)


def save_each(photo, probability, style, path):
    """Write one cutout per animal as N.png, ..., 1.png (= `path`), by decreasing size; 1.png is written last."""
    for former in path.parent.glob("[0-9]*.png"):
        former.unlink()
    mask = probability >= style.threshold
    labels, areas = label(mask)
    large = np.flatnonzero(is_large(areas, labels))
    largest_first = large[np.argsort(-areas[large], kind="stable")]
    for number in range(max(1, len(large)), 0, -1):
        only = select(labels, np.arange(len(areas)) == largest_first[number - 1]) if len(large) else mask
        image = cut_out(photo, torch.where(only | ~mask, probability, 0.0), replace(style, crop=True))
        save_image(image, path.with_name(f"{number}.png"))


def save_image(image, path):
    """Write a PIL image atomically and without metadata, in the format of the path's suffix. Raises CannotWrite."""
    path.parent.mkdir(parents=True, exist_ok=True)
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    options = {"format": "JPEG", "quality": 90} if jpeg else {"format": "PNG", "compress_level": 4}
    write_atomically(path, lambda file: image.save(file, **options), fsync=False)


def run_lengths(mask):
    """Convert a mask (PIL, mode L) to run lengths "start length start length ...": column-major, 1-based."""
    flat = np.asarray(mask).T.reshape(-1) > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends, strict=True))
