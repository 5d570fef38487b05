"""What --resume promises: best file, CSV, curve and last line agree, and the best never gets worse."""

import csv
import re
import shutil
import signal
from functools import cache

import pytest
import torch
from conftest import error_of, make_folder, make_pets, script
from processes import finish, launch_pair
from test_faults import stop_after

from checkpoint import load, save
from models import build_model
from reports import plots
from runtime import Runtime
from training.schedule import of_largest_size
from training.settings import parse_args
from training.state import State

RUN = ("--dataset", "shapes", "--width", 2, "--limit", 8, "--batch_size", 4, "--steps", 3, "--precision", "float32")
GROWING, ONE_SIZE = ("--start_size", 32, "--image_size", 64), ("--image_size", 32)


def small_state(*flags):
    settings, _ = parse_args(None, ["--dataset", "shapes", "--width", "2", *flags])
    return State(settings, build_model("unet", width=2), 8, ([0.5] * 3, [0.5] * 3), Runtime())


def history_of(folder, name="a"):
    with open(folder / f"saved_models/{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def check_agreement(folder, out, monkeypatch, name="a"):
    """Best file, CSV, curve and the last line name one and the same best epoch. Returns its Dice."""
    history = history_of(folder, name)
    rows = of_largest_size(history)
    best = max(rows, key=lambda row: float(row["valid_dice"]))
    kept = torch.load(folder / f"saved_models/{name}.pth", weights_only=True)
    assert kept["epoch"] == int(best["epoch"]) and kept["image_size"] == int(best["image_size"])
    assert kept["scores"]["valid"]["dice"] == float(best["valid_dice"])
    if "best valid Dice" in out.splitlines()[-2]:
        assert f"best valid Dice {float(best['valid_dice']):.4f}" in out.splitlines()[-2]
    with monkeypatch.context() as patch:
        drawn = []
        patch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure))
        numbers = [{key: float(value) for key, value in row.items()} for row in history]
        plots.plot_history(numbers, name, None)
    assert f"best {float(best['valid_dice']):.4f} in epoch {best['epoch']}" in drawn[0].axes[1].get_title().replace(
        ".0", ""
    )
    return float(best["valid_dice"])


