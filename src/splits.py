"""The options of a dataset, and which pictures a split of it holds: by its own splits, lists of names, or a fold."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

from files import read_lines
from utils import UserError

SPLITS = ("train", "valid", "test")
BORDERS = ("foreground", "background", "ignore")  # what the trimap's border becomes in the mask


@dataclass(frozen=True)
class DataOptions:
    """dataset: its name. path: its folder. image_size: the side of its pictures, in pixels. in_channels: 3, or 1 for
    grey. border: one of BORDERS. limit: use the first so many pictures of a split. cache_dir: where decoded pictures
    are kept, by default `cache` in `path`. foreground: the mask values of --foreground. train_list, valid_list,
    test_list: files that name the pictures of a split. fold: "k/n", cut train and valid anew.
    """

    dataset: str = "pets"
    path: Path | None = None
    image_size: int = 256
    in_channels: int = 3
    border: str = "foreground"
    limit: int | None = None
    cache_dir: Path | None = None
    foreground: tuple[str, ...] = ()
    train_list: Path | None = None
    valid_list: Path | None = None
    test_list: Path | None = None
    fold: str | None = None

    def __post_init__(self):
        """Raises UserError for options that exclude each other."""
        if self.fold:
            check_fold(self.fold)
        if self.fold and (self.train_list or self.valid_list):
            raise UserError("--fold cuts the train and valid splits itself; leave out --train_list and --valid_list")
        if self.foreground and self.dataset != "folder":
            raise UserError(f"--foreground is for masks of your own; leave it out with the {self.dataset}")

    @property
    def grey(self) -> bool:
        return self.in_channels == 1

    @property
    def folder(self) -> Path:
        """`path`, of a dataset that has one."""
        if self.path is None:
            raise UserError(f"the dataset {self.dataset} needs a folder; name it with --data_path")
        return Path(self.path)

    @property
    def cache(self) -> Path:
        """Where decoded pictures are kept."""
        return self.cache_dir or self.folder / "cache"

    @property
    def lists(self) -> dict[str, Path]:
        """The splits that have a list of names, with its file."""
        given = {split: getattr(self, f"{split}_list") for split in SPLITS}
        return {split: path for split, path in given.items() if path}


def check_fold(text: str) -> tuple[int, int]:
    """ "2/5" is (2, 5): part 2 of 5. Raises UserError."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= part <= parts or parts < 2:
        raise UserError(f"--fold {text} is not K/N, such as 1/5: part K, from 1 to N, of N parts")
    return part, parts


def names_of_split(options: DataOptions, split: str, own: Callable, known: Callable) -> list[str]:
    """The names of a split's pictures: those of its list, of its fold, or the dataset's own.

    own: the dataset's own names of "train", "valid", "test" or "trainval". known: whether a name is one of the
    dataset's. A split without a list leaves out what the lists name, so that no picture is in two splits by accident.
    Raises UserError.
    """
    if split in options.lists:
        return read_list(options.lists[split], known, f"--{split}_list")
    listed = {name for each, path in options.lists.items() for name in read_list(path, known, f"--{each}_list")}
    if options.fold and split != "test":
        part, parts = check_fold(options.fold)
        names = [name for name in own("trainval") if name not in listed]
        names = [name for place, name in enumerate(names) if (place % parts == part - 1) == (split == "valid")]
    else:
        names = [name for name in own(split) if name not in listed]
    if not names:
        cut = f"--fold {options.fold} leaves" if options.fold else "the lists leave"
        raise UserError(f"{cut} no picture for the {split} split; give it more pictures")
    return names


def read_list(path: Path, known: Callable, flag: str = "") -> list[str]:
    """The names in a text file, one a line.

    A name is the whole line, blanks included, where the dataset knows that; else what stands before the first tab, or
    the first word; with a picture's suffix or without. Raises UserError that names the list and the lines at fault.
    """
    label = f"{flag} {path}".strip()
    try:
        lines = read_lines(path, lambda line: find_name(line, known) is not None)
    except FileNotFoundError:
        raise UserError(f"{label} not found; it holds a picture's name on each line") from None
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{label} is not a text file; it holds a picture's name on each line") from None
    if not lines:
        raise UserError(f"{label} names no picture; add names to it")
    names, unknown = [], []
    for line in lines:
        name = find_name(line, known)
        if name is None:
            unknown.append(repr(line))
        else:
            names.append(name)
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise UserError(f"{label} names {', '.join(unknown[:5])}{more}, not found in the dataset; correct the list")
    repeated = next((name for name, times in Counter(names).items() if times > 1), None)
    if repeated:
        raise UserError(f"{label} names {repeated} more than once; remove the repeated line")
    return names


def find_name(line: str, known: Callable) -> str | None:
    """The name that a line of a list means, or None."""
    for text in (line, line.split("\t")[0].rstrip(), line.split()[0]):
        stem, dot, suffix = text.rpartition(".")
        if known(text):
            return text
        if dot + suffix.lower() in Image.registered_extensions() and known(stem):
            return stem
    return None


def add_split_flags(add: Callable, recorded: str = ""):
    """The flags of a dataset's masks and lists, for train.py and for the scripts that score. add: add_argument."""
    add(
        "--foreground",
        nargs="+",
        metavar="VALUE",
        help="folder: the mask values that are foreground, where there are more than two: numbers (3), ranges "
        f"(128-255) or colors (255,0,0){recorded}",
    )
    for split in SPLITS:
        add(f"--{split}_list", type=Path, help=f"a text file that names the pictures of the {split} split{recorded}")


class SegmentationDataset(Protocol):
    """What every dataset answers: see cache.PackedDataset."""

    names: list[str]
    identities: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index) -> dict: ...

    def to(self, device: torch.device) -> "SegmentationDataset": ...

    def original_size(self, name: str) -> tuple[int, int]: ...

    def original_mask(self, name: str) -> torch.Tensor: ...
