"""Progress of a run: log lines, time left, when to save and stop, and one-line errors."""

import math
import signal
import sys
import time
from argparse import Namespace
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import torch
from tqdm import tqdm

from data import STOP_SIGNALS
from files import CannotWrite
from training.distributed import all_gather, max_over_ranks, rank, world_size
from training.run_files import RunFiles
from training.schedule import size_at
from training.state import TrainMeter, TrainState
from utils import ProcessError, UserError, command, note, note_once, when_memory_runs_out

EXPLODED = 1e4  # a loss this high has diverged; an untrained network's is near 3
SKIPPED, MEASURED = 3, 20  # steps not timed at each size; timed steps before the time left is shown


class Progress:
    """Shows a run's progress; decides when it saves and stops. It waits for a GPU only to log and to save."""

    def __init__(self, args: Namespace, state: TrainState, steps_per_epoch: int, stop: SimpleNamespace):
        self.args, self.state, self.steps_per_epoch, self.stop = args, state, steps_per_epoch, stop
        self.terminal = rank() == 0 and sys.stderr.isatty()
        self.last_save, self.last_saved_step = time.perf_counter(), state.step
        self.begun, self.size = self.last_save - state.elapsed, 0

    def finished(self) -> bool:
        """Check whether the last epoch is done or the time is up."""
        epochs = len(self.state.history)
        if self.args.hours:
            return self.state.elapsed >= 3600 * self.args.hours and epochs > 0
        return epochs >= self.args.epochs

    def stop_requested(self) -> bool:
        """Check whether any process received a stop signal. Collective."""
        [signal] = max_over_ranks(self.stop.signal)
        self.stop.signal = signal or self.stop.signal  # one may have arrived meanwhile
        return signal > 0

    def begin_epoch(self):
        """Show a progress bar for the rest of the epoch."""
        self.title = f"epoch {len(self.state.history) + 1}"
        if self.args.epochs:
            self.title += f"/{self.args.epochs}"
        done, total = self.state.step % self.steps_per_epoch, self.steps_per_epoch
        self.bar = tqdm(None, self.title, total, leave=False, disable=not self.terminal, unit="step", initial=done)
        if self.size != self.state.max_size:
            self.size = self.state.max_size
            self.timed_steps, self.timed = -SKIPPED, 0.0  # seconds at this size
        self.seconds_before = self.state.seconds
        self.last_log = self.last_step = time.perf_counter()

    def after_step(self, meter: TrainMeter) -> tuple[bool, bool, bool]:
        """Count a step. Return whether the epoch ended, whether to save and whether to stop. Collective."""
        state, now = self.state, time.perf_counter()
        state.seconds += now - self.last_step
        self.timed_steps += 1
        if self.timed_steps > 0:
            self.timed += now - self.last_step
        self.last_step = now
        interval, unit = self.args.save_every
        unsaved = state.step - self.last_saved_step if unit == "steps" else (now - self.last_save) / 60
        log = now - self.last_log > (0.5 if self.terminal else 60)
        clock = [unsaved >= interval, log, round(1000 * (now - self.begun))]
        if rank():  # only rank 0's clock counts
            clock = [0, 0, 0]
        signal, save, log, milliseconds = max_over_ranks(self.stop.signal, *clock)
        state.elapsed = milliseconds / 1000
        self.stop.signal = signal or self.stop.signal
        ended = state.step % self.steps_per_epoch == 0
        if self.args.hours and state.elapsed >= 3600 * self.args.hours:
            ended = True
        if log or save or signal or ended:
            self.log_step(meter, as_line=log > 0 and not self.terminal)
        if save:
            self.last_save, self.last_saved_step = now, state.step
        if ended or signal:
            self.bar.close()
        return ended, bool(save), bool(signal)

    def log_step(self, meter: TrainMeter, as_line: bool):
        """Check and show the loss."""
        loss, dice = meter.means()
        check_loss(meter, loss, f"in epoch {len(self.state.history) + 1}, by step {self.state.step}")
        self.bar.n = done = (self.state.step - 1) % self.steps_per_epoch + 1
        self.last_log = time.perf_counter()
        figures = f"loss {loss:.4f}, Dice {dice:.4f}{self.describe_left()}{gpu_memory()}"
        self.bar.set_postfix_str(figures)
        if as_line:
            print(f"{self.title}, step {done}/{self.steps_per_epoch}: {figures}", flush=True)

    def log_epoch(self, counts: torch.Tensor, batch_figure):
        """Print the epoch's line; * marks the best so far. counts: of the validation images, (N, 4)."""
        row, state = self.state.history[-1], self.state
        self.timed += time.perf_counter() - self.last_step  # validation, saving, drawing
        best = "*" if state.is_best() else " "
        left = "" if self.finished() else self.describe_left()
        print(
            f"{self.title:12}  size {row['image_size']}"
            f"  train loss {row['train_loss']:.4f} Dice {row['train_dice']:.4f}"
            f"  valid loss {row['valid_loss']:.4f} Dice {row['valid_dice']:.4f}{best}"
            f"  lr {row['learning_rate']:.1e}"
            f"  {state.seconds - self.seconds_before:.0f} s{left}{gpu_memory()}",
            flush=True,
        )
        first, last = state.history[0]["train_loss"], row["train_loss"]
        if len(state.history) == 2 and math.isclose(first, last, rel_tol=1e-3):
            note(f"the training loss stays at {first:.4f}; raise --learning_rate, or check the masks")
        warn_about_one_class(counts, batch_figure)

    def describe_left(self) -> str:
        """Return the time left, e.g. ", 1:12:03 left, ends Fri 14:05"; without --hours, estimated by image area."""
        args, state = self.args, self.state
        if args.hours:
            seconds = 3600 * args.hours - state.elapsed
        elif self.timed_steps < MEASURED:
            return ""
        else:
            done, area = len(state.history), 0
            for epoch in range(done + 1, args.epochs + 1):
                area += max(size_at(epoch / args.epochs, args.start_size, args.image_size), self.size) ** 2
            steps = self.steps_per_epoch * (area / self.size**2 + done) - state.step
            seconds = steps * self.timed / self.timed_steps
        seconds = max(seconds, 0)
        end = datetime.now() + timedelta(seconds=seconds)
        return f", {tqdm.format_interval(seconds)} left, ends {end:%a %H:%M}"


