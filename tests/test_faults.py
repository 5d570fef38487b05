"""Runs that are cut off: at any step, by any signal, on one process and two; disks that fill; caches half written."""

import errno
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, error_of, load_pets, make_pets, script
from kills import kill_often
from processes import FORKS, finish, launch, launch_pair

import oxford_pet
from checkpoint import load, save
from utils import UserError

RUN = ("--dataset", "shapes", "--width", 2, "--image_size", 32, "--limit", 12, "--batch_size", 4, "--steps", 7)
RUN = (*RUN, "--epochs", 2, "--augment", "full", "--dropout", 0.3)


def same_end(folder, first, second):
    """Weights, average and history of two runs are equal, bit for bit."""
    one, two = (load(folder / f"saved_models/{name}.last.pth")["training"] for name in (first, second))
    for first_part, second_part in (
        (one["weights"], two["weights"]),
        (one["average"]["module"], two["average"]["module"]),
    ):
        assert all(torch.equal(value, second_part[key]) for key, value in first_part.items())
    histories = [(folder / f"saved_models/{name}.csv").read_bytes() for name in (first, second)]
    return histories[0] == histories[1]


def stop_after(steps):
    """For on_step: the running process sends itself SIGTERM after that step of training."""

    def on_step(state):
        if state.step == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_step


@pytest.mark.parametrize("steps", [1, 6, 7, 10])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_stopped_after_any_step_goes_on_as_if_it_had_not_been(precision, steps, tmp_path):
    flags = (*RUN, "--precision", precision)
    script("train", *flags, "--name", "whole", cwd=tmp_path)
    ended = script(
        "train", *flags, "--name", "cut", cwd=tmp_path, expect=128 + signal.SIGTERM, on_step=stop_after(steps)
    )
    out = ended.stdout
    assert f"stopped after step {steps}; resume with: python src/train.py --resume saved_models/cut.last.pth" in out
    script("train", "--resume", "saved_models/cut.last.pth", cwd=tmp_path)
    assert same_end(tmp_path, "whole", "cut")


def test_a_signal_while_the_processes_agree_is_not_lost(tmp_path, monkeypatch):
    agreed = []

    def agree(*values):
        agreed.append(values)
        if len(agreed) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return values

    monkeypatch.setattr("training.stop.agree", agree)
    out = script("train", *RUN, "--name", "cut", cwd=tmp_path, expect=128 + signal.SIGTERM).stdout
    assert "stopped after step 3; resume with" in out  # before the first step it is asked once


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_processes_that_are_killed_go_on_as_if_they_had_not_been(precision, tmp_path):
    flags = (*RUN, "--steps", 30, "--precision", precision, "--save_every", "4steps")
    finish(*launch_pair("train", *flags, "--name", "whole", cwd=tmp_path), log=tmp_path / "train.log")
    pair = launch_pair("train", *flags, "--name", "cut", cwd=tmp_path)
    last = tmp_path / "saved_models/cut.last.pth"
    while not last.exists():
        assert all(process.exitcode is None for process in pair), (tmp_path / "train.log").read_text()
        time.sleep(0.01)
    for process in pair:
        process.kill()
        process.join()
    step = load(last)["training"]["step"]
    assert 4 <= step < 60
    finish(*launch_pair("train", "--resume", last, cwd=tmp_path), log=tmp_path / "train.log")
    assert f"resuming after step {step} of 60" in (tmp_path / "train.log").read_text()
    assert same_end(tmp_path, "whole", "cut")


def test_torchrun_stops_saves_and_goes_on(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", ROOT / "src/train.py"]
    command = [str(word) for word in [*torchrun, *RUN, "--steps", 2000, "--save_every", "5steps", "--name", "a"]]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True
    )
    while not (tmp_path / "saved_models/a.last.pth").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert "resume with: torchrun --nproc_per_node 2 src/train.py --resume saved_models/a.last.pth" in out
    assert 0 < load(tmp_path / "saved_models/a.last.pth")["training"]["step"] < 4000


def test_a_second_signal_leaves_at_once_and_leaves_the_files_whole(tmp_path):
    process = launch("train", *RUN, "--steps", 5000, "--save_every", "5steps", cwd=tmp_path, slow_disk=0.2)
    last = tmp_path / "saved_models/unet.last.pth"
    while not last.exists():
        assert process.exitcode is None, (tmp_path / "train.log").read_text()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    while "once more to leave at once" not in (tmp_path / "train.log").read_text():
        assert process.exitcode is None, (tmp_path / "train.log").read_text()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join(20)
    assert process.exitcode == -signal.SIGINT
    assert load(last)["training"]["step"] % 5 == 0


