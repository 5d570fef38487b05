"""How long a run takes, by a clock that is told the time."""

import itertools
import math
import shlex
from argparse import Namespace
from datetime import datetime
from pathlib import Path

import pytest
import torch
from conftest import error_of, script

import train
from checkpoint import load
from models import build_model
from runtime import Runtime
from training.clock import Clock, Pace, duration, patience_of, rehearse, sizes_of_epochs, time_of_day
from training.forecast import forecast, without_epochs
from training.schedule import SCHEDULES
from training.settings import parse_args

CUDA = torch.device("cuda")
RUN = ("--dataset", "shapes", "--width", 2, "--limit", 8, "--batch_size", 4, "--steps", 3, "--precision", "float32")


class Hands:
    """A clock that somebody turns."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


def run_at(step=0, epochs=4, start_size=0, image_size=64, history=()):
    """As much of a training.state.State as a clock reads."""
    settings = Namespace(
        epochs=epochs, start_size=start_size, image_size=image_size, resume=None, model="unet", weights=None
    )
    finished, runtime = len(history) >= epochs, Runtime()
    return Namespace(
        settings=settings,
        reached=max([0, *(row["image_size"] for row in history)]),
        step=step,
        steps_per_epoch=10,
        history=list(history),
        finished=finished,
        runtime=runtime,
    )


def test_what_is_left_is_steps_and_what_follows_epochs():
    clock = Clock({64: Pace(2.0, 5.0)}, Hands())
    assert clock.left(run_at()) == 4 * (10 * 2 + 5)
    row = {"image_size": 64}
    assert clock.left(run_at(step=13, history=[row])) == 3 * (10 * 2 + 5) - 3 * 2
    assert clock.left(run_at(step=20, history=[row])) == 3 * (10 * 2 + 5) - 10 * 2  # the epoch's end is to come
    assert clock.left(run_at(step=40, history=[row] * 4)) == 0


def test_pictures_that_grow_take_their_own_time():
    clock = Clock({32: Pace(1.0, 2.0), 64: Pace(4.0, 8.0)}, Hands())
    planned = sizes_of_epochs(4, 32, 64)
    assert planned == (32, 32, 64, 64)
    assert clock.left(run_at(start_size=32)) == 2 * 12 + 2 * 48
    grown = [{"image_size": 64}]  # a run that was resumed for more epochs never shrinks its pictures
    assert clock.left(run_at(step=10, start_size=32, history=grown)) == 3 * 48


def test_the_run_corrects_what_was_rehearsed_at_larger_sizes_too():
    hands = Hands()
    clock = Clock({32: Pace(1.0, 2.0), 64: Pace(4.0, 8.0)}, hands)
    for _ in range(100):
        hands.time += 20
        clock.note_steps(32, 10)  # twice as slow as rehearsed
        hands.time += 6
        clock.note_rest(32)  # three times
    assert clock.pace(32).step == pytest.approx(2, rel=0.01) and clock.pace(32).rest == pytest.approx(6, rel=0.01)
    assert clock.pace(64).step == pytest.approx(8, rel=0.01) and clock.pace(64).rest == pytest.approx(24, rel=0.01)
    hands.time += 1000
    clock.lap()  # what was waited for elsewhere counts nowhere
    assert clock.pace(32).step == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("start_size", [0, 32])
@pytest.mark.parametrize("seconds", [47, 60, 500, 7777])
def test_the_epochs_that_fit_fit_and_one_more_does_not(seconds, start_size):
    clock = Clock({32: Pace(1.0, 2.0), 64: Pace(4.0, 8.0)}, Hands())
    settings = Namespace(start_size=start_size, image_size=64)
    epochs = clock.epochs_in(seconds, settings, 10)
    assert clock.total(sizes_of_epochs(epochs, start_size, 64), 10) <= seconds
    assert clock.total(sizes_of_epochs(epochs + 1, start_size, 64), 10) > seconds


def test_words():
    assert [duration(s) for s in (40, 1500, 3.2 * 3600, 4.1 * 86400)] == ["40 s", "25 min", "3.2 h", "4.1 days"]
    now = datetime(2026, 3, 3, 14, 0)
    assert [time_of_day(s, now) for s in (300, 86400, 10 * 86400)] == ["14:05", "Wed 14:00", "13 Mar 2026"]


def rehearsed(seconds_of, **flags):
    """The pace of a network for which a step of pictures of a size takes seconds_of(size), and how often it stepped."""
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    settings, _ = parse_args(None, ["--dataset", "shapes", "--width", "2", "--depth", "1", *words])
    hands, taken = Hands(), []

    def step(state, batch):
        taken.append(state.size)
        hands.time += seconds_of(state.size)

    model = build_model("unet", width=2, depth=1)
    paces = rehearse(settings, model, ([0.5] * 3, [0.5] * 3), Runtime(), step, 10, hands)
    return {size: pace.step for size, pace in paces.items()}, taken


def test_each_size_is_rehearsed():
    paces, taken = rehearsed(lambda size: size / 64, start_size=32, image_size=64)
    assert paces == pytest.approx({32: 0.5, 64: 1.0}) and taken == [32] * 3 + [64] * 3


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_can_be_rehearsed_at_several_sizes(schedule, tmp_path):
    growing = ("--start_size", 32, "--image_size", 96, "--epochs", 1)
    script("train", *RUN, *growing, "--schedule", schedule, cwd=tmp_path)


def test_sizes_that_would_take_long_are_predicted_from_smaller_ones():
    paces, taken = rehearsed(lambda size: (size / 64) ** 2 * 3, image_size=256)
    assert paces == pytest.approx({256: 48.0}) and set(taken) == {64}


def test_a_first_step_that_chooses_kernels_on_a_gpu_hides_no_pace(monkeypatch):
    """Twenty seconds at each size, as on a GPU; then milliseconds."""
    seen = set()
    monkeypatch.setattr("training.clock.patience_of", lambda settings, device: patience_of(settings, CUDA))
    paces, _ = rehearsed(lambda size: 0.5 if size in seen else seen.add(size) or 20, image_size=256)
    assert paces == pytest.approx({256: 0.5})
    settings = Namespace(hours=None)
    assert patience_of(settings, torch.device("cpu")) == 10 and patience_of(settings, CUDA) == math.inf


def test_a_rehearsal_changes_nothing():
    settings, _ = parse_args(None, ["--dataset", "shapes", "--width", "2", "--image_size", "32", "--dropout", ".5"])
    torch.manual_seed(3)
    model = build_model("unet", width=2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    settings.hours = 1.0
    rehearse(settings, model, ([0.5] * 3, [0.5] * 3), Runtime(), train.train_step, 1, itertools.count().__next__)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_run_ends_the_same_whatever_its_clock_says(tmp_path, monkeypatch):
    flags = (*RUN, "--start_size", 32, "--image_size", 64, "--epochs", 3, "--dropout", 0.3)
    script("train", *flags, "--name", "a", cwd=tmp_path)
    monkeypatch.setattr(train, "rehearse", lambda *args: {32: Pace(1e6, 1e6), 64: Pace(1e6, 1e6)})
    out = script("train", *flags, "--name", "b", cwd=tmp_path).stdout
    assert "about 139 days, until" in out and "; about an hour on this machine: python src/train.py" in out
    one, two = (load(tmp_path / f"saved_models/{name}.last.pth")["training"] for name in "ab")
    assert all(torch.equal(value, two["weights"][key]) for key, value in one["weights"].items())
    assert torch.equal(one["random"]["torch"], two["random"]["torch"]) and one["history"] == two["history"]


def test_hours_choose_the_epochs_and_resume_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "rehearse", lambda *args: {32: Pace(10.0, 70.0)})
    monkeypatch.setattr(train.time, "perf_counter", lambda: 0.0)
    flags = (*RUN, "--image_size", 32, "--hours", 0.085, "--name", "a")  # 306 seconds, and 100 an epoch
    out = script("train", *flags, cwd=tmp_path).stdout
    assert "3 epochs of 3 steps" in out and "about 5 min, until" in out
    settings = load(tmp_path / "saved_models/a.last.pth")["settings"]
    assert (settings["epochs"], settings["hours"]) == (3, 0.085)
    monkeypatch.setattr(train, "rehearse", lambda *args: {32: Pace(1.0, 1.0)})
    assert "nothing to train" in script("train", "--resume", "saved_models/a.last.pth", cwd=tmp_path).stdout
    script("train", "--resume", "saved_models/a.last.pth", "--epochs", 4, cwd=tmp_path)


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--hours 0.01", "--hours 0.01 is too little: one epoch takes 2 min; use a smaller --image_size"),
        ("--hours 1 --epochs 3", "--hours chooses the number of epochs; leave out --epochs"),
        ("--hours 0", "0 is not a number of hours above 0, at most 10,000"),
        ("--hours nan", "nan is not a number of hours above 0"),
    ],
)
def test_hours_that_cannot_be_are_one_line(flags, words, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "rehearse", lambda *args: {32: Pace(10.0, 70.0)})
    assert words in error_of(script("train", *RUN, "--image_size", 32, *flags.split(), cwd=tmp_path, expect=2))


@pytest.mark.parametrize(
    "step, device, expected",
    [
        (60.0, "cpu", "--width 16 --image_size 96 --hours 1"),
        (5.0, "cpu", "--image_size 128 --hours 1"),
        (1.0, "cpu", "--hours 1"),
        (60.0, "cuda", None),
        (0.01, "cpu", None),
    ],
)
def test_a_long_run_on_a_cpu_names_a_command_that_takes_an_hour(step, device, expected):
    state = run_at(epochs=40, image_size=256)
    state.steps_per_epoch, state.runtime = 200, Runtime(torch.device(device))
    said = forecast(state, Clock({256: Pace(step, step * 10)}, Hands()), ["--epochs", "40", "-e=3", "--name", "a b"])
    if expected is None:
        assert "an hour" not in said
        return
    assert said.endswith(f"python src/train.py --name 'a b' {expected}")
    parse_args(None, ["--dataset", "shapes", *shlex.split(said.partition("src/train.py ")[2])])


def test_the_hour_of_a_network_that_starts_from_weights_leaves_its_width():
    state = run_at(epochs=40, image_size=256)
    state.settings.weights, state.steps_per_epoch = Path("wide.pth"), 200
    said = forecast(state, Clock({256: Pace(60.0, 600.0)}, Hands()), ["--weights", "wide.pth"])
    assert said.endswith("python src/train.py --weights wide.pth --image_size 96 --hours 1")


def test_a_command_line_without_its_epochs():
    words = ["-e", "3", "--name", "a b", "-lr", "1e-3", "-e5", "--epochs=4", "--tta", "--hours", "2", "-e=6"]
    assert without_epochs(words) == ["--name", "a b", "-lr", "1e-3", "--tta"]


def test_a_scout_too_small_for_the_network_is_no_error(tmp_path):
    """A network of depth 7 cannot take the scout's 64 pixels."""
    flags = ("--dataset", "shapes", "--width", 1, "--depth", 7, "--image_size", 128, "--limit", 2, "--batch_size", 1)
    script("train", *flags, "--norm", "none", "--steps", 1, "--epochs", 1, cwd=tmp_path)
