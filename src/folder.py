"""A person's own pictures and masks: DIR/images and DIR/masks.

    DIR/images/a.jpg    DIR/masks/a.png           # or imgs/, image/; mask/, label/, labels/, annotations/
    DIR/images/s/b.tif  DIR/masks/s/b_mask.png    # sub-folders are kept; or _label, _seg after the name
    DIR/train.txt  DIR/valid.txt  DIR/test.txt    # optional: a name on each line

Pictures that no list names are cut 80 : 10 : 10 by a hash of their name, so that one added later moves no other. In a
set so small that this leaves valid or test without any, that split takes the train picture whose hash is nearest.
A picture without a mask, and a mask without a picture, is left out with a note; what could be meant in two ways is an
error. A mask is of its picture's pixels as they are stored, whatever turn EXIF asks for.
"""

import hashlib
import os
import sys
from collections import defaultdict
from functools import cached_property, partial
from pathlib import Path

import torch
from PIL import Image

from cache import PackedDataset, Pair, pack, read_labelled
from mask_values import choose_foreground, count_values, describe_values, read_mask
from photos.pictures import PictureError, decode
from splits import SPLITS, DataOptions, names_of_split, read_list
from training.distributed import rank
from utils import UserError

IMAGES = ("images", "imgs", "image")
MASKS = ("masks", "mask", "labels", "label", "annotations")
ENDINGS = ("", "_mask", "_label", "_seg")  # of a mask's name, after its picture's
SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
said: set[str] = set()  # notes that this process has printed


def load_dataset(options: DataOptions, split: str) -> PackedDataset:
    """The pictures of a split. Raises UserError that names what is missing, ambiguous or broken."""
    folder = Folder(options.folder)
    folder.print_notes()
    pairs = [folder.pairs[name] for name in folder.names(options, split)][: options.limit]
    foreground = choose_foreground(options.foreground, folder.values(options.cache), folder.labels)
    read = partial(read_mask, foreground=foreground)
    read_pair = partial(read_labelled, read_label=read, root=folder.path)
    packed = pack(pairs, read_pair, split, options.image_size, options.grey, options.cache, folder.path, foreground)
    identities = [f"{pair.name} of {pair.image.stat().st_size} bytes" for pair in pairs]
    return PackedDataset(packed, pairs, read, as_packed, identities)


def as_packed(label: torch.Tensor) -> torch.Tensor:
    """The mask of a packed label, which is one already."""
    return label.contiguous()


def has_layout(data_path: Path) -> bool:
    """Whether a folder holds pictures and masks as this module wants them."""
    return all(folders_called(data_path, names) for names in (IMAGES, MASKS))


def describe(options: DataOptions) -> list[str]:
    """Lines about the data for the start of a run: pairs, splits, mask values and what they count as."""
    folder = Folder(options.folder)
    parts = []
    for split in SPLITS:
        try:
            parts.append(f"{len(folder.names(options, split)):,} {split}")
        except UserError:
            parts.append(f"no {split}")
    values = folder.values(options.cache)
    foreground = choose_foreground(options.foreground, values, folder.labels)
    lines = [
        f"{len(folder.pairs):,} pairs in {folder.images} and {folder.masks.name}: {', '.join(parts)}",
        describe_values(values, foreground),
    ]
    if not options.grey and folder.looks_grey():
        lines.append("the pictures are grey, and read as RGB; --in_channels 1 would read them as one channel")
    return lines


class Folder:
    """A folder of pictures and masks, looked through. Raises UserError.

    pairs: by name, in order. notes: what was left out.
    """

    def __init__(self, path: Path):
        self.path = path
        self.images, self.masks = the_folder(path, IMAGES), the_folder(path, MASKS)
        self.pairs, self.notes = find_pairs(self.images, self.masks)

    def print_notes(self):
        for note in self.notes:
            if note not in said and rank() == 0:
                print(f"note: {note}", file=sys.stderr)
            said.add(note)

    def names(self, options: DataOptions, split: str) -> list[str]:
        """The names of a split."""
        return names_of_split(options, split, self.own_names, self.pairs.__contains__)

    def own_names(self, split: str) -> list[str]:
        """The names of a split by the lists in the folder and the hash; "trainval" is train and valid."""
        parts = ("train", "valid") if split == "trainval" else (split,)
        names = [name for part in parts for name in self.splits[part]]
        if not names:
            raise UserError(f"{self.path} has no picture for the {split} split; name some in {self.path}/{split}.txt")
        return names

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        files = {split: self.path / f"{split}.txt" for split in SPLITS}
        lists = {split: read_list(path, self.pairs.__contains__) for split, path in files.items() if path.is_file()}
        listed = {name for names in lists.values() for name in names}
        rest = [name for name in self.pairs if name not in listed]
        return by_hash(rest, [split for split in SPLITS if split not in lists]) | lists

    @property
    def labels(self) -> list[Path]:
        """The mask files that are used."""
        return [pair.label for pair in self.pairs.values()]

    def values(self, cache: Path) -> dict[int, int]:
        """Pixels of each value in all masks that can be read."""
        return count_values(self.labels, cache)

    def looks_grey(self) -> bool:
        """Whether the first picture has one channel."""
        try:
            return decode(next(iter(self.pairs.values())).image).mode in ("L", "1", "LA", "I", "F", "I;16", "I;16B")
        except PictureError:
            return False


