"""--resume: the run continues exactly, its best checkpoint and CSV agree, and nothing else is overwritten."""

import math
import shutil
import signal

import pytest
import torch
from conftest import after_each_step, error_of, make_folder, script, stop_after, trained_run
from processes import finish, launch_pair
from test_scripts import FILES, contents, history_of

from checkpoint import load, save
from training.args import parse_args
from training.schedule import at_largest_size

RUN = ("--dataset", "shapes", "--width", 2, "--limit", 8, "--batch_size", 4, "--steps", 3, "--precision", "float32")
GROWING, ONE_SIZE = ("--start_size", 32, "--image_size", 64), ("--image_size", 32)
RESUME = ("--resume", "saved_models/a.last.pth")


def same_end(folder, first, second):
    """Return whether weights, EMA, optimizer settings and history of two runs are equal bit for bit."""
    one, two = (load(folder / f"saved_models/{name}.last.pth").training for name in (first, second))
    for weights, others in ((one["model"], two["model"]), (one["ema"]["module"], two["ema"]["module"])):
        assert all(torch.equal(value, others[name]) for name, value in weights.items())
    assert one["optimizer"]["param_groups"] == two["optimizer"]["param_groups"]
    return history_of(folder, first) == history_of(folder, second)


def check_best(folder):
    """Check that the best checkpoint of run a is of the best epoch in the history, and return its Dice."""
    history = history_of(folder)
    best = max(at_largest_size(history), key=lambda row: float(row["valid_dice"]))
    kept = load(folder / "saved_models/a.pth")
    assert (kept.epoch, kept.image_size) == (int(best["epoch"]), int(best["image_size"]))
    assert kept.scores["valid"]["dice"] == float(best["valid_dice"])
    return float(best["valid_dice"])


EXACT = (*RUN, *ONE_SIZE, "--epochs", 3, "--augment", "full", "--dropout", 0.3)


@pytest.mark.parametrize(
    "flags, step",
    [
        ((), 4),  # in the middle of an epoch
        (("--optimizer", "adamw", "--schedule", "onecycle"), 3),  # at the end of an epoch
        (("--optimizer", "radam", "--schedule", "cosine", "--precision", "bfloat16"), 8),
        (("--optimizer", "sgd", "--schedule", "plateau"), 5),
        (("--start_size", 32, "--image_size", 64), 5),
        pytest.param(("--accumulation_steps", 2), 1, marks=pytest.mark.integration),
        pytest.param(("--workers", 1), 7, marks=pytest.mark.integration),
        pytest.param(("--optimizer", "adam", "--schedule", "none"), 2, marks=pytest.mark.integration),
    ],
    ids=lambda value: " ".join(map(str, value)) or "defaults" if isinstance(value, tuple) else None,
)
def test_a_run_stopped_after_any_step_resumes_exactly(flags, step, tmp_path):
    flags = (*EXACT, *flags, "--ema", 0.9)
    script("train", *flags, "--name", "whole", cwd=tmp_path)
    with stop_after(step):
        out = script("train", *flags, "--name", "a", cwd=tmp_path, expect=128 + signal.SIGTERM).stdout
    assert "--resume saved_models/a.last.pth" in out and load(tmp_path / RESUME[1]).training["state"]["step"] == step
    script("train", *RESUME, cwd=tmp_path)
    assert same_end(tmp_path, "whole", "a")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.integration)])
@pytest.mark.parametrize(
    "growth, epochs, stopped",
    [(GROWING, 7, 8), (GROWING, 2, None), (ONE_SIZE, 6, None), (ONE_SIZE, 2, 8)],  # 8: in the first epoch at 64x64
    ids=["growing, more", "growing, fewer", "one size, more", "one size, fewer"],
)
def test_a_run_is_resumed_for_more_or_fewer_epochs(growth, epochs, stopped, processes, tmp_path):
    trained_run(tmp_path, *RUN, *growth, "--epochs", 4, stopped=stopped)
    done = load(tmp_path / RESUME[1]).epoch
    before = contents(tmp_path / "saved_models")
    flags = (*RESUME, "--epochs", epochs)
    if processes == 1:
        script("train", *flags, cwd=tmp_path)
    else:
        finish(*launch_pair("train", *flags, cwd=tmp_path), log=tmp_path / "train.log")
    if epochs <= done:
        assert contents(tmp_path / "saved_models") == before
        return
    best, rows = check_best(tmp_path), history_of(tmp_path)
    sizes = [row["image_size"] for row in rows]
    assert sizes == (epochs * ["32"] if growth == ONE_SIZE else ["32", "32", *5 * ["64"]])  # never smaller again
    assert best == max(float(row["valid_dice"]) for row in rows if row["image_size"] == sizes[-1])


