"""Many picture files through the network: threads read ahead and write behind, so that it waits for neither.

One file never ends the run: whatever goes wrong with it is a line about it. Memory is bounded by the pixels in flight.
Under torchrun, each process takes its part of the batches.
"""

import errno
import os
import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

from cores import available_cores
from files import CannotWrite, check_can_write
from photos.budget import PixelBudget
from photos.inputs import Source, beside
from photos.marks import read_mark
from photos.outputs import Style, box, foreground_share, keep_largest, mask_of, run_lengths, save_output
from photos.pictures import PictureError, develop, opened, reason_of
from photos.prediction import probability_of, tile_probability, to_input
from photos.truth import dice_beside
from photos.warned import kept_warnings, warned
from predictor import Predictor
from training.distributed import rank, world_size
from utils import to_size

PIXELS_IN_FLIGHT = 24_000_000  # of about 40 bytes of memory each, where all kinds of output are drawn
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # every write fails where one fails by these


@dataclass(frozen=True)
class Task:
    """What is made of each picture. tile: see tile_probability. border: of trimaps that are scored, else None."""

    style: Style = field(default_factory=Style)
    tile: int | None = None
    border: str | None = None
    runs: bool = False


@dataclass(frozen=True)
class Job:
    """A picture, its place among all, and the file of each kind of output.

    mark: what its outputs hold. name, image_id: what tables call it.
    """

    index: int
    source: Source
    files: dict[str, Path]
    mark: str = ""
    name: str = ""
    image_id: str = ""

    def is_done(self) -> bool:
        """Whether each output exists, made of this picture."""
        return all(self.mark in (read_mark(file), read_mark(beside(file))) for file in self.files.values())


@dataclass
class Outcome:
    """What became of the jobs, by their index. rows: a CSV row and run lengths. stopped: why not all were tried."""

    rows: dict[int, tuple[list, str]] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    warnings: dict[int, str] = field(default_factory=dict)
    stopped: str | None = None
    network_seconds: float = 0.0

    def add(self, other: "Outcome"):
        self.rows |= other.rows
        self.problems |= other.problems
        self.warnings |= other.warnings
        self.stopped = self.stopped or other.stopped
        self.network_seconds += other.network_seconds


def progress_bar(total):
    """A bar on the screen, of rank 0; through a descriptor of its own, since `library_messages` redirects stderr's."""
    if rank() > 0 or not sys.stderr.isatty():
        return tqdm(disable=True)
    return tqdm(total=total, unit="picture", file=os.fdopen(os.dup(sys.stderr.fileno()), "w"))


class CannotGoOn(Exception):
    """What stops every write."""


