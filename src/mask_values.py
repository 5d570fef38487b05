"""What the values in a person's masks mean: 0/1, 0/255, palette, RGB, boolean, 16 bit; which are foreground.

A mask's pixels are read as whole numbers: grey levels; of a palette that has others than greys, the index; of RGB, and
of a palette where black is another index than 0, the grey level where the channels agree, else a number above COLOR; of
a single color that is transparent somewhere, the opacity. 0, or black, is background.
"""

import hashlib
import json
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from cores import available_cores
from files import write_whole
from photos.pictures import PictureError, decode
from utils import UserError

COLOR = 1 << 40  # + 65536 red + 256 green + blue
MOST_VALUES = 2**16  # more in all masks of a folder: they are no masks
SCANNING = 2  # part of the name of a kept count: raise it when what is counted changes
scans: dict[str, dict[int, int]] = {}  # counts of this process, for a folder that cannot be written


def read_mask(path: Path, foreground: tuple) -> Image.Image:
    """A mask as a PIL picture of mode L: 1 where its value is in one of the ranges `foreground`, else 0.

    Raises PictureError.
    """
    values = read_values(path)
    mask = np.zeros(values.shape, dtype=bool)
    for low, high in foreground:
        mask |= (values >= low) & (values <= high)
    return Image.fromarray(mask.astype(np.uint8))


def read_values(path: Path) -> np.ndarray:
    """A mask's values: whole numbers (H, W). Raises PictureError."""
    mask = decode(path)
    try:
        return values_of(mask)
    except Exception as error:  # broken palettes and profiles raise what their parsers do
        raise PictureError(f"cannot be decoded ({' '.join(str(error).split())})") from None


