"""The scripts on a person's own images/ and masks/: every mistake with its one line, and a run from end to end."""

import json

import numpy as np
import pytest
from conftest import error_of, labelled, load_folder, make_folder, script
from PIL import Image

from data import TrainingData
from splits import SPLITS, DataOptions

TINY = ("--width", 4, "--image_size", 32, "--batch_size", 4, "--epochs", 2, "--steps", 2)


def second_picture(data):
    Image.open(data / "images/3.png").save(data / "images/3.bmp")


def second_mask(data):
    Image.open(data / "masks/3.png").save(data / "masks/3_mask.gif")


def wrong_size(data):
    Image.new("L", (9, 9)).save(data / "masks/3.png")


def broken_mask(data):
    (data / "masks/3.png").write_text("no mask")


def broken_picture(data):
    (data / "images/3.png").write_bytes((data / "images/3.png").read_bytes()[:200])


def three_values(data):
    Image.fromarray((np.arange(60 * 44) % 3).reshape(44, 60).astype(np.uint8)).save(data / "masks/3.png")


def blurred(data):
    for path in (data / "masks").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()


def two_without_zero(data):
    for path in (data / "masks").iterdir():
        Image.fromarray(np.where(np.asarray(Image.open(path)) > 0, 2, 1).astype(np.uint8)).save(path)


def fractions(data):
    for path in (data / "masks").iterdir():
        Image.fromarray(np.full((44, 60), 0.5, np.float32)).save(path.with_suffix(".tif"))
        path.unlink()


def all_empty(data):
    for path in (data / "masks").iterdir():
        Image.new("L", (60, 44)).save(path)


def no_masks(data):
    for path in (data / "masks").iterdir():
        path.rename(path.with_name("m" + path.name))


def two_mask_folders(data):
    (data / "labels").mkdir()


def no_mask_folder(data):
    (data / "masks").rename(data / "truth")


def empty_list(data):
    (data / "valid.txt").write_text("# nothing\n")


def repeated_name(data):
    (data / "train.txt").write_text("1\n2\n1.png\n")


def nothing(data):
    pass


MISTAKES = [
    (second_picture, (), "images/3.bmp and images/3.png have one name; keep one of each"),
    (second_mask, (), "images/3.png has the masks masks/3.png and masks/3_mask.gif; keep one of each"),
    (
        wrong_size,
        (),
        "masks/3.png is 9x9, its picture 60x44; restore these files, or take them out of the data",
    ),
    (broken_mask, (), "masks/3.png is not a picture"),
    (broken_picture, (), "images/3.png cannot be decoded"),
    (
        three_values,
        (),
        "masks have the values 0, 1, 2 and 255 (1 is in data/masks/3.png); say which are foreground, such as",
    ),
    (blurred, (), "say which are foreground, such as --foreground 128-255 (a lossy format such as JPEG blurs"),
    (two_without_zero, (), "is in data/masks/0.png); say which are foreground, such as --foreground 1"),
    (fractions, (), "masks/0.tif cannot be decoded (its values are no whole numbers)"),
    (all_empty, (), "no training picture in data has any foreground at 32 pixels; look at its masks"),
    (no_masks, (), "no picture in images/ has a mask in masks/; images/0.png needs masks/0.png or the like"),
    (two_mask_folders, (), "--data_path data has labels/ and masks/; it must hold one folder of pictures"),
    (no_mask_folder, (), "--data_path data must hold images/ and masks/ of your own, or images/ and annotations/"),
    (no_mask_folder, ("--dataset", "folder"), "--data_path data has no masks/; it must hold one folder of pictures"),
    (empty_list, (), "data/valid.txt names no picture; add names to it"),
    (repeated_name, (), "data/train.txt names 1 more than once; remove the repeated line"),
    (
        nothing,
        ("--foreground", "7"),
        "the masks, such as data/masks/0.png, have the values 0 and 255 alone",
    ),
    (nothing, ("--foreground", "7-3"), "--foreground 7-3 is not a number (3), a range (128-255) or a color (255,0,0)"),
    (nothing, ("--foreground", "red"), "--foreground red is not a number (3), a range (128-255) or a color (255,0,0)"),
    (nothing, ("--fold", "4/3"), "--fold 4/3 is not K/N, such as 1/5"),
    (nothing, ("--fold", "1/3", "--train_list", "x"), "--fold cuts the train and valid splits itself; leave out"),
    (nothing, ("--test_list", "nowhere.txt"), "--test_list nowhere.txt not found; it holds a picture's name"),
    (nothing, ("--valid_list", "data/images/3.png"), "--valid_list data/images/3.png is not a text file"),
]


