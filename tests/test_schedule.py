"""The learning rate and the image size over a whole run."""

import math
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from conftest import after_each_step, script
from test_scripts import history_of

from training.schedule import SCHEDULES, build_scheduler, size_at, sizes, warmup_stable_decay, warmup_steps


def test_image_sizes_grow_from_start_to_end():
    assert sizes(64, 256) == [64, 96, 128, 192, 256] and sizes(128, 256) == [128, 192, 256]
    assert sizes(0, 256) == sizes(256, 256) == sizes(255, 256) == [256]
    assert sizes(1, 32) == [32] and sizes(33, 100) == [32, 64, 100]


@pytest.mark.parametrize("epochs", [1, 2, 3, 40, 150])
def test_every_run_ends_at_full_size_and_images_never_shrink(epochs):
    seen = [size_at((epoch + 1) / epochs, 64, 256) for epoch in range(epochs)]
    assert seen == sorted(seen) and seen[-1] == 256
    if epochs >= 40:
        assert set(seen) == {64, 96, 128, 192, 256}
        epochs_by_size = [seen.count(size) for size in (64, 96, 128, 192, 256)]
        assert epochs_by_size == sorted(epochs_by_size, reverse=True)


def rates(name, steps):
    """Return the learning rate of each step of a run whose peak is 0.5."""
    optimizer, seen = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.5), []
    scheduler = build_scheduler(name, optimizer, lambda step: (step, steps), steps // 10, None)
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(1.0) if name == "plateau" else scheduler.step()
    return seen


def test_wsd_warms_up_stays_constant_and_decays():
    factors = [warmup_stable_decay(step, 3000, step, 200) for step in range(3001)]
    assert factors[0] == pytest.approx(1 / 201) and factors[199] == pytest.approx(200 / 201)
    assert factors[200:2001] == [1] * 1801  # constant until two thirds
    assert factors[2500] == pytest.approx(0.5) and factors[3000] == 0
    assert rates("wsd", 30) == pytest.approx([0.5 * warmup_stable_decay(step, 30, step, 3) for step in range(30)])
    assert warmup_steps(Namespace(hours=None, epochs=3), 10) == 3


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_goes_above_the_peak_or_below_zero(name):
    seen = rates(name, 40)
    assert max(seen) <= 0.5 + 1e-12 and min(seen) >= 0 and max(seen) > 0.45
    if name in ("cosine", "onecycle", "wsd"):
        assert seen[-1] < 0.05
    if name == "plateau":  # a constant loss halves the rate
        assert seen[-1] < seen[0] / 2


def test_a_run_in_hours_follows_the_clock(tmp_path, monkeypatch):
    """In an hour of one-minute steps, image size and learning rate follow the fraction of time spent."""
    clock, used = [0.0], []
    monkeypatch.setattr("training.progress.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def a_minute(taken, learner):
        clock[0] += 60
        used.append(learner.optimizer.param_groups[0]["lr"])

    flags = ("--dataset", "shapes", "--width", 2, "--limit", 8, "--batch_size", 4, "--steps", 8, "--schedule", "cosine")
    flags = (*flags, "--hours", 1, "--start_size", 32, "--image_size", 64, "--precision", "float32", "--name", "a")
    with after_each_step(a_minute):
        script("train", *flags, cwd=tmp_path)
    history = history_of(tmp_path)
    assert len(used) == 60 and [int(row["step"]) for row in history] == [*range(8, 60, 8), 60]
    assert [int(row["image_size"]) for row in history] == 2 * [32] + 6 * [64]  # 26% of the time at 32
    assert used == pytest.approx([0.004 * (1 + math.cos(math.pi * step / 60)) for step in range(60)], abs=1e-9)
    clock[0] = 0.0
    monkeypatch.undo()
    again = script("train", "--resume", "saved_models/a.last.pth", cwd=tmp_path)
    assert history_of(tmp_path) == history and again.returncode == 0
