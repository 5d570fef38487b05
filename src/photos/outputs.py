"""From a photo and its probability of foreground to mask, overlay, cut-out, panel and rows of numbers.

photo is a PIL picture in mode RGB, or RGBA where it has transparency; probability a float32 tensor (H, W) of the
photo's own size, on the CPU. Outputs are sRGB and have no metadata, no profile, no place, no camera, but a mark (see
marks.py).
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageChops, ImageColor
from PIL.PngImagePlugin import PngInfo

from files import CannotWrite, write_whole
from photos.colors import on_white
from photos.inputs import beside
from photos.marks import may_write, read_mark
from photos.matting import compose, matte, to_bytes
from photos.pictures import PictureError, read_picture
from photos.pieces import SPECK, drop_specks, find_pieces, is_animal, largest, mask_of_runs
from utils import UserError, to_size

KINDS = {"mask": ".png", "probability": ".png", "overlay": ".jpg", "cutout": ".png", "panel": ".jpg"}
COLOR = (255, 64, 64)
TINT = [(65 * level + 35 * color) // 100 for color in COLOR for level in range(256)]  # a table for Image.point
PANEL_SIZE = 480  # the longer side of each of a panel's three pictures, in pixels
JPEG_SIDE = 65_500  # pixels: the longest side that a JPEG has
BAND = 500_000  # pixels drawn at once, of up to 100 bytes each


@dataclass(frozen=True)
class Style:
    """How outputs are drawn.

    threshold: probability from which a pixel is foreground. largest: of the foreground, its largest piece alone.
    Of cut-outs, crop: to the foreground; method and background: see `cutout`; each: one for each animal.
    """

    threshold: float = 0.5
    largest: bool = False
    crop: bool = False
    method: str = "guided"
    background: tuple | Image.Image | None = None
    each: bool = False


def mask_of(probability, threshold=0.5):
    """A PIL picture of mode L: 255 where the probability is at least the threshold, else 0."""
    return shade_of(probability >= threshold)


def shade_of(mask):
    """bool (H, W) as a PIL picture of mode L: 255 where it is true, else 0."""
    return Image.fromarray(mask.to(torch.uint8).mul_(255).numpy())


def probability_picture(probability):
    """A PIL picture of 16 bits: 0 for 0, 65535 for 1."""
    values = np.empty(probability.shape, dtype=np.uint16)
    for rows in bands(probability):
        values[rows] = (probability[rows].numpy() * 65535).round()
    return Image.fromarray(values)


def bands(probability):
    """Slices of rows that cover a picture."""
    height, width = probability.shape
    step = max(1, BAND // width)
    return [slice(top, min(top + step, height)) for top in range(0, height, step)]


def overlay(photo, probability, threshold=0.5):
    """The photo, on white, with the mask drawn over it, and its outline, as mode RGB."""
    reach = max(1, round(max(photo.size) / 400))  # pixels of the outline's width
    result = Image.new("RGB", photo.size)
    for rows in bands(probability):
        above, below = max(0, rows.start - reach), min(photo.height, rows.stop + reach)
        mask = probability[above:below] >= threshold
        own = slice(rows.start - above, rows.stop - above)
        edge = (spread(mask, reach) & ~mask)[own]
        part = on_white(photo.crop((0, rows.start, photo.width, rows.stop)))
        part.paste(part.point(TINT), mask=shade_of(mask[own]))
        part.paste(COLOR, mask=shade_of(edge))
        result.paste(part, (0, rows.start))
    return result


def spread(mask, reach):
    """A mask (H, W) grown by `reach` pixels to all sides."""
    width = 2 * reach + 1
    mask = F.pad(mask, 4 * [reach])
    for dim in (0, 1):
        covered = 1  # pixels whose maximum each pixel holds; doubled until it is the window's width
        while covered < width:
            step = min(covered, width - covered)
            length = mask.shape[dim] - step
            mask = mask.narrow(dim, 0, length) | mask.narrow(dim, step, length)
            covered += step
    return mask


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


def cut_out(photo, probability, style):
    """A cut-out by `cutout` that is nowhere more opaque than the photo was."""
    if photo.mode == "RGB":
        return cutout(photo, probability, style.threshold, style.crop, style.method, style.background)
    shown = Image.new("RGB", photo.size, "white")  # colors that nobody sees are no sample of the background
    shown.paste(photo.convert("RGB"), mask=photo.getchannel("A").point(lambda value: 255 if value else 0))
    picture = cutout(shown, probability, style.threshold, method=style.method)
    alpha = ImageChops.darker(picture.getchannel("A"), photo.getchannel("A"))
    colors = Image.new("RGB", photo.size)  # black where nothing is to be seen
    colors.paste(picture.convert("RGB"), mask=alpha.point(lambda value: 255 if value else 0))
    bounds = alpha.getbbox() if style.crop else None
    if style.background is None:
        picture = colors
        picture.putalpha(alpha)
    else:
        seen = torch.from_numpy(np.array(alpha)).float().div_(255)
        picture = compose(seen, torch.from_numpy(np.array(colors)), style.background)
    return picture.crop(bounds) if bounds else picture


def read_color(text):
    """A colour, as white or #00ff00, as a tuple of three. Raises ValueError."""
    return ImageColor.getrgb(text)[:3]


