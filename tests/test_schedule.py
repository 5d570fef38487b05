"""The learning rate and the picture size over a whole run."""

from collections import Counter

import pytest
import torch

from training.schedule import (
    SCHEDULES,
    build_schedule,
    epochs_of_sizes,
    size_of,
    sizes,
    warmup_stable_decay,
    warmup_steps,
)


@pytest.mark.parametrize(
    "start, end, expected",
    [
        (64, 256, [64, 96, 128, 192, 256]),
        (128, 256, [128, 192, 256]),
        (0, 256, [256]),
        (256, 256, [256]),
        (300, 256, [256]),
        (255, 256, [256]),
        (1, 32, [32]),
        (33, 100, [32, 64, 100]),
    ],
)
def test_sizes_at_their_boundaries(start, end, expected):
    assert sizes(start, end) == expected


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 40, 150])
def test_every_run_ends_at_the_full_size_and_never_shrinks(epochs):
    seen = [size_of(epoch, epochs, 64, 256) for epoch in range(epochs)]
    assert seen == sorted(seen) and seen[-1] == 256
    if epochs >= 40:
        assert set(seen) == {64, 96, 128, 192, 256}
        shares = [seen.count(size) for size in (64, 96, 128, 192, 256)]
        assert shares == sorted(shares, reverse=True)


def rates(name, steps, epochs_done=0):
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], 0.5)
    schedule, seen = build_schedule(name, optimizer, 0.5, steps, lambda: warmup_steps(steps)), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step(1.0) if name == "plateau" else schedule.step()
    return seen


def test_warmup_stable_decay_over_a_whole_run():
    shares = [warmup_stable_decay(step, 3000, 200) for step in range(3001)]
    assert shares[0] == pytest.approx(1 / 201) and shares[199] == pytest.approx(200 / 201)
    assert shares[200:2001] == [1] * 1801  # constant until two thirds
    assert shares[2500] == pytest.approx(0.5) and shares[3000] == 0
    assert rates("wsd", 30) == pytest.approx([0.5 * warmup_stable_decay(step, 30, 3) for step in range(30)])


def test_a_finished_run_returns_to_the_constant_rate_when_resumed_for_more():
    assert warmup_stable_decay(999, 1000, 100) < 0.01 and warmup_stable_decay(1000, 3000, 100) == 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_goes_above_the_rate_or_below_zero(name):
    seen = rates(name, 40)
    assert max(seen) <= 0.5 + 1e-12 and min(seen) >= 0 and max(seen) > 0.45
    if name in ("cosine", "onecycle", "wsd"):
        assert seen[-1] < 0.05


@pytest.mark.parametrize("start, end", [(64, 256), (0, 256), (32, 64), (96, 224)])
def test_epochs_are_counted_as_they_are_planned(start, end):
    for epochs in (*range(1, 60), 997):
        planned = Counter(size_of(epoch, epochs, start, end) for epoch in range(epochs))
        assert +Counter(epochs_of_sizes(epochs, start, end)) == planned
