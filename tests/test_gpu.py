"""Training on a GPU: `python -m pytest -m cuda`.

Without a GPU, fake tensors find operations that mix devices or would wait for the device.
"""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import read_table, script, stop_after
from PIL import Image
from processes import FORKS, finish, logged
from test_resume import same_end
from test_state import start_run
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import augment
import train
from cache import PackedDataset, Pair
from checkpoint import load
from runtime import Runtime
from training.state import TrainMeter

CUDA = torch.device("cuda:0")
GPU = Runtime(CUDA, torch.bfloat16)
FULL = 100  # steps of 4 of 40 images, which is ten epochs: augmentation is at full strength


def scaler_without_backward(model):
    """Return a gradient scaler that makes up gradients: without a real GPU, fake tensors have no backward pass."""

    def backward():
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def scale(loss):
        assert loss.device == CUDA
        return Mock(backward=backward)

    return Mock(scale=scale, get_scale=lambda: 1.0, step=lambda optimizer: optimizer.step())


class NoWaits(TorchDispatchMode):
    """Refuses operations that wait for the device (reads and blocking copies), and float64, which MPS lacks."""

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
    """Make a run on the GPU at full augmentation. Return its learner and a function that takes a step."""
    flags = ("--ema", "0.999", "--batch_size", "4", *flags.split())
    run, meter = start_run(*flags, runtime=GPU, step=FULL, steps=2 * FULL, images=40), TrainMeter()

    def step(batch):
        for result in train.train_step(batch, run.learner, run.augmentation, run.args, run.state.step):
            meter.add(*result)
        run.state.step += 1

    return run.learner, step


def batch_on_the_cpu():
    return {"image": torch.zeros(4, 3, 64, 64, dtype=torch.uint8), "mask": torch.zeros(4, 1, 64, 64, dtype=torch.uint8)}


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
    augment.constant = lambda values, device: torch.empty(len(values), device=device)  # instead of a cached tensor
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        learner, step = begin(flags)
        learner.scaler = scaler_without_backward(learner.model)
        step(batch_on_the_cpu())  # the first step creates the optimizer state
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
def test_a_gpu_trains_and_gives_the_scores_and_masks_of_the_cpu(pets, tmp_path):
    flags = ("--data_path", pets, "--image_size", 64, "--start_size", 32, "--batch_size", 4, "--name", "a")
    out = script("train", "--width", 4, *flags, "--epochs", 3, cwd=tmp_path).stdout
    assert "on cuda" in out
    masks, dice = {}, {}
    for device in ("cpu", "cuda"):
        where = ("--model", "saved_models/a.pth", "--data_path", pets, "--device", device)
        script("evaluate", *where, "--output", f"scores/{device}", cwd=tmp_path)
        dice[device] = [float(row["dice"]) for row in read_table(tmp_path / f"scores/{device}.csv")]
        script("inference", *where, "--precision", "float32", "--output", device, cwd=tmp_path)
        files = sorted((tmp_path / device).glob("Drawn_*.png"))
        masks[device] = [np.asarray(Image.open(file)) for file in files]
    assert len(masks["cuda"]) == 6
    assert dice["cuda"] == pytest.approx(dice["cpu"], abs=0.01)
    pairs = zip(masks["cpu"], masks["cuda"], strict=True)
    assert max(np.mean(one != two) for one, two in pairs) < 0.01


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_run_stopped_on_a_gpu_resumes_exactly(precision, pets, tmp_path):
    flags = ("--data_path", pets, "--width", 4, "--image_size", 32, "--batch_size", 4, "--epochs", 3, "--deterministic")
    flags = (*flags, "--precision", precision)
    script("train", *flags, "--name", "whole", cwd=tmp_path)
    with stop_after(7):
        script("train", *flags, "--name", "cut", cwd=tmp_path, expect=143)
    script("train", "--resume", "saved_models/cut.last.pth", cwd=tmp_path)
    assert same_end(tmp_path, "whole", "cut")


@pytest.mark.cuda
def test_a_run_can_move_from_the_gpu_to_the_cpu_and_back(pets, tmp_path):
    flags = ("--data_path", pets, "--width", 4, "--image_size", 32, "--batch_size", 4, "--epochs", 1, "--name", "a")
    script("train", *flags, cwd=tmp_path)
    for epochs, device in ((2, "cpu"), (3, "cuda")):
        flags = ("--resume", "saved_models/a.last.pth", "--epochs", epochs, "--device", device)
        script("train", *flags, cwd=tmp_path)
        assert load(tmp_path / "saved_models/a.last.pth").epoch == epochs
