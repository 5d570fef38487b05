"""Atomic file and CSV writing, and reading of text lists."""

import csv
import io
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from utils import UserError


class CannotWrite(UserError):
    """A file that cannot be written. errno: the system's error number, if any."""

    def __init__(self, path: Path, error: OSError):
        self.errno = error.errno
        reason = error.strerror or error
        super().__init__(f"{path} cannot be written ({reason}); free some space or choose another folder")


def write_atomically(path: Path | str, write: Callable[[IO[bytes]], object], fsync: bool = True):
    """Call write(binary file) on a temporary file next to `path`, then rename it to `path`. Creates the folder.

    fsync: first wait until the content is on the disk, so that a power failure leaves a whole file, the old or the new
    one: seconds on a busy disk. Raises CannotWrite.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            if fsync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CannotWrite(path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_csv(path: Path, header: list, rows: list):
    """Write a CSV file atomically."""
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    content = text.getvalue().encode(errors="backslashreplace")
    write_atomically(path, lambda file: file.write(content))


def make_folder(path: Path, flag: str):
    """Create the folder given by `flag`. Raises UserError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be created ({error.strerror}); choose another folder") from None


def read_lines(path: Path) -> list[str]:
    """Read a UTF-8 text file's lines, without blank lines, comments (#) and surrounding whitespace.

    Raises OSError, UnicodeDecodeError.
    """
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
