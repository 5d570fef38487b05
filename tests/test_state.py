import warnings
from copy import deepcopy

import pytest
import torch
from conftest import load_shapes

import train
from data import train_loader
from models import build_model
from runtime import Runtime, choose_runtime, pick_device
from scoring import Tally
from training.settings import OPTIMIZERS, parse_args
from training.state import State
from utils import UserError


def small_run(precision=torch.float32, optimizer="muon", layout=torch.contiguous_format):
    settings, _ = parse_args(None, ["--dataset", "shapes", "--width", "4", "--optimizer", optimizer])
    runtime = Runtime(dtype=precision, memory_format=layout)
    torch.manual_seed(0)
    return State(settings, runtime.place(build_model("unet", width=4)), 80, ([0.5] * 3, [0.5] * 3), runtime)


def a_step(state, factor=1.0):
    state.optimizer.zero_grad()
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    state.scaler.scale(state.model(image).mean() * factor).backward()
    state.end_step()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_overflows_in_float16_leaves_weights_and_schedule(optimizer):
    state, other = (small_run(torch.float16, optimizer) for _ in range(2))
    before = [value.detach().clone() for value in state.model.parameters()]
    rate = state.optimizer.param_groups[0]["lr"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of a schedule that moves before the optimizer does
        a_step(state, 1e38)
    torch.testing.assert_close(list(state.model.parameters()), before)
    assert state.optimizer.param_groups[0]["lr"] == rate
    a_step(state)
    assert state.optimizer.param_groups[0]["lr"] > rate
    assert state.step == 2
    a_step(other)  # the first step of a run in which nothing overflowed
    torch.testing.assert_close(list(state.model.parameters()), list(other.model.parameters()))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_state_goes_on_in_another_memory_layout(optimizer):
    """A wide U-Net's is another in float32 on a CPU than in bfloat16, or on a GPU."""
    state, other = small_run(optimizer=optimizer), small_run(optimizer=optimizer, layout=torch.channels_last)
    a_step(state)
    other.load_state(deepcopy(state.state_dict()))
    for _ in range(2):
        gradients = [torch.randn_like(value) for value in state.model.parameters()]
        for run in (state, other):
            for parameter, gradient in zip(run.model.parameters(), gradients, strict=True):
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            run.optimizer.step()
    torch.testing.assert_close(list(other.model.parameters()), list(state.model.parameters()))


def test_a_run_goes_on_in_float16_and_back():
    state, half, back = small_run(), small_run(torch.float16), small_run()
    a_step(state)
    half.load_state(state.state_dict())
    a_step(half)
    back.load_state(half.state_dict())
    a_step(back)
    assert back.step == 3 and half.scaler.get_scale() > 1


def test_batch_norm_sees_the_images_that_training_did(monkeypatch):
    """Its statistics are made anew under autocast, from steps between which augmentation has grown."""
    state, dataset, seen = small_run(torch.bfloat16), load_shapes("train", 32, limit=80), []
    real = train.augmented
    with monkeypatch.context() as patch:
        patch.setattr(train, "augmented", lambda *args: seen.append(real(*args)) or seen[-1])
        for batch in train_loader(dataset, range(80), 8, state.settings.seed, range(train.RECENT + 4)):
            train.train_step(state, batch)
    with state.runtime.autocast():
        again = list(train.recent_images(state, dataset, range(80)))
    assert all(torch.equal(image, same) for (image, _), same in zip(seen[4:], again, strict=True))


def test_training_augments_as_far_as_its_passes_allow(monkeypatch):
    state, dataset, far = small_run(), load_shapes("train", 32, limit=80), []
    real = train.augment
    monkeypatch.setattr(train, "augment", lambda *args: far.append(args[2].rotation) or real(*args))
    for state.step in (0, 50, 100, 500):  # ten steps are a pass
        train.train_step(state, dataset[[0, 1, 2, 3]])
    assert far == [0, 10, 20, 20]
    state.step = 0
    images, masks = train.next_pictures(state, dataset, range(80))  # NAME.batch.png shows what is to come
    assert far[4:] == [20, 20] and len(images) == len(masks) == 16


def test_a_run_of_eight_gpus_goes_on_where_there_is_one(monkeypatch):
    saved = small_run()
    a_step(saved)
    state, taken = small_run(), []
    kept = saved.state_dict()
    kept["random"]["cuda"] = [torch.full((16,), gpu, dtype=torch.uint8) for gpu in range(8)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", taken.extend)
    state.load_state(kept)
    assert [value[0].item() for value in taken] == [0]
    assert state.step == 1


@pytest.mark.parametrize("name, chosen", [("cuda", []), ("cuda:1", [1])])
def test_a_gpu_asked_for_by_number_is_the_current_one(name, chosen, monkeypatch):
    seen = []
    monkeypatch.setattr("runtime.pick_device", torch.device)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", seen.append, raising=False)
    assert choose_runtime(name, "float32").device == torch.device(name)
    assert seen == chosen


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_of_torchrun_has_a_gpu_of_its_own(name, monkeypatch):
    asked = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "zeros", lambda n, device: asked.append(device))
    assert pick_device(name) == torch.device("cuda:1")
    assert asked == [torch.device("cuda:1")]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes for 1 GPUs; lower --nproc_per_node"):
        pick_device(name)


def test_what_is_not_a_number_is_never_scored_as_foreground():
    tally = Tally(range(2))
    logits = torch.zeros(2, 1, 4, 4)
    tally.add({"mask": torch.ones(2, 1, 4, 4, dtype=torch.uint8)}, logits)
    assert tally.at(0.5)[:, 0].tolist() == [16, 16]
    logits[1, 0, 2, 2] = torch.nan
    broken = Tally(range(2))
    broken.add({"mask": torch.ones(2, 1, 4, 4, dtype=torch.uint8)}, logits)
    with pytest.raises(UserError, match="what the network predicts is not a number"):
        broken.at(0.5)
