"""Names of runs: chosen automatically, and with special characters."""

import shlex
from argparse import Namespace

import pytest
import torch
from conftest import make_pets, script

from checkpoint import Checkpoint
from training.run_files import RunFiles, choose_name, note_failures, reserve_name
from utils import UserError


def test_a_name_is_reserved_once_and_released_if_nothing_was_written(tmp_path):
    args = Namespace(save_dir=tmp_path / "new", name=None, model="unet", resume=None)
    with reserve_name(args) as first, reserve_name(args) as second:
        assert (first, second) == ("unet", "unet-2")
    args.name = "unet"
    with reserve_name(args) as name:
        assert name == "unet"
    assert choose_name(tmp_path, "a", "unet", None) == "a"  # by a run that is then killed
    with pytest.raises(UserError, match=f"delete {tmp_path}/a.csv if no run uses it"):
        choose_name(tmp_path, "a", "unet", None)


def test_a_history_or_figure_that_cannot_be_written_does_not_end_the_run(tmp_path, capsys):
    (tmp_path / "a.csv").mkdir()
    (tmp_path / "a.batch.png").mkdir()
    files = RunFiles(tmp_path, "a", Checkpoint({}, "unet", {}))
    with note_failures():
        files.write_history([{"epoch": 1}])
    files.draw_batch(torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8))
    noted = capsys.readouterr().err
    assert all(f"note: {tmp_path}/a.{ending} cannot be written" in noted for ending in ("csv", "batch.png"))


@pytest.mark.parametrize("name", ["-qu'ote [a] ünïcode*", pytest.param('a.b "c"', marks=pytest.mark.integration)])
def test_the_printed_commands_work_for_any_name(name, tmp_path):
    make_pets(tmp_path / "my pets", 20, 3)
    flags = ("--data_path", "my pets", "--width", 2, "--image_size", 32, "--batch_size", 4, "--steps", 2, "--epochs", 1)
    out = script("train", *flags, f"--name={name}", "--cache_dir", "a cache", cwd=tmp_path).stdout
    words = shlex.split(out.splitlines()[-1].partition("src/evaluate.py ")[2])
    assert "3" in script("evaluate", *words, cwd=tmp_path).stdout
    assert (tmp_path / "a cache").is_dir() and not (tmp_path / "my pets/cache").exists()
    script("train", f"--resume=saved_models/{name}.last.pth", "--epochs", 2, cwd=tmp_path)
