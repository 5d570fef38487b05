"""Dataset options, and the names in a split: from a list, a fold, or the dataset's own splits."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from files import read_lines
from photos.decode import suffixes
from utils import UserError, user_path

SPLITS = ("train", "valid", "test")
SPLIT_NAMES = {"train": "training", "valid": "validation", "test": "test"}  # in messages
MASK_FLAGS = ("foreground", "ignore", "mask_pattern")  # for your own masks
BORDERS = ("foreground", "background", "ignore")  # what a trimap's border counts as


@dataclass(frozen=True)
class DataOptions:
    """Options for loading a dataset."""

    dataset: str = "pets"  # its name
    path: Path | None = None  # its folder
    image_size: int = 256  # height and width of loaded images, in pixels
    in_channels: int = 3  # or 1: gray
    border: str = "foreground"  # one of BORDERS
    limit: int | None = None  # use the first `limit` images of a split
    cache_dir: Path | None = None  # folder for decoded images; default: cache/ in `path`
    foreground: tuple[str, ...] = ()  # mask values, as in --foreground
    ignore: tuple[str, ...] = ()  # mask values, as in --ignore
    mask_pattern: str | None = None  # see pairs.py
    intensity_range: tuple[float, float] | None = None  # values that map to black and white
    train_list: Path | None = None  # file listing the split's images
    valid_list: Path | None = None
    test_list: Path | None = None
    fold: str | None = None  # "k/n": validate on part k of n

    def __post_init__(self):
        """Raise UserError for options that cannot be combined."""
        if self.fold:
            parse_fold(self.fold)
            if self.train_list or self.valid_list:
                raise UserError("--fold replaces --train_list and --valid_list; omit them")
        for flag in MASK_FLAGS:
            if getattr(self, flag) and self.dataset != "folder":
                raise UserError(f"--{flag} does not apply to --dataset {self.dataset}; omit it")

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
        return self.cache_dir or self.folder / "cache"


def parse_fold(text: str) -> tuple[int, int]:
    """Return (2, 5) for "2/5": part 2 of 5. Raises UserError."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= part <= parts or parts < 2:
        raise UserError(f"--fold {text} must be K/N, N >= 2, K from 1 to N, e.g. 1/5 for the first of five folds")
    return part, parts


def names_of_split(options: DataOptions, split: str, own: Callable, find: Callable, group=str) -> list[str]:
    """Return the names in a split's list, else the dataset's names for the split that are in no other list.

    own(split, lists): the dataset's names for "train", "valid", "test" or "trainval", given the flags' lists.
    find(text): the name that an entry of a list refers to, or None. group(name): its group; a group's names stay in
    one fold. Raises UserError.
    """
    lists: dict[str, list[str]] = {}
    for each in SPLITS:
        if path := getattr(options, f"{each}_list"):
            lists[each] = read_list(path, find, f"--{each}_list")
    if split in lists:
        return lists[split]
    listed = {name for names in lists.values() for name in names}
    other = {"train": "valid", "valid": "train"}.get(split)
    whole = other and (options.fold or other in lists)  # the split is what remains of trainval
    names = [name for name in own("trainval" if whole else split, lists) if name not in listed]
    if other and options.fold:
        part, parts = parse_fold(options.fold)
        groups = list(dict.fromkeys(map(group, names)))  # each once, in order
        held_out = set(groups[part - 1 :: parts])
        names = [name for name in names if (group(name) in held_out) == (split == "valid")]
    if not names:
        data = options.path or options.dataset
        advice = "add images, or correct its list"
        if split == "test":
            advice = "pass --split valid, or add images"
        elif options.fold:
            advice = f"--fold {options.fold} divides only the images outside the test split; use fewer folds"
        raise UserError(f"{data} has no images for the {SPLIT_NAMES[split]} split; {advice}")
    return names


def read_list(path: Path, find: Callable, flag: str = "") -> list[str]:
    """Return the names in a text file, one per line. Raises UserError.

    A name is the longest prefix that `find` knows, ending before whitespace, a comma, a semicolon or the line's end.
    """
    label = f"{flag} {path}".strip()
    try:
        lines = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = "not found" if isinstance(error, FileNotFoundError) else "cannot be read as UTF-8 text"
        raise UserError(f"{label} {reason}; list one image name per line") from None
    entries = [(line, find_entry(line, find)) for line in lines]
    names = [name for _, name in entries if name]
    unknown = [repr(line) for line, name in entries if not name]
    repeated = [repr(name) for name, times in Counter(names).items() if times > 1]
    if unknown:
        raise UserError(f"{label} lists names that the dataset lacks: {first_few(unknown)}; correct the list")
    if repeated:
        raise UserError(f"{label} lists {first_few(repeated)} more than once; correct the list")
    if not names:
        raise UserError(f"{label} lists no images; add some")
    return names


def find_entry(line: str, find: Callable) -> str | None:
    """Return the name that a line begins with, or None."""
    ends = [found.start() for found in re.finditer(r"[\s,;]|$", line)]
    for end in reversed(ends):
        text = line[:end].strip().replace("\\", "/").removeprefix("./")
        name = find(text)
        stem, dot, suffix = text.rpartition(".")
        if not name and dot + suffix.lower() in suffixes():
            name = find(stem)
        if name:
            return name
    return None


def first_few(texts: list[str], separator: str = ", ") -> str:
    """Join the first five texts, and add how many more there are."""
    more = f" and {len(texts) - 5:,} more" if len(texts) > 5 else ""
    return separator.join(texts[:5]) + more


def add_dataset_flags(add: Callable, recorded: str = ""):
    """Add the flags for folders, masks and lists. add: a parser's add_argument. recorded: text for defaults."""

    def default(text):
        return f"; default: {recorded or text}"

    own = "for your own dataset: "
    values = "foreground mask values, e.g. 3, 128-255 or 255,0,0"
    pattern = "mask file names, e.g. '{name}_gt.png'; {id}: name up to the first _; {number}: last number in the name"
    folder = "the Oxford-IIIT Pet folder, or one with images/ and masks/"
    add("--data_path", type=user_path, help=folder + default("dataset/oxford-iiit-pet"))
    add("--cache_dir", type=user_path, help="folder for decoded images; default: cache/ in --data_path")
    add("--foreground", nargs="+", help=own + values + default("all above 0 (lossy or soft masks: above half)"))
    add("--ignore", nargs="+", help=own + "mask values to ignore" + default("255 if the others are class indices"))
    add("--mask_pattern", metavar="PATTERN", help=own + pattern + default("see src/pairs.py"))
    for split in SPLITS:
        text = f"text file listing the {SPLIT_NAMES[split]} images; # begins a comment"
        add(f"--{split}_list", type=user_path, help=text + (default("") if recorded else ""))