def check_loss(meter: TrainMeter, loss: float, when: str):
    """Raise UserError if the run has diverged. Collective."""
    highest = all_gather(torch.tensor(meter.highest)).max().item()
    if highest >= EXPLODED:
        raise UserError(f"the loss exploded {when}: it reached {highest:.3g}; lower --learning_rate")
    if not math.isfinite(loss):
        advice = "try --precision float32 or a lower --learning_rate"
        raise UserError(f"the loss became NaN {when} (maximum before that: {highest:.3g}); {advice}")


def warn_about_one_class(counts: torch.Tensor, batch_figure):
    """Print a note if all pixels are predicted as one class although the masks have both, or no mask has foreground."""
    tp, fp, fn, tn = counts.sum(0).tolist()
    if tp + fn == 0:
        note_once("no validation image has foreground, so validation Dice rewards empty predictions; see --valid_list")
        return
    if (tp + fp and fn + tn) or fp + tn == 0:
        return
    text = f"every validation image is predicted as all {'foreground' if tp else 'background'}; "
    fraction = (tp + fn) / (tp + fp + fn + tn)
    if fraction < 0.1:
        text += f"foreground is only {100 * fraction:.2g}% of the pixels; try --loss dice or tversky; "
    note(f"{text}if this persists, check the masks in {batch_figure} and lower --learning_rate")


def gpu_memory() -> str:
    """Return the GPU's peak memory as text, or ""."""
    used = torch.cuda.max_memory_allocated()  # 0 without a GPU
    return f", GPU {used / 2**30:.1f} GiB" if used else ""


def report_end(args: Namespace, state: TrainState, files: RunFiles, finished: bool, signal: int) -> int:
    """Print how the run ended and the next command. Return the exit status."""
    if not finished:
        resume = command("src/train.py", "--resume", files.path(".last.pth"), processes=world_size())
        print(f"stopped after step {state.step}; resume with: {resume}")
        return 128 + signal
    flags = ["--model", files.path(".pth")]
    if args.cache_dir:
        flags += ["--cache_dir", args.cache_dir]
    print(f"best validation Dice {state.best:.4f}; {state.seconds:.0f} s of training", end="; ")
    print(f"wrote {files.path('.pth')}, .csv, .curve.png, .panels.png and .batch.png")
    print(f"next: {command('src/evaluate.py', *flags)}")
    return 0


@contextmanager
def stop_on_signals():
    """Yield an object whose `signal` is set by the first stop signal; a second ends the process."""
    request, before = SimpleNamespace(signal=0), {}

    def note_signal(number, frame):
        request.signal = number
        if rank() == 0:
            print("\nstopping soon; send the signal again to exit at once", file=sys.stderr)
        for other in before:
            signal.signal(other, signal.SIG_DFL)

    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # e.g. SIGHUP under nohup
            before[number] = signal.signal(number, note_signal)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def explain_failures(args: Namespace, last: Path):
    """Raise UserError if memory runs out or batch norm gets single values; add the command to resume from `last`."""
    try:
        with when_memory_runs_out(f"use --accumulation_steps {2 * args.accumulation_steps} or a smaller --image_size"):
            yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        advice = "use larger images or batches, or fewer --accumulation_steps"
        raise UserError(f"--batch_size: batch norm gets only one value per channel; {advice}") from None
    except (ProcessError, CannotWrite) as error:
        if last.exists():
            words = ["--resume", last]
            if "ran out of memory" in str(error):
                words += ["--accumulation_steps", 2 * args.accumulation_steps]
                words += ["--compile", "default"] if args.compile else []  # other modes cannot accumulate
            if "data loading process" in str(error):
                words += ["--workers", 0]
            resume = command("src/train.py", *words, processes=world_size())
            error.args = (f"{error}; command to resume from the last save: {resume}",)
        raise
