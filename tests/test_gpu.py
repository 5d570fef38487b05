"""Training on a GPU. Without one, fake tensors find a mix of devices and copies that would wait.

With one, `python -m pytest -m cuda` runs whole runs.
"""

import csv

import numpy as np
import pytest
import torch
from conftest import script, stop_after
from PIL import Image
from processes import FORKS, finish, logged
from test_resume import same_end
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import augment
import train
from cache import PackedDataset, Pair
from checkpoint import load
from losses import build_loss
from models import build_model
from runtime import Runtime
from training.args import parse_args
from training.augmentation import BatchAugmentation
from training.ema import EMA
from training.optimizers import build_optimizer
from training.schedule import build_scheduler, position_of
from training.state import TrainMeter, TrainState

CUDA = torch.device("cuda:0")
FULL = 100  # steps of 4 of 40 images, after which augmentation is at full strength


class MadeUpGradients:
    """Replaces the gradient scaler and the backward pass, which fake tensors do not have on a GPU that is not there."""

    def __init__(self, model):
        self.model = model

    def scale(self, loss):
        assert loss.device == CUDA
        return self

    def backward(self):
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def get_scale(self):
        return 1.0

    def step(self, optimizer):
        optimizer.step()

    def update(self):
        pass


class NoWaits(TorchDispatchMode):
    """Refuses what waits for the device: reading a value and blocking copies. Refuses float64, which MPS lacks."""

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
    """Make a run on the GPU, whose augmentation is at full strength, and return a function that takes a step."""
    args, _ = parse_args(None, ["--dataset", "shapes", *flags.split()])
    args.batch_size, args.epochs, runtime = 4, 1, Runtime(CUDA, torch.bfloat16)
    options = {"width": 4} if args.model != "resnet34_unet" else {}
    with CUDA:
        model = build_model(args.model, 3, args.out_channels, **options)
    model.train()
    state = TrainState(step=FULL, max_size=64, warmup=4)
    optimizer = build_optimizer(args.optimizer, model, args.learning_rate, args.weight_decay)
    scheduler = build_scheduler(args.schedule, optimizer, position_of(args, state, 2 * FULL), 4, None)
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    ema = EMA(model, args.ema) if args.ema else None
    learner = train.Learner(model, model, build_loss(args.loss), optimizer, scaler, ema, runtime, scheduler)
    augmentation = BatchAugmentation(args, 40, ([0.5] * 3, [0.5] * 3), runtime)
    meter = TrainMeter()

    def step(batch):
        for result in train.train_step(batch, learner, augmentation, args, state.step):
            meter.add(*result)
        state.step += 1

    return learner, step


def batch_on_the_cpu():
    return {
        "image": torch.zeros(4, 3, 64, 64, dtype=torch.uint8),
        "mask": torch.zeros(4, 1, 64, 64, dtype=torch.uint8),
    }


def batch_on_the_gpu():
    """Return four images of a dataset that is stored on the GPU."""
    packed = torch.zeros(8, 4, 64, 64, dtype=torch.uint8, device=CUDA)
    return PackedDataset(packed, 8 * [Pair("a", None, None)], None, lambda label: label)[[0, 2, 4, 6]]


CASES = [
    "--model unet --optimizer muon --augment full",
    "--model unet_add --optimizer adam --augment none --loss jaccard --ema 0",
    "--model unet_shallow --optimizer radam --loss tversky --out_channels 2",
    "--model resnet34_unet --optimizer sgd --loss focal,dice --schedule cosine",
    "--model unet --optimizer adamw --augment light --loss bce --schedule onecycle",
]


def fake_steps(flags):
    augment.constant = lambda values, device: torch.empty(len(values), device=device)  # a real one is made once
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        learner, step = begin(flags)
        learner.scaler = MadeUpGradients(learner.model)
        step(batch_on_the_cpu())  # in which optimizers make their state
        with NoWaits():
            step(batch_on_the_gpu())


@pytest.mark.integration
@pytest.mark.parametrize("flags", CASES)
def test_a_step_on_a_gpu_mixes_no_devices_and_does_not_wait(flags, tmp_path):
    """In a separate process: torch 2.14 crashes if fake tensors on a GPU are made a second time."""
    process = FORKS.Process(target=logged, args=(fake_steps, flags, tmp_path / "log"))
    process.start()
    finish(process, log=tmp_path / "log")


@pytest.mark.cuda
@pytest.mark.parametrize("flags", CASES)
def test_a_step_does_not_wait_for_the_gpu(flags):
    _, step = begin(flags)
    step(batch_on_the_cpu())
    batch = batch_on_the_gpu()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
def test_a_run_on_a_gpu_from_training_to_masks(pets, tmp_path):
    flags = ("--data_path", pets, "--image_size", 64, "--start_size", 32, "--batch_size", 4, "--name", "a")
    out = script("train", "--width", 4, *flags, "--epochs", 3, cwd=tmp_path).stdout
    assert "on cuda" in out
    masks, dice = {}, {}
    for device in ("cpu", "cuda"):
        where = ("--model", "saved_models/a.pth", "--data_path", pets, "--device", device)
        script("evaluate", *where, "--output", f"scores/{device}", cwd=tmp_path)
        with open(tmp_path / f"scores/{device}.csv", newline="") as file:
            dice[device] = [float(row["dice"]) for row in csv.DictReader(file)]
        script("inference", *where, "--precision", "float32", "--output", device, cwd=tmp_path)
        files = sorted((tmp_path / device).glob("Drawn_*.png"))
        masks[device] = [np.asarray(Image.open(file)) for file in files]
    assert len(masks["cuda"]) == 6
    assert dice["cuda"] == pytest.approx(dice["cpu"], abs=0.01)
    pairs = zip(masks["cpu"], masks["cuda"], strict=True)
    assert max(np.mean(one != two) for one, two in pairs) < 0.01


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_run_stopped_on_a_gpu_continues_exactly(precision, pets, tmp_path):
    flags = ("--data_path", pets, "--width", 4, "--image_size", 32, "--batch_size", 4, "--epochs", 3, "--deterministic")
    flags = (*flags, "--precision", precision)
    script("train", *flags, "--name", "whole", cwd=tmp_path)
    with stop_after(7):
        script("train", *flags, "--name", "cut", cwd=tmp_path, expect=143)
    script("train", "--resume", "saved_models/cut.last.pth", cwd=tmp_path)
    assert same_end(tmp_path, "whole", "cut")


@pytest.mark.cuda
def test_a_run_goes_from_the_gpu_to_the_cpu_and_back(pets, tmp_path):
    flags = ("--data_path", pets, "--width", 4, "--image_size", 32, "--batch_size", 4, "--epochs", 1, "--name", "a")
    script("train", *flags, cwd=tmp_path)
    for epochs, device in ((2, "cpu"), (3, "cuda")):
        flags = ("--resume", "saved_models/a.last.pth", "--epochs", epochs, "--device", device)
        script("train", *flags, cwd=tmp_path)
        assert load(tmp_path / "saved_models/a.last.pth").epoch == epochs
