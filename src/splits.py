"""Dataset options, and the names of the images in a split: from a list, a fold, or the dataset's own splits."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

from files import read_lines
from utils import UserError, user_path

SPLITS = ("train", "valid", "test")
SPLIT_NAMES = {"train": "training", "valid": "validation", "test": "test", "trainval": "trainval"}  # in messages
BORDERS = ("foreground", "background", "ignore")  # what the border of a trimap counts as


@dataclass(frozen=True)
class DataOptions:
    """Options for loading a dataset.

    dataset: its name. path: its folder. image_size: height and width of the loaded images, in pixels. in_channels: 3,
    or 1 for gray. border: one of BORDERS. limit: use the first `limit` images of a split. cache_dir: folder for decoded
    images, by default `cache` in `path`. foreground, ignore: mask values, as in --foreground and --ignore.
    mask_pattern: file name of an image's mask (pairs.py). intensity_range: values of deep images that become black and
    white, by default measured on the training images. train_list, valid_list, test_list: files that list the images of
    a split. fold: "k/n", validate with part k of n.
    """

    dataset: str = "pets"
    path: Path | None = None
    image_size: int = 256
    in_channels: int = 3
    border: str = "foreground"
    limit: int | None = None
    cache_dir: Path | None = None
    foreground: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    mask_pattern: str | None = None
    intensity_range: tuple[float, float] | None = None
    train_list: Path | None = None
    valid_list: Path | None = None
    test_list: Path | None = None
    fold: str | None = None

    def __post_init__(self):
        """Raise UserError for options that exclude each other."""
        if self.fold and parse_fold(self.fold) and (self.train_list or self.valid_list):
            raise UserError("--fold defines the training and validation splits; omit --train_list and --valid_list")
        for flag in ("foreground", "ignore", "mask_pattern"):
            if getattr(self, flag) and self.dataset != "folder":
                raise UserError(f"--{flag} only applies to --dataset folder; omit it with --dataset {self.dataset}")

    @property
    def gray(self) -> bool:
        return self.in_channels == 1

    @property
    def folder(self) -> Path:
        """`path`, or UserError if there is none."""
        if self.path is None:
            raise UserError(f"--dataset {self.dataset} needs a folder; pass it with --data_path")
        return Path(self.path)

    @property
    def cache(self) -> Path:
        """The folder for decoded images."""
        return self.cache_dir or self.folder / "cache"


def parse_fold(text: str) -> tuple[int, int]:
    """Return (2, 5) for "2/5": part 2 of 5. Raises UserError."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= part <= parts or parts < 2:
        raise UserError(f"--fold {text} is not K/N, such as 1/5: part K, from 1 to N, of N parts")
    return part, parts


def names_of_split(options: DataOptions, split: str, own: Callable, find: Callable) -> list[str]:
    """Return the names of a split's images. A split without a list excludes the images in the other splits' lists.

    own(split, lists): the dataset's own names for "train", "valid", "test" or "trainval", given the names in the lists
    of flags by split. find(text): the name that an entry of a list refers to, or None. Raises UserError.
    """
    files = {each: getattr(options, f"{each}_list") for each in SPLITS}
    lists = {each: read_list(path, find, f"--{each}_list") for each, path in files.items() if path}
    if split in lists:
        return lists[split]
    fold = parse_fold(options.fold) if options.fold and split != "test" else None
    listed = {name for names in lists.values() for name in names}
    names = [name for name in own("trainval" if fold else split, lists) if name not in listed]
    if fold:
        part, parts = fold
        names = [name for index, name in enumerate(names) if (index % parts == part - 1) == (split == "valid")]
    if not names:
        raise UserError(f"--fold and the lists leave no images for the {SPLIT_NAMES[split]} split; add some")
    return names


def official(split: str, lists: dict) -> str:
    """Return the official split that `split` is taken from: all of trainval if only its other part has a list."""
    other = {"train": "valid", "valid": "train"}.get(split)
    return "trainval" if other in lists else split


