"""Flags, checkpoints of strangers, and messages that are true."""

import errno
import os
import signal
import time

import pytest
import torch
from conftest import error_of, make_checkpoint, script
from processes import launch

from checkpoint import load, restore_model

RUN = ("--dataset", "shapes", "--width", 2, "--image_size", 32, "--limit", 8, "--batch_size", 4, "--steps", 2)


@pytest.mark.parametrize(
    "flags",
    [
        "--ema -0.5", "--ema 2", "--ema nan", "--learning_rate -1", "--learning_rate inf", "--learning_rate nan",
        "--weight_decay -1", "--weight_decay nan", "--dropout 1", "--dropout nan", "--image_size 0",
        "--image_size 100000", "--start_size -1", "--batch_size 0", "--accumulate 0", "--epochs 0", "--epochs 1.5",
        "--steps 0", "--limit 0", "--seed -1", f"--seed {2**64}", "--workers -1", "--workers 100000",
        "--save_every -1", "--save_every nan", "--save_every nansteps", "--save_every soon", "--width 0", "--depth -1",
    ],
)  # fmt: skip
def test_nonsense_numbers_are_refused_at_the_command_line(flags, tmp_path):
    done = script("train", *RUN, *flags.split(), cwd=tmp_path, expect=2)
    flag = flags.split()[0]
    assert flag in error_of(done) or flag.removeprefix("--") in error_of(done)
    assert not (tmp_path / "saved_models").exists()


@pytest.mark.parametrize("name, flags", [("evaluate", "--batch_size 0"), ("evaluate", "--workers -1"),
                                         ("inference", "--tile 0"), ("inference", "--image_size 20000"),
                                         ("app", "--port 0"), ("app", "--port 70000")])  # fmt: skip
def test_so_are_those_of_the_other_scripts(name, flags, tmp_path):
    make_checkpoint(tmp_path / "a.pth")
    assert flags.split()[0] in error_of(script(name, "--model", "a.pth", *flags.split(), cwd=tmp_path, expect=2))


@pytest.mark.parametrize(
    "flags",
    [
        "--model resnet34_unet --image_size 32 --batch_size 1",
        "--model unet --width 2 --image_size 16 --limit 1",
        "--model unet --width 2 --image_size 16 --batch_size 4 --accumulate 4",
        "--model unet --width 2 --depth 6 --image_size 64 --batch_size 3 --accumulate 2",
        "--model resnet34_unet --start_size 32 --image_size 64 --batch_size 2 --accumulate 2",
    ],
)
def test_one_value_per_channel_is_one_line_before_training(flags, tmp_path):
    done = script("train", "--dataset", "shapes", *flags.split(), "--steps", 2, "--epochs", 1, cwd=tmp_path, expect=2)
    assert "one value per channel" in error_of(done) and not list((tmp_path / "saved_models").iterdir())


def test_without_batch_norm_one_value_per_channel_will_do(tmp_path):
    flags = ("--dataset", "shapes", "--width", 2, "--norm", "none", "--image_size", 16, "--batch_size", 1)
    script("train", *flags, "--steps", 2, "--epochs", 1, cwd=tmp_path)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_wrappers_and_prefixes_of_other_code_are_taken_off(prefix, wrapper, tmp_path):
    weights = load(make_checkpoint(tmp_path / "a.pth"))["model"]
    other = {prefix + name: value for name, value in weights.items()}
    torch.save({wrapper: other, "epoch": 3} if wrapper else other, tmp_path / "b.pth")
    restored = restore_model(load(tmp_path / "b.pth", "unet"), "b.pth").state_dict()
    assert all(torch.equal(value, restored[name]) for name, value in weights.items())


def test_a_refusal_says_what_was_found(tmp_path):
    weights = load(make_checkpoint(tmp_path / "a.pth"))["model"]
    torch.save({f"inc.{name}": value for name, value in weights.items()}, tmp_path / "b.pth")
    done = script("evaluate", "--model", "b.pth", "--model_type", "unet", cwd=tmp_path, expect=2)
    assert "it has no stem.0.weight, but inc.stem.0.weight" in error_of(done)


def test_a_disk_that_is_full_at_the_first_save_does_not_advise_to_resume(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("files.os.fsync", full)
    done = script("train", *RUN, "--epochs", 1, cwd=tmp_path, expect=2)
    assert "cannot be written (No space left on device)" in error_of(done) and "--resume" not in error_of(done)


def test_ctrl_c_with_workers_is_answered_once(tmp_path):
    """Ctrl-C reaches the whole group of processes, as a terminal sends it."""
    process = launch("train", *RUN, "--steps", 5000, "--workers", 2, "--save_every", "5steps", cwd=tmp_path, group=True)
    while not (tmp_path / "saved_models/unet.last.pth").exists():
        assert process.exitcode is None, (tmp_path / "train.log").read_text()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 128 + signal.SIGINT
    assert (tmp_path / "train.log").read_text().count("stopping after this step") == 1