def values_of(mask: Image.Image) -> np.ndarray:
    if mask.mode == "P":
        indices, palette = np.asarray(mask), np.zeros((256, 3), dtype=np.uint8)
        colors = np.array(mask.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        palette[: len(colors)] = colors
        if (palette == palette[:, :1]).all():
            return palette[indices, 0]
        black = [index for index in np.unique(indices) if not palette[index].any()]
        return numbers_of(palette[indices]) if any(black) else indices
    if mask.mode == "1":
        return np.asarray(mask).astype(np.uint8)
    if mask.mode == "F":
        values = np.asarray(mask)
        if not (np.isfinite(values) & (values == np.rint(values))).all():
            raise ValueError("its values are no whole numbers")
        return values.astype(np.int64)
    if mask.mode in ("LA", "RGBA"):
        *shades, opacity = (np.asarray(mask.getchannel(band)) for band in mask.getbands())
        if not any(np.ptp(values) for values in shades) and opacity.min() < 255:
            return opacity
    if mask.mode == "LA":
        return np.asarray(mask.getchannel(0))
    if mask.mode == "L" or mask.mode.startswith("I"):
        return np.asarray(mask)
    return numbers_of(np.asarray(mask.convert("RGB")))


def numbers_of(colors: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) as numbers (H, W): the grey level, or for other colors one above COLOR."""
    red, green, blue = colors.astype(np.int64).transpose(2, 0, 1)
    return np.where((red == green) & (green == blue), red, COLOR + (red << 16) + (green << 8) + blue)


# -------------------------------------------------------------------------- which are foreground


def choose_foreground(given: tuple[str, ...], values: dict[int, int], masks: list[Path]) -> tuple[tuple[int, int], ...]:
    """The ranges of values that are foreground: those of --foreground, else the only value that is not 0.

    values: of `count_values`. masks: the files. Raises UserError where that leaves it open.
    """
    others = sorted(value for value in values if value)
    if given:
        ranges = tuple(to_range(text) for text in given)
        if others and not any(is_in(value, ranges) for value in values):
            raise UserError(
                f"--foreground {' '.join(given)}: the masks, such as {masks[0]}, have {listed(values)} alone"
            )
        return ranges
    if len(others) > 1:
        many = others[-1] < 256 and (len(others) > 8 or any(240 <= value < 255 for value in others))
        example = "128-255 (a lossy format such as JPEG blurs two values into many)" if many else text_of(others[0])
        rarest = min(others, key=values.__getitem__)
        where = "" if many else f" ({text_of(rarest)} is in {first_with(rarest, masks)})"
        raise UserError(
            f"the masks have {listed(values)}{where}; say which are foreground, such as --foreground {example}"
        )
    return tuple((value, value) for value in others)


def first_with(value: int, masks: list[Path]) -> Path | None:
    """The first mask that has a value."""
    for path in masks:
        with suppress(PictureError):
            if (read_values(path) == value).any():
                return path
    return None


def to_range(text: str) -> tuple[int, int]:
    """A value of --foreground, "3", "128-255" or "255,0,0", as the lowest and the highest number. Raises UserError."""
    if re.fullmatch(r"\d{1,10}(-\d{1,10})?", text):
        numbers = [int(number) for number in text.split("-")]
        if numbers[0] <= numbers[-1]:
            return numbers[0], numbers[-1]
    elif re.fullmatch(r"\d{1,3}(,\d{1,3}){2}", text):
        red, green, blue = map(int, text.split(","))
        if max(red, green, blue) < 256:
            value = red if red == green == blue else COLOR + (red << 16) + (green << 8) + blue
            return value, value
    raise UserError(f"--foreground {text} is not a number (3), a range (128-255) or a color (255,0,0)")


def is_in(value: int, ranges: tuple) -> bool:
    return any(low <= value <= high for low, high in ranges)


def text_of(value: int) -> str:
    """A value as --foreground takes it."""
    if value < COLOR:
        return str(value)
    return ",".join(str(value - COLOR >> shift & 255) for shift in (16, 8, 0))


def text_of_range(ends: tuple[int, int]) -> str:
    low, high = ends
    return text_of(low) if low == high else f"{low} to {high}"


def listed(values: dict[int, int]) -> str:
    """ "the values 0, 1 and 255", or how many there are."""
    texts = [text_of(value) for value in sorted(values)]
    if len(texts) == 1:
        return f"the value {texts[0]}"
    if len(texts) > 8:
        return f"{len(texts):,} values from {texts[0]} to {texts[-1]}"
    return f"the values {', '.join(texts[:-1])} and {texts[-1]}"


def describe_values(values: dict[int, int], foreground: tuple) -> str:
    """A line that says which values were seen, which are foreground, and the share of foreground."""
    total = max(1, sum(values.values()))
    inside = [value for value in values if is_in(value, foreground)]
    share = sum(values[value] for value in inside) / total
    named = " and ".join(map(text_of_range, foreground)) or "nothing"
    idle = [ends for ends in foreground if values and not any(is_in(value, (ends,)) for value in values)]
    absent = f"; no mask has {' or '.join(map(text_of_range, idle))}" if idle else ""
    rest = f"{100 * share:.1f} % of the pixels; the rest is not{absent}"
    return f"the masks have {listed(values)}: {named} is foreground, {rest}"


# --------------------------------------------------------------------------------- what is there


def count_values(masks: list[Path], cache: Path) -> dict[int, int]:
    """Pixels of each value in all masks that can be read, in ascending order; kept in the folder `cache`.

    Raises UserError where there are too many values for masks.
    """
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in masks]
    key = hashlib.sha256(json.dumps([SCANNING, stats]).encode()).hexdigest()[:16]
    kept = cache / f"masks-{key}.json"
    if key not in scans:
        scans[key] = read_count(kept) or new_count(masks, kept)
    return scans[key]


def read_count(path: Path) -> dict[int, int] | None:
    try:
        return {int(value): int(pixels) for value, pixels in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def new_count(masks: list[Path], kept: Path) -> dict[int, int]:
    def count(path):
        try:
            values = read_values(path)
        except PictureError:  # named where its split is packed
            return {}
        if values.dtype == np.uint8:
            pixels = np.bincount(values.ravel(), minlength=256)
            return {value: int(pixels[value]) for value in np.flatnonzero(pixels).tolist()}
        return dict(zip(*(array.tolist() for array in np.unique(values, return_counts=True)), strict=True))

    total: Counter[int] = Counter()
    with ThreadPoolExecutor(available_cores()) as pool:
        counts = pool.map(count, masks)
        counts = tqdm(counts, "reading masks", len(masks), unit="mask", disable=not sys.stderr.isatty())
        for path, pixels in zip(masks, counts, strict=True):
            total.update(pixels)
            if len(total) > MOST_VALUES:
                pool.shutdown(cancel_futures=True)
                raise UserError(f"the masks in {path.parent} have more than {MOST_VALUES:,} values; are they pictures?")
    found = {value: total[value] for value in sorted(total)}
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, lambda file: file.write(json.dumps(found).encode()))
    except (OSError, UserError):  # counted again by the next process
        pass
    return found