@pytest.mark.parametrize("spoil, flags, message", MISTAKES)
def test_every_mistake_is_one_line_that_names_it(spoil, flags, message, tmp_path):
    data = make_folder(tmp_path / "data", 8)
    (data / "train.txt").write_text("\n".join(map(str, range(6))))
    spoil(data)
    done = script("train", "--data_path", "data", *TINY, *flags, cwd=tmp_path, expect=2)
    assert message in error_of(done), done.stderr


def test_what_is_left_out_is_noted_and_the_rest_is_trained_on(tmp_path):
    data = make_folder(tmp_path / "data", 12)
    for name in (1, 3, 5, 7, 8, 9, 11):
        (data / "masks" / f"{name}.png").unlink()
    Image.new("L", (9, 9)).save(data / "masks/other.png")
    (data / "images" / "readme.txt").write_text("no picture")
    done = script("train", "--data_path", "data", *TINY, cwd=tmp_path)
    assert "note: left out, no mask in data/masks: 1.png, 11.png, 3.png, 5.png, 7.png and 2 more" in done.stderr
    assert "note: left out, no picture in data/images: other.png" in done.stderr
    assert done.stderr.count("note:") == 2 and "5 pairs in data/images and masks" in done.stdout


# ------------------------------------------------------------------------------------- scripts


def test_train_resume_evaluate_report_and_predict(tmp_path):
    data = make_folder(tmp_path / "data", 20)
    Image.new("L", (60, 44)).save(data / "masks" / f"{load_folder(data).names[0]}.png")
    flags = ("--data_path", "data", *TINY, "--name", "a")
    out = script("train", *flags, cwd=tmp_path).stdout
    train, valid, test = (len(load_folder(data, split)) for split in SPLITS)
    assert f"20 pairs in data/images and masks: {train} train, {valid} valid, {test} test\n" in out
    assert "the masks have the values 0 and 255: 255 is foreground, " in out
    assert f"{train - 1} pictures to train (1 without foreground left out), {valid} to validate" in out
    script("train", "--resume", "saved_models/a.last.pth", "--epochs", 3, cwd=tmp_path)
    out = script("evaluate", "--model", "saved_models/a.pth", "--output", "scores", cwd=tmp_path).stdout
    assert f"test split, {test} pictures" in out and "trained on" not in out
    assert json.loads((tmp_path / "scores.json").read_text())[0]["trained_on"] == 0
    script("report", "--model", "saved_models/a.pth", cwd=tmp_path)
    out = script("evaluate", "--model", "saved_models/a.pth", "--split", "train", cwd=tmp_path).stdout
    assert f"{train - 1} of {train} pictures were trained on: Dice " in out


def test_the_panels_of_a_small_valid_split_show_each_of_its_pictures(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("training.saving.plot_panels", lambda rows, *_: shown.append([row["name"] for row in rows]))
    data = make_folder(tmp_path / "data", 12)
    (data / "valid.txt").write_text("1\n2\n3\n")
    script("train", "--data_path", "data", *TINY, cwd=tmp_path)
    assert shown[0] == ["1", "2", "3"]


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


def test_training_data_needs_foreground_in_train_alone(tmp_path):
    data = make_folder(tmp_path / "data", 8)
    for name in load_folder(data, "valid").names + load_folder(data, "test").names:
        Image.new("L", (60, 44)).save(data / "masks" / f"{name}.png")
    found = TrainingData(DataOptions("folder", data, 32))
    assert len(found.indices) == len(found.train) and not found.valid[0]["mask"].any()
