"""Your own images and masks: DIR/images and DIR/masks (pairs.py has the layouts and names).

Splits are taken, in this order, from the --*_list flags; DIR/train.txt, DIR/valid.txt and DIR/test.txt, with one name
or path per line; split folders. Other images are divided 80:10:10 among the splits without a list by a hash of their
name, so that adding images never moves others. If that leaves valid or test empty, it gets the training image whose
hash is closest.
"""

import hashlib
import os
import re
from bisect import bisect
from contextlib import suppress
from functools import cache, cached_property, partial
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import torch

from cache import PackedDataset, pack, remember
from mask_values import MaskRule, add_counts, choose_rule, count_values, describe_values
from pairs import IMAGES, MASKS, SPLIT_FOLDERS, Pair, decode_page, find_pairs, folders_called, parts_of, read_pair
from photos.decode import ImageError, open_image
from splits import SPLIT_NAMES, SPLITS, DataOptions, names_of_split, read_list
from utils import UserError, count_of, note

FRACTIONS = {"train": 0.8, "valid": 0.1, "test": 0.1}
FEW = 5  # images; the score of a smaller split is mostly chance
CLIPPED = 0.1  # percent of a deep image's pixels at either end that the range leaves out, for hot and dead pixels
note_once = cache(note)


def load_dataset(options: DataOptions, split: str) -> PackedDataset:
    """Load a split. Raises UserError that names the missing, ambiguous or broken files."""
    folder = Folder(options)
    for text in folder.notes:
        note_once(text)
    pairs = [folder.pairs[name] for name in folder.names(split)][: options.limit]
    rule, _ = folder.masks
    settings = (rule.foreground, rule.ignored, rule.colors, folder.intensity_range)
    read = partial(read_pair, read_label=rule.read, root=folder.path, intensity_range=folder.intensity_range)
    packed = pack(pairs, read, split, options, *settings)
    identities = [f"{pair.name} of {pair.image.stat().st_size} bytes" for pair in pairs]
    return PackedDataset(packed, pairs, rule.read, torch.Tensor.contiguous, identities)  # a label is a mask already


def has_layout(data_path: Path) -> bool:
    """Check whether a folder contains images and masks in one of the layouts of pairs.py."""
    return all(folders_called(parts_of(data_path)[0], names) for names in (IMAGES, MASKS))


def describe(options: DataOptions) -> list[str]:
    """Return lines about the data for the start of a run: pairs, splits, mask values, intensities."""
    folder = Folder(options)
    sizes = dict.fromkeys(SPLITS, 0)
    for split in SPLITS:
        with suppress(UserError):
            sizes[split] = len(folder.names(split))
    parts = ", ".join(f"{size:,} {split}" for split, size in sizes.items())
    by_folder = " by its split folders" if folder.split_folders else ""
    lines = [f"{len(folder.pairs):,} pairs in {folder.path}{by_folder}: {parts}", *describe_values(*folder.masks)]
    if folder.intensity_range:
        text = "images of more than 8 bits: {:g} becomes black, {:g} white, as in the training images"
        lines.append(text.format(*folder.intensity_range))
    with suppress(ImageError), open_image(next(iter(folder.pairs.values())).image) as header:
        if header.mode == "RGB" and ";16" in str(header.tile):
            lines.append("note: of 16-bit color images, only the upper 8 bits are read; scale them to 8 bits yourself")
    if min(sizes.values()) < FEW:
        lines.append("note: scores on a few images are unreliable; use --fold for cross-validation")
    unused = len(folder.pairs) - sum(sizes.values())
    if unused > 0 and not options.fold:
        lines.append(f"note: {count_of(unused, 'pair')} in no list, so not used")
    return lines


