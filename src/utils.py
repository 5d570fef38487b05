"""User errors and command-line helpers."""

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch

LARGEST_SIDE = 2**14  # largest network input, in pixels


class UserError(Exception):
    """A mistake that the user can fix. The message names the file or flag, and says what to do."""


class ProcessError(UserError):
    """A UserError, such as lack of memory, that may occur on only one rank, so each rank prints its own."""


class Parser(argparse.ArgumentParser):
    """ArgumentParser that reports a mistake in one line, with exit status 2."""

    def __init__(self, doc):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message):
        print(f"error: {message}; {self.prog} --help lists every flag", file=sys.stderr)
        sys.exit(2)


def checked(kind: Callable, fits: Callable, wanted: str) -> Callable:
    """Make an argparse type: kind(text), if `fits` accepts it. wanted: what fits, for messages."""

    def convert(text):
        with suppress(ValueError):
            value = kind(text)
            if fits(value):
                return value
        raise argparse.ArgumentTypeError(f"{text} is not {wanted}")

    return convert


positive_int = checked(int, lambda n: n >= 1, "a whole number of at least 1")
worker_count = checked(int, lambda n: 0 <= n <= 1024, "a whole number from 0 to 1,024")
image_side = checked(int, lambda n: 1 <= n <= LARGEST_SIDE, f"a whole number from 1 to {LARGEST_SIDE:,}")


def user_path(text: str) -> Path:
    """Parse a path, expanding ~."""
    return Path(os.path.expanduser(text))


def worker_died(error: Exception) -> bool:
    """Check whether torch raised an error because a data loading process was killed or lacks shared memory."""
    if isinstance(error, ConnectionResetError) or (isinstance(error, EOFError) and not error.args):
        return True  # its pipe closed before its signal arrived
    return any(text in str(error) for text in ("killed by signal", "exited unexpectedly", "shared memory"))


@contextmanager
def when_memory_runs_out(advice: str):
    """Raise UserError if the block runs out of memory (with `advice`) or its workers are killed."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise ProcessError(f"the GPU ran out of memory; {advice}") from None
    except (MemoryError, RuntimeError, ConnectionResetError, EOFError) as error:
        if worker_died(error):
            reason = "a data loading process was killed, perhaps for lack of memory"
            raise ProcessError(f"{reason}; use --workers 0, or add shared memory (docker run --shm-size 8g)") from None
        texts = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")  # Linux, Windows, GPUs
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in texts):
            raise
        place = "GPU" if "CU" in str(error) else "machine"  # CUDA, CUBLAS, CUDNN
        raise ProcessError(f"the {place} ran out of memory; {advice}") from None


def quoted(*words) -> str:
    """Join words, quoted for this system's shell."""
    join = subprocess.list2cmdline if os.name == "nt" else shlex.join
    return join(map(str, words))


def command(script: str, *words, processes: int = 1) -> str:
    """Return a command that can be pasted into a shell; for several machines, it lacks torchrun's --rdzv flags."""
    launcher = "python"
    if processes > 1:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
        machines = f" --nnodes {processes // local}" if local < processes else ""
        launcher = f"torchrun{machines} --nproc_per_node {local}"
    return f"{launcher} {quoted(script, *words)}"


def note(text: str):
    """Print a note on stderr, from rank 0 only."""
    if os.environ.get("RANK", "0") == "0":
        print("note:", text, file=sys.stderr, flush=True)


note_once = cache(note)


def count_of(n: int, noun: str) -> str:
    """Return a number with its noun: "1 image", "3,312 images"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def run(main: Callable[[], int | None]):
    """Call `main` and exit with its status, or with 2 and one line on stderr for a UserError."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        sys.exit(main())
    except (UserError, PermissionError) as error:
        rank = os.environ.get("RANK", "0")
        if rank == "0" or isinstance(error, ProcessError):
            process = f" (process {rank})" if rank != "0" else ""
            print(f"error{process}:", " ".join(str(error).split()), file=sys.stderr, flush=True)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            sys.stdout.flush()
            os._exit(2)  # a normal exit may wait for the other processes
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output exited, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends the process even while it frees memory
