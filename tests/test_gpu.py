"""A training step on a GPU, without one: fake tensors find a mix of devices, and copies that would wait.

With one, `python -m pytest -m cuda`: whole runs.
"""

import csv
import signal

import numpy as np
import pytest
import torch
from conftest import script
from PIL import Image
from processes import FORKS, finish, logged
from test_faults import same_end, stop_after
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import augment
import train
from augment import AUGMENTS
from cache import PackedDataset, Pair
from models import MODELS, build_model
from runtime import Runtime
from training.settings import OPTIMIZERS, parse_args
from training.state import State

CUDA = torch.device("cuda:0")
GROWN = 100  # steps of 4 of 40 pictures, after which augmentation goes as far as it ever will


class MadeUpGradients:
    """In place of the gradient scaler: no backward pass, which fake tensors have none of on a GPU that is not there."""

    def __init__(self, model):
        self.model = model

    def scale(self, loss):
        assert loss.device == CUDA
        return self

    def backward(self):
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def is_enabled(self):
        return False

    def step(self, optimizer):
        optimizer.step()

    def update(self):
        pass


class NoWaits(TorchDispatchMode):
    """Refuses what waits for the device in a step: reading a value, a blocking copy; and float64, which MPS lacks."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.__name__
        assert not name.startswith(("_local_scalar_dense", "nonzero", "masked_select")) or args[0].device.type == "cpu"
        out = function(*args, **kwargs)
        if name.startswith("_to_copy") and isinstance(out, torch.Tensor) and out.device != args[0].device:
            assert kwargs.get("non_blocking"), "a blocking copy between devices"
        if isinstance(out, torch.Tensor) and out.device.type != "cpu":
            assert out.dtype != torch.float64, f"{name} makes float64 on the device"
        return out


def begin(flags):
    """A run on the GPU, its augmentation grown, and a batch."""
    settings, _ = parse_args(None, ["--dataset", "shapes", *flags])
    settings.batch_size = 4
    runtime = Runtime(CUDA, torch.bfloat16)
    options = {"width": 4} if settings.model != "resnet34_unet" else {}
    with CUDA:
        model = build_model(settings.model, 3, settings.out_channels, **options)
    state = State(settings, model, 40, ([0.5] * 3, [0.5] * 3), runtime)
    state.model.train()
    state.step = GROWN
    image = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    mask = torch.zeros(4, 1, 64, 64, dtype=torch.uint8)
    return state, {"image": image, "mask": mask}


def on_the_gpu():
    """Eight pictures of a set that lies on the GPU."""
    packed = torch.zeros(8, 4, 64, 64, dtype=torch.uint8, device=CUDA)
    return PackedDataset(packed, 8 * [Pair("a", None, None)], None, lambda label: label)


CASES = [("--model", name) for name in MODELS] + [("--optimizer", name) for name in OPTIMIZERS]
CASES += [("--augment", name) for name in AUGMENTS] + [
    ("--out_channels", "2"),
    ("--loss", "jaccard"),
    ("--loss", "tversky"),
    ("--loss", "focal,dice"),
    ("--ema", "0"),
]


def fake_steps(flags):
    augment.constant = lambda values, device: torch.empty(len(values), device=device)  # a real one is made once
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        state, batch = begin(flags)
        state.scaler = MadeUpGradients(state.model)
        train.train_step(state, batch)  # in which optimizers make their state
        with NoWaits():
            train.train_step(state, on_the_gpu()[[0, 2, 4, 6]])
    assert state.step == GROWN + 2


@pytest.mark.parametrize("flags", CASES, ids=" ".join)
def test_a_step_on_a_gpu_mixes_no_devices_and_does_not_wait(flags, tmp_path):
    """In a process of its own: torch 2.14 crashes where fake tensors on a GPU are made a second time."""
    process = FORKS.Process(target=logged, args=(fake_steps, flags, tmp_path / "log"))
    process.start()
    finish(process, log=tmp_path / "log")


@pytest.mark.cuda
@pytest.mark.parametrize("flags", CASES, ids=" ".join)
def test_a_step_does_not_wait_for_the_gpu(flags):
    state, batch = begin(flags)
    train.train_step(state, batch)
    data = on_the_gpu()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        train.train_step(state, data[[0, 2, 4, 6]])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
def test_a_run_on_a_gpu_from_training_to_masks(pets, tmp_path):
    flags = ("--data_path", pets, "--image_size", 64, "--start_size", 32, "--batch_size", 4, "--name", "a")
    out = script("train", "--width", 4, *flags, "--epochs", 3, cwd=tmp_path).stdout
    assert "on cuda in " in out and ", GPU " in out
    masks, dice = {}, {}
    for device in ("cpu", "cuda"):
        where = ("--model", "saved_models/a.pth", "--data_path", pets, "--device", device)
        script("evaluate", *where, "--output", f"scores/{device}", cwd=tmp_path)
        with open(tmp_path / f"scores/{device}.csv", newline="") as file:
            dice[device] = [float(row["dice"]) for row in csv.DictReader(file)]
        script("inference", *where, "--precision", "float32", "--output", device, "--save", "mask", cwd=tmp_path)
        files = sorted((tmp_path / device).glob("Drawn_*.png"))
        masks[device] = [np.asarray(Image.open(file)) for file in files]
    assert len(masks["cuda"]) == 6
    assert dice["cuda"] == pytest.approx(dice["cpu"], abs=0.01)
    pairs = zip(masks["cpu"], masks["cuda"], strict=True)
    assert max(np.mean(one != two) for one, two in pairs) < 0.01


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_run_stopped_on_a_gpu_goes_on_as_if_it_had_not_been(precision, pets, tmp_path):
    flags = ("--data_path", pets, "--width", 4, "--image_size", 32, "--batch_size", 4, "--epochs", 3, "--deterministic")
    flags = (*flags, "--precision", precision)
    script("train", *flags, "--name", "whole", cwd=tmp_path)
    stopped = 128 + signal.SIGTERM
    script("train", *flags, "--name", "cut", cwd=tmp_path, expect=stopped, on_step=stop_after(7))
    script("train", "--resume", "saved_models/cut.last.pth", cwd=tmp_path)
    assert same_end(tmp_path, "whole", "cut")


@pytest.mark.cuda
def test_a_run_goes_from_the_gpu_to_the_cpu_and_back(pets, tmp_path):
    flags = ("--data_path", pets, "--width", 4, "--image_size", 32, "--batch_size", 4, "--epochs", 1, "--name", "a")
    script("train", *flags, cwd=tmp_path)
    for epochs, device in ((2, "cpu"), (3, "cuda")):
        flags = ("--resume", "saved_models/a.last.pth", "--epochs", epochs, "--device", device)
        assert "--device changes from" in script("train", *flags, cwd=tmp_path).stdout
