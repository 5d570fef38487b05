"""Values of flags that are refused on the command line, and batches too small for batch norm."""

import pytest
from conftest import error_of, make_checkpoint, script

RUN = ("--dataset", "shapes", "--width", 2, "--image_size", 32, "--limit", 8, "--batch_size", 4, "--steps", 2)


@pytest.mark.parametrize(
    "flags",
    [
        "--ema nan", "--learning_rate inf", "--weight_decay -1", "--dropout 1", "--image_size 100000",
        "--start_size -1", "--batch_size 0", "--epochs 1.5", f"--seed {2**64}", "--workers 100000",
        "--save_every nansteps", "--hours 0", "--loss hinge", "--name a/b",
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(flags, tmp_path):
    error = error_of(script("train", *RUN, *flags.split(), cwd=tmp_path, expect=2))
    assert flags.split()[0] in error and not (tmp_path / "saved_models").exists()


@pytest.mark.parametrize("name, flags", [("evaluate", "--batch_size 0"), ("evaluate", "--threshold 1"),
                                         ("inference", "--image_size 20000"), ("app", "--port 0")])  # fmt: skip
def test_so_are_those_of_the_other_commands(name, flags, tmp_path):
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
def test_a_single_value_per_channel_is_one_line(flags, tmp_path):
    done = script("train", "--dataset", "shapes", *flags.split(), "--steps", 2, "--epochs", 1, cwd=tmp_path, expect=2)
    assert "--batch_size" in error_of(done) and not list(tmp_path.glob("saved_models/*.pth"))


def test_without_batch_norm_a_single_value_per_channel_will_do(tmp_path):
    flags = ("--dataset", "shapes", "--width", 2, "--norm", "none", "--image_size", 16, "--batch_size", 1)
    script("train", *flags, "--steps", 2, "--epochs", 1, cwd=tmp_path)
