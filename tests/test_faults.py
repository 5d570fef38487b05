"""Interrupted runs: signals and kills, worker processes, one process and two; disks that fail."""

import errno
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
from unittest.mock import Mock

import pytest
from conftest import ROOT, after_each_step, error_of, script, stop_after, trained_run
from processes import finish, launch, launch_pair, wait_for
from test_resume import same_end
from test_scripts import contents

import train
from checkpoint import load
from shapes import Shapes
from training.progress import stop_on_signals

RUN = ("--dataset", "shapes", "--width", 2, "--image_size", 32, "--limit", 12, "--batch_size", 4, "--steps", 7)
RUN = (*RUN, "--epochs", 2, "--augment", "full", "--dropout", 0.3, "--precision", "float32", "--name", "a")
LONG = (*RUN, "--steps", 5000, "--save_every", "5steps")
LAST = "saved_models/a.last.pth"


def steps_in(folder):
    return load(folder / LAST).training["state"]["step"]


# ---------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_a_signal_saves_the_run_and_sets_the_exit_status(name, tmp_path):
    number = getattr(signal, name)
    with stop_after(5, number):
        out = script("train", *RUN, cwd=tmp_path, expect=128 + number).stdout
    assert f"--resume {LAST}" in out and steps_in(tmp_path) == 5


def test_a_second_signal_ends_the_process_and_an_ignored_one_stays_ignored():
    """nohup ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
            assert stop.signal == signal.SIGINT and signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_during_the_exchange_between_processes_is_not_lost(tmp_path, monkeypatch):
    calls = []

    def exchange(*values):
        calls.append(values)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return values

    monkeypatch.setattr("training.progress.max_over_ranks", exchange)
    script("train", *RUN, cwd=tmp_path, expect=128 + signal.SIGTERM)
    assert steps_in(tmp_path) == 3  # the first call is before the first step


@pytest.mark.integration
def test_ctrl_c_with_workers_prints_one_message(tmp_path):
    """Ctrl-C reaches the whole process group."""
    process = launch("train", *LONG, "--workers", 2, cwd=tmp_path, setup=os.setpgrp)
    wait_for((tmp_path / LAST).exists, process, log=tmp_path / "train.log")
    os.killpg(process.pid, signal.SIGINT)
    log = finish(process, expect=128 + signal.SIGINT, log=tmp_path / "train.log", seconds=60)
    assert log.count("again") == 1


@pytest.mark.integration
def test_a_killed_run_of_two_processes_resumes_exactly(tmp_path):
    flags, log = (*RUN, "--steps", 30, "--save_every", "4steps"), tmp_path / "train.log"
    finish(*launch_pair("train", *flags, "--name", "whole", cwd=tmp_path), log=log)
    pair = launch_pair("train", *flags, cwd=tmp_path)
    wait_for((tmp_path / LAST).exists, *pair, log=log)
    for process in pair:
        process.kill()
        process.join()
    assert 4 <= steps_in(tmp_path) < 60
    finish(*launch_pair("train", "--resume", LAST, cwd=tmp_path), log=log)
    assert same_end(tmp_path, "whole", "a")


@pytest.mark.integration
def test_torchrun_saves_on_sigterm_and_prints_how_to_resume(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", ROOT / "src/train.py"]
    command = [str(word) for word in (*torchrun, *LONG)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: (tmp_path / LAST).exists() or process.poll() is not None)
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert "torchrun --nproc_per_node 2" in out and f"--resume {LAST}" in out
    assert 0 < steps_in(tmp_path) < 4000


# ---------------------------------------------------------------------------------------- workers


def kill_a_worker():
    """Kill the data-loading process after the third step."""
    patch = after_each_step(lambda taken, learner: taken == 3 and multiprocessing.active_children()[0].kill())
    patch.__enter__()
    kill_a_worker.patch = patch  # keeps the context manager alive


def test_a_killed_worker_ends_the_run_with_one_line_and_it_resumes_from_the_last_save(tmp_path):
    process = launch("train", *RUN, "--workers", 1, "--save_every", "1steps", cwd=tmp_path, setup=kill_a_worker)
    log = finish(process, expect=2, log=tmp_path / "train.log", seconds=120)
    [error] = [line for line in log.splitlines() if line.startswith("error: ")]
    assert "--workers" in error and f"--resume {LAST}" in error and "Traceback" not in log
    assert 3 <= steps_in(tmp_path) < 14
    script("train", *shlex.split(error.partition("src/train.py")[2]), cwd=tmp_path)
    assert load(tmp_path / LAST).args["workers"] == 0


@pytest.mark.parametrize("name", ["evaluate", "inference", "report"])
def test_a_killed_worker_gives_one_line_in_every_command(name, tmp_path, monkeypatch):
    trained_run(tmp_path, *RUN)
    real, command = Shapes.__getitem__, os.getpid()
    kill = lambda: os.getpid() == command or os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    monkeypatch.setattr(Shapes, "__getitem__", lambda dataset, index: kill() and real(dataset, index))
    flags = ("--model", "saved_models/a.pth", "--workers", 1, "--batch_size", 2, "--output", "out")
    assert "--workers" in error_of(script(name, *flags, cwd=tmp_path, expect=2))


def make_a_mistake():
    train.train_step = Mock(side_effect=KeyError("a mistake in new code"))


def test_an_exception_in_a_run_with_workers_ends_it_with_a_traceback(tmp_path):
    """In a separate process, since a leftover data-loading process would keep it from ending."""
    process = launch("train", *RUN, "--workers", 1, cwd=tmp_path, setup=make_a_mistake)
    log = finish(process, expect=1, log=tmp_path / "train.log", seconds=120)
    assert "Traceback" in log and "a mistake in new code" in log


# ------------------------------------------------------------------------------------------ disks


def test_a_full_disk_does_not_damage_saved_files(tmp_path, monkeypatch):
    trained_run(tmp_path, *RUN, "--epochs", 1)
    before = contents(tmp_path / "saved_models")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("files.os.fsync", full)
    error = error_of(script("train", "--resume", LAST, "--epochs", 2, cwd=tmp_path, expect=2))
    assert "saved_models/a." in error and "No space left" in error
    assert before == contents(tmp_path / "saved_models")
