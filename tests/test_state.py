import warnings

import pytest
import torch

from models import build_model
from runtime import Runtime, pick_device
from training.settings import parse_args
from training.state import State
from utils import UserError


def small_run(precision=torch.float32):
    settings, _ = parse_args(None, ["--dataset", "shapes", "--width", "4"])
    runtime = Runtime(dtype=precision)
    return State(settings, build_model("unet", width=4), 80, ([0.5] * 3, [0.5] * 3), runtime)


def a_step(state, factor=1.0):
    state.optimizer.zero_grad()
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    state.scaler.scale(state.model(image).mean() * factor).backward()
    state.end_step()


def test_a_step_that_overflows_in_float16_leaves_weights_and_schedule():
    state = small_run(precision=torch.float16)
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
