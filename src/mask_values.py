"""Values in your own masks: which are foreground, and which are ignored.

| mask | value of a pixel |
|---|---|
| gray, of any depth, or boolean | the number in the file (2- or 4-bit: scaled to 255) |
| palette | the index; as RGB if the palette is gray, or black is used at an index above 0 |
| RGB | the gray level if the channels are equal, else a number above COLOR |
| one uniform color plus alpha | the alpha value |
| JPEG, AVIF, lossy WebP | the gray level if all masks are like that, else the nearest true color or level |

By default all values but 0 are foreground (if all masks are gray, and lossy or soft at the edges, those above half the
maximum), and 255 is ignored if the other values are class indices.
"""

import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pairs import Pair
from photos.decode import ImageError, decode, image_errors
from utils import UserError

COLOR = 1 << 40  # a color is COLOR + 65536 red + 256 green + blue
LARGEST = COLOR << 1
MAX_VALUES = 2**16  # a folder with more distinct values has no masks
NEAR = 64  # RGB distance within which two colors of lossy masks count as one
RARE = 0.03  # a true color has at least this fraction of the pixels outside the background


@dataclass(frozen=True)
class MaskRule:
    """Rule for reading masks."""

    foreground: tuple[tuple[int, int], ...]  # ranges of values
    ignored: tuple[tuple[int, int], ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()  # for lossy masks

    def read(self, path: Path, page: int = 0) -> Image.Image:
        """Read a mask as a PIL image of mode L with the values of `labels`. Raises ImageError."""
        image = decode(path, page)
        with image_errors():  # such as broken palettes
            if not is_lossy(image, path):
                values = values_of(image)
            elif self.colors:
                values = nearest(np.asarray(image.convert("RGB")), self.colors)
            else:
                values = np.asarray(image.convert("L"))
        return Image.fromarray(self.labels(values))

    def labels(self, values: np.ndarray) -> np.ndarray:
        """Return 1 for foreground, 255 for ignored and 0 for other values, uint8 of the same shape."""
        labels = np.zeros(values.shape, dtype=np.uint8)
        for ranges, label in ((self.foreground, 1), (self.ignored, 255)):
            for low, high in ranges:
                labels[(values >= low) & (values <= high)] = label
        return labels


def is_lossy(mask: Image.Image, path: Path) -> bool:
    """Check whether a file's compression changes pixel values."""
    if mask.format == "WEBP":
        return b"VP8 " in path.read_bytes()  # the chunk of lossy pixels
    return mask.format in ("JPEG", "MPO", "AVIF") or mask.info.get("compression") == "jpeg"  # in TIFF


def values_of(mask: Image.Image) -> np.ndarray:
    """Return each pixel's value, an integer, by the module's table."""
    if mask.mode == "P":
        indices = np.asarray(mask)
        palette = np.zeros((256, 3), dtype=np.uint8)
        colors = mask.getpalette("RGB") or []
        palette.flat[: len(colors)] = colors
        codes = codes_of(palette)
        values = codes[indices]
        black_is_later = ((values == 0) & (indices > 0)).any()
        return values if black_is_later or codes.max() < COLOR else indices
    if mask.mode in ("LA", "RGBA"):
        *shades, opacity = map(np.asarray, mask.split())
        if opacity.min() < 255 and all(np.ptp(shade) == 0 for shade in shades):
            return opacity
    if mask.mode in ("1", "L", "LA", "F") or mask.mode.startswith("I"):
        values = np.asarray(mask.getchannel(0) if mask.mode == "LA" else mask)
        if not (values == np.rint(values)).all():
            raise ValueError("its values are not whole numbers")
        return values.astype(np.int64)
    return codes_of(np.asarray(mask.convert("RGB")))


def codes_of(colors: np.ndarray) -> np.ndarray:
    """Convert uint8 (..., 3) to values (...): the gray level, or a number above COLOR."""
    red, green, blue = np.moveaxis(colors.astype(np.int64), -1, 0)
    is_gray = (red == green) & (green == blue)
    return np.where(is_gray, red, COLOR + (red << 16) + (green << 8) + blue)


def color_of(value: int) -> tuple[int, int, int]:
    """Convert a value to its (red, green, blue)."""
    if value < COLOR:
        return value, value, value
    return value >> 16 & 255, value >> 8 & 255, value & 255


def distance(colors: np.ndarray, color: tuple) -> np.ndarray:
    """Return the Euclidean distances of colors (..., 3) from one color."""
    return np.linalg.norm(colors.astype(np.float32) - np.array(color, dtype=np.float32), axis=-1)


def nearest(pixels: np.ndarray, colors: tuple) -> np.ndarray:
    """Return the value of the color nearest to each pixel of uint8 (..., 3)."""
    closest = np.argmin([distance(pixels, color) for color in colors], axis=0)
    return codes_of(np.array(colors))[closest]


def count_values(pair: Pair) -> list[dict[int, int]]:
    """Count pixels by value in one of three dicts: exact; lossy gray; lossy colors, rounded to 5 bits."""
    with suppress(ImageError), image_errors():  # reported when the split is loaded
        mask = decode(pair.label, pair.page)
        if not is_lossy(mask, pair.label):
            return [count(values_of(mask)), {}, {}]
        pixels = np.asarray(mask.convert("RGB"))
        if (np.ptp(pixels, axis=2) > NEAR).mean() <= 0.001:
            return [{}, count(np.asarray(mask.convert("L"))), {}]
        pixels = np.rint(np.rint(pixels * (31 / 255)) * (255 / 31))
        return [{}, {}, count(codes_of(pixels.astype(np.uint8)))]
    return [{}, {}, {}]


def count(values: np.ndarray) -> dict[int, int]:
    values, pixels = np.unique(values, return_counts=True)
    return dict(zip(values.tolist(), pixels.tolist(), strict=True))


def add_counts(counts) -> list[dict[int, int]]:
    """Sum the counts of all masks. Raises UserError for too many values."""
    totals: list[Counter] = [Counter(), Counter(), Counter()]
    for parts in counts:
        for total, part in zip(totals, parts, strict=True):
            total.update(part)
        if len(totals[0]) > MAX_VALUES:
            raise UserError(f"masks in --data_path have over {MAX_VALUES:,} values; check that they are not photos")
    return [dict(total) for total in totals]


def true_colors(counts: dict[int, int], given: list) -> tuple:
    """Return the colors that lossy masks were drawn in: frequent and far apart, or given by flags."""
    values = sorted(counts, key=counts.__getitem__, reverse=True)
    seen = np.array([color_of(value) for value in values])
    pixels = np.array([counts[value] for value in values])
    frequent = seen[pixels >= RARE * pixels[distance(seen, seen[0]) > NEAR].sum()]
    single = [color_of(low) for low, high in given if low == high]
    chosen: list[tuple] = []
    for color in [*map(tuple, frequent.tolist()), *single]:
        is_new = all(distance(np.array(color), other) > NEAR for other in chosen)
        if is_new and distance(seen, color).min() < NEAR:
            chosen.append(color)
    return tuple(chosen)


def levels_of_flags(counts: dict[int, int], given: list) -> tuple:
    """Return the levels (as colors) that lossy gray masks were drawn in, if the flags name such levels; else ()."""
    if not given or any(low != high for low, high in given):
        return ()
    levels = true_colors(counts, given)
    exact = all(distance(np.array(levels), color_of(low)).min() < NEAR / 4 for low, _ in given)
    return levels if exact and len(levels) > 1 else ()


def gray_levels(counts: dict[int, int], given: list) -> list[int]:
    """Return the levels that lossy gray masks were drawn in: 0, the maximum, and others given by flags."""
    levels = [0, max(counts)]
    for low, high in given:
        level = max((value for value in counts if low <= value <= high), key=counts.__getitem__, default=low)
        if abs(level - levels[1]) < NEAR / 2:
            levels[1] = level
        elif level in counts and level > NEAR / 2:
            levels.append(level)
    return levels


def choose_rule(foreground: tuple, ignore: tuple, counts: list[dict], example: Path) -> tuple[MaskRule, dict]:
    """Return the rule for reading a folder's masks, and each value's pixel count.

    foreground, ignore: the flags. counts: from `add_counts`. example: a mask. Raises UserError.
    """
    exact, gray, colored = counts
    given = [parse_range(text, "foreground") for text in foreground]
    ignored = [parse_range(text, "ignore") for text in ignore]
    values = Counter(exact) + Counter(gray)
    colors: tuple = ()
    if colored:
        colors = true_colors(colored, given + ignored)
    elif gray and not exact:
        colors = levels_of_flags(gray, given + ignored)
    given = [snap(ends, colors) for ends in given]
    ignored = [snap(ends, colors) for ends in ignored]
    if gray and exact and not colored:
        colors = tuple(map(color_of, gray_levels(gray, given + ignored)))
    if colors:
        values, lossy = Counter(exact), Counter(gray) + Counter(colored)
        seen = np.array([color_of(value) for value in lossy])
        for value, pixels in zip(nearest(seen, colors).tolist(), lossy.values(), strict=True):
            values[value] += pixels
    found = f"the masks, such as {example}, have {listed(values)}"
    if given and any(values) and not any(is_in(value, given) for value in values):
        raise UserError(f"--foreground {' '.join(foreground)}: {found}; choose from these values")
    if not (ignore or gray or is_in(255, given)) and is_void(values):
        ignored = [(255, 255)]
    if not given:
        others = sorted(value for value in values if value > 0 and not is_in(value, ignored))
        if len(others) < 2:
            given = [(value, value) for value in others]
        elif 0 in values:
            halved = (gray and not colors) or is_soft(values)
            given = [(others[-1] // 2 + 1 if halved else 1, LARGEST)]
        else:
            raise UserError(f"{found}, but no 0 for background; pass the foreground's values with --foreground")
    return MaskRule(tuple(given), tuple(ignored), colors), dict(values)


def is_void(values: dict[int, int]) -> bool:
    """Check whether 255 means void: the others look like class indices (below 100; if many, below 200)."""
    between = [value for value in values if 0 < value < 255]
    limit = 200 if len(between) > 8 else 100
    return max(values, default=0) == 255 and 0 < max(between, default=0) < limit


def is_soft(values: dict[int, int]) -> bool:
    """Check whether masks of 0 and 255 have soft edges, e.g. from resizing: many other values, each of them rare."""
    between = {value: pixels for value, pixels in values.items() if 0 < value < 255}
    many = len(between) > 8 and max(between) >= 200
    return max(values) == 255 and many and values[255] > 4 * max(between.values())


def parse_range(text: str, flag: str) -> tuple[int, int]:
    """Return the lowest and highest value of "3", "128-255" or "255,0,0". Raises UserError."""
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    if re.fullmatch(r"\d{1,10}(-\d{1,10})?", text) and numbers[0] <= numbers[-1]:
        return numbers[0], numbers[-1]
    if re.fullmatch(r"\d{1,3}(,\d{1,3}){2}", text) and max(numbers) < 256:
        value = int(codes_of(np.array(numbers)))
        return value, value
    raise UserError(f"--{flag} {text} is not a number (3), a range (128-255) or a color (255,0,0)")


def snap(ends: tuple[int, int], colors: tuple) -> tuple[int, int]:
    """Replace a single value from a flag with the nearest true color's, if close."""
    if not colors or ends[0] != ends[1]:
        return ends
    far = distance(np.array(colors), color_of(ends[0]))
    if far.min() > 1.5 * NEAR:
        return ends
    value = int(codes_of(np.array(colors[far.argmin()])))
    return value, value


def is_in(value: int, ranges) -> bool:
    return any(low <= value <= high for low, high in ranges)


def text_of(value: int) -> str:
    """Format a value as --foreground expects it."""
    return str(value) if value < COLOR else ",".join(map(str, color_of(value)))


def listed(values: dict[int, int]) -> str:
    """List the values, or count them if there are many."""
    *texts, last = [text_of(value) for value in sorted(values)] or ["none"]
    if len(texts) >= 8:
        return f"{len(values):,} values from {texts[0]} to {last}"
    return f"the values {', '.join(texts)} and {last}" if texts else f"the value {last}"


def describe_values(rule: MaskRule, values: dict[int, int]) -> str:
    """Return a line on the values, their meaning and percentage of pixels."""
    parts = [f"the masks have {listed(values)}"]
    labels = rule.labels(np.array(list(values)))
    pixels = np.array(list(values.values()))
    for meaning, ranges, label in (("foreground", rule.foreground, 1), ("ignored", rule.ignored, 255)):
        texts = []
        for low, high in ranges:
            texts.append(text_of(low) if low == high else f"{text_of(low)} to {text_of(high)}")
        if ranges and ranges[0][1] == LARGEST:
            texts = [f"all values >= {ranges[0][0]}"]
        if texts and values:
            percent = 100 * pixels[labels == label].sum() / pixels.sum()
            parts.append(f"{meaning}: {' and '.join(texts)} ({percent:.3g}% of the pixels)")
    parts.append("the rest is background")
    if rule.ignored == ((255, 255),):
        kept = [text_of(low) if low == high else f"{low}-{min(high, 254)}" for low, high in rule.foreground]
        parts.append(f"pass --foreground {' '.join(kept)} 255 to count 255 as foreground")
    return "; ".join(parts)
