"""Helpers: synthetic data in every layout, commands run in this process, checkpoints and runs made once per session."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: pytest-xdist has a worker on every core

import contextlib
import csv
import hashlib
import importlib
import io
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import folder
import reports.plots
import runtime
import shapes
import train
from cache import PackedDataset
from cores import PixelBudget, available_cores
from files import write_atomically
from models import build_model
from oxford_pet import load_dataset
from splits import DataOptions
from utils import run

ROOT = Path(__file__).parents[1]
CACHE = "TEST_CACHE"  # environment variable: the folder for what is made once per session
measure_speeds = runtime.convolution_speeds.__wrapped__
FAST = "bfloat16" if os.environ.get("TURN_PRECISION") else "float32"  # what --precision auto chooses in tests
runtime.convolution_speeds = lambda: {"float32": 10.0, "bfloat16": 10.0, FAST: 50.0}
FIGURES = {name: getattr(reports.plots, name) for name in ("plot_batch", "plot_history", "plot_panels")}
torch.set_num_threads(1)  # results then do not depend on the machine, and tiny networks are no slower


def draw_nothing(*args):
    """Write a one-pixel image instead of a figure, which would take longer than a tiny run."""
    path = next(value for value in args if isinstance(value, Path))
    write_atomically(path, lambda file: Image.new("L", (1, 1)).save(file, "PNG"))


for figure in FIGURES:
    setattr(reports.plots, figure, draw_nothing)


def pytest_configure(config):
    for number in (signal.SIGINT, signal.SIGHUP):  # a background job or nohup ignores them
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if "cuda" not in config.option.markexpr.replace("not cuda", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # other tests expect the CPU's numbers
    if not hasattr(config, "workerinput"):
        os.environ[CACHE] = tempfile.mkdtemp(prefix="tests-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ[CACHE], ignore_errors=True))


def pytest_xdist_auto_num_workers(config):
    """Start a worker per core: each has one thread, and a few hundred megabytes."""
    return min(available_cores(), 8)


def pytest_sessionfinish(session):
    """Count a skipped test as a failure in CI, which has everything that optional tests need."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and os.environ.get("SKIPS_FAIL") and reporter.stats.get("skipped"):  # pytest-xdist's workers have none
        session.exitstatus = 1


# ------------------------------------------------------------------------------------------- data


