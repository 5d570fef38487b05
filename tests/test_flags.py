"""Flags that are refused: values out of range, contradictions, and batches too small for batch norm."""

import pytest
from conftest import error_of, make_checkpoint, script

MISTAKES = {  # flags of train.py: what the error must contain, by default the flags
    "--ema nan": "", "--learning_rate inf": "", "--weight_decay -1": "", "--dropout 1": "", "--start_size -1": "",
    "--image_size 100000": "", "--batch_size 0": "", "--epochs 1.5": "", f"--seed {2**64}": "", "--workers 100000": "",
    "--save_every nansteps": "--save_every", "--hours 0": "", "--loss hinge": "", "--loss bce:0": "bce",
    "--name a/b": "", "--name ../x": "", "--name .": "", "--no_such_flag": "", "--model vnet": "",
    "--model resnet34_unet --width 32": "width",
    "--model resnet34_unet --encoder_weights x.pth": "--encoder_weights x.pth",
    "--border ignore": "", "--normalize weights": "", "--normalize imagenet --in_channels 1": "--in_channels",
    "--data_path nowhere": "", "--data_path empty": "", "--save_dir file.txt": "",
    "--resume nowhere.last.pth": "", "--resume file.txt": "file.txt",
    "--device cuda:99": "", "--device toaster": "", "--device meta": "",
    "--batch_size 2 --accumulation_steps 3": "--batch_size 2",
    "--hours 1 --epochs 2": "--hours", "--hours 1 --schedule onecycle": "--schedule onecycle",
    "--compile reduce-overhead --accumulation_steps 2": "--compile reduce-overhead",
}  # fmt: skip


@pytest.mark.parametrize("flags", MISTAKES)
def test_a_mistake_on_the_command_line_is_one_line_before_any_work(flags, tmp_path):
    (tmp_path / "file.txt").write_text("some text")
    (tmp_path / "empty").mkdir()
    done = script("train", *flags.split(), cwd=tmp_path, expect=2)
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert line == error_of(done) and all(word in line for word in (MISTAKES[flags] or flags).split())
    assert not (tmp_path / "saved_models").exists()


@pytest.mark.parametrize(
    "name, flags",
    [
        ("evaluate", "--batch_size 0"), ("evaluate", "--threshold 0"), ("evaluate", "--threshold 1"),
        ("evaluate", "--threshold half"), ("inference", "--image_size 20000"), ("app", "--port 0"),
    ],
)  # fmt: skip
def test_other_commands_refuse_values_out_of_range(name, flags, tmp_path):
    make_checkpoint(tmp_path / "a.pth")
    assert flags.split()[0] in error_of(script(name, "--model", "a.pth", *flags.split(), cwd=tmp_path, expect=2))


@pytest.mark.parametrize(
    "flags",
    [
        "--model unet --width 2 --image_size 16 --batch_size 1",
        "--model unet --width 2 --image_size 16 --batch_size 4 --accumulation_steps 4",
        pytest.param("--model resnet34_unet --image_size 32 --batch_size 1", marks=pytest.mark.integration),
    ],
)
def test_batch_norm_of_a_single_value_per_channel_is_refused(flags, tmp_path):
    done = script("train", "--dataset", "shapes", *flags.split(), "--steps", 2, "--epochs", 1, cwd=tmp_path, expect=2)
    assert "--batch_size" in error_of(done) and not list(tmp_path.glob("saved_models/*.pth"))


def test_without_batch_norm_a_single_value_per_channel_is_enough(tmp_path):
    flags = ("--dataset", "shapes", "--width", 2, "--norm", "none", "--image_size", 16, "--batch_size", 1)
    script("train", *flags, "--steps", 2, "--epochs", 1, cwd=tmp_path)
