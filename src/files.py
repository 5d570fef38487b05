"""Files and tables, written whole or not at all; lists of names, read as they were meant."""

import codecs
import csv
import io
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from utils import UserError

LONGEST_NAME = 200  # bytes of a file's name that its temporary file's name repeats
MAKING = threading.Lock()
UNFINISHED: set[str] = set()  # names of temporary files
UMASK = os.umask(0)  # it can only be read by setting it
os.umask(UMASK)


class CannotWrite(UserError):
    """A file cannot be written; `errno` says why, where the system gave a reason."""

    def __init__(self, path, error: OSError):
        self.errno = error.errno
        super().__init__(
            f"{path} cannot be written ({error.strerror or error}); free some space or choose another folder; "
            f"what was saved before is as it was"
        )


def write_whole(path, write, wait=True):
    """Call write(binary file) on a new file beside `path`, then rename it over `path`, and wait for the disk.

    Whatever happens, `path` is the old file or the new one. Raises CannotWrite, a UserError. wait: if false, do not
    wait for the disk: for files that can be made again, since a disk that is busy takes seconds, in which the process
    cannot even be ended. After a power cut such a file may be empty.
    """
    path = Path(path)
    temporary = None
    try:
        handle, temporary = make_temporary(path)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            if wait:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~UMASK)
        os.replace(temporary, path)
        if wait and os.name == "posix":  # elsewhere a folder cannot be opened
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        raise CannotWrite(path, error) from None
    finally:
        if temporary:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            UNFINISHED.discard(temporary)


def make_temporary(path):
    """A new file beside `path`, named after it: its handle and its name."""
    name = os.fsdecode(os.fsencode(path.name)[:LONGEST_NAME])  # the whole name may be as long as names can be
    with MAKING:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{name}.")
        UNFINISHED.add(temporary)
    return handle, temporary


def check_can_write(path: Path):
    """Raise CannotWrite, a UserError, where no file can be made beside `path`."""
    try:
        handle, temporary = make_temporary(path)
    except OSError as error:
        raise CannotWrite(path, error) from None
    os.close(handle)
    os.unlink(temporary)
    UNFINISHED.discard(temporary)


def remove_unfinished():
    """Remove the files that other threads are writing. Nothing can be written afterwards: end the process."""
    MAKING.acquire()
    for temporary in list(UNFINISHED):
        with suppress(OSError):
            os.unlink(temporary)


def printable(path) -> str:
    """A path as text of UTF-8, for files that others read: bytes that are not UTF-8 appear as \\xe9."""
    return os.fsencode(path).decode(errors="backslashreplace")


def write_table(path, header, rows, end="\r\n", wait=True):
    """Write a CSV file, whole or not at all. wait: see `write_whole`."""
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows([header, *rows])
    write_whole(path, lambda file: file.write(text.getvalue().encode(errors="backslashreplace")), wait)


class FileLock:
    """A lock of one process, freed when it ends, however it ends; its file is removed by `release`."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.file: IO | None = None

    def take(self) -> bool:
        """Whether the lock is this one's now, without waiting. Raises OSError where its file cannot be made."""
        while True:
            file = open(self.path, "a")  # noqa: SIM115  # closed by `release`
            try:
                lock_file(file)
                if os.fstat(file.fileno()).st_ino == os.stat(self.path).st_ino:
                    self.file = file
                    return True
            except FileNotFoundError:  # removed by its last holder between our open and our lock
                pass
            except OSError:
                file.close()
                return False
            file.close()

    def release(self):
        if self.file:
            with suppress(OSError):
                self.path.unlink()
            self.file.close()
            self.file = None


def lock_file(file):
    """Lock an open file without waiting. Raises OSError where another process has it."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def make_folder(path, flag):
    """Make the folder that `flag` names. Raises UserError where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be made ({error.strerror}); choose another folder") from None


def read_lines(path: Path, known: Callable[[str], bool] = lambda line: False) -> list[str]:
    """The lines of a text file without blank ones, comments and surrounding blanks; UTF-8, or UTF-16 with its mark.

    A comment begins with #, and is no line that is `known`. Raises OSError, UnicodeDecodeError.
    """
    content = Path(path).read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as PowerShell's > writes
    text = content.decode("utf-16" if marked else "utf-8-sig").replace("\r", "\n")
    lines = [line.strip() for line in text.split("\n")]
    return [line for line in lines if line and (known(line) or not line.startswith("#"))]


def read_names(path: Path) -> list[str]:
    """The first word of each of `read_lines`. Raises OSError, UnicodeDecodeError."""
    return [line.split()[0] for line in read_lines(path)]
