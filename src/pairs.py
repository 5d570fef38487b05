"""Pairs of an image and its label: read from files, and matched by file name in your own folder.

    DIR/images/a.jpg          DIR/masks/a.png         # or imgs/, image/; mask/, label/, labels/, annotations/
    DIR/images/s/b.tif        DIR/masks/s/b_mask.png  # subfolders are kept
    DIR/images/train/c.jpg    DIR/masks/train/c.png   # train, val2017, test (SPLIT_FOLDERS) are splits
    DIR/train/images/c.jpg    DIR/train/masks/c.png   # the same splits, nested the other way around

A mask has its image's name, with or without the image's extension (a.jpg.png), or with an affix
(a_gt.png, Mask-a.png). --mask_pattern describes other names; a single pair may have any names. An
image and a mask with the same number of pages (TIFF stacks, animations) become the pairs a#0, a#1,
...; otherwise only the first page is used. EXIF orientation is applied if more masks fit with it than without.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

from PIL import ExifTags

from photos.colors import to_rgb, transposed
from photos.decode import ImageError, decode, open_image, page_count, suffixes
from splits import first_few
from utils import UserError, quoted

IMAGES = ("images", "imgs", "image")
MASKS = ("masks", "mask", "labels", "label", "annotations")
SPLIT_FOLDERS = {
    "train": "train", "training": "train",
    "val": "valid", "valid": "valid", "validation": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
AFFIXES = "masks?|labels?|seg|segmentation|gt|groundtruth"
ENDING = re.compile(rf"[_-]({AFFIXES}|l)$", re.IGNORECASE)
BEGINNING = re.compile(rf"^({AFFIXES})[_-]", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """An image file and its label file."""

    name: str
    image: Path
    label: Path
    page: int = 0  # in both files, if they have several


def read_pair(pair: Pair, read_label: Callable, root: Path, intensity_range=None, upright: bool = False):
    """Read an image (RGB) and its label, PIL images of the same size. Raises ImageError.

    read_label(path, page): returns a PIL image of mode L. root: for paths in messages. intensity_range: as in
    `to_srgb`. upright: prefer the image with its EXIF orientation applied. If only the other version has the label's
    size, that one is used.
    """
    path = pair.image
    try:
        stored = decode(path, pair.page)
        image = to_rgb(transposed(stored) if upright else stored, intensity_range)
        path = pair.label
        label = read_label(path, pair.page)
        if label.size != image.size:
            image = to_rgb(stored if upright else transposed(stored), intensity_range)
        if label.size != image.size:
            raise ImageError(f"is {label.width}x{label.height}, but its image is {image.width}x{image.height}")
    except ImageError as error:
        raise ImageError(f"{relative([path], root)} {error}") from None
    return image, label


def orientation_of(pair: Pair) -> list[str]:
    """Return which version of an EXIF-rotated image its label fits: ["upright"], ["stored"] or ["unknown"]; else []."""
    with suppress(ImageError), open_image(pair.image) as image, open_image(pair.label) as label:
        if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
            return []  # Pillow rotates TIFFs itself; here, getexif would decode the whole PNG
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation in (5, 6, 7, 8) and image.width != image.height:
            return ["stored" if label.size == image.size else "upright"]
        return ["unknown"] if orientation in range(2, 9) else []
    return []


def split_of(folder: str) -> str | None:
    """Return the split that a folder's name stands for (val2017: valid), if any."""
    return SPLIT_FOLDERS.get(folder.lower().rstrip("0123456789"))


def split_folders(path: Path) -> list[Path]:
    """Return the folders in `path` that are named after a split (see `split_of`)."""
    return sorted(entry for entry in path.glob("*") if split_of(entry.name) and entry.is_dir())