class Folder:
    """The pairs of a folder with its splits, mask values and intensities. Raises UserError."""

    def __init__(self, options: DataOptions):
        self.options, self.path = options, options.folder
        self.pairs, self.notes = find_pairs(self.path, options.mask_pattern)

    def find(self, text: str) -> str | None:
        """Return the name for an entry of a list: a name, or a path that leads to it through a folder of images."""
        below = re.fullmatch(rf"(?:.*?([^/]+/))?(?:{'|'.join(IMAGES)})/(.+)", text, re.IGNORECASE)
        split, name = below.groups("") if below else ("", text)
        return next((each for each in (text, split + name, name) if each in self.pairs), None)

    def names(self, split: str) -> list[str]:
        """Return the names of a split."""
        return names_of_split(self.options, split, self.own_names, self.find)

    def own_names(self, split: str, lists: dict[str, list[str]]) -> list[str]:
        """Return the names of a split, from the lists in the folder, its split folders and the hash."""
        files = {each: self.path / f"{each}.txt" for each in SPLITS}
        lists = {each: read_list(path, self.find) for each, path in files.items() if path.is_file()} | lists
        found = self.divide({name for names in lists.values() for name in names}, lists) | lists
        names = found["train"] + found["valid"] if split == "trainval" else found[split]
        if not names:
            raise UserError(f"{self.path} has no images for the {SPLIT_NAMES[split]} split; list some in {split}.txt")
        return names

    def divide(self, listed: set[str], lists: dict) -> dict[str, list[str]]:
        """Divide the unlisted names among the splits without a list: by split folder if there are any, else by hash."""
        free = [split for split in SPLITS if split not in lists]
        found: dict[str, list[str]] = {split: [] for split in free}
        rest: list[str] = []
        for name in self.pairs:
            if name not in listed:
                found.get(self.split_folders.get(name, ""), rest).append(name)
        if self.split_folders and "train" in free:
            free = ["train"]
            if found.get("valid") == []:  # there is no such folder: it is part of the training images
                free, rest = ["train", "valid"], rest + found.pop("train")
        for split, names in by_hash(rest, free).items():
            found[split] = found.get(split, []) + names
        return found

    @cached_property
    def split_folders(self) -> dict[str, str]:
        """The split of each name by its first folder; {} unless there are two splits."""
        first = {name: name.partition("/")[0].lower().rstrip("0123456789") for name in self.pairs if "/" in name}
        found = {name: SPLIT_FOLDERS[part] for name, part in first.items() if part in SPLIT_FOLDERS}
        return found if len(set(found.values())) > 1 else {}

    @cached_property
    def masks(self) -> tuple[MaskRule, dict[int, int]]:
        """The rule for reading the masks, and the pixel count of each value in all of them."""
        pairs = list(self.pairs.values())
        kept = remember(self.options.cache, "masks", pairs, count_values, add_counts)
        counts = [{int(value): pixels for value, pixels in sorted(part.items())} for part in kept]
        return choose_rule(self.options.foreground, self.options.ignore, counts, pairs[0].label)

    @cached_property
    def intensity_range(self) -> tuple[float, float] | None:
        """The given range, or the one measured on the training images; None if no image is deep."""
        if self.options.intensity_range:
            return self.options.intensity_range
        names = list(self.pairs)
        with suppress(UserError):
            names = self.names("train")
        pairs = [self.pairs[name] for name in names]
        ends = remember(self.options.cache, "range", pairs, measure_range, lambda found: sorted(chain(*found)))
        return (ends[0], ends[-1]) if ends else None


def measure_range(pair: Pair) -> list[float]:
    """Return the [low, high] values of a deep image (modes I, I;16 and F), [] for any other image."""
    with suppress(ImageError), open_image(pair.image) as header:
        if header.mode.startswith(("I", "F")):
            values = np.asarray(decode_page(pair.image, pair.page))
            values = values[np.isfinite(values)]
            return np.percentile(values, (CLIPPED, 100 - CLIPPED)).tolist() if values.size else []
    return []


def by_hash(names: list[str], splits: list[str]) -> dict[str, list[str]]:
    """Divide names among splits in the proportion of FRACTIONS, each by its own hash."""
    place = {name: int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") / 2**64 for name in names}
    total = sum(FRACTIONS[split] for split in splits)
    ends = list(accumulate(FRACTIONS[split] / total for split in splits))[:-1]
    found: dict[str, list[str]] = {split: [] for split in splits}
    for name in names if splits else ():
        found[splits[bisect(ends, place[name])]].append(name)
    for split in splits[1:] if "train" in splits else ():
        if not found[split] and len(found["train"]) > 1:
            closest = max(found["train"], key=place.__getitem__)
            found["train"].remove(closest)
            found[split] = [closest]
    return found
