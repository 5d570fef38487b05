"""Two runs at once, and names of every kind."""

import os
import shlex

import pytest
from conftest import error_of, make_pets, script
from processes import FORKS, finish, launch, launch_pair

from files import FileLock
from training.saving import remove_unfinished, reserve
from utils import UserError

RUN = ("--dataset", "shapes", "--width", 2, "--image_size", 32, "--limit", 8, "--batch_size", 4, "--steps", 2)
RUN = (*RUN, "--epochs", 1)


def test_two_runs_that_start_together_take_two_names(tmp_path):
    runs = [launch("train", *RUN, "--seed", seed, cwd=tmp_path) for seed in (0, 1)]
    finish(*runs, log=tmp_path / "train.log")
    names = {path.name for path in (tmp_path / "saved_models").glob("*.last.pth")}
    assert names == {"unet.last.pth", "unet-2.last.pth"}
    assert not list((tmp_path / "saved_models").glob(".*"))


def hold(path, ready, leave):
    lock = FileLock(path)
    assert lock.take()
    ready.set()
    leave.wait(60)


def test_a_name_under_way_is_refused_and_one_of_a_killed_run_is_free(tmp_path):
    ready, leave = FORKS.Event(), FORKS.Event()
    (tmp_path / "saved_models").mkdir()
    process = FORKS.Process(target=hold, args=(tmp_path / "saved_models/.a.lock", ready, leave))
    process.start()
    assert ready.wait(60)
    done = script("train", *RUN, "--name", "a", cwd=tmp_path, expect=2)
    assert "saved_models/a belongs to a run that is under way" in error_of(done)
    process.kill()
    process.join()
    assert (tmp_path / "saved_models/.a.lock").exists()
    script("train", *RUN, "--name", "a", cwd=tmp_path)


def test_two_processes_of_torchrun_share_one_name(tmp_path):
    finish(*launch_pair("train", *RUN, cwd=tmp_path), log=tmp_path / "train.log")
    assert [path.name for path in (tmp_path / "saved_models").glob("*.last.pth")] == ["unet.last.pth"]


def many_starts(folder, rank, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    import torch

    from training.distributed import finish as leave
    from training.distributed import start

    start(torch.device("cpu"))
    for number in range(30):
        assert reserve(folder, None, "unet").name == "unet"
        assert reserve(folder, f"run{number}", "unet").name == f"run{number}"
    leave()


def test_ranks_that_start_together_do_not_trip_over_one_probe(tmp_path):
    port = str(20000 + os.getpid() % 20000)
    ranks = [FORKS.Process(target=many_starts, args=(tmp_path, rank, port)) for rank in range(2)]
    for process in ranks:
        process.start()
    finish(*ranks)


def test_only_dead_files_of_the_very_name_are_removed(tmp_path):
    kept = [
        ".x.y.pth.abcd1234",
        ".x.pth.pth.abcd1234",
        ".x-2.pth.abcd1234",
        "x.pth",
        ".x.pth.short",
        ".xx.pth.abcd1234",
    ]
    for name in (*kept, ".x.pth.abcd1234", ".x.last.pth.a_cd1234", ".x.curve.png.12345678"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path, "x")
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


@pytest.mark.parametrize("name", ["with blank", "[a]", "qu'ote", 'qu"ote', "ünïcode", "a.b", "*", "-dash"])
def test_a_run_of_any_name_trains_resumes_and_is_scored_by_the_command_it_prints(name, tmp_path):
    make_pets(tmp_path / "my pets", 20, 3)
    flags = ("--data_path", "my pets", "--width", 2, "--image_size", 32, "--batch_size", 4, "--steps", 2, "--epochs", 1)
    out = script("train", *flags, f"--name={name}", "--cache_dir", "a cache", cwd=tmp_path).stdout
    words = shlex.split(out.splitlines()[-1].partition("now: python src/evaluate.py ")[2])
    assert "3 pictures" in script("evaluate", *words, cwd=tmp_path).stdout
    assert (tmp_path / "a cache").is_dir() and not (tmp_path / "my pets/cache").exists()
    script("train", f"--resume=saved_models/{name}.last.pth", "--epochs", 2, cwd=tmp_path)


@pytest.mark.parametrize("name", ["sub/x", "../x", "a\0b", "."])
def test_a_name_that_is_a_path_is_refused_by_its_own_flag(name, tmp_path):
    with pytest.raises(UserError, match="^--name .* is not a plain file name"):
        reserve(tmp_path, name, "unet")
