"""From what a person names on the command line to picture files, and where their outputs go."""

import glob
import os
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path, PurePath

from files import read_names
from photos.pictures import kind_of_file, suffixes
from utils import UserError

LONGEST_NAME = 255  # bytes, on almost every file system


@dataclass(frozen=True)
class Source:
    """A picture file, and its place below the folder that was named: what its outputs are called after."""

    path: Path
    place: PurePath


@dataclass
class Found:
    """sources: the pictures. left_out: a line for each thing that cannot be read. others: files by their ending."""

    sources: list[Source] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    others: Counter = field(default_factory=Counter)

    def describe_others(self) -> str:
        """How many files were not taken for pictures, and what their names end in; "" where there are none."""
        if not self.others:
            return ""
        endings = ", ".join(f"{count:,} {ending}" for ending, count in self.others.most_common())
        return f"skipped {self.others.total():,} files that are not named like pictures ({endings})"


def find_pictures(inputs, recursive: bool = False, output_folders=()) -> Found:
    """Files, folders and globs as pictures, each once.

    Of a folder, the files with a picture's suffix; with `recursive`, of its sub-folders too, but not of
    `output_folders`, unless such a folder is all that was named. Other files are always taken. Raises UserError for an
    input that is not found, or where there is no picture at all.
    """
    found = Found()
    sources: dict[Path, Source] = {}
    outputs = {os.path.realpath(folder) for folder in output_folders}
    if len(inputs) == 1:
        outputs.discard(os.path.realpath(inputs[0]))
    for text in inputs:
        paths = [Path(text)] if os.path.lexists(text) else [Path(match) for match in sorted(glob.glob(str(text)))]
        if not paths:
            raise UserError(f"--input {text} not found; name files, folders or globs of pictures")
        for path in paths:
            if not os.path.isdir(path):
                here = [Source(path, PurePath(path.name))] if is_regular(path, found) else []
            elif os.path.realpath(path) in outputs:
                here = []
            else:
                here = walk(path, PurePath(), recursive, (os.path.realpath(path),), outputs, found)
            for source in here:
                sources.setdefault(source.path.absolute(), source)
    found.sources = list(sources.values())
    if not sources:
        reason = "; ".join([*found.left_out, *filter(None, [found.describe_others()])])
        reason = f" ({reason})" if reason else ""
        raise UserError(f"--input {' '.join(map(str, inputs))} has no picture in it{reason}; try --recursive")
    return found


def is_regular(path, found):
    """Whether a path is a regular file, or cannot be asked; anything else is noted as left out."""
    try:
        kind = kind_of_file(os.stat(path))
    except OSError:
        return True  # reading it says why
    if kind:
        found.left_out.append(f"{path} is {kind}; only regular files are read")
    return not kind


def walk(folder, place, recursive, above, outputs, found):
    """The pictures in a folder, and with `recursive` below it; links to folders are followed, but never in a circle."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        found.left_out.append(f"{folder} cannot be opened ({error.strerror})")
        return
    for path in entries:
        if os.path.isdir(path):
            if not recursive or (real := os.path.realpath(path)) in outputs:
                continue
            if real in above:
                found.left_out.append(f"{path} is a link back to a folder above it")
            else:
                yield from walk(path, place / path.name, True, (*above, real), outputs, found)
        elif is_regular(path, found):
            if path.name.startswith("."):
                found.others["hidden"] += 1
            elif path.suffix.lower() in suffixes():
                yield Source(path, place / path.name)
            else:
                found.others[path.suffix or "without an ending"] += 1


def name_outputs(sources, folders, endings) -> list[dict[str, Path]]:
    """For each source a dict of kind to file, no two alike and none of them an input.

    folders: kind to folder; endings: kind to suffix. A picture's outputs have its own name, a.png for a.jpg; where
    another picture has taken that, a.jpg.png, then a.jpg-2.png. `beside` gives the name of a second file, a.jpg.png
    for the overlay a.jpg, which is kept free too.
    """
    taken = {os.path.realpath(source.path) for source in sources}
    outputs = []
    for source in sources:
        numbered = (with_end(source.place, f"-{number}") for number in count(2))
        for name in chain([source.place.with_suffix(""), source.place], numbered):
            files = {kind: folder / fit(name, endings[kind]) for kind, folder in folders.items()}
            real = [os.path.realpath(path) for file in files.values() for path in {file, beside(file)}]
            if taken.isdisjoint(real):
                break
        taken.update(real)
        outputs.append(files)
    return outputs


def with_end(place, text):
    return place.with_name(place.name + text)


def fit(place, ending):
    """A place with an ending, its name cut to what file systems take, with room for `beside`."""
    room = LONGEST_NAME - len(ending) - (len(".png") if ending == ".jpg" else 0)
    name = os.fsencode(place.name)
    if len(name) > room:
        tail = name[-6:] if b"-" in name[-6:] else b""  # the number that makes it differ
        name = name[: room - len(tail)].decode(errors="ignore").encode() + tail
    return place.parent / (os.fsdecode(name) + ending)


def beside(file: Path) -> Path:
    """Where an output goes that JPEG cannot hold: a PNG beside."""
    return file.with_name(file.name + ".png") if file.suffix == ".jpg" else file


def choose_names(sources, listing):
    """Only the pictures that a text file names (the first word of a line, with or without suffix), in its order."""
    try:
        names = read_names(listing)
    except (OSError, UnicodeDecodeError):
        raise UserError(f"--names {listing} is not a text file; it holds a picture's name on each line") from None
    known = {source.path.stem: source for source in sources} | {source.path.name: source for source in sources}
    missing = [name for name in names if name not in known]
    if missing or not names:
        what = f"{', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}" if missing else "no picture"
        raise UserError(f"--names {listing} names {what}, not found in --input; correct the list or the folder")
    return [known[name] for name in names]
