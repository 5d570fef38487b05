"""The scripts on a person's own images/ and masks/: every mistake with its one line, and a run from end to end."""

import json
import os

import numpy as np
import pytest
from conftest import error_of, labelled, load_folder, make_folder, script
from PIL import Image

from splits import SPLITS

TINY = ("--width", 4, "--image_size", 32, "--batch_size", 4, "--epochs", 2, "--steps", 2)


def rewrite(data, encode, suffix="png"):
    for path in (data / "masks").iterdir():
        mask = np.asarray(Image.open(path))
        path.unlink()
        Image.fromarray(encode(mask)).save(path.with_suffix(f".{suffix}"))


def copy(part, name, other):
    return lambda data: Image.open(data / part / name).save(data / part / other)


def write(name, text):
    return lambda data: (data / name).write_text(text)


def rename(old, new):
    def move(data):
        (data / new).parent.mkdir(exist_ok=True)
        (data / old).rename(data / new)

    return move


def nothing(data):
    pass


MISTAKES = [
    (copy("images", "3.png", "3.bmp"), (), "images/3.bmp and images/3.png"),
    (copy("masks", "3.png", "3_mask.gif"), (), "images/3.png has the masks masks/3.png and masks/3_mask.gif"),
    (lambda data: Image.new("L", (9, 9)).save(data / "masks/3.png"), (), "masks/3.png is 9x9"),
    (write("masks/3.png", "no mask"), (), "masks/3.png is not a"),
    (lambda data: os.truncate(data / "images/3.png", 200), (), "images/3.png cannot be decoded"),
    (lambda data: rewrite(data, lambda mask: mask // 255 + np.uint8(1)), (), "--foreground 1"),
    (lambda data: rewrite(data, lambda mask: mask * np.float32(0.1), "tif"), (), "masks/0.tif cannot be decoded"),
    (lambda data: rewrite(data, np.zeros_like), (), "has any foreground at 32 pixels"),
    (rename("masks/3.png", "labels/3.png"), (), "--data_path data has labels/ and masks/"),
    (rename("masks", "truth"), (), "--data_path data must contain"),
    (rename("masks", "truth"), ("--dataset", "folder"), "--data_path data has no masks/"),
    (write("valid.txt", "# nothing\n"), (), "data/valid.txt lists no images"),
    (write("train.txt", "1\n2\n1.png\n"), (), "data/train.txt lists '1' more than once"),
    (nothing, ("--foreground", "7"), "--foreground 7: the masks, such as data/masks/0.png, have the values 0 and 255"),
    (nothing, ("--foreground", "7-3"), "--foreground 7-3 is not"),
    (nothing, ("--ignore", "red"), "--ignore red is not"),
    (nothing, ("--fold", "4/3"), "--fold 4/3"),
    (nothing, ("--fold", "1/3", "--train_list", "x"), "--train_list"),
    (nothing, ("--test_list", "nowhere.txt"), "--test_list nowhere.txt not found"),
    (nothing, ("--valid_list", "data/images/3.png"), "--valid_list data/images/3.png is not a UTF-8 text file"),
]


@pytest.mark.parametrize("spoil, flags, message", MISTAKES)
def test_every_mistake_is_one_line_that_names_it(spoil, flags, message, tmp_path):
    data = make_folder(tmp_path / "data", 8)
    (data / "train.txt").write_text("\n".join(map(str, range(6))))
    spoil(data)
    done = script("train", "--data_path", "data", *TINY, *flags, cwd=tmp_path, expect=2)
    assert message in error_of(done), done.stderr


@pytest.mark.integration
def test_what_is_left_out_is_noted_and_the_rest_is_trained_on(tmp_path):
    data = make_folder(tmp_path / "data", 12)
    for name in (1, 3, 5, 7, 8, 9, 11):
        (data / "masks" / f"{name}.png").unlink()
    Image.new("L", (9, 9)).save(data / "masks/other.png")
    (data / "images" / "readme.txt").write_text("no image")
    done = script("train", "--data_path", "data", *TINY, cwd=tmp_path)
    assert "(no mask): images/1.png, images/11.png, images/3.png, images/5.png, images/7.png and 2 more" in done.stderr
    assert "(no image): masks/other.png" in done.stderr and "(not images): 1 .txt" in done.stderr
    assert done.stderr.count("note:") == 3 and "5 pairs in data" in done.stdout


# ------------------------------------------------------------------------------------- scripts


@pytest.mark.integration
def test_train_resume_evaluate_report_and_predict(tmp_path):
    data = make_folder(tmp_path / "data", 20)
    flags = ("--data_path", "data", *TINY, "--name", "a")
    out = script("train", *flags, cwd=tmp_path).stdout
    train, valid, test = (len(load_folder(data, split)) for split in SPLITS)
    assert f"20 pairs in data: {train} train, {valid} valid, {test} test\n" in out
    assert "the masks have the values 0 and 255; foreground: 255" in out
    script("train", "--resume", "saved_models/a.last.pth", "--epochs", 3, cwd=tmp_path)
    out = script("evaluate", "--model", "saved_models/a.pth", "--output", "scores", cwd=tmp_path).stdout
    assert f"test split, {test} images" in out and "used for training" not in out
    assert json.loads((tmp_path / "scores.json").read_text())[0]["trained_on"] == 0
    script("report", "--model", "saved_models/a.pth", cwd=tmp_path)
    out = script("evaluate", "--model", "saved_models/a.pth", "--split", "train", cwd=tmp_path).stdout
    assert f"{train} of {train} images were used for training" in out


@pytest.mark.integration
def test_a_checkpoint_scores_another_folder_by_its_own_mask_values(tmp_path):
    data = labelled(tmp_path, 0, 1, 3, 7)
    script("train", "--data_path", "data", *TINY, "--foreground", 3, 7, "--name", "a", cwd=tmp_path)
    evaluate = ("evaluate", "--model", "saved_models/a.pth", "--output", "scores")
    script(*evaluate, cwd=tmp_path)
    own = json.loads((tmp_path / "scores.json").read_text())[0]
    data.rename(tmp_path / "moved")
    assert "--data_path DIR" in error_of(script(*evaluate, cwd=tmp_path, expect=2))
    script(*evaluate, "--data_path", "moved", cwd=tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text())[0]["dice"] == own["dice"]
    script(*evaluate, "--data_path", "moved", "--foreground", "1-7", cwd=tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text())[0]["dice"] != own["dice"]