def train(folder, *flags, processes=1, expect=0, on_step=None):
    """Run train.py in one process or two; what it printed."""
    if processes == 1:
        return script("train", *flags, cwd=folder, expect=expect, **({"on_step": on_step} if on_step else {})).stdout
    log = folder / "train.log"
    log.unlink(missing_ok=True)
    finish(*launch_pair("train", *flags, cwd=folder), expect=expect, log=log)
    return log.read_text()


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A function that gives the folder of a run of four epochs, made once; a stopped one is of one process."""

    @cache
    def make(growth, stopped, processes):
        folder = tmp_path_factory.mktemp("run")
        ending = {"expect": 143, "on_step": stop_after(8)} if stopped else {}  # in the middle of the third epoch
        train(folder, *RUN, *growth, "--epochs", 4, "--name", "a", processes=processes, **ending)
        return folder

    return make


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("growth", [GROWING, ONE_SIZE], ids=["growing", "one_size"])
@pytest.mark.parametrize("epochs", [4, 7, 2], ids=["same", "more", "fewer"])
@pytest.mark.parametrize("stopped", [False, True], ids=["finished", "stopped"])
def test_resume_matrix(stopped, epochs, growth, processes, run_of, tmp_path, monkeypatch):
    shutil.copytree(run_of(growth, stopped, 1 if stopped else processes), tmp_path, dirs_exist_ok=True)
    last = tmp_path / "saved_models/a.last.pth"
    done = len(torch.load(last, weights_only=True)["training"]["history"])
    before = torch.load(tmp_path / "saved_models/a.pth", weights_only=True)
    sizes = [int(row["image_size"]) for row in history_of(tmp_path)]
    out = train(tmp_path, "--resume", "saved_models/a.last.pth", "--epochs", epochs, processes=processes)
    if epochs <= done:
        assert f"nothing to train: {done} epochs are done" in out and "wrote" not in out
        assert torch.load(tmp_path / "saved_models/a.pth", weights_only=True)["epoch"] == before["epoch"]
        return
    best = check_agreement(tmp_path, out, monkeypatch)
    rows = history_of(tmp_path)
    assert len(rows) == epochs and [int(row["image_size"]) for row in rows][: len(sizes)] == sizes
    grown = [int(row["image_size"]) for row in rows]
    assert grown == sorted(grown)  # never back to smaller pictures
    if before["image_size"] == grown[-1]:
        assert best >= before["scores"]["valid"]["dice"]


def test_smaller_pictures_after_larger_ones_never_replace_the_best():
    history = [(256, 0.9925), (64, 0.98), (128, 0.985), (256, 0.990), (256, 0.991)]
    rows = [{"epoch": n, "image_size": size, "valid_dice": dice} for n, (size, dice) in enumerate(history, 1)]
    assert max(of_largest_size(rows), key=lambda row: row["valid_dice"])["epoch"] == 1
    assert of_largest_size(rows[:3]) == rows[:1]


def test_the_recorded_learning_rate_is_that_of_the_last_step(tmp_path):
    script("train", *RUN, *ONE_SIZE, "--epochs", 2, "--schedule", "cosine", "--name", "a", cwd=tmp_path)
    rates = [float(row["learning_rate"]) for row in history_of(tmp_path)]
    expected = [0.008 * (1 + torch.tensor(torch.pi * step / 6).cos().item()) / 2 for step in (2, 5)]
    assert rates == pytest.approx(expected, rel=1e-4)
    out = script("train", "--resume", "saved_models/a.last.pth", "--epochs", 4, cwd=tmp_path).stdout
    assert re.search(r"the learning rate goes from \d\.\de-\d\d to \d\.\de-\d\d", out)


def test_a_copy_continues_elsewhere_and_leaves_the_first_as_it_was(tmp_path):
    script("train", *RUN, *ONE_SIZE, "--epochs", 2, "--name", "a", cwd=tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "saved_models").iterdir()}
    flags = ("--resume", "saved_models/a.last.pth", "--epochs", 3, "--name", "b", "--save_dir", "elsewhere")
    script("train", *flags, cwd=tmp_path)
    assert before == {path: path.read_bytes() for path in (tmp_path / "saved_models").iterdir()}
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {
        f"b{ending}" for ending in (".pth", ".last.pth", ".csv", ".curve.png", ".panels.png", ".batch.png")
    }
    done = script("train", *flags, cwd=tmp_path, expect=2)
    assert "elsewhere/b.pth exists already" in error_of(done)


def test_resumed_without_its_best_weights_a_run_says_so_and_keeps_the_best_from_there(tmp_path):
    script("train", *RUN, *ONE_SIZE, "--epochs", 2, "--name", "a", cwd=tmp_path)
    (tmp_path / "saved_models/a.pth").unlink()
    out = script("train", "--resume", "saved_models/a.last.pth", "--epochs", 3, cwd=tmp_path).stdout
    assert "the best weights so far are not beside" in out
    kept = torch.load(tmp_path / "saved_models/a.pth", weights_only=True)
    assert kept["epoch"] == 3 and f"best valid Dice {kept['scores']['valid']['dice']:.4f}" in out


@pytest.mark.parametrize("pictures", [10, 30])
def test_another_number_of_pictures_is_refused_in_one_line(pictures, tmp_path):
    make_pets(tmp_path / "dataset/oxford-iiit-pet", 20, 2)
    make_pets(tmp_path / "other", pictures, 2)
    flags = ("--width", 2, "--image_size", 32, "--batch_size", 4)
    script("train", *flags, "--epochs", 3, "--name", "a", cwd=tmp_path, expect=143, on_step=stop_after(7))
    done = script("train", "--resume", "saved_models/a.last.pth", "--data_path", "other", cwd=tmp_path, expect=2)
    assert "the run trained on 18 pictures, and here are " in error_of(done)


def test_a_finished_run_resumed_for_no_more_writes_nothing(tmp_path):
    script("train", *RUN, *ONE_SIZE, "--epochs", 2, "--name", "a", cwd=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "saved_models").iterdir()}
    out = script("train", "--resume", "saved_models/a.last.pth", cwd=tmp_path).stdout
    assert "nothing to train: 2 epochs are done" in out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "saved_models").iterdir()}


def test_pictures_do_not_shrink_within_an_epoch_that_was_cut_off(tmp_path):
    flags = (*RUN, *GROWING, "--epochs", 2, "--name", "a")
    train(tmp_path, *flags, expect=143, on_step=stop_after(5))  # in the epoch of 64x64
    sides = []
    on_step = {"on_step": lambda state: sides.append(state.size)}
    script("train", "--resume", "saved_models/a.last.pth", "--epochs", 6, cwd=tmp_path, **on_step)
    assert set(sides) == {64} and [row["image_size"] for row in history_of(tmp_path)] == ["32", *5 * ["64"]]


def test_the_rate_does_not_rise_again_when_a_short_run_gets_many_epochs(tmp_path):
    script("train", *RUN, *ONE_SIZE, "--epochs", 4, "--name", "a", cwd=tmp_path)
    rates, stop = [], stop_after(20)
    resume = ("--resume", "saved_models/a.last.pth", "--epochs", 400)  # 1,200 steps, whose warm-up would take 120
    on_step = {"on_step": lambda state: rates.append(state.learning_rate) or stop(state)}
    script("train", *resume, cwd=tmp_path, expect=143, **on_step)
    assert rates == 8 * [0.008]


def test_plateau_does_not_compare_losses_of_different_sizes(tmp_path):
    state = small_state("--schedule", "plateau", "--start_size", "32", "--image_size", "64", "--epochs", "8")
    rates = []
    for loss in (1.0, 0.9, 0.8, 0.7, 0.95, 0.9, 0.85, 0.8):  # grows after four
        state.begin_epoch()
        state.sums += 1
        state.end_epoch({"dice": 0.5, "jaccard": 0.4}, 0.5, loss)
        rates.append(state.optimizer.param_groups[0]["lr"])
    assert len({row["image_size"] for row in state.history}) == 2 and len(set(rates)) == 1


def test_a_history_that_a_kill_left_short_is_written_on_resume(tmp_path, monkeypatch):
    script("train", *RUN, *ONE_SIZE, "--epochs", 2, "--name", "a", cwd=tmp_path)
    whole = (tmp_path / "saved_models/a.csv").read_bytes()
    (tmp_path / "saved_models/a.csv").write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    assert "nothing to train" in script("train", "--resume", "saved_models/a.last.pth", cwd=tmp_path).stdout
    assert (tmp_path / "saved_models/a.csv").read_bytes() == whole


def test_other_valid_pictures_begin_a_new_search_for_the_best(tmp_path):
    data = make_folder(tmp_path / "data", 14)
    lists = {name: tmp_path / f"{name}.txt" for name in ("train", "old", "new")}
    for path, numbers in zip(lists.values(), (range(8), (8, 9), (10, 11, 12)), strict=True):
        path.write_text("".join(f"{number}\n" for number in numbers))
    flags = ("--width", 2, "--batch_size", 4, *ONE_SIZE, "--steps", 2, "--mean_std", "train")
    chosen = ("--train_list", lists["train"], "--valid_list", lists["old"], "--epochs", 2, "--name", "a")
    script("train", "--data_path", data, *flags, *chosen, cwd=tmp_path)
    resume = ("--resume", "saved_models/a.last.pth", "--valid_list", lists["new"], "--epochs", 3)
    assert "the valid split has other pictures than before" in script("train", *resume, cwd=tmp_path).stdout
    kept = load(tmp_path / "saved_models/a.pth")
    assert kept["epoch"] == 3
    assert "other pictures" not in script("train", *resume[:-1], 4, cwd=tmp_path).stdout


def test_one_cycle_resumed_for_fewer_epochs_than_are_done_is_not_called_damaged(tmp_path):
    script("train", *RUN, *ONE_SIZE, "--epochs", 2, "--schedule", "onecycle", "--name", "a", cwd=tmp_path)
    out = script("train", "--resume", "saved_models/a.last.pth", "--epochs", 1, cwd=tmp_path).stdout
    assert "nothing to train: 2 epochs are done" in out


@pytest.mark.parametrize(
    "augment, recorded, refused",
    [
        ("scale_jitter", "then", True),  # when augmentation did not grow, and a checkpoint did not say how far it goes
        ("light", "then", False),
        ("light", {"rotation": 5.0}, True),
    ],
)
def test_a_run_whose_augmentation_meant_something_else_is_not_continued(augment, recorded, refused, tmp_path):
    script("train", *RUN, *ONE_SIZE, "--epochs", 1, "--augment", augment, "--name", "a", cwd=tmp_path)
    last = load(tmp_path / "saved_models/a.last.pth")
    if recorded == "then":
        del last["augmentation"]
    else:
        last["augmentation"] |= recorded
    save(last, tmp_path / "saved_models/a.last.pth")
    resume = ("--resume", "saved_models/a.last.pth", "--epochs", 2)
    done = script("train", *resume, cwd=tmp_path, expect=2 if refused else 0)
    if refused:
        assert "is of another version of train.py; check out commit" in error_of(done)


def test_a_run_goes_from_bfloat16_to_float32_and_back(tmp_path):
    shutil.rmtree(tmp_path / "saved_models", ignore_errors=True)
    flags = (*RUN[:-2], *ONE_SIZE, "--name", "a")
    script("train", *flags, "--epochs", 1, "--precision", "bfloat16", cwd=tmp_path)
    for epochs, precision, before in ((2, "float32", "bfloat16"), (3, "bfloat16", "float32")):
        resume = ("--resume", "saved_models/a.last.pth", "--epochs", epochs, "--precision", precision)
        assert (
            f"computing in {precision} from here, in {before} before" in script("train", *resume, cwd=tmp_path).stdout
        )


def test_a_signal_in_the_first_step_leaves_a_run_that_resumes(tmp_path):
    out = train(
        tmp_path, *RUN, *ONE_SIZE, "--epochs", 1, "--name", "a", expect=128 + signal.SIGTERM, on_step=stop_after(1)
    )
    assert "resume with: python src/train.py --resume saved_models/a.last.pth" in out
    assert "best weights" not in script("train", "--resume", "saved_models/a.last.pth", cwd=tmp_path).stdout
