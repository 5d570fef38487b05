"""Turn a photo and its foreground probability into a mask, overlay, cutout, panel or run lengths.

photo: PIL image of mode RGB or RGBA. probability: float32 tensor (H, W) on the CPU, of the photo's
size. Outputs are sRGB without metadata.
"""

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import scipy  # loads scipy.ndimage lazily
import torch
from PIL import Image, ImageChops, ImageColor, ImageOps

from files import write_atomically
from photos.colors import on_white
from photos.components import is_large, label
from photos.decode import ImageError, read_image
from photos.matting import EDGE, matte
from predictor import to_size
from utils import UserError, user_path

KINDS = {"mask": ".png", "probability": ".png", "overlay": ".jpg", "cutout": ".png", "panel": ".jpg"}
COLOR = (255, 64, 64)
TINT = [(65 * level + 35 * color) // 100 for color in COLOR for level in range(256)]  # for Image.point
PANEL_SIZE = 480  # longest side of a panel's three images, in pixels


@dataclass(frozen=True)
class Style:
    """Options for drawing outputs."""

    threshold: float = 0.5  # minimum foreground probability
    largest: bool = False  # keep only the largest component
    crop: bool = False  # crop cutouts to the foreground
    closed_form: bool = False  # see `matte`
    background: tuple | str | Image.Image | None = None  # behind cutouts: a color or an RGB image
    edge: float = EDGE["foreground"]  # see `edge_depth`
    each: bool = False  # write one cutout per large component


def mask_of(probability, threshold=0.5):
    """Return a PIL image of mode L: 255 at or above the threshold, else 0."""
    return Image.fromarray((probability >= threshold).to(torch.uint8).mul_(255).numpy())


def to_gray(values):
    """Convert a tensor (H, W) in [0, 1] to a PIL image of mode L."""
    return Image.fromarray(values.mul(255).round_().to(torch.uint8).numpy())


def overlay(photo, probability, threshold=0.5):
    """Draw the mask and its outline over the photo. Returns mode RGB."""
    mask = mask_of(probability, threshold)
    width = max(1, round(max(photo.size) / 400))  # in pixels
    grown = scipy.ndimage.maximum_filter(np.asarray(mask), 2 * width + 1)
    result = on_white(photo).copy()
    result.paste(result.point(TINT), mask=mask)
    result.paste(COLOR, mask=Image.fromarray(grown - np.asarray(mask)))
    return result


def cut_out(photo, probability, style=Style()):  # noqa: B008  # it is frozen
    """Return the foreground in mode RGBA, or on style.background in mode RGB."""
    opaque, opacity = photo, None
    if photo.mode == "RGBA":
        opacity = photo.getchannel("A")
        opaque = Image.new("RGB", photo.size, "white")  # transparent pixels may have any color
        opaque.paste(photo.convert("RGB"), mask=opacity.point(lambda value: 255 if value else 0))
    alpha, colors = matte(opaque, probability, style.threshold, style.closed_form, style.edge)
    shade = to_gray(alpha)
    if opacity:
        shade = ImageChops.darker(shade, opacity)
    if style.background is None:
        hidden = torch.from_numpy(np.array(shade)) == 0
        colors.masked_fill_(hidden[..., None], 0)  # so that no hidden color is saved
        image = Image.fromarray(colors.numpy())
        image.putalpha(shade)
    else:
        under = style.background
        if not isinstance(under, Image.Image):
            under = Image.new("RGB", photo.size, under)
        image = Image.composite(Image.fromarray(colors.numpy()), ImageOps.fit(under, photo.size), shade)
    box = shade.getbbox() if style.crop else None
    return image.crop(box) if box else image


def read_background(text):
    """Return a color (r, g, b), or a file's image in mode RGB. Raises UserError."""
    with suppress(ValueError):
        return ImageColor.getrgb(text)[:3]
    try:
        return read_image(user_path(text))
    except ImageError as error:
        raise UserError(f"--background {text} {error}; choose an image or a color") from None


def panel(photo, probability, threshold):
    """Put photo, probability and overlay side by side."""
    small = photo.copy()
    small.thumbnail((PANEL_SIZE, PANEL_SIZE))
    small = on_white(small)
    probability = to_size(probability, small.size)
    gray = to_gray(probability)
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
    if kind == "overlay":
        return overlay(photo, probability, style.threshold)
    if kind == "cutout":
        return cut_out(photo, probability, style)
    return panel(photo, probability, style.threshold)


def save_each(photo, probability, style, path):
    """Replace a folder's cutouts, numbered by decreasing area: 1.png (`path`, written last), 2.png, ..."""
    for file in path.parent.glob("[0-9]*.png"):
        file.unlink()
    mask = probability >= style.threshold
    labels, areas = label(mask)
    large = np.flatnonzero(is_large(areas, labels))
    largest_first = sorted(large, key=lambda component: -areas[component]) or [0]  # 0: an empty cutout
    for number, component in reversed(list(enumerate(largest_first, 1))):
        others = mask & torch.from_numpy(labels != component)
        image = cut_out(photo, probability.masked_fill(others, 0.0), replace(style, crop=True))
        save_image(image, path.with_name(f"{number}.png"))


def save_image(image, path):
    """Write a PIL image atomically as JPEG or PNG, by suffix. Raises CannotWrite."""
    kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG"
    write_atomically(path, lambda file: image.save(file, kind, quality=90, compress_level=4), fsync=False)


def run_lengths(mask):
    """Convert a mask (PIL, mode L) to "start length start length ...", column-major, from 1."""
    flat = np.asarray(mask).T.reshape(-1) > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends, strict=True))
