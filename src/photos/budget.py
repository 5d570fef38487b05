"""Limits on what is in flight: pixels, so that memory is bounded whatever the files hold; seconds after a signal."""

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress

from files import remove_unfinished

LARGE = 8_000_000  # pixels of a picture after which freed memory is given back to the system
SECONDS_TO_END = 0.8  # after a signal, until the process is ended whatever its threads do


class PixelBudget:
    """At most so many pixels in flight over all threads; a picture that is larger than the whole goes alone."""

    def __init__(self, pixels: int):
        self.pixels, self.taken, self.changed = pixels, 0, threading.Condition()

    def spend(self, pixels, work, *arguments):
        """work(*arguments), which holds a picture of so many pixels in memory, once there is room for it."""
        with self.changed:
            self.changed.wait_for(lambda: self.taken == 0 or self.taken + pixels <= self.pixels)
            self.taken += pixels
        try:
            return work(*arguments)
        finally:
            if pixels > LARGE:
                give_memory_back()
            with self.changed:
                self.taken -= pixels
                self.changed.notify_all()


def give_memory_back():
    """Return what is freed to the system: glibc keeps it for each thread; does nothing elsewhere."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def ends_in_time():
    """In the block, SIGTERM and SIGINT end the process soon, even if a thread is busy in a decoder for longer.

    The main thread's handlers come first: they raise, and what is done is saved. Unfinished files are removed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def wait():
        while number := os.read(reader, 1):
            if number[0] in (signal.SIGTERM, signal.SIGINT):
                time.sleep(SECONDS_TO_END)
                remove_unfinished()
                os._exit(128 + number[0])
        os.close(reader)

    threading.Thread(target=wait, daemon=True).start()
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as stop:
        code = 128 + signal.SIGINT if isinstance(stop, KeyboardInterrupt) else stop.code
        if code not in (128 + signal.SIGTERM, 128 + signal.SIGINT):
            raise
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        remove_unfinished()
        os._exit(code)  # Python would wait for its threads, and torch takes seconds to free what it holds
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