def draw_pet(folder, name, index, width=60, height=44):
    """Write an image and its trimap (1 inside, 3 along the edge, 2 outside) in the official layout."""
    image, mask = shapes.draw(np.random.default_rng([7, index]), height, width, count=4)
    inside = np.pad(mask, 1, mode="edge")
    neighbors = [inside[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    edge = np.minimum.reduce(neighbors) != np.maximum.reduce(neighbors)
    trimap = np.where(edge, 3, np.where(mask == 1, 1, 2)).astype(np.uint8)
    Image.fromarray(image).save(folder / "images" / f"{name}.jpg", quality=95)
    Image.fromarray(trimap).save(folder / "annotations" / "trimaps" / f"{name}.png")


def make_pets(folder, trainval=20, test=6):
    """Make a small dataset in the official layout, with images of two shapes."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations" / "trimaps").mkdir(parents=True)
    for split, number, first in (("trainval", trainval, 0), ("test", test, trainval)):
        names = [f"Drawn_{index}" for index in range(first, first + number)]
        for index, name in enumerate(names, first):
            draw_pet(folder, name, index, *((60, 44) if index % 2 else (40, 53)))
        lines = [f"{name} 1 1 1\n" for name in names]
        (folder / "annotations" / f"{split}.txt").write_text("".join(lines))
    return folder


def draw_folder(
    index, width=60, height=44, folder=None, name=None, images="images", masks="masks", ending="", encode=None,
    suffix="png",
):  # fmt: skip
    """Draw an image (H, W, 3) and its mask (H, W) of 0 and 1; with `folder` also write them, the mask as 0 and 255."""
    pixels, mask = shapes.draw(np.random.default_rng([8, index]), height, width, count=4)
    if folder:
        image, label = folder / images / f"{name}.png", folder / masks / f"{name}{ending}.{suffix}"
        image.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(image)
        (encode(mask) if encode else Image.fromarray(mask * 255)).save(label)
    return pixels, mask


def make_folder(folder, number, encode=None, images="images", masks="masks", first=0, **options):
    """Write images 0, 1, ... and their masks in the layout of a user's dataset. first: index of the first drawing."""
    for part in (images, masks):
        (folder / part).mkdir(parents=True)
    for index in range(number):
        draw_folder(first + index, folder=folder, name=index, images=images, masks=masks, encode=encode, **options)
    return folder


def labeled(tmp_path, *values, suffix="png", **save):
    """Make a folder whose masks are vertical stripes of these values."""
    data = make_folder(tmp_path / "data", 6)
    stripes = np.array(values, dtype=np.uint8).repeat(60 // len(values))
    for path in list((data / "masks").iterdir()):
        path.unlink()
        Image.fromarray(np.tile(stripes, (44, 1))).save(path.with_suffix(f".{suffix}"), **save)
    return data


def load_pets(path, split, image_size, **options) -> PackedDataset:
    return load_dataset(DataOptions("pets", path, image_size, **options), split)


def load_folder(path, split="train", image_size=32, **options) -> PackedDataset:
    return folder.load_dataset(DataOptions("folder", path, image_size, **options), split)


def load_shapes(split, image_size, **options) -> shapes.Shapes:
    return shapes.load_dataset(DataOptions("shapes", None, image_size, **options), split)


@pytest.fixture
def pets(tmp_path):
    return make_pets(tmp_path / "oxford-iiit-pet")


@pytest.fixture
def pixels_taken(monkeypatch):
    """Return a list, to which each use of a PixelBudget appends its pixels and the budget's."""
    taken, spend = [], PixelBudget.spend

    def spend_and_note(self, pixels, *work):
        taken.append((pixels, self.pixels))
        return spend(self, pixels, *work)

    monkeypatch.setattr(PixelBudget, "spend", spend_and_note)
    return taken


def with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def random_photo(width=50, height=30, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


# --------------------------------------------------------------------------------------- commands


def script(name, *arguments, cwd, expect=0):
    """Run `python src/NAME.py ARGUMENTS` in the folder cwd, in this process, which has torch loaded."""
    out, err, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [f"src/{name}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run(importlib.import_module(name).main)
    signal.signal(signal.SIGTERM, handler)
    done = subprocess.CompletedProcess([name, *arguments], ended.value.code or 0, out.getvalue(), err.getvalue())
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def read_table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_scores(folder, name="scores"):
    """Return the first record of evaluate.py's JSON file."""
    return json.loads((folder / f"{name}.json").read_text())[0]


def error_of(done):
    """Return the error, the last line on stderr, of a command with exit status 2."""
    lines = done.stderr.strip().splitlines()
    assert lines and lines[-1].startswith("error: "), done.stderr
    assert not any("Traceback" in line for line in lines), done.stderr
    return lines[-1]


@contextmanager
def after_each_step(call):
    """Inside the block, call `call(steps taken, learner)` after each training step in this process."""
    real = train.train_step

    def step(batch, learner, augmentation, args, number):
        results = real(batch, learner, augmentation, args, number)
        call(number + 1, learner)
        return results

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_step", step)
        yield


def stop_after(steps, number=signal.SIGTERM):
    """Return a context in which a run receives a signal after its step number `steps`."""
    return after_each_step(lambda taken, learner: taken == steps and os.kill(os.getpid(), number))


# ------------------------------------------------------------------------------ made once


def made_once(make, *key):
    """Return a folder in the session's cache, which make(folder) fills on first use.

    Workers share the cache. If two make the same folder at the same time, one of the two is kept.
    """
    root = Path(os.environ[CACHE])
    folder = root / hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    if not folder.exists():
        made = Path(tempfile.mkdtemp(dir=root))
        make(made)
        with contextlib.suppress(OSError):
            made.rename(folder)
    return folder


def make_checkpoint(path, name="unet", image_size=32, seed=0, threshold=0.5, **options):
    """Write a checkpoint of an untrained network in the format of train.py."""
    options = {"in_channels": 3, "out_channels": 1, **({} if name == "resnet34_unet" else {"width": 4}), **options}

    def make(folder):
        torch.manual_seed(seed)
        channels = options["in_channels"]
        network, normalization = build_model(name, **options), {"mean": [0.5] * channels, "std": [0.5] * channels}
        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():  # running statistics that keep activations, and thus rounding errors, at their usual size
            network(torch.randn(8, channels, 96, 96))
        about = {"name": name, "options": options, "dataset": "pets", "image_size": image_size, "border": "foreground"}
        more = {"epoch": 1, "scores": {}, "threshold": threshold, "seconds": 1.0, "command": "python src/train.py"}
        torch.save({**about, **normalization, **more, "model": network.state_dict()}, folder / "a.pth")

    made = made_once(make, "checkpoint", name, image_size, seed, threshold, sorted(options.items()))
    shutil.copyfile(made / "a.pth", path)
    return path


def trained_run(folder, *flags, pets=False, stopped=None):
    """Copy the files of a run `train.py FLAGS --name a` into `folder`, and return its output.

    pets: train on synthetic pets, and copy them too. stopped: the step after which the run receives SIGTERM.
    """

    def make(made):
        if pets:
            make_pets(made / "dataset/oxford-iiit-pet")
        with stop_after(stopped) if stopped else nullcontext():
            done = script("train", *flags, "--name", "a", cwd=made, expect=143 if stopped else 0)
        (made / "output.txt").write_text(done.stdout)

    run = made_once(make, "run", [*map(str, flags)], pets, stopped)
    shutil.copytree(run, folder, dirs_exist_ok=True)
    return (run / "output.txt").read_text()
