"""Pairs of an image and its label: read from files, and matched by file name in your own folder.

    DIR/images/a.jpg          DIR/masks/a.png         # or imgs/, image/; mask/, label/, labels/, annotations/
    DIR/images/s/b.tif        DIR/masks/s/b_mask.png  # subfolders are kept
    DIR/images/train/c.jpg    DIR/masks/train/c.png   # train, val2017, test (SPLIT_FOLDERS) are splits
    DIR/train/images/c.jpg    DIR/train/masks/c.png   # the same the other way round

A mask has the name of its image, without or with the image's extension (a.jpg.png), or with one of AFFIXES after or
before it (a_gt.png, Mask-a.png); --mask_pattern describes any other names. Files whose image and mask have equally
many pages (TIFF stacks, animations) are pairs a#0, a#1, ...; of others the first page is used.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageOps

from photos.decode import ImageError, open_image, page_count, to_rgb
from splits import first_few
from utils import UserError

IMAGES = ("images", "imgs", "image")
MASKS = ("masks", "mask", "labels", "label", "annotations")
SPLIT_FOLDERS = {
    "train": "train", "training": "train", "val": "valid", "valid": "valid", "validation": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
AFFIXES = "masks?|labels?|seg|segmentation|gt|groundtruth"
ENDING = re.compile(rf"[_-]({AFFIXES}|l)$", re.IGNORECASE)
KEY = re.compile(r"\{(name|id|number)\}")  # in --mask_pattern
BEGINNING = re.compile(rf"^({AFFIXES})[_-]", re.IGNORECASE)
NO_MASK, NO_IMAGE = "no mask", "no image"
OTHER_PAGES = "all pages but the first, since image and mask have different page counts"


@dataclass(frozen=True)
class Pair:
    """An image file and its label file; `page`: the page of both, if they have several."""

    name: str
    image: Path
    label: Path
    page: int = 0


def read_pair(pair: Pair, read_label: Callable, root: Path, intensity_range=None) -> tuple[Image.Image, Image.Image]:
    """Read an image (RGB) and its label, of one size. Raises ImageError.

    A label is for the pixels as stored, without EXIF orientation, unless only the transposed image has its size.
    read_label: (path, page) to a PIL image of mode L. root: folder to which paths in messages are relative.
    intensity_range: for deep images; default: the range of their type.
    """
    path = pair.image
    try:
        stored = decode_page(path, pair.page)
        image = to_rgb(stored, intensity_range)
        path = pair.label
        label = read_label(path, pair.page)
        if label.size != image.size:
            with suppress(Exception):  # broken EXIF raises whatever its parser does
                image = to_rgb(ImageOps.exif_transpose(stored), intensity_range)
        if label.size != image.size:
            raise ImageError(f"is {label.width}x{label.height}, its image {image.width}x{image.height}")
    except ImageError as error:
        raise ImageError(f"{relative([path], root)} {error}") from None
    return image, label


def decode_page(path: Path, page: int) -> Image.Image:
    """Decode one page of a file. Raises ImageError."""
    with open_image(path) as image:
        if page:
            image.seek(page)
        image.load()
        return image


def folders_called(path: Path, names) -> list[Path]:
    """Return the folders in `path` with one of these names, in any case."""
    found = path.iterdir() if path.is_dir() else ()
    return sorted(entry for entry in found if entry.name.lower() in names and entry.is_dir())


def parts_of(path: Path) -> list[Path]:
    """Return the folders that contain images/ and masks/: the split folders in `path`, if they do, or `path`."""
    splits = [] if folders_called(path, IMAGES) else folders_called(path, SPLIT_FOLDERS)
    return [part for part in splits if all(folders_called(part, names) for names in (IMAGES, MASKS))] or [path]


def the_folder(path: Path, names: tuple[str, ...]) -> Path:
    """Return the only folder in `path` with one of these names. Raises UserError."""
    found = folders_called(path, names)
    if len(found) > 1:  # labels/ may contain boxes next to masks/
        found = [folder for folder in found if files_below(folder)[0]] or found
    if len(found) != 1:
        fault = f"has {' and '.join(f'{entry.name}/' for entry in found)}" if found else f"has no {names[0]}/"
        raise UserError(f"--data_path {path} {fault}; it must contain one of {', '.join(f'{name}/' for name in names)}")
    return found[0]


def files_below(folder: Path) -> tuple[dict[str, list[Path]], Counter, list[Path]]:
    """Return image files by name (the relative path without extension), counts of the others by extension, and links.

    Links to folders are not followed, since an image could then be in two splits.
    """
    images: dict[str, list[Path]] = defaultdict(list)
    others: Counter = Counter()
    links = []
    for path, folders, files in os.walk(folder):
        links += [Path(path, name) for name in folders if Path(path, name).is_symlink()]
        for file in (Path(path, name) for name in files if not name.startswith(".")):
            if file.suffix.lower() in Image.registered_extensions() and file.is_file():
                images[file.relative_to(folder).with_suffix("").as_posix()].append(file)
            else:
                others["".join(file.suffixes[-2 if file.suffix == ".gz" else -1 :])] += 1
    return {name: sorted(images[name]) for name in sorted(images)}, others, links


def find_pairs(root: Path, pattern: str | None = None) -> tuple[dict[str, Pair], list[str]]:
    """Return the pairs in a folder by name, in order, and notes on ignored files. Raises UserError."""
    if pattern and not KEY.search(pattern):
        raise UserError(f"--mask_pattern {pattern} has no {{name}}, {{id}} or {{number}}; use e.g. '{{name}}_gt.png'")
    pairs: dict[str, Pair] = {}
    others: Counter = Counter()
    faults: list[str] = []
    left_out: dict[str, list[Path]] = defaultdict(list)
    parts = parts_of(root)
    left_out["no images/ or masks/"] = [part for part in folders_called(root, SPLIT_FOLDERS) if part not in parts]
    for part in parts:
        prefix = "" if part == root else f"{part.name}/"
        found, other_images, image_links = files_below(the_folder(part, IMAGES))
        labels, other_masks, mask_links = files_below(the_folder(part, MASKS))
        others += other_images + other_masks
        left_out["links to folders"] += image_links + mask_links
        by_image = masks_of_images(found, labels, pattern)
        users: dict[Path, list[Path]] = defaultdict(list)
        for name, files in found.items():
            own = by_image.get(name, [])
            for path in own:
                users[path] += files[:1]
            if len(files) > 1:
                faults.append(f"{relative(files, root, ' and ')} have the same name")
            elif len(own) > 1:
                faults.append(f"{relative(files, root)} has the masks {relative(own, root, ' and ')}")
            elif own:
                pages = pair_pages(f"{prefix}{name}", files[0], own[0])
                pairs |= {pair.name: pair for pair in pages}
                left_out[OTHER_PAGES] += files + own if pages_of(files[0]) != pages_of(own[0]) else []
            else:
                left_out[NO_MASK] += files
        for path, files in users.items():
            if len(files) > 1:
                faults.append(f"{relative([path], root)} is the mask of {relative(files, root, ' and ')}")
        left_out[NO_IMAGE] += [path for files in labels.values() for path in files if path not in users]
    if faults:
        raise UserError(f"{root}: {first_few(faults, '; ')}; keep one of each")
    notes = [f"ignored ({why}): {relative(paths, root)}" for why, paths in left_out.items() if paths]
    if others:
        counted = ", ".join(f"{count:,} {ending or 'without extension'}" for ending, count in sorted(others.items()))
        notes.append(f"ignored (not images): {counted}; convert volumes and arrays to PNG or TIFF, boxes to masks")
    if not pairs:
        both = left_out[NO_MASK] and left_out[NO_IMAGE]
        advice = [hint(left_out[NO_MASK], left_out[NO_IMAGE])] if both else []
        raise UserError("; ".join([f"{root}: no image has a mask", *notes, *advice]))
    return pairs, notes


def masks_of_images(images: dict, labels: dict, pattern: str | None) -> dict[str, list[Path]]:
    """Return the masks that belong to the name of each image. images, labels: of `files_below`."""
    found: dict[str, list[Path]] = defaultdict(list)
    for name in images if pattern else ():
        parent, slash, stem = name.rpartition("/")
        wanted = f"{parent}{slash}{fill_in(pattern or '', stem)}"
        found[name] += labels.get(wanted, [])  # a pattern without extension
        found[name] += [path for path in labels.get(wanted.rpartition(".")[0], []) if path.name == Path(wanted).name]
    for name, files in labels.items() if not pattern else ():
        parent, slash, stem = name.rpartition("/")
        stems = {stem}
        if name not in images:  # otherwise it is the mask of the image with exactly this name
            stems |= {ENDING.sub("", stem), BEGINNING.sub("", stem)}
            stems |= {Path(stem).stem} if Path(stem).suffix.lower() in Image.registered_extensions() else set()
        for each in stems:
            found[f"{parent}{slash}{each}"] += files
    return found


def keys_of(stem: str) -> dict[str, str]:
    """Return the values of a pattern's keys: the image's name, its part before the first _, and its last number."""
    return {"name": stem, "id": stem.split("_")[0], "number": (re.findall(r"\d+", stem) or [""])[-1]}


def fill_in(pattern: str, stem: str) -> str:
    """Return the name of an image's mask."""
    return KEY.sub(lambda key: keys_of(stem)[key[1]], pattern)


def hint(images: list[Path], masks: list[Path]) -> str:
    """Return the --mask_pattern that pairs most of these images and masks, or advice if there is none."""
    places = [tuple(part for part in path.parts[:-1] if part.lower() not in IMAGES + MASKS) for path in images + masks]
    stems = [(place, image.stem) for place, image in zip(places, images[:100], strict=False)]
    names = {(place, mask.name) for place, mask in zip(places[len(images) :], masks, strict=True)}
    patterns: Counter = Counter()
    for _, stem in stems:
        for key, text in keys_of(stem).items():
            patterns.update(m.name.replace(text, f"{{{key}}}") for m in masks[:1000] if text and text in m.name)
    for pattern, _ in patterns.most_common(2000):
        if len({(place, fill_in(pattern, stem)) for place, stem in stems} & names) > len(stems) / 2:
            return f"--mask_pattern '{pattern}' pairs them"
    return "rename masks like their images, or use --mask_pattern"


def pair_pages(name: str, image: Path, label: Path) -> list[Pair]:
    """Return a pair for each page, if image and label have equally many, else one of the first pages."""
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
    return first_few([path.relative_to(root).as_posix() for path in paths], separator)
