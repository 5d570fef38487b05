"""What Pillow and libtiff say about a file: kept for the line about that file, not strewn over the screen."""

import logging
import os
import sys
import tempfile
import threading
import warnings
from contextlib import contextmanager, suppress

from PIL import Image

LONGEST = 3  # messages kept of one file
STDERR = 2  # libtiff writes to this descriptor, whatever Python's sys.stderr is
REDIRECTED = threading.Lock()
HERE = threading.local()  # .messages: the list that this thread's messages go to


def keep(text):
    """Keep a message for the file that this thread works on. Returns False where none is being kept."""
    messages = getattr(HERE, "messages", None)
    if messages is None:
        return False
    text = " ".join(str(text).split())[:200]
    if text and text not in messages and len(messages) < LONGEST:
        messages.append(text)
    return True


class Keeper(logging.Handler):
    def emit(self, record):
        if not keep(record.getMessage()):
            sys.stderr.write(f"{record.getMessage()}\n")


@contextmanager
def kept_warnings():
    """In the block, threads keep Pillow's warnings with `warned`. To be entered once, before the threads start."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        show = warnings.showwarning

        def keep_or_show(message, *details, **more):
            if not keep(message):
                show(message, *details, **more)

        warnings.showwarning = keep_or_show
        handler, logger = Keeper(logging.WARNING), logging.getLogger("PIL")
        before = logger.propagate
        logger.addHandler(handler)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.propagate = before


@contextmanager
def warned():
    """A list that takes the messages about what this thread does in the block."""
    HERE.messages = []
    try:
        yield HERE.messages
    finally:
        HERE.messages = None


@contextmanager
def library_messages():
    """Keep what a C library writes to standard error in the block; one thread at a time."""
    if getattr(HERE, "messages", None) is None:
        yield
        return
    with REDIRECTED, tempfile.TemporaryFile() as file:
        try:
            screen = os.dup(STDERR)
        except OSError:  # standard error is closed
            yield
            return
        os.dup2(file.fileno(), STDERR)
        try:
            yield
        finally:
            os.dup2(screen, STDERR)
            os.close(screen)
            with suppress(OSError):
                file.seek(0)
                for line in file.read(10_000).decode(errors="replace").splitlines():
                    keep(line)
