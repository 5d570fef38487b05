"""Your own images and masks: DIR/images and DIR/masks (see pairs.py for the layouts and names).

Splits come from the --*_list flags, else from DIR/train.txt, val.txt and test.txt, else from
split folders. Without those, images are divided 80:10:10 by a hash of their name, so adding images rarely
moves others; a split that would stay empty gets the training file with the highest hash. The pages of
a file stay together if there are at least ten files.
"""

import hashlib
import os
import re
from bisect import bisect
from collections import Counter
from contextlib import suppress
from functools import cached_property, partial
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import torch

from cache import PackedDataset, pack, remember
from mask_values import MaskRule, add_counts, choose_rule, count_values, describe_values
from pairs import IMAGES, Pair, find_pairs, has_both, orientation_of, pages_of, parts_of, read_pair, split_of
from photos.decode import ImageError, decode, open_image
from splits import SPLITS, DataOptions, names_of_split, read_list
from utils import UserError, count_of, note_once

FRACTIONS = {"train": 0.8, "valid": 0.1, "test": 0.1}
FEW = 5  # images; scores on fewer are mostly chance
MANY = 10  # files; with fewer, the pages of one file may be in several splits
CLIPPED = 0.1  # percent of an image's pixels clipped at either end


def load_dataset(options: DataOptions, split: str) -> PackedDataset:
    """Load a split. Raises UserError, listing the missing, ambiguous or broken files."""
    folder = Folder(options)
    for text in folder.notes:
        note_once(text)
    pairs = [folder.pairs[name] for name in folder.names(split)][: options.limit]
    rule, _ = folder.masks
    range_, upright = folder.intensity_range, folder.orientations["upright"] > folder.orientations["stored"]
    read = partial(read_pair, read_label=rule.read, root=folder.path, intensity_range=range_, upright=upright)
    packed = pack(pairs, read, split, options, rule.foreground, rule.ignored, rule.colors, range_, upright)
    identities = [f"{pair.name} of {pair.image.stat().st_size} bytes" for pair in pairs]
    return PackedDataset(packed, pairs, rule.read, torch.Tensor.contiguous, identities)  # labels are already masks


def has_layout(data_path: Path) -> bool:
    """Check whether a folder has images and masks in a layout of pairs.py."""
    return has_both(parts_of(data_path)[0])


def describe(options: DataOptions) -> list[str]:
    """Return lines about the pairs, splits, mask values and intensities."""
    folder = Folder(options)
    sizes, files = dict.fromkeys(SPLITS, 0), Counter[Path]()
    for split in SPLITS:
        with suppress(UserError):
            names = folder.names(split)
            sizes[split] = len(names)
            files.update({folder.pairs[name].image for name in names if folder.is_page(name)})
    parts = ", ".join(f"{size:,} {split}" for split, size in sizes.items())
    by_folder = ", split by folder" if folder.split_folders else ""
    lines = [f"{len(folder.pairs):,} pairs in {folder.path}{by_folder}: {parts}"]
    lines.append(describe_values(*folder.masks))
    if folder.intensity_range:
        low, high = folder.intensity_range
        lines.append(f"images with more than 8 bits: {low:g} becomes black, {high:g} white")
    with suppress(ImageError), open_image(next(iter(folder.pairs.values())).image) as header:
        if header.mode == "RGB" and ";16" in str(header.tile):
            lines.append("note: only the upper 8 bits of 16-bit color images are read; scale the images to 8 bits")
    if not options.fold and any(0 < size < FEW for size in sizes.values()):
        lines.append("note: scores on so few images are unreliable; use --fold for cross-validation")
    if max(files.values(), default=0) > 1:
        lines.append("note: pages of one file are in several splits, so scores overestimate performance on new files")
    if folder.orientations["unknown"] and not folder.orientations["upright"]:
        rotated = count_of(folder.orientations["unknown"], "image")
        lines.append(f"note: ignored the EXIF orientation of {rotated}; check in NAME.batch.png that the masks fit")
    unused = len(folder.pairs) - sum(sizes.values())
    if unused > 0 and not options.fold:
        lines.append(f"note: ignored {count_of(unused, 'pair')} that no list contains")
    return lines


