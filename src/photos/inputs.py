"""Find the images given on the command line, and choose their outputs."""

import glob
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePath

from photos.decode import suffixes
from utils import UserError, count_of


@dataclass(frozen=True)
class Job:
    """An image file and its outputs."""

    path: Path
    files: dict[str, Path]  # by kind
    name: str = ""  # in --csv
    image_id: str = ""  # in --rle


def find_images(inputs, recursive: bool = False, output: Path | None = None) -> tuple[dict[Path, PurePath], Counter]:
    """Resolve files, folders and globs to images, each once.

    recursive: search subfolders too, except hidden ones, links, and `output`. Returns the images
    with their paths relative to the input folder, and the numbers of other files by suffix and of subfolders not
    searched. Raises UserError.
    """
    images: dict[str, tuple[Path, PurePath]] = {}
    unused: Counter = Counter()
    for text in map(os.path.expanduser, inputs):
        paths = [text] if os.path.exists(text) else sorted(glob.glob(text, recursive=True))
        if not paths:
            raise UserError(f"{text} not found; pass image files, folders or globs")
        for top in map(Path, paths):
            folder, found = top.parent, [top]
            if top.is_dir():
                folder, found = top, images_in(top, recursive, output, unused)
            for path in found:
                images.setdefault(os.path.realpath(path), (path, path.relative_to(folder)))
    if not images:
        rest = f" ({describe_unused(unused)})" if unused else ""
        raise UserError(f"no images in {', '.join(map(str, inputs))}{rest}; pass other paths, or try --recursive")
    return dict(images.values()), unused


def images_in(top, recursive, output, unused):
    """Return the images in a folder, and count its other files in `unused`."""

    def fail(error):
        reason = f"cannot be opened ({error.strerror})"
        raise UserError(f"{error.filename} {reason}; correct its permissions") from None

    images, excluded = [], output.resolve() if output else None
    for folder, subfolders, names in os.walk(top, onerror=fail):
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith("."):
                unused["hidden"] += 1
            elif path.suffix.lower() in suffixes():
                images.append(path)
            else:
                unused[path.suffix or "without suffix"] += 1
        visible = sorted(name for name in subfolders if not name.startswith("."))
        subfolders[:] = [name for name in visible if Path(folder, name).resolve() != excluded]
        if not recursive:
            if subfolders:
                unused["subfolder(s) (see --recursive)"] += len(subfolders)
            break
    return images


def describe_unused(unused: Counter) -> str:
    """Describe the ignored files and subfolders in one line."""
    return "ignored: " + ", ".join(f"{number:,} {suffix}" for suffix, number in unused.most_common())


def plan(images: dict[Path, PurePath], folders: dict[str, Path], endings: dict[str, str]) -> list[Job]:
    """Choose each image's outputs: a.png for a.jpg, or a.jpg.png if several are called a. Raises UserError."""
    jobs: dict[str, Job] = {}  # by name in lower case, since some file systems ignore case
    stems = Counter(name.with_suffix("").as_posix().casefold() for name in images.values())
    for path, name in images.items():
        stem = name.with_suffix("").as_posix()
        if stems[stem.casefold()] > 1:
            stem = name.as_posix()
        key = stem.casefold()
        if key in jobs:
            raise UserError(f"{jobs[key].path} and {path} would have the same output; use two output folders")
        files = {kind: folder / (stem + endings[kind]) for kind, folder in folders.items()}
        jobs[key] = Job(path, files, name.as_posix(), stem)
    return list(jobs.values())


def refuse_existing(outputs: list[Path]):
    """Raise UserError if any of these files exists."""
    existing = [path for path in outputs if path.exists()]
    if existing:
        more = f" (and {count_of(len(existing) - 1, 'more output')})" if len(existing) > 1 else ""
        raise UserError(f"{existing[0]} already exists{more}; use --overwrite or --skip_existing")
