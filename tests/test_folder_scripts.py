"""The commands on a user's own images/ and masks/: mistakes, each reported in one line, and a complete run."""

import os
import re

import numpy as np
import pytest
from conftest import error_of, labeled, make_folder, read_scores, read_table, script
from PIL import Image
from test_own_data import replace_masks

TINY = ("--width", 4, "--image_size", 32, "--batch_size", 4, "--epochs", 2, "--steps", 2)


def copy(part, name, other):
    return lambda data: Image.open(data / part / name).save(data / part / other)


def write(name, text):
    return lambda data: (data / name).write_text(text)


def rename(old, new):
    def move(data):
        (data / new).parent.mkdir(exist_ok=True)
        (data / old).rename(data / new)

    return move


MISTAKES = [
    (copy("images", "3.png", "3.bmp"), (), "images/3.bmp.*images/3.png"),
    (copy("masks", "3.png", "3_mask.gif"), (), "images/3.png.*masks/3.png.*masks/3_mask.gif"),
    (lambda data: Image.new("L", (9, 9)).save(data / "masks/3.png"), (), "masks/3.png.*9x9"),
    (write("masks/3.png", "no mask"), (), "masks/3.png"),
    (lambda data: os.truncate(data / "images/3.png", 200), (), "images/3.png"),
    (lambda data: replace_masks(data, lambda mask: Image.fromarray(mask * np.float32(0.1)), "tif"), (), "masks/0.tif"),
    (lambda data: replace_masks(data, lambda mask: Image.new("L", (60, 44))), (), "foreground.* 32 "),
    (rename("masks/3.png", "labels/3.png"), (), "--data_path data.*labels/.*masks/"),
    (rename("masks", "truth"), (), "--data_path data.*masks/"),
    (rename("masks", "truth"), ("--dataset", "folder"), "--data_path data.*masks/"),
    (write("valid.txt", "# nothing\n"), (), "data/valid.txt"),
    (write("train.txt", "1\n2\n1.png\n"), (), "data/train.txt.*'1'"),
    (None, ("--foreground", "7"), "--foreground 7.*data/masks/0.png.*0 and 255"),
    (None, ("--foreground", "7-3"), "--foreground 7-3"),
    (None, ("--ignore", "red"), "--ignore red"),
    (None, ("--fold", "4/3"), "--fold 4/3"),
    (None, ("--fold", "9/9"), "validation split; --fold 9/9"),
    (None, ("--fold", "1/3", "--train_list", "x"), "--train_list"),
    (None, ("--test_list", "nowhere.txt"), "--test_list nowhere.txt"),
    (None, ("--valid_list", "data/images/3.png"), "--valid_list data/images/3.png.*UTF-8"),
]


@pytest.mark.parametrize("spoil, flags, message", MISTAKES)
def test_a_mistake_in_the_data_is_one_line_that_names_it(spoil, flags, message, tmp_path):
    data = make_folder(tmp_path / "data", 8)
    (data / "train.txt").write_text("\n".join(map(str, range(6))))
    if spoil:
        spoil(data)
    done = script("train", "--data_path", "data", *TINY, *flags, cwd=tmp_path, expect=2)
    assert re.search(message, error_of(done)), done.stderr


def test_lists_and_folds_of_training_are_used_after_the_folder_has_moved(tmp_path):
    make_folder(tmp_path / "data", 20)
    (tmp_path / "test.txt").write_text("3\n5\n8\n")
    (tmp_path / "other.txt").write_text("1\n")
    for name, flags in (("a", ("--fold", "2/4", "--test_list", "test.txt")), ("b", ("--test_list", "other.txt"))):
        script("train", "--data_path", "data", *TINY, *flags, "--name", name, cwd=tmp_path)
    (tmp_path / "data").rename(tmp_path / "moved")
    (tmp_path / "other.txt").unlink()
    flags = ("--data_path", "moved", "--output", "scores")
    done = script("evaluate", "--model", "saved_models/a.pth", *flags, cwd=tmp_path)
    assert "moved is data from training, moved" in done.stderr
    assert [row["name"] for row in read_table(tmp_path / "scores.csv")] == ["3", "5", "8"]
    out = script("evaluate", "--model", "saved_models/a.pth", "--split", "valid", *flags, cwd=tmp_path).stdout
    assert "used for training" not in out
    done = script("evaluate", "--model", "saved_models/b.pth", *flags, cwd=tmp_path)
    assert "--test_list other.txt was not found" in done.stderr


@pytest.mark.integration
def test_evaluate_uses_the_mask_flags_of_the_run_on_any_folder(tmp_path):
    data = labeled(tmp_path, 0, 1, 3, 7)
    for path in (data / "masks").iterdir():
        path.rename(path.with_name(f"{path.stem}.truth.png"))
    flags = ("--foreground", 3, "--ignore", 7, "--mask_pattern", "{name}.truth.png", "--name", "a")
    assert "(25% of" in script("train", "--data_path", "data", *TINY, *flags, cwd=tmp_path).stdout
    evaluate = ("evaluate", "--model", "saved_models/a.pth", "--output", "scores")

    def dice(*flags):
        script(*evaluate, *flags, cwd=tmp_path)
        return read_scores(tmp_path)["dice"]

    own = dice()
    assert dice("--ignore", "1") != own
    assert "--ignore x" in error_of(script(*evaluate, "--ignore", "x", cwd=tmp_path, expect=2))
    data.rename(tmp_path / "moved")
    assert "--data_path" in error_of(script(*evaluate, cwd=tmp_path, expect=2))
    assert dice("--data_path", "moved") == own != dice("--data_path", "moved", "--foreground", "1-3")
