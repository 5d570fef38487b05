"""The files of a run: NAME.pth, NAME.last.pth, NAME.csv, NAME.curve.png, NAME.panels.png and NAME.batch.png."""

import itertools
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from checkpoint import Checkpoint, save
from files import write_atomically, write_csv
from predictor import Predictor
from training.distributed import on_rank_zero, rank
from training.state import TrainState
from utils import UserError

PANELS = 4  # fixed validation images shown every epoch
DRAW_EVERY = 30  # seconds between figures, which take as long as a short epoch


class RunFiles:
    """Files that a run writes into `folder` under `name`. template: the checkpoint's constant fields."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name, self.drawn = folder, name, -float("inf")
        self.template = Checkpoint({}, "", {})

    def path(self, ending: str) -> Path:
        return self.folder / f"{self.name}{ending}"

    def release(self):
        """Free the name if nothing was written under it."""
        with suppress(OSError):
            if rank() == 0 and self.path(".csv").stat().st_size == 0 and not self.path(".last.pth").exists():
                self.path(".csv").unlink()

    def adopt_best(self, resumed: Path) -> bool:
        """Copy the resumed run's best checkpoint to this run's name; return False if there is none."""
        best = resumed.with_name(resumed.name.removesuffix(".last.pth") + ".pth")
        if not best.is_file():
            return False
        if best.resolve() != self.path(".pth").resolve():
            write_atomically(self.path(".pth"), lambda file: file.write(best.read_bytes()))
        return True

    def save(self, ending: str, weights: dict, state: TrainState, training: dict | None = None):
        """Write a checkpoint. training: for NAME.last.pth, all that --resume needs."""
        if rank() == 0:
            found: dict = {"scores": state.scores, "threshold": state.threshold, "seconds": state.seconds}
            found |= {"epoch": len(state.history), "image_size": state.max_size, "training": training}
            save(replace(self.template, model=weights, **found), self.path(ending))

    def write_history(self, history: list[dict]):
        if rank() == 0 and history:
            write_csv(self.path(".csv"), list(history[-1]), [list(row.values()) for row in history])

    def draw_batch(self, images, masks):
        """Show augmented training images (N, C, H, W) of about 0 to 1 before the network sees any."""
        from reports.plots import plot_batch

        if rank() == 0:
            title = f"{self.name}, training images at full augmentation; red: foreground, blue: ignored"
            plot_batch(images, masks, title, self.path(".batch.png"))

    def draw_epoch(self, state: TrainState, predictor: Predictor, dataset, last: bool):
        """Show history and validation images, at most every DRAW_EVERY seconds."""
        from reports.plots import panel_rows, plot_history, plot_panels

        if rank() or not (last or time.perf_counter() - self.drawn > DRAW_EVERY):
            return
        plot_history(state.history, self.name, self.path(".curve.png"), state.first_epoch)
        number = min(PANELS, len(dataset))
        rows = panel_rows(predictor, dataset, [index * len(dataset) // number for index in range(number)])
        plot_panels(rows, f"{self.name}, epoch {len(state.history)}, validation split", self.path(".panels.png"))
        self.drawn = time.perf_counter()


def reserve(folder: Path, name: str | None, model: str, resumed: Path | None = None) -> RunFiles:
    """Reserve `name`, or by default the model's, with a number if that is taken. Raises UserError. Collective.

    NAME.csv is created exclusively, in case runs start at once. resumed: NAME.last.pth, whose run keeps its name.
    """

    def choose() -> str:
        if resumed and resumed.resolve() == (folder / f"{name}.last.pth").resolve():
            return resumed.name.removesuffix(".last.pth")
        numbered = (f"{model}-{number}" if number > 1 else model for number in itertools.count(1))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for candidate in [name] if name else numbered:
                if not any((folder / f"{candidate}{ending}").exists() for ending in (".pth", ".last.pth")):
                    with suppress(FileExistsError):
                        open(folder / f"{candidate}.csv", "x").close()
                        return candidate
        except OSError as error:
            raise UserError(f"--save_dir {folder} cannot be written ({error.strerror}); choose another") from None
        last = folder / f"{name}.last.pth"
        hint = f"continue it with --resume {last}, or choose another --name" if last.exists() else "choose another"
        raise UserError(f"--name {name} is taken: {folder / str(name)}.csv or .pth exists; {hint}")

    return RunFiles(folder, on_rank_zero(choose))
