"""Limit the memory of images in flight."""

import threading


class PixelBudget:
    """Limits the pixels in memory across threads; an image over the limit is processed by itself."""

    def __init__(self, pixels: int):
        self.pixels, self.taken, self.changed = pixels, 0, threading.Condition()

    def spend(self, pixels: int, work, *arguments):
        """Return work(*arguments), called when `pixels` more pixels fit into the budget."""
        with self.changed:
            self.changed.wait_for(lambda: self.taken == 0 or self.taken + pixels <= self.pixels)
            self.taken += pixels
        try:
            return work(*arguments)
        finally:
            with self.changed:
                self.taken -= pixels
                self.changed.notify_all()