def read_list(path: Path, find: Callable, flag: str = "") -> list[str]:
    """Return the names in a text file, one per line. Raises UserError with the file and the faulty lines.

    An entry is the longest start of a line that `find` knows and that ends at a blank, tab, comma, semicolon or the end
    of the line, with or without an image's extension. The rest of the line is ignored.
    """
    label = f"{flag} {path}".strip()
    try:
        lines = read_lines(path, lambda line: find_entry(line, find) is not None)
    except (OSError, UnicodeDecodeError) as error:
        reason = "not found" if isinstance(error, FileNotFoundError) else "is not a UTF-8 text file"
        raise UserError(f"{label} {reason}; it must contain one image name per line") from None
    found = {line: find_entry(line, find) for line in lines}
    names = [name for name in map(found.get, lines) if name]
    unknown = [repr(line) for line, name in found.items() if not name]
    repeated = [repr(name) for name, times in Counter(names).items() if times > 1]
    missing = f", which {'is' if len(unknown) == 1 else 'are'} not in the dataset"
    for fault, entries in ((missing, unknown), (" more than once", repeated)):
        if entries:
            raise UserError(f"{label} lists {first_few(entries)}{fault}; correct the list")
    if not names:
        raise UserError(f"{label} lists no images; add some")
    return names


def find_entry(line: str, find: Callable) -> str | None:
    """Return the name that a line of a list begins with, or None."""
    ends = [found.start() for found in re.finditer(r"[\s,;]|$", line)]
    for end in reversed(ends):
        text = line[:end].strip().replace("\\", "/").removeprefix("./")
        stem, dot, suffix = text.rpartition(".")
        is_image = dot + suffix.lower() in Image.registered_extensions()
        name = find(text) or (find(stem) if is_image else None)
        if name is not None:
            return name
    return None


def first_few(texts: list[str], separator: str = ", ", count: int = 5) -> str:
    """Join the first few texts, and add how many more there are."""
    more = f" and {len(texts) - count:,} more" if len(texts) > count else ""
    return separator.join(texts[:count]) + more


def add_dataset_flags(add: Callable, recorded: str = ""):
    """Add the flags for folders, masks and lists with `add`, a parser's add_argument. recorded: the default, if any."""
    folder = "dataset folder: Oxford-IIIT Pet, or one that contains images/ and masks/"
    add("--data_path", type=user_path, help=f"{folder}; default: {recorded or 'dataset/oxford-iiit-pet'}")
    add("--cache_dir", type=user_path, help="folder for decoded images; default: cache/ in --data_path")
    values = "numbers (3), ranges (128-255) or colors (255,0,0)"
    pattern = "{name} is the image's name without extension, {id} its part before the first _, {number} its last number"
    for flag, text, default in (
        ("foreground", f"mask values of the foreground: {values}", "all above 0"),
        ("ignore", "mask values to ignore", "255 if the masks contain class indices"),
        ("mask_pattern", f"file name of an image's mask, e.g. '{{name}}_gt.png': {pattern}", "see src/pairs.py"),
    ):
        text = f"only with --dataset folder: {text}; default: {recorded or default}"
        nargs = None if flag == "mask_pattern" else "+"
        add(f"--{flag}", help=text, metavar=flag.split("_")[-1].upper(), nargs=nargs)
    for split in SPLITS:
        text = f"text file that lists the images of the {SPLIT_NAMES[split]} split"
        add(f"--{split}_list", type=user_path, help=text + (f"; default: {recorded}" if recorded else ""))


class SegmentationDataset(Protocol):
    """Interface of every dataset, documented by cache.PackedDataset."""

    names: list[str]
    identities: list[str]

    def __len__(self) -> int: ...
    def __getitem__(self, index) -> dict: ...
    def to(self, device: torch.device) -> "SegmentationDataset": ...
    def original_size(self, name: str) -> tuple[int, int]: ...
    def original_mask(self, name: str) -> torch.Tensor: ...