class Folder:
    """A folder's pairs, splits, mask values and intensities. Raises UserError."""

    def __init__(self, options: DataOptions):
        self.options, self.path = options, options.folder
        self.pairs, self.notes = find_pairs(self.path, options.mask_pattern)

    def find(self, text: str) -> str | None:
        """Return the name for an entry of a list (NAME or .../images/NAME), or None."""
        below = re.fullmatch(rf"(?:.*?([^/]+/))?(?:{'|'.join(IMAGES)})/(.+)", text, re.IGNORECASE)
        split, name = below.groups("") if below else ("", text)
        return next((each for each in (text, split + name, name) if each in self.pairs), None)

    def names(self, split: str) -> list[str]:
        return names_of_split(self.options, split, self.own_names, self.find, self.files.__getitem__)

    def own_names(self, split: str, lists: dict) -> list[str]:
        """Return a split's names from the folder's lists, its split folders or the hash."""
        for file in (*SPLITS, "val"):
            path, each = self.path / f"{file}.txt", split_of(file)
            if each not in lists and path.is_file():
                lists = {**lists, each: read_list(path, self.find)}
        found = self.divide(lists) | lists
        return found["train"] + found["valid"] if split == "trainval" else found[split]

    def divide(self, lists: dict) -> dict[str, list[str]]:
        """Divide the unlisted names among the splits without a list, by split folder or else by hash."""
        listed = set(chain(*lists.values()))
        free = [split for split in SPLITS if split not in lists]
        found: dict[str, list[str]] = {split: [] for split in free}
        rest: list[str] = []
        for name in self.pairs:
            if name not in listed:
                found.get(self.split_folders.get(name, ""), rest).append(name)
        if self.split_folders and "train" in free:
            free = ["train"]
            if found.get("valid") == []:  # no validation folder: hold out training images
                free = ["train", "valid"]
                rest += found["train"]
                found["train"] = []
        elif self.split_folders:  # unlisted training images are not used
            rest = [name for name in rest if name not in self.split_folders]
            free = [split for split in free if not found[split]]
        for split, names in by_hash(rest, free, self.files).items():
            found[split] += names
        return found

    def is_page(self, name: str) -> bool:
        """Check whether a pair is a page of a stack."""
        return pages_of(self.pairs[name].image) == pages_of(self.pairs[name].label) > 1

    @cached_property
    def files(self) -> dict[str, str]:
        """Each name's unit for splitting: its file, with all pages; or its page, if there are fewer than MANY files."""
        files = {}
        for name, pair in self.pairs.items():
            files[name] = name.removesuffix(f"#{pair.page}") if self.is_page(name) else name
        return files if len(set(files.values())) >= MANY else {name: name for name in files}

    @cached_property
    def split_folders(self) -> dict[str, str]:
        """The split of each name by its first folder; {} for fewer than two splits."""
        found = {}
        for name in self.pairs:
            first, slash, _ = name.partition("/")
            split = split_of(first)
            if slash and split:
                found[name] = split
        return found if len(set(found.values())) > 1 else {}

    @cached_property
    def orientations(self) -> Counter:
        """The number of images with EXIF orientation, by which orientation their masks fit (see `orientation_of`)."""
        pairs, cache_dir = list(self.pairs.values()), self.options.cache
        return Counter(remember(cache_dir, "orientation", pairs, orientation_of, lambda found: list(chain(*found))))

    @cached_property
    def masks(self) -> tuple[MaskRule, dict[int, int]]:
        """The rule for reading the masks, and each value's pixel count."""
        pairs = list(self.pairs.values())
        kept = remember(self.options.cache, "masks", pairs, count_values, add_counts)
        counts = [{int(value): pixels for value, pixels in sorted(part.items())} for part in kept]
        return choose_rule(self.options.foreground, self.options.ignore, counts, pairs[0].label)

    @cached_property
    def intensity_range(self) -> tuple[float, float] | None:
        """The given or measured range of the training images; None if none has more than 8 bits."""
        if self.options.intensity_range:
            return self.options.intensity_range
        names = list(self.pairs)
        with suppress(UserError):
            names = self.names("train")
        pairs = [self.pairs[name] for name in names]
        ends = remember(self.options.cache, "range", pairs, measure_range, lambda found: sorted(chain(*found)))
        return (ends[0], ends[-1]) if ends else None


def measure_range(pair: Pair) -> list[float]:
    """Return the [low, high] values of an image with more than 8 bits, [] for others."""
    with suppress(ImageError), open_image(pair.image) as header:
        if header.mode.startswith(("I", "F")):
            values = np.asarray(decode(pair.image, pair.page))
            values = values[np.isfinite(values)]
            if values.size:
                return np.percentile(values, (CLIPPED, 100 - CLIPPED)).tolist()
    return []


def by_hash(names: list[str], splits: list[str], files: dict[str, str]) -> dict[str, list[str]]:
    """Divide names among splits in proportion to FRACTIONS, each by the hash of its file."""
    found: dict[str, list[str]] = {split: [] for split in splits}
    if not splits:
        return found

    def position(name):  # in [0, 1)
        return int.from_bytes(hashlib.sha256(os.fsencode(files[name])).digest()[:8], "big") / 2**64

    total = sum(FRACTIONS[split] for split in splits)
    ends = list(accumulate(FRACTIONS[split] / total for split in splits))
    for name in names:
        found[splits[bisect(ends[:-1], position(name))]].append(name)
    train = found.get("train", [])
    for split in splits:
        if not found[split] and train:
            last = max(map(position, train))
            moved = [name for name in train if position(name) == last]
            if len(moved) < len(train):
                found[split] = moved
                train[:] = [name for name in train if name not in moved]
    return found