def test_the_history_has_the_learning_rate_of_each_epochs_last_step(tmp_path):
    trained_run(tmp_path, *RUN, *ONE_SIZE, "--epochs", 2, "--schedule", "cosine")
    rates = [float(row["learning_rate"]) for row in history_of(tmp_path)]
    assert rates == pytest.approx([0.008 * (1 + math.cos(math.pi * step / 6)) / 2 for step in (2, 5)], rel=1e-4)


def test_a_run_resumed_under_another_name_leaves_the_first_unchanged(tmp_path):
    trained_run(tmp_path, *RUN, *ONE_SIZE, "--epochs", 2)
    before = contents(tmp_path / "saved_models")
    flags = (*RESUME, "--epochs", 3, "--name", "b", "--save_dir", "elsewhere")
    script("train", *flags, cwd=tmp_path)
    assert before == contents(tmp_path / "saved_models")
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {f"b{ending}" for ending in FILES}
    assert "--name b" in error_of(script("train", *flags, cwd=tmp_path, expect=2))
    [earlier] = load(tmp_path / "elsewhere/b.pth").earlier
    assert earlier["command"] == load(tmp_path / "saved_models/a.pth").command and earlier["epoch"] == 2


def test_a_history_that_lacks_an_epoch_is_completed_and_a_missing_best_checkpoint_replaced(tmp_path):
    trained_run(tmp_path, *RUN, *ONE_SIZE, "--epochs", 2)
    before = contents(tmp_path / "saved_models")
    (tmp_path / "saved_models/a.csv").write_bytes(b"".join(before["a.csv"].splitlines(keepends=True)[:2]))  # by a kill
    script("train", *RESUME, cwd=tmp_path)
    assert contents(tmp_path / "saved_models") == before
    (tmp_path / "saved_models/a.pth").unlink()
    last = load(tmp_path / RESUME[1])
    last.training["state"]["history"][0]["valid_dice"] = 1.0  # the best, but its checkpoint is gone
    save(last, tmp_path / RESUME[1])
    script("train", *RESUME, "--epochs", 3, cwd=tmp_path)
    assert load(tmp_path / "saved_models/a.pth").epoch == 3


def test_other_training_images_are_refused_and_nothing_is_overwritten(tmp_path):
    """Even if there are equally many."""
    lists = ("--train_list", tmp_path / "train.txt", "--valid_list", tmp_path / "valid.txt")
    lists[1].write_text("0\n1\n2\n3\n4\n5\n6\n7\n")
    lists[3].write_text("8\n9\n")
    make_folder(tmp_path / "data", 10)
    make_folder(tmp_path / "other", 10, first=20)
    flags = ("--width", 2, "--batch_size", 4, *ONE_SIZE, "--steps", 3, "--epochs", 2, *lists, "--name", "a")
    with stop_after(4):
        script("train", "--data_path", "data", *flags, cwd=tmp_path, expect=143)
    before = contents(tmp_path / "saved_models")
    for same_name in ((), ("--name", "b")):
        done = script("train", *RESUME, "--data_path", "other", *same_name, cwd=tmp_path, expect=2)
        assert "--resume" in error_of(done) and "--data_path" in error_of(done)
    assert contents(tmp_path / "saved_models") == before
    script("train", *RESUME, cwd=tmp_path)