class Pipeline:
    """predictor: with the size and averaging asked for. `outcome` grows while `run` works."""

    def __init__(self, predictor: Predictor, task: Task, batch_size: int, folder: Path):
        self.predictor, self.task, self.batch_size, self.folder = predictor, task, batch_size, folder
        self.outcome = Outcome()
        self.budget = PixelBudget(PIXELS_IN_FLIGHT)
        self.writing: deque[tuple[Job, Future]] = deque()

    def run(self, jobs: list[Job]):
        """Do this process's part of the jobs. Batches are cut the same way whatever the number of processes."""
        batches = [jobs[first : first + self.batch_size] for first in range(0, len(jobs), self.batch_size)]
        mine = batches[rank() :: world_size()]
        pictures = sum(map(len, mine))
        self.bar = progress_bar(pictures)
        # a thread for each picture where there are many: small operations that are shared out take longer
        threads = max(1, torch.get_num_threads() // max(1, pictures))
        self.readers = ThreadPoolExecutor(initializer=torch.set_num_threads, initargs=(threads,))
        workers = available_cores()  # writers compute: more would hinder one another
        self.writers = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,))
        patient = True
        try:
            with kept_warnings():
                self.run_batches(mine)
        except CannotGoOn as stopped:
            self.outcome.stopped = str(stopped)
        except (KeyboardInterrupt, SystemExit):
            patient = False
            raise
        finally:
            for pool in (self.readers, self.writers):
                pool.shutdown(wait=patient, cancel_futures=True)
            self.keep_what_is_written()
            self.bar.close()

    def run_batches(self, batches):
        for batch, reading in self.read_ahead(batches):
            read = [(job, self.result_of(job, future)) for job, future in zip(batch, reading, strict=True)]
            self.run_network([(job, *result) for job, result in read if result])
            self.finish_writing(2 * self.batch_size)
        self.finish_writing(0)

    def read_ahead(self, batches):
        """Each batch with the futures of its pictures, which are read up to two batches ahead."""
        coming = iter(batches)
        waiting = deque()
        while True:
            for batch in islice(coming, 3 - len(waiting)):
                waiting.append((batch, [self.readers.submit(self.read, job) for job in batch]))
            if not waiting:
                return
            yield waiting.popleft()

    def run_network(self, batch):
        """Predict a batch of what `read` returned, and have its outputs written."""
        if not batch:
            return
        began = time.perf_counter()
        probabilities = probability_of(self.predictor, [image for _, _, image, _ in batch])
        self.outcome.network_seconds += time.perf_counter() - began
        for (job, size, _, messages), probability in zip(batch, probabilities, strict=True):
            self.writing.append((job, self.writers.submit(self.write, job, size, probability, messages)))

    def finish_writing(self, allowed):
        """Wait until at most `allowed` pictures are being written."""
        while len(self.writing) > allowed:
            self.take_row(*self.writing.popleft())

    def keep_what_is_written(self):
        """After a stop: the rows of pictures that were finished meanwhile."""
        for job, future in self.writing:
            if future.done() and not future.cancelled() and not future.exception():
                self.take_row(job, future)

    def take_row(self, job, future):
        result = self.result_of(job, future)
        if result:
            row, messages = result
            self.outcome.rows[job.index] = row
            if messages:
                self.outcome.warnings[job.index] = f"{job.source.path} ({'; '.join(messages)})"
            self.bar.update()

    def result_of(self, job, future):
        """A future's result, or None after its exception has become a line about the picture. Raises CannotGoOn."""
        try:
            return future.result()
        except (CannotWrite, OSError) as error:
            if self.stops_every_write(error):
                raise CannotGoOn(str(error)) from None
            reason = error if isinstance(error, CannotWrite) else f"cannot be written ({reason_of(error)})"
        except PictureError as error:
            reason = error
        except Exception as error:
            reason = f"cannot be used ({reason_of(error)})"
        self.outcome.problems[job.index] = f"{job.source.path} {reason}".strip()
        self.bar.update()
        return None

    def stops_every_write(self, error):
        """Whether what one write failed by makes all others fail."""
        if error.errno in FULL:
            return True
        try:
            check_can_write(self.folder / "probe")
        except CannotWrite:
            return True
        return False

    # ------------------------------------------------------------- in threads

    def read(self, job):
        """The picture's (width, height), the network's input, and what was said about the file.

        The photo itself is let go, and read again where an output shows it: many large ones do not fit in memory.
        """
        with warned() as messages:
            try:
                with opened(job.source.path) as picture:
                    size, image = self.budget.spend(picture.width * picture.height, self.read_input, picture)
            except PictureError as error:
                raise PictureError(f"{error}{', after ' if messages else ''}{'; '.join(messages)}") from None
        return size, image, messages

    def read_input(self, picture):
        photo = develop(picture, keep_alpha=False)
        return photo.size, to_input(self.predictor, photo)

    def write(self, job, size, probability, messages):
        """Write the outputs of one picture. Returns its row, and what was said about the file."""
        with warned():  # as it was by `read`
            row, said = self.budget.spend(size[0] * size[1], self.write_outputs, job, size, probability)
        return row, [*messages, *said]

    def write_outputs(self, job, size, probability):
        task = self.task
        photo = None
        tiled = task.tile and max(size) > task.tile
        if tiled or not job.files.keys() <= {"mask", "probability"}:
            with opened(job.source.path) as picture:
                photo = develop(picture)
        if photo and photo.size != size:
            raise PictureError("was exchanged while it was being used")
        probability = tile_probability(self.predictor, photo, task.tile) if tiled else to_size(probability, size)
        if task.style.largest:
            probability = keep_largest(probability, task.style.threshold)
        for kind, path in job.files.items():
            save_output(kind, photo, probability, task.style, path, job.mark)
        mask = mask_of(probability, task.style.threshold)
        said, dice = [], ""
        if task.border:
            try:
                dice = dice_beside(job.source.path, mask, task.border)
            except PictureError as error:
                said.append(str(error))
        numbers = [job.name, *size, f"{foreground_share(mask):.6f}", *box(mask), dice]
        return (numbers, run_lengths(mask) if task.runs else ""), said