def test_some_kills(tmp_path):
    done, _, _, broken, same = kill_often(3, tmp_path)
    assert (done, broken, same) == (3, 0, True)


@pytest.mark.slow
def test_fifty_kills(tmp_path):
    done, saving, _, broken, same = kill_often(50, tmp_path, seed=1)
    assert done == 50 and saving > 10 and broken == 0 and same


def test_a_disk_that_fills_keeps_what_was_saved(tmp_path, monkeypatch):
    script("train", *RUN, "--epochs", 1, "--name", "a", cwd=tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "saved_models").glob("*.pth")}

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("files.os.fsync", full)
    done = script("train", "--resume", "saved_models/a.last.pth", "--epochs", 2, cwd=tmp_path, expect=2)
    assert "cannot be written (No space left on device)" in error_of(done) and "as it was" in error_of(done)
    assert before == {path: path.read_bytes() for path in (tmp_path / "saved_models").glob("*.pth")}
    assert not list((tmp_path / "saved_models").glob(".*"))


def test_too_little_room_is_found_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("training.saving.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    done = script("train", *RUN, cwd=tmp_path, expect=2)
    assert "has 0 MB free, checkpoints need about" in error_of(done)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_command_twice_gives_the_same_history_and_weights(precision, tmp_path):
    for name in ("one", "two"):
        script("train", *RUN, "--precision", precision, "--deterministic", "--name", name, cwd=tmp_path)
    assert same_end(tmp_path, "one", "two")
    script("train", *RUN, "--precision", precision, "--name", "other", "--seed", 1, cwd=tmp_path)
    first = (tmp_path / "saved_models/one.csv").read_bytes()
    assert first != (tmp_path / "saved_models/other.csv").read_bytes()


# --------------------------------------------------------------------------------------- caches


def pack_slowly(folder, started):
    read = oxford_pet.read_pair

    def slow(*args):
        started.set()
        time.sleep(0.02)
        return read(*args)

    oxford_pet.read_pair = slow
    load_pets(folder, "train", 32)


def test_a_cache_writer_that_is_killed_leaves_nothing_that_is_trusted(tmp_path):
    pets = make_pets(tmp_path / "oxford-iiit-pet", 40, 2)
    expected = load_pets(pets, "train", 32, cache_dir=tmp_path / "other")
    for delay in (0.0, 0.05, 0.1, 0.2):
        started = FORKS.Event()
        process = FORKS.Process(target=pack_slowly, args=(pets, started))
        process.start()
        started.wait(60)
        time.sleep(delay)
        process.kill()
        process.join()
        assert not list(pets.glob("cache/train-*.npy"))
    [left, *_] = pets.glob("cache/unfinished-*")
    os.utime(left, (0, 0))
    dataset = load_pets(pets, "train", 32)
    assert np.array_equal(dataset.packed, expected.packed)
    assert not left.exists()  # it was older than a day


def test_two_that_start_at_once_do_not_spoil_each_other(tmp_path):
    pets = make_pets(tmp_path / "oxford-iiit-pet", 40, 2)
    expected = load_pets(pets, "train", 32, cache_dir=tmp_path / "other")
    started = FORKS.Event()
    starters = [FORKS.Process(target=pack_slowly, args=(pets, started)) for _ in range(2)]
    for process in starters:
        process.start()
    finish(*starters)
    [packed] = pets.glob("cache/*")
    assert np.array_equal(np.load(packed), expected.packed)


def test_a_damaged_cache_is_made_anew(tmp_path):
    pets = make_pets(tmp_path / "oxford-iiit-pet", 6, 2)
    expected = np.array(load_pets(pets, "train", 32).packed)
    [packed] = pets.glob("cache/*")
    for damaged in (b"", packed.read_bytes()[:-100], b"\x93NUMPY rubbish"):
        packed.write_bytes(damaged)
        assert np.array_equal(load_pets(pets, "train", 32).packed, expected)


# ---------------------------------------------------------------------------------- checkpoints


def test_a_save_that_fails_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such folder|cannot be written"):
        save({"model": {}}, tmp_path / "nowhere" / "a.pth")