# --------------------------------------------------------------------------- pairs and splits


def folders_called(path: Path, names: tuple[str, ...]) -> list[Path]:
    """The folders in `path` of these names, in lower or upper case."""
    found = path.iterdir() if path.is_dir() else ()
    return sorted(entry for entry in found if entry.name.lower() in names and entry.is_dir())


def the_folder(path: Path, names: tuple[str, ...]) -> Path:
    """The one folder in `path` that has one of these names. Raises UserError."""
    found = folders_called(path, names)
    if len(found) != 1:
        fault = f"has {' and '.join(f'{entry.name}/' for entry in found)}" if found else f"has no {names[0]}/"
        raise UserError(
            f"--data_path {path} {fault}; it must hold one folder of pictures (images, imgs or image) and one of masks "
            f"(masks, mask, labels, label or annotations)"
        )
    return found[0]


def pictures_in(folder: Path) -> dict[str, list[Path]]:
    """The picture files in a folder and its sub-folders, by name: the place in the folder, without the suffix."""
    suffixes = Image.registered_extensions()
    found = defaultdict(list)
    for place, _, files in os.walk(folder):
        for file in files:
            path = Path(place, file)
            if path.suffix.lower() in suffixes and not file.startswith(".") and path.is_file():
                found[path.relative_to(folder).with_suffix("").as_posix()].append(path)
    return {name: sorted(found[name]) for name in sorted(found)}


def linked_folders(folder: Path) -> list[Path]:
    """The links to folders below a folder, which `pictures_in` does not follow: a picture would be in two splits."""
    below = (Path(place, name) for place, folders, _ in os.walk(folder) for name in folders)
    return sorted(path for path in below if path.is_symlink())


def find_pairs(images: Path, masks: Path) -> tuple[dict[str, Pair], list[str]]:
    """Pictures with their masks, by name, and a note for each kind of file that was left out. Raises UserError."""
    pictures, labels = pictures_in(images), pictures_in(masks)
    root = images.parent
    pairs, lonely, ambiguous, used = {}, [], [], set()
    for name, files in pictures.items():
        keys = [name + ending for ending in ENDINGS if not ending or name + ending not in pictures]
        found = [path for key in keys for path in labels.get(key, ())]
        used.update(found)
        if len(files) > 1:
            ambiguous.append(f"{places(files, root)} have one name")
        elif len(found) > 1:
            ambiguous.append(f"{places(files, root)} has the masks {places(found, root)}")
        elif found:
            pairs[name] = Pair(name, files[0], found[0])
        else:
            lonely.append(files[0])
    if ambiguous:
        raise UserError(f"{root}: {some(ambiguous, '; ')}; keep one of each")
    orphans = [path for files in labels.values() for path in files if path not in used]
    if not pairs:
        first = f"; {places(lonely[:1], root)} needs {masks.name}/{lonely[0].stem}.png or the like" if lonely else ""
        raise UserError(f"{root}: no picture in {images.name}/ has a mask in {masks.name}/{first}")
    linked = [path for part in (images, masks) for path in linked_folders(part)]
    notes = []
    if linked:
        notes.append(f"left out, links to folders: {some([places([path], root) for path in linked])}")
    if lonely:
        notes.append(f"left out, no mask in {masks}: {some([places([path], images) for path in lonely])}")
    if orphans:
        notes.append(f"left out, no picture in {images}: {some([places([path], masks) for path in orphans])}")
    return pairs, notes


def places(paths: list[Path], root: Path) -> str:
    return " and ".join(path.relative_to(root).as_posix() for path in paths)


def some(texts: list[str], between: str = ", ") -> str:
    """The first five of some texts, and how many more there are."""
    more = f" and {len(texts) - 5:,} more" if len(texts) > 5 else ""
    return between.join(texts[:5]) + more


def by_hash(names: list[str], splits: list[str]) -> dict[str, list[str]]:
    """Names divided among splits in the proportion of SHARES, each by its own hash alone."""
    place = {name: int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") / 2**64 for name in names}
    total = sum(SHARES[split] for split in splits)
    found, low = {}, 0.0
    for split in splits:
        high = low + SHARES[split] / total if split != splits[-1] else 1.0
        found[split] = [name for name in names if low <= place[name] < high]
        low = high
    for split in splits[1:] if "train" in splits else ():
        if not found[split] and len(found["train"]) > 1:
            nearest = max(found["train"], key=place.__getitem__)
            found["train"].remove(nearest)
            found[split] = [nearest]
    return found
