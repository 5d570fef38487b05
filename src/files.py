"""Atomic file and CSV writing, and reading of text lists."""

import csv
import io
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from utils import UserError


class CannotWrite(UserError):
    """A file that cannot be written; `errno` is the system's reason, if it gave one."""

    def __init__(self, path: Path, error: OSError):
        self.errno = error.errno
        reason = error.strerror or error
        super().__init__(f"{path} cannot be written ({reason}); free some space or choose another folder")


def write_atomically(path: Path | str, write: Callable[[IO[bytes]], object], fsync: bool = True):
    """Call write(binary file) on a temporary file next to `path`, then rename it to `path`.

    Whatever happens, `path` is the old file or the new one. Raises CannotWrite, a UserError. fsync: wait until the file
    is on the disk, which takes seconds on a busy disk, so that it survives a power failure.
    """
    path, temporary = Path(path), None
    try:
        prefix = f".{os.fsdecode(os.fsencode(path.name)[:200])}."  # file names have up to 255 bytes
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            if fsync:
                os.fsync(file.fileno())
        with suppress(OSError):  # some network mounts have no permissions
            permissions = path.stat().st_mode & 0o777 if path.exists() else path.parent.stat().st_mode & 0o664
            os.chmod(temporary, permissions)
        os.replace(temporary, path)
    except OSError as error:
        raise CannotWrite(path, error) from None
    finally:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)
    if fsync:
        with suppress(OSError):  # so that the rename survives a power failure; not all systems can do that
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def write_csv(path: Path, header: list, rows: list, fsync: bool = True):
    """Write a CSV file atomically. fsync: see `write_atomically`."""
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    write_atomically(path, lambda file: file.write(text.getvalue().encode(errors="backslashreplace")), fsync)


def make_folder(path: Path, flag: str):
    """Create the folder given by `flag`. Raises UserError if it cannot be created."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be created ({error.strerror}); choose another folder") from None


def read_lines(path: Path, known: Callable[[str], bool] = lambda line: False) -> list[str]:
    """Read the lines of a UTF-8 or UTF-16 text file, without blank lines, comments and surrounding whitespace.

    A comment begins with #, unless the line is `known`. Raises OSError, UnicodeDecodeError.
    """
    content = Path(path).read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"  # the former by PowerShell
    lines = (line.strip() for line in content.decode(encoding).splitlines())
    return [line for line in lines if line and (known(line) or not line.startswith("#"))]
