"""Predict many image files: threads read ahead and write behind, so the network waits for neither."""

import errno
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import torch

from cores import PixelBudget, available_cores, memory_limit
from files import CannotWrite
from photos.components import drop_small
from photos.decode import ImageError, open_image, reason_of
from photos.inputs import Job
from photos.outputs import Style, mask_of, render, run_lengths, save_each, save_image
from photos.prediction import probability_of, read_any, tile_probability, to_input
from predictor import Predictor, to_size
from utils import UserError

BYTES_PER_PIXEL = 30  # while a cutout is made; 7 while a photo is read
FEWEST_PIXELS, MOST_PIXELS = 16_000_000, 100_000_000  # in flight, for little and for unlimited memory
FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}  # every other write would fail too


@dataclass(frozen=True)
class Result:
    """Outcome of a job."""

    job: Job
    numbers: tuple = ()  # columns of --csv after the name
    runs: str = ""  # for --rle
    problem: str = ""  # why outputs are missing


@dataclass
class Pipeline:
    """Predicts files in batches. tile: see `tile_probability`. with_runs: compute run lengths."""

    predictor: Predictor
    style: Style = Style()
    batch_size: int = 8
    tile: int | None = None
    with_runs: bool = False
    budget: PixelBudget = field(default_factory=lambda: PixelBudget(pixels_in_flight()))

    def run(self, jobs: list[Job], done: Callable[[Result], None]):
        """Call `done` with each job's result, in this thread. Raises UserError for NaN and FATAL errors."""
        # One thread per image if there are many: small operations are slower on several threads.
        threads = max(1, torch.get_num_threads() // max(1, len(jobs)))
        make_pool = partial(ThreadPoolExecutor, available_cores(), "", torch.set_num_threads, (threads,))
        readers, writers = make_pool(), make_pool()
        writing: deque[Future[Result]] = deque()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=r"PIL\.")
                for predicted in self.predict(jobs, readers, done):
                    writing.append(writers.submit(self.write, *predicted))
                    if len(writing) > 2 * self.batch_size:
                        done(writing[0].result())
                        writing.popleft()  # only now, so that an interrupt loses nothing
                while writing:
                    done(writing[0].result())
                    writing.popleft()
        finally:
            readers.shutdown(cancel_futures=True)
            writers.shutdown(cancel_futures=True)
            for future in writing:  # finish writes that have begun
                if not future.cancelled():
                    with suppress(UserError):  # only the first error is raised
                        done(future.result())

    def predict(self, jobs, readers, done):
        """Yield readable jobs with the photo's size and the probability at the network's size."""
        starts = iter(range(0, len(jobs), self.batch_size))
        reading: deque[list[Future]] = deque()
        while True:
            for start in islice(starts, 3 - len(reading)):  # three batches in flight
                batch = jobs[start : start + self.batch_size]
                reading.append([readers.submit(self.read, job) for job in batch])
            if not reading:
                return
            read = [future.result() for future in reading.popleft()]
            for result in read:
                if isinstance(result, Result):
                    done(result)
            good = [item for item in read if not isinstance(item, Result)]
            if good:
                probabilities = probability_of(self.predictor, [pixels for _, _, pixels in good])
                for (job, size, _), probability in zip(good, probabilities, strict=True):
                    yield job, size, probability

    def read(self, job):
        """Return the job, its photo's (width, height) and the network's input, or a failed Result."""

        def read_input():  # `write` reads the photo again: many photos do not fit in memory
            photo = read_any(self.predictor, job.path)
            return job, photo.size, to_input(self.predictor, photo)

        try:
            with open_image(job.path) as image:
                pixels = image.width * image.height
            return self.budget.spend(pixels // 4, read_input)  # see BYTES_PER_PIXEL
        except Exception as error:
            return Result(job, problem=problem_of(error))

    def write(self, job, size, probability):
        """Write one image's outputs. Raises CannotWrite for errors in FATAL."""
        try:
            return self.budget.spend(size[0] * size[1], self.write_outputs, job, size, probability)
        except Exception as error:
            if isinstance(error, CannotWrite) and error.errno in FATAL:
                raise
            return Result(job, problem=problem_of(error))

    def write_outputs(self, job, size, probability):
        photo = None
        tiled = self.tile and max(size) > self.tile
        if tiled or not job.files.keys() <= {"mask", "probability"}:
            photo = read_any(self.predictor, job.path, keep_alpha=True)
        if tiled:
            probability = tile_probability(self.predictor, photo, self.tile)
        probability = to_size(probability, size)
        if self.style.largest:
            mask = probability >= self.style.threshold
            probability = probability.masked_fill(mask & ~drop_small(mask, fraction=1), 0.0)
        for kind, path in job.files.items():
            if kind == "cutout" and self.style.each:
                save_each(photo, probability, self.style, path)
            else:
                save_image(render(kind, photo, probability, self.style), path)
        mask = mask_of(probability, self.style.threshold)
        fraction = np.count_nonzero(np.asarray(mask)) / (mask.width * mask.height)
        numbers = (*size, f"{fraction:.6f}", *(mask.getbbox() or (0, 0, 0, 0)))
        return Result(job, numbers, run_lengths(mask) if self.with_runs else "")


def pixels_in_flight() -> int:
    """Return how many pixels fit in an eighth of the memory, between the limits."""
    return int(min(max(memory_limit() / 8 / BYTES_PER_PIXEL, FEWEST_PIXELS), MOST_PIXELS))


def problem_of(error):
    """Describe why an image has no outputs."""
    if isinstance(error, CannotWrite):
        return f"has no output: {error}"
    if isinstance(error, ImageError):
        return str(error)
    return f"cannot be used ({reason_of(error)})"
