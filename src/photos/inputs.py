"""Find the images given on the command line, and choose where their outputs go."""

import glob
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePath

from photos.decode import suffixes
from utils import UserError, count_of


@dataclass(frozen=True)
class Job:
    """An image file and the output file of each kind. name, image_id: its name in --csv and in --rle."""

    path: Path
    files: dict[str, Path]
    name: str = ""
    image_id: str = ""


def find_images(inputs, recursive: bool = False, output: Path | None = None) -> tuple[dict[Path, PurePath], Counter]:
    """Resolve files, folders and globs to images, each once.

    From a folder, take the files with an image suffix; with `recursive`, also from its subfolders, except hidden ones,
    links, and `output`. Returns each image with its path relative to the given folder, and the number of other files
    by suffix. Raises UserError if an input is not found, or there is no image at all.
    """
    images: dict[str, tuple[Path, PurePath]] = {}
    unused: Counter = Counter()
    for text in map(os.path.expanduser, map(str, inputs)):
        paths = [text] if os.path.exists(text) else sorted(glob.glob(text, recursive=True))
        if not paths:
            raise UserError(f"{text} not found; pass image files, folders or globs")
        for top in map(Path, paths):
            for path in files_in(top, recursive, output) if top.is_dir() else [top]:
                hidden = path.name.startswith(".")
                if path != top and (hidden or path.suffix.lower() not in suffixes()):
                    unused["hidden" if hidden else path.suffix or "no suffix"] += 1
                else:
                    name = PurePath(path.name) if path == top else path.relative_to(top)
                    images.setdefault(os.path.realpath(path), (path, name))
    if not images:
        rest = f" ({describe_unused(unused)})" if unused else ""
        raise UserError(f"no images in {', '.join(map(str, inputs))}{rest}; use --recursive to search subfolders")
    return dict(images.values()), unused


def files_in(top, recursive, output):
    """Yield the files in a folder, and with `recursive` below it."""

    def fail(error):
        raise UserError(f"{error.filename} cannot be opened ({error.strerror}); correct its permissions") from None

    for folder, below, names in os.walk(top, onerror=fail):
        below[:] = sorted(name for name in below if recursive and not name.startswith("."))
        if output:
            below[:] = [name for name in below if Path(folder, name).resolve() != output.resolve()]
        yield from (Path(folder, name) for name in sorted(names))


def describe_unused(unused: Counter) -> str:
    """Describe the files that are not images in one line."""
    counts = ", ".join(f"{number:,} {suffix}" for suffix, number in unused.most_common())
    return f"ignored {count_of(unused.total(), 'non-image file')}: {counts}"


def plan(images: dict[Path, PurePath], folders: dict[str, Path], endings: dict[str, str]) -> list[Job]:
    """Choose the outputs of each image: a.png for a.jpg; a.jpg.png if several images share the name a.

    folders, endings: the folder and the ending of each kind of output. Raises UserError if two images have the same
    relative path.
    """
    stems = Counter(str(name.with_suffix("")).casefold() for name in images.values())  # some file systems ignore case
    jobs: dict[str, Job] = {}
    for path, name in images.items():
        shared = stems[str(name.with_suffix("")).casefold()] > 1
        stem = (name if shared else name.with_suffix("")).as_posix()
        files = {kind: folder / f"{stem}{endings[kind]}" for kind, folder in folders.items()}
        job = Job(path, files, name.as_posix(), stem)
        if jobs.setdefault(stem.casefold(), job) is not job:
            advice = "pass one folder above both with --recursive, or predict them in separate runs"
            raise UserError(f"{jobs[stem.casefold()].path} and {path} would have the same outputs; {advice}")
    return list(jobs.values())


def jobs_to_do(jobs: list[Job], overwrite: bool, skip_existing: bool) -> list[Job]:
    """Drop the finished jobs, if skip_existing. Raises UserError if outputs exist and no flag allows it."""
    if skip_existing:
        return [job for job in jobs if not all(path.exists() for path in job.files.values())]
    existing = [path for job in jobs for path in job.files.values() if path.exists()]
    if existing and not overwrite:
        more = f" (and {count_of(len(existing) - 1, 'more output')})" if len(existing) > 1 else ""
        raise UserError(f"{existing[0]} already exists{more}; use --overwrite to replace or --skip_existing to keep it")
    return jobs
