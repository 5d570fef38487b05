"""The files of a run: NAME.pth, NAME.last.pth, NAME.csv, NAME.curve.png, NAME.panels.png and NAME.batch.png."""

import itertools
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

import torch

from checkpoint import save
from files import FileLock, write_table, write_whole
from reports.plots import panel_rows, plot_batch, plot_history, plot_panels
from training.distributed import on_first, rank
from utils import UserError

PANELS = 4  # fixed valid pictures shown every epoch
ENDINGS = (".pth", ".last.pth", ".csv", ".curve.png", ".panels.png", ".batch.png")


class RunFiles:
    """What a run writes into `folder` under `name`, which is its own until the process ends.

    about: what a checkpoint says beside weights, epoch and scores.
    """

    def __init__(self, folder: Path, name: str, lock: FileLock | None = None):
        self.folder, self.name, self.lock = Path(folder), name, lock
        self.about: dict = {}

    def path(self, ending: str) -> Path:
        return self.folder / f"{self.name}{ending}"

    def release(self):
        """Let others have the name."""
        if self.lock:
            self.lock.release()

    def adopt_best(self, resumed: Path) -> bool:
        """Have the best weights of the run that is resumed under this name; False where they are not beside it."""
        best = resumed.with_name(resumed.name.removesuffix(".last.pth") + ".pth")
        if not best.is_file():
            return False
        if not is_same(best, self.path(".pth")):
            write_whole(self.path(".pth"), lambda file: file.write(best.read_bytes()))
        return True

    def save_best(self, state):
        """Collective: call on all ranks."""
        self._save(state, ".pth")

    def save_last(self, state):
        """Collective: call on all ranks."""
        self._save(state, ".last.pth", training=state.state_dict())

    def _save(self, state, ending, **more):
        scored = {"epoch": len(state.history), "scores": state.scores, "threshold": state.threshold}
        scored |= {"image_size": state.size, "seconds": state.seconds}
        if rank() == 0:
            save({**self.about, **scored, "model": state.weights.state_dict(), **more}, self.path(ending))

    def write_history(self, state):
        if rank() == 0:
            history = state.history
            write_table(self.path(".csv"), list(history[-1]), [list(row.values()) for row in history])
            plot_history(history, self.name, self.path(".curve.png"), state.best_from)

    def complete_history(self, state):
        """Write the history of a resumed run where NAME.csv lacks its last epoch, as after a kill between two files."""
        try:
            lines = self.path(".csv").read_bytes().count(b"\n")
        except OSError:
            lines = 0
        if lines != 1 + len(state.history):
            self.write_history(state)

    def draw_batch(self, images: torch.Tensor, masks: torch.Tensor):
        """Show training pictures of about 0 to 1, augmented, before the network sees any."""
        if rank() == 0:
            title = f"{self.name}, training pictures at full augmentation; red: foreground, blue: ignored"
            plot_batch(images, masks, title, self.path(".batch.png"))

    def draw_panels(self, state, dataset):
        """Show a few pictures of the valid set with their predictions."""
        if rank() == 0:
            number = min(PANELS, len(dataset))
            places = [index * len(dataset) // number for index in range(number)]
            rows = panel_rows(state.predictor(), dataset, places)
            title = f"{self.name}, epoch {len(state.history)}, valid split"
            plot_panels(rows, title, self.path(".panels.png"))


def reserve(folder: Path, name: str | None, network: str, resumed: Path | None = None) -> RunFiles:
    """Take a name that no other run has, or `name`; without one, the network's, with a number where that is taken.

    resumed: the NAME.last.pth of the run to continue, which may keep its name.
    A lock that dies with the process keeps two runs that start at once apart; files keep one run from the next.
    Collective: call on all ranks. Raises UserError for a name that is taken, or a folder that cannot be written.
    """

    locks = []  # of rank 0

    def lock(candidate):
        taken = FileLock(folder / f".{candidate}.lock")
        if not taken.take():
            return False
        locks.append(taken)
        remove_unfinished(folder, candidate)
        return True

    def exists(candidate):
        return any((folder / f"{candidate}{ending}").exists() for ending in (".pth", ".last.pth"))

    def take():
        folder.mkdir(parents=True, exist_ok=True)
        if name is None:
            candidates = itertools.chain([network], (f"{network}-{number}" for number in itertools.count(2)))
            return next(candidate for candidate in candidates if not exists(candidate) and lock(candidate))
        if exists(name) and not (resumed and is_same(resumed, folder / f"{name}.last.pth")):
            raise UserError(
                f"{folder / name}.pth exists already; resume it with --resume {folder / name}.last.pth, or choose "
                f"another --name"
            )
        if not lock(name):
            raise UserError(f"{folder / name} belongs to a run that is under way; choose another --name")
        return name

    def take_or_explain():
        if name and (Path(name).name != name or "\0" in name):
            raise UserError(f"--name {name} is not a plain file name; name the folder with --save_dir")
        try:
            return take()
        except OSError as error:
            raise UserError(f"--save_dir {folder} cannot be written ({error.strerror}); choose another") from None

    return RunFiles(folder, on_first(take_or_explain), *locks)


def is_same(first: Path, second: Path) -> bool:
    """Whether two paths are one file, or would be."""
    return os.path.realpath(first) == os.path.realpath(second)


def remove_unfinished(folder: Path, name: str):
    """Remove what a save of this very name left when it was killed."""
    own = re.compile(rf"\.{re.escape(name)}({'|'.join(map(re.escape, ENDINGS))})\.[a-z0-9_]{{8}}")
    for path in os.scandir(folder):
        if own.fullmatch(path.name):
            with suppress(FileNotFoundError):
                os.unlink(path.path)


def check_room(folder: Path, model):
    """Raise UserError, before training, where a folder has no room for the checkpoints."""
    needed = 9 * sum(value.nbytes for value in model.parameters())  # NAME.last.pth old and new, and NAME.pth
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"--save_dir {folder} has {free / 1e6:.0f} MB free, checkpoints need about {needed / 1e6:.0f} MB; "
            f"free some or choose another"
        )