def folders_called(path: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the folders in `path` with one of these names, ignoring case."""
    return sorted(entry for entry in path.glob("*") if entry.name.lower() in names and entry.is_dir())


def has_both(path: Path) -> bool:
    """Check whether a folder contains images/ and masks/."""
    return bool(folders_called(path, IMAGES) and folders_called(path, MASKS))


def parts_of(path: Path) -> list[Path]:
    """Return the folders with images/ and masks/: the split folders in `path`, if any, else `path`."""
    splits = [] if folders_called(path, IMAGES) else split_folders(path)
    return [part for part in splits if has_both(part)] or [path]


def only_folder(path: Path, names: tuple[str, ...]) -> Path:
    """Return the only folder in `path` with one of these names. Raises UserError."""
    found = folders_called(path, names)
    if len(found) > 1:  # labels/ next to masks/ may contain only boxes
        found = [folder for folder in found if files_below(folder)[0]] or found
    if len(found) != 1:
        has = " and ".join(f"{folder.name}/" for folder in found) or f"no {names[0]}/"
        raise UserError(f"--data_path {path} has {has}; it needs exactly one of {', '.join(names)}")
    return found[0]


def files_below(folder: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """Return the image files by relative path without extension, and the other files and links to folders."""
    images: dict[str, list[Path]] = defaultdict(list)
    others = []
    for path, folders, files in os.walk(folder):
        # Links are not followed, since an image could then be in two splits.
        others += [Path(path, name) for name in folders if Path(path, name).is_symlink()]
        for file in sorted(Path(path, name) for name in files if not name.startswith(".")):
            if file.suffix.lower() in suffixes() and file.is_file():
                images[file.relative_to(folder).with_suffix("").as_posix()].append(file)
            else:
                others.append(file)
    return dict(sorted(images.items())), others


def find_pairs(root: Path, pattern: str | None = None) -> tuple[dict[str, Pair], list[str]]:
    """Return the pairs in a folder by name, sorted by path, and notes on ignored files. Raises UserError."""
    pairs: dict[str, Pair] = {}
    faults: list[str] = []
    ignored: dict[str, list[Path]] = defaultdict(list)  # by reason
    endings: Counter = Counter()  # suffixes of files that are not images
    parts = parts_of(root)
    ignored["unused split folder"] = [part for part in split_folders(root) if part not in parts]
    for part in parts:
        images, other_images = files_below(only_folder(part, IMAGES))
        labels, other_labels = files_below(only_folder(part, MASKS))
        for path in other_images + other_labels:
            if path.is_dir():
                ignored["link to a folder"].append(path)
            else:
                ending = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
                endings[ending or "without extension"] += 1
        masks = masks_of_images(images, labels, pattern)
        users: dict[Path, list[Path]] = defaultdict(list)  # the images of each mask
        for name, files in images.items():
            own = masks.get(name, [])
            for path in own:
                users[path].append(files[0])
            if len(files) > 1:
                faults.append(f"{relative(files, root, ' and ')} differ only in their extension")
            elif len(own) > 1:
                faults.append(f"{relative(files, root)} has the masks {relative(own, root, ' and ')}")
            elif not own:
                ignored["no mask"] += files
            else:
                found = pair_pages(name if part == root else f"{part.name}/{name}", files[0], own[0])
                pairs |= {pair.name: pair for pair in found}
                if pages_of(files[0]) != pages_of(own[0]):
                    ignored["pages after the first, since page counts differ"] += files + own
        for path, files in users.items():
            if len(files) > 1:
                faults.append(f"{relative([path], root)} is the mask of {relative(files, root, ' and ')}")
        ignored["no image"] += [path for files in labels.values() for path in files if path not in users]
    if faults:
        raise UserError(f"{root}: {first_few(faults, '; ')}; keep only one")
    notes = [f"ignored ({reason}): {relative(paths, root)}" for reason, paths in ignored.items() if paths]
    if endings:
        counts = ", ".join(f"{count:,} {ending}" for ending, count in sorted(endings.items()))
        advice = "convert volumes and arrays to PNG or TIFF, and boxes to masks"
        notes.append(f"ignored (not images): {counts}; {advice}")
    if not pairs:
        if ignored["no mask"] and ignored["no image"]:
            notes.append(hint(ignored["no mask"], ignored["no image"]))
        raise UserError("; ".join([f"{root}: no image has a mask", *notes]))
    return pairs, notes


def masks_of_images(images: dict, labels: dict, pattern: str | None) -> dict[str, list[Path]]:
    """Return masks by the name of their image. images, labels: from `files_below`. Raises UserError."""
    if len(images) == len(labels) == 1 and pattern is None:  # e.g. the two stacks of the ISBI challenge
        return dict(zip(images, labels.values(), strict=True))
    found: dict[str, list[Path]] = defaultdict(list)
    if pattern is not None:
        if fill_in(pattern, "") == pattern:
            advice = "use {name}, {id} or {number}, e.g. '{name}_gt.png'"
            raise UserError(f"--mask_pattern {pattern} has no placeholder; {advice}")
        for name in images:
            parent, slash, stem = name.rpartition("/")
            file = fill_in(pattern, stem)
            found[name] += labels.get(parent + slash + file, [])  # for a pattern without extension
            same_stem = labels.get(parent + slash + file.rpartition(".")[0], [])
            found[name] += [path for path in same_stem if path.name == file]
        return found
    for name, files in labels.items():
        parent, slash, stem = name.rpartition("/")
        stems = {stem}
        if name not in images:  # else it is the mask of the image with this name
            stems |= {ENDING.sub("", stem), BEGINNING.sub("", stem)}
            if Path(stem).suffix.lower() in suffixes():
                stems.add(Path(stem).stem)
        for each in stems:
            found[parent + slash + each] += files
    return found


def fill_in(pattern: str, stem: str) -> str:
    """Fill an image's stem into a pattern: {id} ends at the first _, {number} is the last number."""
    number = (re.findall(r"\d+", stem) or [""])[-1]
    return pattern.replace("{name}", stem).replace("{id}", stem.split("_")[0]).replace("{number}", number)


def hint(images: list[Path], masks: list[Path]) -> str:
    """Return a --mask_pattern that pairs nearly all of these images, or other advice."""
    patterns: dict[str, str] = {}  # and the same with all numbers 0
    for image in images[:100]:
        texts = [(key, fill_in(key, image.stem)) for key in ("{name}", "{id}", "{number}")]
        for mask, (key, text) in product(masks[:1000], texts):
            if text and text in mask.name:
                pattern = mask.name.replace(text, key)
                patterns[pattern] = re.sub(r"\d+", "0", pattern)
    names, alike = {mask.name for mask in masks}, Counter(patterns.values())
    for pattern, kind in patterns.items():
        several = alike[kind] > 1  # masks of one image, such as a_1.png and a_2.png
        if not several and len(names & {fill_in(pattern, image.stem) for image in images}) >= 0.9 * len(images):
            return f"try --mask_pattern {quoted(pattern)}"
    return "rename the masks to match their images, or use --mask_pattern"


def pair_pages(name: str, image: Path, label: Path) -> list[Pair]:
    """Return a pair for each page if the page counts are equal, else one pair of the first pages."""
    pages = pages_of(image)
    if pages == pages_of(label) > 1:
        return [Pair(f"{name}#{page}", image, label, page) for page in range(pages)]
    return [Pair(name, image, label)]


@cache
def pages_of(path: Path) -> int:
    """Return the number of pages or frames of a file; 1 if it cannot be read."""
    with suppress(ImageError), open_image(path) as image:
        return page_count(image)
    return 1


def relative(paths: list[Path], root: Path, separator: str = ", ") -> str:
    """List paths relative to a folder."""
    return first_few([path.relative_to(root).as_posix() for path in paths], separator)
