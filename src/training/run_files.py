"""The files of a run, and its name."""

import time
from argparse import Namespace
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from checkpoint import Checkpoint, save
from files import CannotWrite, write_atomically, write_csv
from predictor import Predictor
from reports import plots
from training.distributed import on_rank_zero, rank
from training.state import TrainState
from utils import UserError, note

PANELS = 4  # validation images in NAME.panels.png, the same every epoch
DRAW_EVERY = 30  # seconds between figures; drawing takes as long as a short epoch


@contextmanager
def note_failures():
    """Print a note instead of failing if a file cannot be written, e.g. because it is open in Excel."""
    try:
        yield
    except CannotWrite as error:
        note(f"{error}; training continues")


class RunFiles:
    """A run's files in `folder`. template: the checkpoints' constant fields."""

    def __init__(self, folder: Path, name: str, template: Checkpoint):
        self.folder, self.name, self.template = folder, name, template
        self.drawn = -float("inf")

    def path(self, ending: str) -> Path:
        return self.folder / f"{self.name}{ending}"

    def adopt_best(self, resumed: Path) -> bool:
        """Copy the resumed run's best checkpoint to this run's name. Return False if there is none."""
        best = resumed.with_name(resumed.name.removesuffix(".last.pth") + ".pth")
        if not best.is_file():
            return False
        if best.resolve() != self.path(".pth").resolve():
            write_atomically(self.path(".pth"), lambda file: file.write(best.read_bytes()))
        return True

    def save(self, ending: str, weights: dict, state: TrainState, training: dict | None = None):
        """Write a checkpoint. training: all that --resume needs, or None."""
        if rank():
            return
        checkpoint = replace(self.template, model=weights, training=training, image_size=state.max_size)
        checkpoint.epoch, checkpoint.seconds = len(state.history), state.seconds
        checkpoint.scores, checkpoint.threshold = state.scores, state.threshold
        save(checkpoint, self.path(ending))

    def write_history(self, history: list[dict]):
        if rank() == 0 and history:
            write_csv(self.path(".csv"), list(history[-1]), [list(row.values()) for row in history])

    @note_failures()
    def draw_batch(self, images, masks):
        """Draw augmented training images (N, C, H, W) in [0, 1], and masks (N, 1, H, W)."""
        if rank() == 0:
            title = f"{self.name}, training images at full augmentation; red: foreground, blue: ignored"
            plots.plot_batch(images, masks, title, self.path(".batch.png"))

    def draw_epoch(self, state: TrainState, predictor: Predictor, dataset, last: bool):
        """Draw the history and validation images; unless `last`, at most every DRAW_EVERY seconds."""
        if rank() or not (last or time.perf_counter() - self.drawn > DRAW_EVERY):
            return
        plots.plot_history(state.history, self.name, self.path(".curve.png"), state.first_epoch)
        number = min(PANELS, len(dataset))
        rows = plots.panel_rows(predictor, dataset, [index * len(dataset) // number for index in range(number)])
        plots.plot_panels(rows, f"{self.name}, epoch {len(state.history)}, validation split", self.path(".panels.png"))
        self.drawn = time.perf_counter()


@contextmanager
def reserve_name(args: Namespace):
    """Yield the run's name, reserved; release it if no history was written. Raises UserError. Collective."""
    name = on_rank_zero(lambda: choose_name(args.save_dir, args.name, args.model, args.resume))
    try:
        yield name
    finally:
        history, last = args.save_dir / f"{name}.csv", args.save_dir / f"{name}.last.pth"
        with suppress(OSError):
            if rank() == 0 and history.stat().st_size == 0 and not last.exists():
                history.unlink()


def choose_name(folder: Path, name: str | None, model: str, resumed: Path | None) -> str:
    """Return `name`, or the model's name, numbered if taken; reserve it with NAME.csv, unless resumed."""
    last = folder / f"{name}.last.pth"
    if resumed and resumed.resolve() == last.resolve():
        return str(name)
    candidates = [name] if name else [model, *(f"{model}-{number}" for number in range(2, 10_000))]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for candidate in candidates:
            if (folder / f"{candidate}.pth").exists() or (folder / f"{candidate}.last.pth").exists():
                continue
            with suppress(FileExistsError):
                open(folder / f"{candidate}.csv", "x").close()  # fails if another run has it
                return candidate
    except OSError as error:
        raise UserError(f"--save_dir {folder}: {error.strerror}; choose another --save_dir or --name") from None
    if last.exists():
        hint = f"continue it with --resume {last}, or choose another --name"
    elif (folder / f"{name}.pth").exists():
        hint = "choose another"
    else:
        hint = f"choose another, or delete {folder}/{name}.csv if no run uses it"
    raise UserError(f"--name {name} is taken: {folder}/{name}.* exists; {hint}")
