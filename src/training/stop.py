"""SIGINT and SIGTERM end a run after its step, with everything saved."""

import signal
import sys

from training.distributed import agree, rank


class Stop:
    """The first signal asks the loop to stop after its step; a second one ends the process at once.

    asked: the signal that this process got. signal: the one that all processes stop for; 0: none.
    """

    def __init__(self):
        self.asked = self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.ask)

    def agreed(self, *more: int) -> tuple[int, ...]:
        """Whether to stop, then the largest of each further number over the ranks. Collective: call on all ranks."""
        self.signal, *rest = agree(self.asked, *more)
        return self.signal, *rest

    def ask(self, number, frame):
        self.asked = number
        if rank() == 0:
            print("\nstopping after this step; once more to leave at once", file=sys.stderr)
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_DFL)