def read_background(text):
    """A colour, as a tuple of three, or the picture in a file, of mode RGB. Raises UserError."""
    with suppress(ValueError):
        return read_color(text)
    try:
        return read_picture(text)
    except PictureError as error:
        raise UserError(f"--background {text} {error}, nor is it a colour, as white or #00ff00") from None


def each_cut_out(photo, probability, style):
    """The numbers of the animals, the largest last and as 1, with a cropped cut-out of each; 1 alone where none is."""
    mask = probability >= style.threshold
    runs = find_pieces(mask)
    style = replace(style, crop=True)
    for piece in np.flatnonzero(is_animal(runs, SPECK))[::-1]:
        own = mask_of_runs(runs, np.arange(len(runs.areas)) == piece)
        yield piece + 1, cut_out(photo, torch.where(own | ~mask, probability, 0.0), style)
    if not len(runs.areas):
        yield 1, cut_out(photo, probability, style)


def keep_largest(probability, threshold):
    """The probability with 0 in all but the largest piece of the foreground."""
    mask = probability >= threshold
    return torch.where(largest(mask) | ~mask, probability, 0.0)


def panel(photo, probability, threshold=0.5):
    """Photo, probability and overlay side by side, each at most PANEL_SIZE pixels long."""
    small = photo.copy()
    small.thumbnail((PANEL_SIZE, PANEL_SIZE))
    small = on_white(small)
    probability = to_size(probability, small.size)
    grey = Image.fromarray(probability.mul(255).round().to(torch.uint8).numpy()).convert("RGB")
    pictures = (small, grey, overlay(small, probability, threshold))
    sheet = Image.new("RGB", (3 * small.width + 16, small.height), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index * (small.width + 8), 0))
    return sheet


def render(kind, photo, probability, style=Style()):  # noqa: B008  # it is frozen
    """One of KINDS as a PIL picture. photo may be None for mask and probability."""
    if kind == "mask":
        return mask_of(probability, style.threshold)
    if kind == "probability":
        return probability_picture(probability)
    if kind == "cutout":
        return cut_out(photo, probability, style)
    return {"overlay": overlay, "panel": panel}[kind](photo, probability, style.threshold)


def save_output(kind, photo, probability, style, path, mark=""):
    """Render and write one of KINDS, with a mark; with style.each, cut-outs as 2.png, ..., and 1.png, which is `path`.

    1.png comes last, once those that an earlier run had beyond are removed. Raises CannotWrite.
    """
    if kind != "cutout" or not style.each:
        save_picture(render(kind, photo, probability, style), path, mark)
        return
    most = 1
    for number, picture in each_cut_out(photo, probability, style):
        file = path.with_name(f"{number}.png")
        if not may_write(file):
            raise CannotWrite(file, OSError("it is there, without the mark of inference.py"))
        most = max(most, number)
        if number == 1:
            while read_mark(more := path.with_name(f"{most + 1}.png")):
                more.unlink()
                most += 1
        save_picture(picture, file, mark)


def save_picture(picture, path, mark=""):
    """Write a PIL picture, whole or not at all, in its suffix's format; as a PNG `beside` if JPEG cannot hold it.

    mark: what the file says of itself (`mark_of`). Raises CannotWrite.
    """
    path = Path(path)
    if max(picture.size) > JPEG_SIDE:
        path = beside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: encode(picture, file, path.suffix, mark), wait=False)


def encode(picture, file, suffix=".png", mark=""):
    """Write a PIL picture into a binary file, without metadata but a mark; as PNG where JPEG cannot hold it."""
    picture.info = {}
    if suffix == ".jpg" and max(picture.size) <= JPEG_SIDE:
        picture.save(file, "JPEG", quality=90, comment=mark)
    else:
        text = PngInfo()
        if mark:
            text.add_text("Comment", mark)
        picture.save(file, "PNG", compress_level=4, pnginfo=text)


def foreground_share(mask):
    """The share of a mask's pixels (PIL, mode L) that are foreground."""
    return np.count_nonzero(np.asarray(mask)) / (mask.width * mask.height)


def box(mask):
    """Of a mask (PIL, mode L) the left, top, right, bottom of its foreground in pixels, or four zeros."""
    return mask.getbbox() or (0, 0, 0, 0)


def run_lengths(mask):
    """mask (PIL, mode L) to "start length start length ...": runs of foreground, column by column, counted from 1."""
    flat = np.asarray(mask).T.reshape(-1) > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends, strict=True))
