"""Values in your own masks: which are foreground, and which are ignored.

| mask | value of a pixel |
|---|---|
| gray, of any depth, or boolean | the number in the file |
| palette | the index; treated as RGB if the palette is gray or black is not at index 0 |
| RGB | the gray level if the channels are equal, else a number above COLOR |
| one uniform color plus alpha | the alpha value |
| JPEG, AVIF, lossy WebP or JPEG 2000 | the gray level; if the masks are colored, the nearest of their few true colors |

0, or black, is background. By default all higher values are foreground (in lossy gray masks: values above half the
maximum). 255 is ignored if the masks also contain class indices.
"""

import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pairs import Pair, decode_page
from photos.decode import ImageError, image_errors
from utils import UserError

COLOR = 1 << 40  # + 65536 red + 256 green + blue
MOST = COLOR << 1
MOST_VALUES = 2**16  # more than this in one folder are not masks
NEAR = 64  # RGB distance within which two colors of lossy masks are one
RARE = 0.03  # a true color of lossy masks has at least this fraction of the pixels that are not background


@dataclass(frozen=True)
class MaskRule:
    """Rule for reading masks. foreground, ignored: ranges of values. colors: RGB colors of colored lossy masks."""

    foreground: tuple[tuple[int, int], ...]
    ignored: tuple[tuple[int, int], ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()

    def read(self, path: Path, page: int = 0) -> Image.Image:
        """Read a mask as a PIL image of mode L: 0, 1 for foreground, 255 for ignored pixels. Raises ImageError."""
        image = decode_page(path, page)
        with image_errors():  # broken palettes raise whatever their parser does
            if not is_lossy(image, path):
                values = values_of(image)
            elif self.colors:
                values = nearest(np.asarray(image.convert("RGB")), self.colors)
            else:
                values = np.asarray(image.convert("L"))
        mask = np.zeros(values.shape, dtype=np.uint8)
        for ranges, label in ((self.foreground, 1), (self.ignored, 255)):
            for low, high in ranges:
                mask[(values >= low) & (values <= high)] = label
        return Image.fromarray(mask)


def is_lossy(mask: Image.Image, path: Path) -> bool:
    """Check whether a file's compression changes pixel values. A WebP file is lossy if it has a chunk "VP8 "."""
    if mask.format == "JPEG2000":  # lossy if its marker COD has the wavelet 0
        return (data := path.read_bytes())[data.index(b"\xff\x52") + 13] == 0
    lossy = mask.format in ("JPEG", "MPO", "AVIF") or mask.info.get("compression") == "jpeg"  # the latter in TIFF
    return lossy or (mask.format == "WEBP" and b"VP8 " in path.read_bytes())


def values_of(mask: Image.Image) -> np.ndarray:
    """Return the value of each pixel, an integer, according to the table above."""
    if mask.mode == "P":
        indices, palette = np.asarray(mask), np.zeros((256, 3), dtype=np.uint8)
        colors = np.array(mask.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        palette[: len(colors)] = colors
        codes = codes_of(palette)
        black_is_later = any(index > 0 and codes[index] == 0 for index in np.unique(indices))
        return codes[indices] if black_is_later or codes.max() < COLOR else indices
    if mask.mode in ("LA", "RGBA"):
        *shades, opacity = (np.asarray(mask.getchannel(band)) for band in mask.getbands())
        if not any(np.ptp(values) for values in shades) and opacity.min() < 255:
            return opacity
    if mask.mode in ("1", "L", "LA", "F") or mask.mode.startswith("I"):
        values = np.asarray(mask.getchannel(0) if mask.mode == "LA" else mask)
        if not (values == np.rint(values)).all():
            raise ValueError("its values are not whole numbers")
        return values.astype(np.int64)
    return codes_of(np.asarray(mask.convert("RGB")))


def codes_of(colors: np.ndarray) -> np.ndarray:
    """Convert uint8 (..., 3) to values (...): the gray level, or for other colors a number above COLOR."""
    red, green, blue = np.moveaxis(colors.astype(np.int64), -1, 0)
    return np.where((red == green) & (green == blue), red, COLOR + (red << 16) + (green << 8) + blue)


def color_of(value: int) -> tuple[int, int, int]:
    """Convert a value to its (red, green, blue)."""
    return (value >> 16 & 255, value >> 8 & 255, value & 255) if value >= COLOR else (value, value, value)


def distance(colors: np.ndarray, color: tuple) -> np.ndarray:
    """Return the Euclidean distances of colors (..., 3) from one color."""
    return np.sqrt(((colors.astype(np.float32) - np.array(color, dtype=np.float32)) ** 2).sum(-1))


def nearest(pixels: np.ndarray, colors: tuple) -> np.ndarray:
    """Return the value of the nearest of some colors for each pixel of uint8 (H, W, 3)."""
    closest = np.argmin([distance(pixels, color) for color in colors], axis=0)
    return codes_of(np.array(colors))[closest]


def count_values(pair: Pair) -> list[dict[int, int]]:
    """Count pixels by value in three dicts, two of them empty: exact; gray levels, or 5-bit colors, of a lossy mask."""
    with suppress(ImageError), image_errors():  # unreadable files are reported when the split is loaded
        mask = decode_page(pair.label, pair.page)
        if not is_lossy(mask, pair.label):
            return [count(values_of(mask)), {}, {}]
        pixels = np.asarray(mask.convert("RGB"))
        if (np.ptp(pixels, axis=2) > NEAR).mean() <= 0.001:
            return [{}, count(np.asarray(mask.convert("L"))), {}]
        return [{}, {}, count(codes_of(np.rint(np.rint(pixels * (31 / 255)) * (255 / 31)).astype(np.uint8)))]
    return [{}, {}, {}]


def count(values: np.ndarray) -> dict[int, int]:
    return dict(zip(*(array.tolist() for array in np.unique(values, return_counts=True)), strict=True))


def add_counts(counts) -> list[dict[int, int]]:
    """Sum the counts of all masks. Raises UserError if there are too many values for masks."""
    totals: list[Counter] = [Counter(), Counter(), Counter()]
    for parts in counts:
        for total, part in zip(totals, parts, strict=True):
            total.update(part)
        if len(totals[0]) > MOST_VALUES:
            raise UserError(f"the masks in --data_path have over {MOST_VALUES:,} values; are they photos?")
    return [dict(total) for total in totals]


def true_colors(counts: dict[int, int], given: list[tuple[int, int]]) -> tuple[tuple[int, int, int], ...]:
    """Return the few colors that lossy masks were drawn in: frequent and far apart, plus the colors given by flags."""
    values = sorted(counts, key=counts.__getitem__, reverse=True)
    seen = np.array([color_of(value) for value in values])
    pixels = np.array([counts[value] for value in values])
    frequent = seen[pixels >= RARE * pixels[distance(seen, seen[0]) > NEAR].sum()]
    chosen: list[tuple] = []
    for color in [*map(tuple, frequent.tolist()), *(color_of(low) for low, high in given if low == high)]:
        if not any(distance(np.array(color), other) <= NEAR for other in chosen) and distance(seen, color).min() < NEAR:
            chosen.append(color)
    return tuple(chosen)


def choose_rule(foreground: tuple, ignore: tuple, counts: list[dict], example: Path) -> tuple[MaskRule, dict]:
    """Return the rule for reading a folder's masks, and the pixel count of each value.

    foreground, ignore: as given by the flags. counts: from `add_counts`. example: a mask. Raises UserError.
    """
    exact, gray, colored = counts
    given = [parse_range(text, "foreground") for text in foreground]
    ignored = [parse_range(text, "ignore") for text in ignore]
    values = Counter(exact) + Counter(gray)
    colors: tuple = ()
    if colored:
        colors = true_colors(colored, given + ignored)
        given, ignored = ([snap(ends, colors) for ends in ranges] for ranges in (given, ignored))
        codes = nearest(np.array([color_of(value) for value in colored]), colors).tolist()
        for code, pixels in zip(codes, colored.values(), strict=True):
            values[code] += pixels
    found = f"the masks, such as {example}, have {listed(values)}"
    if given and any(values) and not any(is_in(value, given) for value in values):
        raise UserError(f"--foreground {' '.join(foreground)}: {found}; choose from these values")
    if not (ignore or gray or is_in(255, given)) and is_void(values):
        ignored = [(255, 255)]
    if not given:
        others = sorted(value for value in values if value > 0 and not is_in(value, ignored))
        if len(others) > 1 and 0 not in values:
            advice = f"specify the foreground, e.g. --foreground {text_of(others[0])}"
            raise UserError(f"{found}, but no 0 for background; {advice}")
        given = [(others[-1] // 2 + 1 if gray else 1, MOST)] if len(others) > 1 else [(v, v) for v in others]
    return MaskRule(tuple(given), tuple(ignored), colors), dict(values)


def is_void(values: dict[int, int]) -> bool:
    """Check whether 255 means void: other values look like class indices (below 100, or more than eight below 200)."""
    between = [value for value in values if 0 < value < 255]
    return max(values, default=0) == 255 and 0 < max(between, default=0) < (200 if len(between) > 8 else 100)


def parse_range(text: str, flag: str) -> tuple[int, int]:
    """Return the lowest and the highest value of "3", "128-255" or "255,0,0". Raises UserError."""
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    if re.fullmatch(r"\d{1,10}(-\d{1,10})?", text) and numbers[0] <= numbers[-1]:
        return numbers[0], numbers[-1]
    if re.fullmatch(r"\d{1,3}(,\d{1,3}){2}", text) and max(numbers) < 256:
        value = int(codes_of(np.array(numbers)))
        return value, value
    raise UserError(f"--{flag} {text} is not a number (3), a range (128-255) or a color (255,0,0)")


def snap(ends: tuple[int, int], colors: tuple) -> tuple[int, int]:
    """Return the value of the nearest true color, if a flag gives a single value close to one."""
    far = distance(np.array(colors), color_of(ends[0]))
    if ends[0] != ends[1] or far.min() > 1.5 * NEAR:
        return ends
    value = int(codes_of(np.array(colors[far.argmin()])))
    return value, value


def is_in(value: int, ranges) -> bool:
    return any(low <= value <= high for low, high in ranges)


def text_of(value: int) -> str:
    """Write a value as --foreground takes it."""
    return str(value) if value < COLOR else ",".join(map(str, color_of(value)))


def listed(values: dict[int, int]) -> str:
    """Format the values as a list, or as a count if there are many."""
    *first, last = [text_of(value) for value in sorted(values)] or ["none"]
    if len(first) >= 8:
        return f"{len(values):,} values from {first[0]} to {last}"
    return f"the values {', '.join(first)} and {last}" if first else f"the value {last}"


def describe_values(rule: MaskRule, values: dict[int, int]) -> list[str]:
    """Return lines that list the mask values, their meaning and their percentage of the pixels."""

    def describe(ranges, meaning, without=()):
        inside = sum(values[value] for value in values if is_in(value, ranges) and not is_in(value, without))
        texts = [text_of(low) + ("" if low == high else f" to {text_of(high)}") for low, high in ranges]
        if ranges and ranges[0][1] == MOST:
            texts = [f"all values >= {ranges[0][0]}"]
        return f"{meaning}: {' and '.join(texts)} ({100 * inside / sum(values.values()):.1f}% of the pixels)"

    lines = [f"the masks have {listed(values)}"]
    if rule.foreground and values:
        lines[0] += f"; {describe(rule.foreground, 'foreground', rule.ignored)}; the rest is background"
    if rule.ignored and values:
        hint = "; --foreground 1-255 makes it foreground" if rule.ignored == ((255, 255),) else ""
        lines.append(f"{describe(rule.ignored, 'ignored')}{hint}")
    return lines
