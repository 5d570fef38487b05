"""Kill a training process at random moments, often while it saves.

After every kill, each saved file must be complete. At the end, weights and history must equal an
uninterrupted run's bit for bit.
"""

import random
import time

import torch
from PIL import Image
from processes import finish, launch, slow_disk

from checkpoint import load

RUN = ("--dataset", "shapes", "--width", 2, "--image_size", 32, "--limit", 12, "--batch_size", 2, "--steps", 40)
RUN = (*RUN, "--epochs", 3, "--augment", "full", "--dropout", 0.3, "--save_every", "5steps")
STARTED = "training images"  # what train.py prints before its first step


def whole_files(folder, name):
    """Open every file of a run, and return their number. Raises an exception if one is broken."""
    found = [path for path in folder.glob(f"{name}.*") if path.is_file()]
    for path in found:
        if path.suffix == ".pth":
            load(path)
        elif path.suffix == ".png":
            Image.open(path).load()
        else:
            rows = path.read_text().splitlines()  # none if the run has only reserved its name
            assert len({row.count(",") for row in rows}) <= 1, path
    return len(found)


def kill_often(kills, cwd, seed=0):
    """Return the numbers of kills, kills while saving, runs and broken files, and whether all weights are equal."""
    rng, folder = random.Random(seed), cwd / "saved_models"
    finish(launch("train", *RUN, "--name", "whole", cwd=cwd), log=cwd / "train.log")
    whole = load(folder / "whole.last.pth").training
    done, saving, runs, broken, same = 0, 0, 0, 0, True
    while done < kills:
        runs, before = runs + 1, 0
        name, process = f"killed{runs}", None
        while process is None or process.exitcode != 0:
            last = folder / f"{name}.last.pth"
            flags = ("--resume", last) if last.exists() else (*RUN, "--name", name)
            if not last.exists():
                (folder / f"{name}.csv").unlink(missing_ok=True)  # a killed run does not free its name
                before = 0
            log = cwd / "train.log"
            starts = log.read_text().count(STARTED)
            process = launch("train", *flags, cwd=cwd, setup=slow_disk)
            while rng.random() < 0.99 and process.exitcode is None and log.read_text().count(STARTED) == starts:
                time.sleep(0.02)  # usually until it trains
            process.join(rng.uniform(0.0, 1.5) if done < kills else 600)
            if process.exitcode is None:
                process.kill()
                process.join()
                done += 1
                saving += any(folder.glob(f".{name}.*"))
                try:
                    now = whole_files(folder, name)
                    broken, before = broken + max(0, before - now), now
                except Exception as error:
                    broken += 1
                    print(f"broken after kill {done}: {error}")
            elif process.exitcode != 0:
                raise SystemExit((cwd / "train.log").read_text()[-2000:])
        end = load(folder / f"{name}.last.pth").training
        same &= all(torch.equal(value, end["model"][key]) for key, value in whole["model"].items())
        same &= (folder / "whole.csv").read_bytes() == (folder / f"{name}.csv").read_bytes()
    return done, saving, runs, broken, same
