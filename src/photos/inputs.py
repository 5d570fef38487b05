"""From what a person names on the command line to picture files, and where their outputs go."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path, PurePath

from files import read_lines
from photos.marks import may_write, read_mark
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
    """sources: the pictures. left_out: a line for each thing that cannot be read. others: files by their ending.

    own: how many outputs of an earlier run were not taken.
    """

    sources: list[Source] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    others: Counter = field(default_factory=Counter)
    own: int = 0

    def describe_others(self) -> str:
        """How many files were not taken, and what their names end in; "" where there are none."""
        said = []
        if self.others:
            endings = ", ".join(f"{count:,} {ending}" for ending, count in self.others.most_common())
            said.append(f"skipped {self.others.total():,} files that are not named like pictures ({endings})")
        if self.own:
            said.append(f"skipped {self.own:,} outputs of an earlier run")
        return "; ".join(said)


def find_pictures(inputs, recursive: bool = False, output_folders=()) -> Found:
    """Files, folders and globs as pictures, each once.

    Of a folder, the files with a picture's suffix; with `recursive`, of its sub-folders too, but not of
    `output_folders`. Other files are always taken; of those in `output_folders`, not what an earlier run wrote. Raises
    UserError for an input that is not found, or where there is no picture at all.
    """
    found = Found()
    sources: dict[str, Source] = {}
    outputs = {os.path.realpath(folder) for folder in output_folders}
    for text in inputs:
        matches = [text] if os.path.lexists(text) else sorted(glob.glob(str(text), recursive=True))
        paths = [Path(match) for match in matches]
        if not paths:
            raise UserError(f"--input {text} not found; name files, folders or globs of pictures")
        for path in paths:
            if not os.path.isdir(path):
                here = [Source(path, PurePath(path.name))] if is_regular(path, found) else []
            else:
                here = walk(path, PurePath(), recursive, (os.path.realpath(path),), outputs, found)
            for source in here:
                if os.path.realpath(source.path.parent) in outputs and read_mark(source.path):
                    found.own += 1
                else:
                    sources.setdefault(os.path.abspath(source.path), source)
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
            if not recursive:
                continue
            real = os.path.realpath(path)
            if path.name.startswith("."):
                found.others["hidden"] += 1
            elif real in above:
                found.left_out.append(f"{path} is a link back to a folder above it")
            elif real not in outputs:
                yield from walk(path, place / path.name, True, (*above, real), outputs, found)
        elif is_regular(path, found):
            if path.name.startswith("."):
                found.others["hidden"] += 1
            elif path.suffix.lower() in suffixes():
                yield Source(path, place / path.name)
            else:
                found.others[path.suffix or "without an ending"] += 1


def name_outputs(sources, folders, endings, others=()) -> list[dict[str, Path]]:
    """For each source a dict of kind to file, no two alike, and none that is there already, but for earlier outputs.

    folders: kind to folder; endings: kind to suffix; others: files that are not to be written. A picture's outputs have
    its own name, a.png for a.jpg; where another picture has taken that, a.jpg.png, then a.jpg-2.png. `beside` gives the
    name of a second file, a.jpg.png for the overlay a.jpg, which is kept free too.
    """
    taken = {os.path.realpath(path) for path in (*others, *(source.path for source in sources))}
    outputs = []
    for source in sources:
        numbered = (with_end(source.place, f"-{number}") for number in count(2))
        for name in chain([source.place.with_suffix(""), source.place], numbered):
            files = {kind: folder / fit(name, endings[kind]) for kind, folder in folders.items()}
            every = [path for file in files.values() for path in {file, beside(file)}]
            real = [os.path.realpath(path) for path in every]
            folders_of_each = [files[kind].parent for kind in files if "/" in endings[kind]]
            if taken.isdisjoint(real) and all(map(may_write, every)) and not any(map(os.path.isfile, folders_of_each)):
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
    """Only the pictures that a text file names, in its order, each once.

    A line is a picture's path, its place in the folder, its name, or its name without suffix; else its first word is.
    """
    known: list[dict[str, list[Source]]] = [{}, {}, {}, {}]
    for source in sources:
        spelled = (str(source.path), source.place.as_posix(), source.path.name, source.path.stem)
        for names, name in zip(known, spelled, strict=True):
            names.setdefault(name, []).append(source)
    try:
        lines = read_lines(listing, lambda line: any(line in names for names in known))
    except (OSError, UnicodeDecodeError):
        raise UserError(f"--names {listing} is not a text file; it holds a picture's name on each line") from None
    chosen, missing = {}, []
    for line in lines:
        found = [names[text] for text in (line, line.split()[0]) for names in known if text in names]
        if not found:
            missing.append(line.split()[0])
        elif len(found[0]) > 1:
            several = ", ".join(str(source.path) for source in found[0][:3])
            raise UserError(f"--names {listing}: {line} may be {several}; write one of these")
        else:
            chosen[found[0][0]] = None
    if missing or not lines:
        what = f"{', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}" if missing else "no picture"
        raise UserError(f"--names {listing} names {what}, not found in --input; correct the list or the folder")
    return list(chosen)


def labels(sources) -> list[tuple[str, str]]:
    """The name and the image_id by which tables know each source, all different.

    The name is the place, the image_id that without its suffix; where these are another's too, they are longer.
    """
    names = [(source.place.as_posix(), source.path.as_posix()) for source in sources]
    ids = [(source.place.with_suffix("").as_posix(), *name) for source, name in zip(sources, names, strict=True)]
    return list(zip(distinct(names), distinct(ids), strict=True))


def distinct(choices: Sequence[tuple[str, ...]]) -> list[str]:
    """Of each of several lists of texts the first that no other takes; the last is not asked."""
    chosen = [0] * len(choices)
    while True:
        texts = [texts[index] for texts, index in zip(choices, chosen, strict=True)]
        times = Counter(texts)
        further = [
            times[text] > 1 and index + 1 < len(choice)
            for text, index, choice in zip(texts, chosen, choices, strict=True)
        ]
        if not any(further):
            return texts
        chosen = [index + more for index, more in zip(chosen, further, strict=True)]
