"""A training step: optimizers, float16, memory layouts, batch norm and EMA; the best epoch; notes; GPUs by number."""

import math
import warnings
from argparse import Namespace
from copy import deepcopy
from functools import partial

import pytest
import torch
from conftest import load_shapes
from torch import nn

import train
from data import train_loader
from losses import LOSSES, build_loss
from models import build_model
from runtime import Runtime, choose_runtime, pick_device
from training.args import OPTIMIZERS, parse_args
from training.augmentation import BatchAugmentation
from training.ema import EMA, refresh_batch_norm
from training.optimizers import build_optimizer
from training.progress import check_loss, warn_about_one_class
from training.schedule import build_scheduler, position_of
from training.state import TrainMeter, TrainState
from utils import UserError, note_once

FLOAT32, BFLOAT16, FLOAT16 = (Runtime(dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16))


def start_run(*flags, runtime=FLOAT32, step=0, steps=80, images=80):
    """Make what main() of train.py makes: arguments, learner, state and augmentation."""
    args, _ = parse_args(None, ["--dataset", "shapes", "--ema", "0", *flags])
    options = {} if args.model == "resnet34_unet" else {"width": 4}
    torch.manual_seed(0)
    with runtime.device:
        model = build_model(args.model, out_channels=args.out_channels, **options)
    if runtime.device.type == "cpu":  # the fake tensors of test_gpu.py cannot be converted
        runtime.to_device(model)
    optimizer = build_optimizer(args.optimizer, model, args.learning_rate, args.weight_decay)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
    state = TrainState(step=step, warmup=steps // 10)
    args.epochs, position = 1, position_of(args, state, steps)
    scheduler = build_scheduler(args.schedule, optimizer, position, state.warmup, None)
    ema = EMA(model, args.ema) if args.ema else None
    learner = train.Learner(model, model, build_loss(args.loss), optimizer, scaler, ema, runtime, scheduler)
    augmentation = BatchAugmentation(args, images, ([0.5] * 3, [0.5] * 3), runtime)
    return Namespace(
        args=args, runtime=runtime, learner=learner, state=state, model=model, optimizer=optimizer,
        augmentation=augmentation,
    )  # fmt: skip


def a_step(run, criterion=None):
    """Take a step on synthetic images, and return the mean loss."""
    batch = load_shapes("train", 32, limit=80)[list(range(8))]
    run.learner.criterion = criterion or run.learner.criterion
    results = train.train_step(batch, run.learner, run.augmentation, run.args, run.state.step)
    run.state.step += 1
    return sum(loss.item() for loss, _ in results) / len(results)


def weights_of(run):
    return [value.detach().clone() for value in run.model.parameters()]


CASES = [("--optimizer", name) for name in OPTIMIZERS] + [("--loss", name) for name in LOSSES]


@pytest.mark.parametrize("flags", CASES, ids=" ".join)
def test_every_optimizer_and_loss_learns(flags):
    run = start_run(*flags, "--augment", "none", "--schedule", "none")
    losses = [a_step(run) for _ in range(3)]
    assert losses[-1] < losses[0]


def decay(model, factor, logits, mask):
    """A loss whose gradients are exact in float16."""
    return factor * sum(value.square().mean() for value in model.parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_float16_step_that_overflows_changes_nothing(optimizer):
    run, other = (start_run("--optimizer", optimizer, runtime=FLOAT16) for _ in range(2))
    before, rate = weights_of(run), run.optimizer.param_groups[0]["lr"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of a schedule that moves before the optimizer does
        a_step(run, partial(decay, run.model, 1e38))
    torch.testing.assert_close(weights_of(run), before)
    assert run.optimizer.param_groups[0]["lr"] == rate
    for each in (run, other):  # the next step equals the first step of a run without overflow
        a_step(each, partial(decay, each.model, 1.0))
    assert run.optimizer.param_groups[0]["lr"] > rate and run.state.step == 2
    torch.testing.assert_close(weights_of(run), weights_of(other))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_state_is_loaded_into_another_memory_layout(optimizer):
    """The layout of a wide U-Net depends on the device and the precision."""
    flags = ("--optimizer", optimizer)
    run, other = start_run(*flags), start_run(*flags, runtime=Runtime(memory_format=torch.channels_last))
    a_step(run)
    other.learner.load_state_dict(deepcopy(run.learner.state_dict()))
    for _ in range(2):
        gradients = [torch.randn_like(value) for value in run.model.parameters()]
        for each in (run, other):
            for parameter, gradient in zip(each.model.parameters(), gradients, strict=True):
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            each.optimizer.step()
    torch.testing.assert_close(weights_of(other), weights_of(run))


def test_a_run_can_continue_in_float16_and_back_in_float32():
    run, half, back = start_run(), start_run(runtime=FLOAT16), start_run()
    for before, after in ((run, half), (half, back)):
        a_step(before)
        after.learner.load_state_dict(before.learner.state_dict())
    assert math.isfinite(a_step(back)) and half.learner.scaler.get_scale() > 1


def test_the_decay_of_the_average_rises_to_ema():
    """It is 0, then (1 + n) / (10 + n) until it reaches --ema."""
    run = start_run("--ema", "0.15")
    expected = None
    for decay in (0.0, 0.15, 0.15):
        a_step(run)
        weights = torch.cat([value.flatten() for value in weights_of(run)])
        expected = weights if expected is None else decay * expected + (1 - decay) * weights
    average = torch.cat([value.flatten() for value in run.learner.eval_model.parameters()])
    torch.testing.assert_close(average, expected)
    assert not torch.allclose(average, weights)


def test_tied_weights_are_averaged_once_and_constants_stay():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    network.register_buffer("constant", torch.tensor(-torch.inf), persistent=False)
    average = EMA(network, 0.15)
    for value in (0.0, 1.0):
        nn.init.constant_(network[0].weight, value)
        average.update()
    torch.testing.assert_close(average.module[1].weight, torch.full((2, 2), 0.85))
    assert average.module.constant == -torch.inf


def test_batch_norm_statistics_are_recomputed_from_the_last_steps_images():
    """In bfloat16, while augmentation ramps up."""
    run, dataset, seen = start_run(runtime=BFLOAT16), load_shapes("train", 32, limit=80), []
    steps = range(train.BATCH_NORM_STEPS + 4)
    for step, batch in zip(steps, train_loader(dataset, range(80), run.args, steps), strict=True):
        seen.append(run.augmentation(batch, step)[0])
    again = [image for image, _ in run.augmentation.batches(dataset, range(80), steps[4:])]
    assert all(torch.equal(image, same) for image, same in zip(seen[4:], again, strict=True))
    refresh_batch_norm(run.model, again, run.runtime)
    norm, means = run.model.stem[1], []
    with torch.no_grad():
        for image in again:
            with run.runtime.autocast():
                means.append(run.model.stem[0](image).float().mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0), atol=1e-2, rtol=1e-2)


def test_augmentation_ramps_up_over_ten_epochs(monkeypatch):
    run, dataset, seen = start_run("--augment", "scale_jitter"), load_shapes("train", 32, limit=80), []
    with monkeypatch.context() as patch:
        keep = lambda image, mask, strength, params: (seen.append(strength.rotation), (image, mask))[1]  # noqa: E731
        patch.setattr("training.augmentation.augment", keep)
        for step in (0, 50, 100, 500):
            run.augmentation(dataset[[0, 1]], step, slice(0, 2))
    assert seen == [0, 10, 20, 20]
    images, masks = run.augmentation.sample(dataset, range(80), 0, 16)  # NAME.batch.png shows full strength
    plain = torch.cat([dataset[[index]]["mask"] for index in range(80)])
    assert len(images) == len(masks) == 16 and (masks == 255).any() and not (plain == 255).any()


def test_the_best_epoch_has_the_highest_dice_at_the_largest_size():
    """Not the lowest loss; of two equal epochs, the first."""
    state, best = TrainState(), []
    for size, dice, loss in ((32, 0.9, 0.1), (64, 0.5, 0.1), (64, 0.7, 0.9), (64, 0.6, 0.05), (64, 0.7, 0.01)):
        state.end_epoch(size, (0.5, 0.5), {"dice": dice, "jaccard": dice}, 0.5, loss)
        best.append(state.is_best())
    assert best == [True, True, True, False, False] and state.best == 0.7
    state.end_epoch(32, (0.5, 0.5), {"dice": 0.99, "jaccard": 0.9}, 0.5, 0.0)
    assert not state.is_best() and state.best == 0.7


def test_the_training_meter_averages_over_images():
    meter = TrainMeter()
    meter.add(torch.tensor(1.0), torch.tensor([[1, 0, 0, 0]]))
    meter.add(torch.tensor(4.0), torch.tensor([[0, 1, 0, 0], [1, 1, 1, 0]]))
    assert meter.means() == pytest.approx((3.0, 0.5)) and meter.highest == 4
    restored = TrainMeter()
    restored.load_state_dict(meter.state_dict())
    assert restored.means() == meter.means()
    meter.reset()
    assert meter.means() == (0, 0)


@pytest.mark.parametrize("loss, word", [(float("nan"), "NaN"), (float("inf"), "exploded"), (1e5, "exploded")])
def test_a_loss_that_diverges_ends_the_run(loss, word):
    meter = TrainMeter()
    for value in (0.7, loss):
        meter.add(torch.tensor(value), torch.tensor([[1, 0, 0, 0]]))
    with pytest.raises(UserError, match=f"{word}.*--learning_rate"):
        check_loss(meter, meter.means()[0], "in epoch 1")


@pytest.mark.parametrize(
    "counts, words",
    [  # per image: true positives, false positives, false negatives, true negatives
        ([[0, 0, 4, 96], [0, 0, 5, 95]], ["background", "4.5%", "--loss", "a.batch.png"]),
        ([[0, 0, 40, 60], [0, 0, 0, 100]], ["background", "a.batch.png"]),
        ([[30, 70, 0, 0], [20, 80, 0, 0]], ["foreground", "a.batch.png"]),
        ([[0, 0, 4, 96], [1, 0, 5, 94]], None),
        ([[0, 0, 0, 100], [0, 3, 0, 97]], ["no validation image", "--valid_list"]),
    ],
)
def test_a_note_if_every_pixel_is_predicted_as_one_class(counts, words, capsys):
    note_once.cache_clear()
    warn_about_one_class(torch.tensor(counts), "saved_models/a.batch.png")
    note = capsys.readouterr().err
    assert bool(note) == bool(words)
    if words:
        assert all(word in note for word in words)
        assert ("--loss" in note) == ("--loss" in words)


@pytest.mark.parametrize("name, chosen", [("cuda", []), ("cuda:1", [torch.device("cuda:1")])])
def test_a_gpu_given_by_number_becomes_the_current_device(name, chosen, monkeypatch):
    seen = []
    monkeypatch.setattr("runtime.pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    assert choose_runtime(name, "float32").device == torch.device(name)
    assert seen == chosen


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_of_torchrun_gets_its_own_gpu(name, monkeypatch):
    asked = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "zeros", lambda n, device: asked.append(device) or torch.ones(1))
    assert pick_device(name) == torch.device("cuda:1")
    assert asked == ["cuda:1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="--nproc_per_node"):
        pick_device(name)
