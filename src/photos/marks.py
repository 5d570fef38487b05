"""The mark by which inference.py knows its own outputs again, and the picture that each was made of."""

import hashlib
import os
from pathlib import Path

from PIL import Image

MARK = "written by inference.py from "


def mark(identity: str) -> str:
    """The mark of outputs of what is so identified: a hash, which tells nothing of it."""
    return MARK + hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]


def mark_of(source: Path) -> str:
    """The mark of outputs of a picture file, which goes by its path, its size and its time."""
    try:
        status = os.stat(source)
    except OSError:  # reading it says why
        return mark(source.name)
    return mark(f"{status.st_size} {status.st_mtime_ns} {os.path.realpath(source)}")


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
    """Whether nothing is lost by writing there: an output of ours, or nothing yet.

    An empty file, as a power cut may leave one of ours, is nothing.
    """
    if not os.path.lexists(path):
        return True
    return os.path.isfile(path) and (os.path.getsize(path) == 0 or read_mark(path) is not None)
