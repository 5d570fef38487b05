"""Predict many image files: threads read ahead and write behind, so the network waits for neither.

An error in one file does not stop the run; it is reported in that file's Result. The pixels in flight bound the memory.
"""

import errno
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from cores import available_cores
from files import CannotWrite
from photos.budget import PixelBudget
from photos.decode import ImageError, open_image, read_image, reason_of
from photos.inputs import Job
from photos.outputs import Style, keep_largest, mask_of, render, run_lengths, save_each, save_image
from photos.prediction import intensity_range, probability_of, tile_probability, to_input
from predictor import Predictor
from utils import UserError, to_size

PIXELS_IN_FLIGHT = 16_000_000  # of about 30 bytes of memory each while a cutout is made, 7 while a photo is read
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}  # errors after which every other write fails too


@dataclass(frozen=True)
class Result:
    """Outcome of a job. numbers: columns of --csv after the name. runs: run lengths. problem: the error, or ""."""

    job: Job
    numbers: tuple = ()
    runs: str = ""
    problem: str = ""


@dataclass
class Pipeline:
    """Predicts files in batches, by predictor's size and tta. tile: see `tile_probability`. with_runs: for --rle."""

    predictor: Predictor
    style: Style = Style()
    batch_size: int = 8
    tile: int | None = None
    with_runs: bool = False
    budget: PixelBudget = field(default_factory=lambda: PixelBudget(PIXELS_IN_FLIGHT))

    def run(self, jobs: list[Job], done: Callable[[Result], None]):
        """Call `done` with the result of each job, in this thread.

        After an exception, such as KeyboardInterrupt, the images being written are finished and passed to
        `done` before it is raised. Raises CannotWrite if the disk is full.
        """
        # One thread per image if there are many: small operations are slower when they are split.
        threads = max(1, torch.get_num_threads() // max(1, len(jobs)))
        pools = [ThreadPoolExecutor(available_cores(), "", torch.set_num_threads, (threads,)) for _ in range(2)]
        writing: deque[Future[Result]] = deque()

        def finish_until(allowed):
            while len(writing) > allowed:
                done(writing[0].result())  # removed only when done, so that an interrupt loses nothing
                writing.popleft()

        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=r"PIL\.")
                for job, size, probability in self.predict(jobs, pools[0], done):
                    writing.append(pools[1].submit(self.write, job, size, probability))
                    finish_until(2 * self.batch_size)
                finish_until(0)
        finally:
            for pool in pools:
                pool.shutdown(cancel_futures=True)
            for future in writing:
                if not future.cancelled():
                    with suppress(UserError):  # the first error is raised
                        done(future.result())

    def predict(self, jobs, readers, done):
        """Yield each job with its photo's size and its probability at the network's size."""
        coming = iter([jobs[first : first + self.batch_size] for first in range(0, len(jobs), self.batch_size)])
        reading: deque[list[Future]] = deque()
        while True:
            for batch in islice(coming, 3 - len(reading)):  # read ahead
                reading.append([readers.submit(self.read, job) for job in batch])
            if not reading:
                return
            read = []
            for item in [future.result() for future in reading.popleft()]:
                done(item) if isinstance(item, Result) else read.append(item)
            if read:
                probabilities = probability_of(self.predictor, [pixels for _, _, pixels in read])
                for (job, size, _), probability in zip(read, probabilities, strict=True):
                    yield job, size, probability

    def read(self, job):
        """Return the job, its photo's (width, height) and the network's input, or a Result with a problem.

        The photo itself is dropped and read again by `write`: many large ones do not fit in memory.
        """

        def read_input():
            photo = read_image(job.path, intensity_range=intensity_range(self.predictor))
            return job, photo.size, to_input(self.predictor, photo)

        try:
            with open_image(job.path) as image:
                pixels = image.width * image.height
            return self.budget.spend(pixels // 4, read_input)
        except Exception as error:
            return Result(job, problem=problem_of(error))

    def write(self, job, size, probability):
        """Write the outputs of one image. Raises CannotWrite if all others would fail too."""
        try:
            return self.budget.spend(size[0] * size[1], self.write_outputs, job, size, probability)
        except Exception as error:
            if isinstance(error, CannotWrite) and error.errno in FULL:
                raise
            return Result(job, problem=problem_of(error))

    def write_outputs(self, job, size, probability):
        photo = None
        tiled = self.tile and max(size) > self.tile
        if tiled or not job.files.keys() <= {"mask", "probability"}:
            photo = read_image(job.path, keep_alpha=True, intensity_range=intensity_range(self.predictor))
        probability = tile_probability(self.predictor, photo, self.tile) if tiled else to_size(probability, size)
        if self.style.largest:
            probability = keep_largest(probability, self.style.threshold)
        for kind, path in job.files.items():
            if kind == "cutout" and self.style.each:
                save_each(photo, probability, self.style, path)
            else:
                save_image(render(kind, photo, probability, self.style), path)
        mask = mask_of(probability, self.style.threshold)
        fraction = np.count_nonzero(np.asarray(mask)) / (mask.width * mask.height)
        numbers = (*size, f"{fraction:.6f}", *(mask.getbbox() or (0, 0, 0, 0)))
        return Result(job, numbers, run_lengths(mask) if self.with_runs else "")


def problem_of(error):
    """Describe why an image has no outputs."""
    return str(error) if isinstance(error, (CannotWrite, ImageError)) else f"cannot be used ({reason_of(error)})"
