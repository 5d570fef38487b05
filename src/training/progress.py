"""What a run says while it trains, when it saves within an epoch, and when it gives up."""

import math
import sys
import time

import torch
from tqdm import tqdm

from training.clock import Clock
from training.distributed import gather, rank, world_size
from training.saving import RunFiles
from training.state import State
from training.stop import Stop
from utils import UserError, command

EXPLODED = 1e4  # treat a loss above this as divergence; an untrained network's is near 1


class Monitor:
    """Looks at a run after each step: shows a bar or plain lines, saves every --save_every, listens for signals."""

    def __init__(self, state: State, files: RunFiles, clock: Clock):
        self.state, self.files, self.clock, self.stop = state, files, clock, Stop()
        self.terminal = rank() == 0 and sys.stderr.isatty()

    def begin_epoch(self):
        state = self.state
        self.title = f"epoch {len(state.history) + 1}/{state.settings.epochs}"
        self.done = state.step % state.steps_per_epoch
        self.bar = tqdm(
            total=state.steps_per_epoch,
            initial=self.done,
            desc=self.title,
            unit="step",
            leave=False,
            disable=not self.terminal,
        )
        self.spoken = self.started = self.saved = time.perf_counter()
        self.saved_step, self.seconds_before = state.step, state.seconds
        self.timed_step = state.step
        self.clock.lap()

    def after_step(self):
        """Speak, save, or note that the run is to stop: `stop.signal`. Collective: call on all ranks.

        Only speaking and saving wait for a GPU.
        """
        state = self.state
        self.done += 1
        now, ended = time.perf_counter(), self.done == state.steps_per_epoch
        interval, unit = state.settings.save_every
        due = state.step - self.saved_step >= interval if unit == "steps" else now - self.saved > 60 * interval
        speak = now - self.spoken > (0.5 if self.terminal else 60)
        first = rank() == 0  # whose clock counts
        asked, due, speak = self.stop.agreed(due and first, speak and first)
        if speak or due or asked or ended:
            self.speak(now, speak)
        if (due or asked) and not ended:
            state.seconds += now - self.started
            self.files.save_last(state)
            self.saved_step = state.step
            self.started = self.saved = time.perf_counter()

    def speak(self, now, aloud):
        """Check the loss, and show it in the bar, or in a line of its own."""
        loss, dice = self.state.means()
        check_loss(self.state, loss, self.files)
        self.clock.note_steps(self.state.size, self.state.step - self.timed_step)
        self.timed_step = self.state.step
        left = self.clock.words(self.state)
        self.bar.n, self.spoken = self.done, now
        self.bar.set_postfix_str(f"loss {loss:.4f}, Dice {dice:.4f}, {left}{memory(self.state.runtime.device)}")
        if aloud and not self.terminal:
            steps = self.state.steps_per_epoch
            print(f"{self.title}  step {self.done}/{steps}  loss {loss:.4f} Dice {dice:.4f}  {left}", flush=True)

    def end_epoch(self) -> bool:
        """Whether the epoch was trained to its end."""
        self.bar.close()
        self.state.seconds += time.perf_counter() - self.started
        return self.done == self.state.steps_per_epoch

    def report_epoch(self, counts: torch.Tensor):
        """A line for the epoch that was just scored; * where it is the best. counts: (N, 4) of the valid pictures."""
        row, state = self.state.history[-1], self.state
        self.clock.note_rest(state.size)
        left = "" if state.finished else f"  {self.clock.words(state)}"
        print(
            f"epoch {row['epoch']:3}/{state.settings.epochs}  size {row['image_size']}"
            f"  train loss {row['train_loss']:.4f} Dice {row['train_dice']:.4f}"
            f"  valid loss {row['valid_loss']:.4f} Dice {row['valid_dice']:.4f}{'*' if state.is_best() else ' '}"
            f"  lr {row['learning_rate']:.1e}  {state.seconds - self.seconds_before:.0f} s{left}"
            f"{memory(state.runtime.device)}",
            flush=True,
        )
        if rank() == 0:
            note_progress(state.history)
            note_one_class(counts, self.files)

    def report_end(self) -> int:
        """Say how the run ended and how to go on; the exit status."""
        state, files = self.state, self.files
        if not state.finished:
            words = command("src/train.py", "--resume", files.path(".last.pth"), processes=world_size())
            print(f"stopped after step {state.step}; resume with: {words}")
            return 128 + self.stop.signal
        settings = state.settings
        place = {"--data_path": settings.data_path, "--cache_dir": settings.cache_dir}
        flags = [word for flag, value in place.items() if value for word in (flag, value)]
        print(
            f"best valid Dice {state.best:.4f} after {state.seconds:.0f} s of training; "
            f"wrote {files.path('.pth')}, .csv, .curve.png, .panels.png and .batch.png\n"
            f"now: {command('src/evaluate.py', '--model', files.path('.pth'), *flags)}"
        )
        return 0


def check_loss(state: State, loss: float, files: RunFiles):
    """Stop a run that diverged, and say which way it went. Collective: call on all ranks."""
    highest = gather(state.highest).max().item()
    exploded = not highest < EXPLODED
    if math.isfinite(loss) and not exploded:
        return
    kept = f"{files.path('.pth')} keeps the best weights so far" if state.history else "nothing was saved yet"
    where = f"in epoch {len(state.history) + 1}, by step {state.step}"
    if exploded:
        raise UserError(f"the loss exploded {where}: it reached {highest:.3g}; lower --learning_rate; {kept}")
    raise UserError(
        f"the loss is not a number {where}, though it was never above {highest:.3g}; use --precision float32 or a "
        f"lower --learning_rate, and look for a division or a logarithm of zero in what you changed; {kept}"
    )


def note_progress(history: list[dict]):
    """Say so when the training loss stands still, or grows."""
    first, last = history[0]["train_loss"], history[-1]["train_loss"]
    if len(history) == 2 and abs(first - last) < 1e-3 * abs(first):
        print(
            f"note: the training loss has not moved from {first:.4f}; raise --learning_rate, or look at the masks in "
            f"the panels",
            file=sys.stderr,
        )
    elif last > 2 * min(row["train_loss"] for row in history):
        print(f"note: the training loss has grown to {last:.4f}; lower --learning_rate", file=sys.stderr)


def note_one_class(counts: torch.Tensor, files: RunFiles):
    """Say so when every pixel of every valid picture gets the same class, and the truth has both.

    counts: (N, 4) true positives, false positives, false negatives, true negatives.
    """
    tp, fp, fn, tn = counts.sum(0).tolist()
    found = "background" if tp + fp == 0 else "foreground" if fn + tn == 0 else None
    if found is None or tp + fn == 0 or fp + tn == 0:
        return
    share = (tp + fn) / (tp + fp + fn + tn)
    rare = f"foreground is {share:.1%} of the truth: --loss dice or tversky minds that less than bce; "
    print(
        f"note: {len(counts)} of {len(counts)} valid pictures are predicted as {found} alone; "
        f"{rare if share < 0.1 else ''}if the next epochs do so too, look at the masks in {files.path('.batch.png')} "
        f"and lower --learning_rate",
        file=sys.stderr,
    )


def memory(device: torch.device) -> str:
    """The peak of the GPU's memory, in words; nothing on other devices."""
    if device.type != "cuda":
        return ""
    return f", GPU {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"
