"""The mark by which inference.py knows its own outputs again, and the picture that each was made of."""

import hashlib
import os
from pathlib import Path

from PIL import Image

MARK = "written by inference.py from "


def mark_of(source: Path) -> str:
    """The mark of outputs of a picture file: a hash of its name, its bytes' number and its time."""
    try:
        status = os.stat(source)
        identity = f"{status.st_size} {int(status.st_mtime)} {source.name}"
    except OSError:  # reading it says why
        identity = source.name
    return MARK + hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]


def read_mark(path: Path) -> str | None:
    """The mark in a file, or None where it is not an output of ours, or not there."""
    if not os.path.isfile(path):
        return None
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            text = picture.info.get("Comment") or picture.info.get("comment") or ""
    except Exception:  # Pillow raises many kinds
        return None
    text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return text if text.startswith(MARK) else None


def may_write(path: Path) -> bool:
    """Whether nothing is lost by writing there: an output of ours, or nothing yet, in what is or can be a folder."""
    if os.path.lexists(path):
        return read_mark(path) is not None
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    return os.path.isdir(above)