def test_other_validation_images_restart_the_search_for_the_best_epoch(tmp_path):
    data = make_folder(tmp_path / "data", 14)
    lists = {name: tmp_path / f"{name}.txt" for name in ("train", "old", "new")}
    for path, numbers in zip(lists.values(), (range(8), (8, 9), (10, 11, 12)), strict=True):
        path.write_text("".join(f"{number}\n" for number in numbers))
    flags = ("--width", 2, "--batch_size", 4, *ONE_SIZE, "--steps", 2, "--normalize", "train")
    chosen = ("--train_list", lists["train"], "--valid_list", lists["old"], "--epochs", 2, "--name", "a")
    script("train", "--data_path", data, *flags, *chosen, cwd=tmp_path)
    for epochs in (3, 4):  # the second time, the epochs of the first count too
        script("train", *RESUME, "--valid_list", lists["new"], "--epochs", epochs, cwd=tmp_path)
        rows = history_of(tmp_path)[2:]
        best = max(rows, key=lambda row: float(row["valid_dice"]))
        assert load(tmp_path / "saved_models/a.pth").epoch == int(best["epoch"])


def test_the_warm_up_is_not_repeated_if_epochs_are_added(tmp_path):
    trained_run(tmp_path, *RUN, *ONE_SIZE, "--epochs", 4)
    rates = []
    with after_each_step(lambda taken, learner: rates.append(learner.optimizer.param_groups[0]["lr"])):
        script("train", *RESUME, "--epochs", 8, cwd=tmp_path)
    assert rates[0] == 0.008


def test_plateau_does_not_compare_losses_at_different_sizes(tmp_path, monkeypatch):
    """Losses at 64x64 may be above the lowest loss at 32x32."""
    losses, rates = iter((1.0, 0.5, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)), []
    monkeypatch.setattr("scoring.DiceMeter.loss", lambda self: next(losses))
    with after_each_step(lambda taken, learner: rates.append(learner.optimizer.param_groups[0]["lr"])):
        script("train", *RUN, *GROWING, "--steps", 1, "--epochs", 8, "--schedule", "plateau", cwd=tmp_path)
    assert len(rates) == 8 and len(set(rates)) == 1


def test_a_run_of_a_version_with_other_augmentation_is_not_resumed(tmp_path):
    trained_run(tmp_path, *RUN, *ONE_SIZE, "--epochs", 2)
    last = load(tmp_path / RESUME[1])
    last.augmentation["rotation"] = 5.0
    save(last, tmp_path / RESUME[1])
    before = contents(tmp_path / "saved_models")
    assert "a.last.pth" in error_of(script("train", *RESUME, "--epochs", 3, cwd=tmp_path, expect=2))
    assert contents(tmp_path / "saved_models") == before


def test_a_resumed_run_keeps_its_precision_unless_a_flag_or_another_device_changes_it(tmp_path):
    """Even on a processor for which auto would choose another one."""
    trained_run(tmp_path, *RUN, *ONE_SIZE, "--epochs", 2)
    last, resume = load(tmp_path / RESUME[1]), ["--resume", str(tmp_path / RESUME[1])]
    last.precision = "float16"
    for device, flags, precision in (
        ("cpu", [], "float16"), ("cpu", ["--precision", "float32"], "float32"), ("Tesla T4", [], "auto"),
    ):  # fmt: skip
        last.device = device
        save(last, tmp_path / RESUME[1])
        assert parse_args("", [*resume, *flags])[0].precision == precision


def test_flags_that_a_resumed_run_refuses_or_accepts(tmp_path):
    trained_run(tmp_path, *RUN, *ONE_SIZE, "--epochs", 2)
    done = script("train", *RESUME, "-b", 7, cwd=tmp_path, expect=2)
    assert "--batch_size 7" in error_of(done)
    done = script("train", "--resume", "saved_models/a.pth", cwd=tmp_path, expect=2)
    assert "saved_models/a.pth" in error_of(done) and ".last.pth" in error_of(done)
    assert "--hours" in error_of(script("train", *RESUME, "--hours", 1, cwd=tmp_path, expect=2))
    shutil.copytree(tmp_path / "saved_models", tmp_path / "moved")
    assert "--epochs" in script("train", "--resume", "moved/a.last.pth", "--epochs", 3, cwd=tmp_path).stderr
    assert len(history_of(tmp_path)) == 2 and load(tmp_path / "moved/a.last.pth").epoch == 3
