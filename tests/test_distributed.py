"""Two processes against one: the same pictures, the same gradients, the same Dice."""

import json

import pytest
import torch
from conftest import make_checkpoint, make_pets, script
from processes import finish, launch_pair

from checkpoint import load
from data import ShuffledBatches
from training.distributed import gather_rows, share


def test_shares_cover_every_item_once():
    for n, parts in ((16, 2), (7, 3), (3, 3), (100, 8)):
        items = [item for part in range(parts) for item in range(n)[share(n, part, parts)]]
        assert items == list(range(n))


def test_shares_of_a_batch_are_the_batch(monkeypatch):
    whole = list(ShuffledBatches(range(10), 5, 0, range(4)))
    monkeypatch.setenv("WORLD_SIZE", "2")
    parts = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        parts.append(list(ShuffledBatches(range(10), 5, 0, range(4))))
    assert [first + second for first, second in zip(*parts, strict=True)] == whole


def test_rows_of_one_process_stay_as_they_are():
    rows = torch.arange(6).view(3, 2)
    assert torch.equal(gather_rows(rows, 3), rows)


@pytest.mark.parametrize("pictures", [7, 8])
def test_two_processes_score_as_one(pictures, tmp_path):
    """Every picture is counted once, whether the split divides by two or not."""
    make_pets(tmp_path / "dataset/oxford-iiit-pet", 2, pictures)
    make_checkpoint(tmp_path / "a.pth")
    script("evaluate", "--model", "a.pth", "--output", "one", "--batch_size", 2, cwd=tmp_path)
    pair = launch_pair("evaluate", "--model", "a.pth", "--output", "two", "--batch_size", 2, cwd=tmp_path)
    finish(*pair, log=tmp_path / "evaluate.log")
    one, two = (json.loads((tmp_path / f"{name}.json").read_text())[0] for name in ("one", "two"))
    assert one["pictures"] == two["pictures"] == pictures
    for name in ("dice", "jaccard", "pooled_dice"):
        assert one[name] == pytest.approx(two[name], abs=1e-6)
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "two.csv").read_text()
    assert not (tmp_path / "second.log").read_text()


@pytest.mark.parametrize("batch_size", [4, 5])
def test_a_step_of_two_processes_has_the_gradients_of_one(batch_size, tmp_path):
    """Plain SGD without momentum state: after its first step the momentum buffer is the gradient."""
    flags = ("--dataset", "shapes", "--width", 4, "--image_size", 32, "--limit", 10, "--batch_size", batch_size)
    flags = (
        *flags,
        "--steps",
        1,
        "--epochs",
        1,
        "--norm",
        "none",
        "--optimizer",
        "sgd",
        "--augment",
        "full",
        "--precision",
        "float32",
    )
    script("train", *flags, "--name", "one", cwd=tmp_path)
    finish(*launch_pair("train", *flags, "--name", "two", cwd=tmp_path), log=tmp_path / "train.log")
    one, two = (load(tmp_path / f"saved_models/{name}.last.pth")["training"] for name in ("one", "two"))
    gradient, other = (
        torch.cat([state["momentum_buffer"].flatten() for state in run["optimizer"]["state"].values()])
        for run in (one, two)
    )
    torch.testing.assert_close(other, gradient, rtol=0, atol=1e-5)
    assert gradient.abs().max() > 1e-2
    for figure in ("valid_dice", "valid_loss", "train_dice", "train_loss"):
        assert one["history"][0][figure] == pytest.approx(two["history"][0][figure], abs=1e-6)


def test_a_mistake_is_said_once(tmp_path):
    pair = launch_pair("train", "--dataset", "shapes", "--limit", 1, "--name", "a", cwd=tmp_path)
    finish(*pair, expect=2)
    [line] = (tmp_path / "train.log").read_text().splitlines()[1:]
    assert line == "error: a batch of 1 pictures has too few for 2 parts; raise --batch_size"
