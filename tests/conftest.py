"""Drawn pictures in the dataset's official layout, and scripts run as a person runs them."""

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import folder
import runtime
import shapes
from cache import PackedDataset
from models import build_model
from oxford_pet import load_dataset
from splits import DataOptions
from utils import run

ROOT = Path(__file__).parents[1]
if os.environ.get("TURN_PRECISION"):  # --precision auto chooses what it would not choose on this processor
    measured = runtime.convolution_speeds()
    names = sorted(measured, key=measured.__getitem__)
    runtime.convolution_speeds = lambda: dict(zip(names, (50.0, 10.0), strict=True))
torch.set_num_threads(1)  # results then do not depend on the machine, and tiny networks are no slower


def pytest_configure(config):
    """Where there is a GPU, all but the tests marked cuda run on the CPU as well: their numbers are its numbers."""
    if "not cuda" in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def draw_pet(folder, name, index, width=60, height=44):
    """A drawn picture and its trimap (1 inside, 3 along the edge, 2 outside) in the official layout."""
    picture, mask = shapes.draw(np.random.default_rng([7, index]), height, width, count=4)
    inside = np.pad(mask, 1, mode="edge")
    neighbours = [inside[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    edge = np.minimum.reduce(neighbours) != np.maximum.reduce(neighbours)
    trimap = np.where(edge, 3, np.where(mask == 1, 1, 2)).astype(np.uint8)
    Image.fromarray(picture).save(folder / "images" / f"{name}.jpg", quality=95)
    Image.fromarray(trimap).save(folder / "annotations" / "trimaps" / f"{name}.png")


def make_pets(folder, trainval=20, test=6):
    """A small dataset in the official layout; pictures of two shapes."""
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
    index,
    width=60,
    height=44,
    folder=None,
    name=None,
    images="images",
    masks="masks",
    ending="",
    encode=None,
    suffix="png",
):
    """A drawn picture (H, W, 3) and its mask (H, W) of 0 and 1; with `folder` also as files, the mask as 0 and 255."""
    picture, mask = shapes.draw(np.random.default_rng([8, index]), height, width, count=4)
    if folder:
        image, label = folder / images / f"{name}.png", folder / masks / f"{name}{ending}.{suffix}"
        image.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(image)
        (encode(mask) if encode else Image.fromarray(mask * 255)).save(label)
    return picture, mask


def make_folder(folder, number, encode=None, images="images", masks="masks", **options):
    """Drawn pictures 0, 1, ... and their masks in a folder of one's own."""
    for part in (images, masks):
        (folder / part).mkdir(parents=True)
    for index in range(number):
        draw_folder(index, folder=folder, name=index, images=images, masks=masks, encode=encode, **options)
    return folder


def labelled(tmp_path, *values):
    """Masks of vertical stripes of these values."""
    data = make_folder(tmp_path / "data", 6)
    stripes = np.array(values, dtype=np.uint8).repeat(60 // len(values))
    for path in (data / "masks").iterdir():
        Image.fromarray(np.tile(stripes, (44, 1))).save(path)
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


def script(name, *arguments, cwd, expect=0, **extra):
    """`python src/NAME.py ARGUMENTS` in the folder cwd, in this process, which has torch loaded; what it left.

    extra: arguments of its main(), such as train.py's on_step.
    """
    before, signals = Path.cwd(), [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    argv, sys.argv = sys.argv, [f"src/{name}.py", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            run(partial(importlib.import_module(name).main, **extra))
    finally:
        os.chdir(before)
        sys.argv = argv
        for number, handler in signals:
            signal.signal(number, handler)
    done = subprocess.CompletedProcess([name, *arguments], ended.value.code or 0, out.getvalue(), err.getvalue())
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def process(name, *arguments, cwd, expect=0, launcher=(sys.executable,)):
    """The same in a process of its own, or in those that `launcher` starts."""
    command = [*launcher, str(ROOT / "src" / f"{name}.py"), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def error_of(done):
    """The one line that a script with exit status 2 leaves on stderr."""
    lines = done.stderr.strip().splitlines()
    assert lines and lines[-1].startswith("error: "), done.stderr
    assert not any("Traceback" in line for line in lines), done.stderr
    return lines[-1]


def make_checkpoint(path, name="unet", image_size=32, seed=0, threshold=0.5, **options):
    """A checkpoint of a network that was never trained, as train.py writes it."""
    torch.manual_seed(seed)
    options = {"in_channels": 3, "out_channels": 1, **({} if name == "resnet34_unet" else {"width": 4}), **options}
    scaling = {"mean": [0.5] * options["in_channels"], "std": [0.5] * options["in_channels"]}
    about = {"name": name, "options": options, "dataset": "pets", "image_size": image_size, "border": "foreground"}
    more = {"epoch": 1, "scores": {}, "threshold": threshold, "seconds": 1.0, "command": "python src/train.py"}
    model = build_model(name, **options)
    with torch.no_grad():
        for _ in range(20):  # running statistics that keep activations, and so rounding errors, of the usual size
            model(torch.randn(4, options["in_channels"], 64, 64))
    torch.save({**about, **scaling, **more, "model": model.state_dict()}, path)
    return path


def pytest_sessionfinish(session):
    """In CI, which has all that optional tests need, a skip is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and os.environ.get("SKIPS_FAIL") and reporter.stats.get("skipped"):  # pytest-xdist's workers have none
        session.exitstatus = 1
