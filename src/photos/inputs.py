"""What a person names on the command line -> picture files, and where their outputs go."""

import glob
import os
from dataclasses import dataclass
from pathlib import Path, PurePath

from PIL import Image

from files import read_names
from utils import UserError


@dataclass(frozen=True)
class Source:
    """A picture file, and its place below the folder that was named: what its outputs are called after."""

    path: Path
    place: PurePath


def find_pictures(inputs, recursive=False):
    """Files, folders and globs -> the pictures, each once, and a line for each thing left out.

    Of a folder, the files with a picture's suffix; with `recursive`, of its sub-folders too. Raises
    UserError for an input that is not there, or where there is no picture at all.
    """
    sources, left_out = {}, []
    for text in inputs:
        paths = [Path(text)] if os.path.lexists(text) else [Path(match) for match in sorted(glob.glob(str(text)))]
        if not paths:
            raise UserError(f"--input {text} not found; name files, folders or globs of pictures")
        for path in paths:
            found = [Source(path, PurePath(path.name))]
            if path.is_dir():
                found = list(walk(path, PurePath(), recursive, (os.path.realpath(path),), left_out))
            for source in found:
                sources.setdefault(source.path.absolute(), source)
    if not sources:
        reason = f" ({'; '.join(left_out)})" if left_out else ""
        raise UserError(f"--input {' '.join(map(str, inputs))} has no picture in it{reason}; try --recursive")
    return list(sources.values()), left_out


def walk(folder, place, recursive, above, left_out):
    """The pictures in a folder, and with `recursive` below it; links to folders are followed, but never in a circle."""
    suffixes = Image.registered_extensions()
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        left_out.append(f"{folder} cannot be opened ({error.strerror})")
        return
    for path in entries:
        if path.is_dir():
            if recursive and os.path.realpath(path) in above:
                left_out.append(f"{path} is a link back to a folder above it")
            elif recursive:
                yield from walk(path, place / path.name, True, (*above, os.path.realpath(path)), left_out)
        elif path.suffix.lower() in suffixes and not path.name.startswith("."):
            yield Source(path, place / path.name)


def name_outputs(sources, folders, suffixes):
    """-> for each source a dict of kind -> file, no two alike and none of them an input.

    folders: kind -> folder; suffixes: kind -> ending. A picture's outputs have its own name, a.png for
    a.jpg; where another picture has taken that, a.jpg.png, then a.jpg-2.png.
    """
    taken = {os.path.realpath(source.path) for source in sources}
    outputs = []
    for source in sources:
        names = [source.place.with_suffix(""), source.place]
        names += [source.place.with_name(f"{source.place.name}-{number}") for number in range(2, len(sources) + 3)]
        for name in names:
            files = {kind: folder / name.parent / (name.name + suffixes[kind]) for kind, folder in folders.items()}
            if not any(os.path.realpath(file) in taken for file in files.values()):
                break
        taken.update(os.path.realpath(file) for file in files.values())
        outputs.append(files)
    return outputs


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
