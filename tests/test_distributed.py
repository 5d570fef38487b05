"""Two processes give the images, gradients and Dice of one."""

import time
from datetime import timedelta
from unittest.mock import Mock

import pytest
import torch
import torch.distributed
from conftest import make_checkpoint, make_pets, read_scores, script
from processes import finish, launch_pair

import data
import train
from checkpoint import load
from data import eval_loader, shuffled_batches
from training.distributed import rank


def test_shuffled_batches_cover_every_image_once_per_epoch_and_start_at_any_step():
    """Also if a batch crosses the end of an epoch."""
    batches = list(shuffled_batches(range(10), 4, 0, range(5)))
    assert [len(batch) for batch in batches] == 5 * [4]
    stream = [index for batch in batches for index in batch]
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10)) and stream[:10] != stream[10:]
    assert list(shuffled_batches(range(10), 4, 0, range(3, 5))) == batches[3:]
    assert list(shuffled_batches(range(10), 4, 1, range(5))) != batches


def test_the_shards_of_all_ranks_make_up_the_batch(monkeypatch):
    whole = list(shuffled_batches(range(10), 5, 0, range(4)))
    monkeypatch.setenv("WORLD_SIZE", "2")
    parts, evaluated = [], []
    for number in ("0", "1"):
        monkeypatch.setenv("RANK", number)
        parts.append(list(shuffled_batches(range(10), 5, 0, range(4))))
        evaluated += [index for batch in eval_loader(range(7), 2).batch_sampler for index in batch]
    assert [first + second for first, second in zip(*parts, strict=True)] == whole
    assert sorted(evaluated) == list(range(7))


STEP = ("--dataset", "shapes", "--width", 4, "--image_size", 32, "--limit", 9, "--steps", 1, "--epochs", 1)
STEP = (*STEP, "--norm", "none", "--optimizer", "sgd", "--augment", "full", "--precision", "float32")


def test_a_step_of_two_processes_has_the_gradients_of_one(tmp_path):
    """After the first step of SGD the momentum buffer is the gradient. Neither 5 nor 9 images divide by 2."""
    flags, log = (*STEP, "--batch_size", 5), tmp_path / "train.log"
    script("train", *flags, "--name", "one", cwd=tmp_path)
    finish(*launch_pair("train", *flags, cwd=tmp_path), log=log)
    assert not (tmp_path / "saved_models/unet-2.csv").exists()  # both processes have the name unet
    one, two = (load(tmp_path / f"saved_models/{name}.last.pth").training for name in ("one", "unet"))
    gradient, other = (
        torch.cat([state["momentum_buffer"].flatten() for state in run["optimizer"]["state"].values()])
        for run in (one, two)
    )
    torch.testing.assert_close(other, gradient, rtol=0, atol=1e-5)
    assert gradient.abs().max() > 1e-2
    for column in ("valid_dice", "valid_loss", "train_dice", "train_loss"):
        first, second = (run["state"]["history"][0][column] for run in (one, two))
        assert first == pytest.approx(second, abs=1e-6)
    assert not (tmp_path / "second.log").read_text()


@pytest.mark.integration
def test_two_processes_give_the_scores_of_one(tmp_path):
    """Each of 7 images, which do not divide by two, is counted once."""
    make_pets(tmp_path / "dataset/oxford-iiit-pet", 2, 7)
    make_checkpoint(tmp_path / "a.pth")
    flags = ("--model", "a.pth", "--batch_size", 2)
    script("evaluate", *flags, "--output", "one", cwd=tmp_path)
    finish(*launch_pair("evaluate", *flags, "--output", "two", cwd=tmp_path), log=tmp_path / "evaluate.log")
    one, two = (read_scores(tmp_path, name) for name in ("one", "two"))
    for name in ("dice", "jaccard", "pooled_dice"):
        assert one[name] == pytest.approx(two[name], abs=1e-6)
    csv = (tmp_path / "one.csv").read_text()
    assert csv == (tmp_path / "two.csv").read_text() and len(csv.splitlines()) == 7 + 1
    assert not (tmp_path / "second.log").read_text()


@pytest.mark.integration
def test_two_processes_report_a_mistake_once(tmp_path):
    pair = launch_pair("train", "--dataset", "shapes", "--batch_size", 1, "--name", "a", cwd=tmp_path)
    log = finish(*pair, expect=2, log=tmp_path / "train.log")
    assert log.count("error: ") == 1 and "--batch_size 1" in log and not (tmp_path / "second.log").read_text()


def decode_slowly():
    """Make rank 0 load its data for longer than the timeout of collective calls."""
    start, load_split = torch.distributed.init_process_group, data.load_split

    def start_with_timeout(backend):
        start(backend, timeout=timedelta(seconds=10))

    def load_slowly(options, split):
        if rank() == 0 and split == "train":
            time.sleep(15)
        return load_split(options, split)

    torch.distributed.init_process_group, data.load_split = start_with_timeout, load_slowly


@pytest.mark.integration
def test_decoding_may_take_longer_than_the_timeout_of_collective_calls(tmp_path):
    pair = launch_pair("train", *STEP, "--batch_size", 4, "--name", "a", cwd=tmp_path, setup=decode_slowly)
    finish(*pair, log=tmp_path / "train.log")
    assert (tmp_path / "saved_models/a.pth").exists()


def fail_on_rank_1():
    """Make rank 1 run out of memory, and hang if it waits for rank 0, as with NCCL."""
    if rank():
        train.train_step = Mock(side_effect=torch.OutOfMemoryError)
        train.destroy_processes = lambda: time.sleep(600)


@pytest.mark.integration
def test_a_process_that_fails_ends_without_waiting_for_the_others(tmp_path):
    first, second = launch_pair("train", *STEP, "--batch_size", 4, cwd=tmp_path, setup=fail_on_rank_1)
    log = finish(second, expect=2, log=tmp_path / "second.log", seconds=60)
    first.kill()
    assert "error (process 1): the GPU ran out of memory" in log
