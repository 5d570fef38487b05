"""Each script as a person runs it, in a temporary folder, on drawn pictures in the official layout."""

import csv
import importlib
import json
import sys

import numpy as np
import pytest
import torch
import torchvision
from conftest import draw_pet, error_of, make_pets, script
from PIL import Image

from utils import run

TINY = ("--width", 4, "--image_size", 32, "--batch_size", 4, "--learning_rate", 0.01)
SHAPES = ("--dataset", "shapes", "--steps", 3, "--epochs", 2, "--limit", 12)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with drawn pets in dataset/ and a small network trained on them, by the command of the README."""
    folder = tmp_path_factory.mktemp("project")
    make_pets(folder / "dataset" / "oxford-iiit-pet")
    done = script("train", "--model", "unet", *TINY, "--epochs", 5, "--augment", "flips", cwd=folder)
    return folder, done.stdout


def read_history(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_training_says_what_it_does_and_keeps_the_best(trained):
    folder, out = trained
    assert "unet" in out and "on cpu" in out and "dataset/oxford-iiit-pet" in out
    assert "18 pictures to train, 2 to validate" in out and out.count("valid loss") == 5
    files = {path.name for path in (folder / "saved_models").iterdir()}
    assert files == {"unet.pth", "unet.last.pth", "unet.csv", "unet.curve.png", "unet.panels.png", "unet.batch.png"}
    history = read_history(folder / "saved_models" / "unet.csv")
    best = max(history, key=lambda row: float(row["valid_dice"]))
    checkpoint = torch.load(folder / "saved_models" / "unet.pth", weights_only=True)
    assert checkpoint["epoch"] == int(best["epoch"])
    assert checkpoint["scores"]["valid"]["dice"] == pytest.approx(float(best["valid_dice"]))
    assert float(history[-1]["train_loss"]) < float(history[0]["train_loss"])
    for key in ("options", "image_size", "mean", "std", "border", "dataset", "command", "versions", "git"):
        assert key in checkpoint
    for name in ("unet.curve.png", "unet.panels.png", "unet.batch.png"):
        assert Image.open(folder / "saved_models" / name).size[0] > 500


def test_evaluate_needs_no_flag_but_the_checkpoint(trained):
    folder, _ = trained
    out = script("evaluate", "--model", "saved_models/unet.pth", "--output", "scores/unet", cwd=folder).stdout
    assert "test split, 6 pictures" in out
    [result] = json.loads((folder / "scores" / "unet.json").read_text())
    rows = read_history(folder / "scores" / "unet.csv")
    assert len(rows) == 6 == result["pictures"]
    assert result["dice"] == pytest.approx(np.mean([float(row["dice"]) for row in rows]), abs=1e-5)
    assert f"{result['dice']:.4f}" in out
    tp, fp, fn = (sum(int(row[key]) for row in rows) for key in ("tp", "fp", "fn"))
    assert result["pooled_dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn))


# How far Dice in float32 may be from that of training in a precision: of a tiny network on two pictures, whose few
# pixels near the threshold weigh more than a real one's (the released networks differ by .0001 in bfloat16).
TOLERANCES = {"float32": 1e-6, "bfloat16": 1e-2}


@pytest.mark.parametrize("precision", TOLERANCES)
def test_evaluate_gives_the_dice_that_training_wrote(precision, tmp_path):
    make_pets(tmp_path / "dataset" / "oxford-iiit-pet")
    flags = ("--epochs", 3, "--augment", "flips", "--precision", precision)
    script("train", "--model", "unet", *TINY, *flags, cwd=tmp_path)
    models = ("saved_models/unet.pth", "saved_models/unet.last.pth")
    out = script("evaluate", "--model", *models, "--split", "valid", "--output", "both", cwd=tmp_path).stdout
    results = json.loads((tmp_path / "both.json").read_text())
    history = [float(row["valid_dice"]) for row in read_history(tmp_path / "saved_models" / "unet.csv")]
    assert results[0]["dice"] == pytest.approx(max(history), abs=TOLERANCES[precision])
    assert results[1]["dice"] == pytest.approx(history[-1], abs=TOLERANCES[precision])
    assert all(name in out for name in models) and "in float32" in out
    assert {result["dtype"] for result in results} == {"float32"}


def test_inference_on_a_split(trained):
    folder, _ = trained
    out = script("inference", "--model", "saved_models/unet.pth", "--output", "masks", "--tta", cwd=folder).stdout
    assert "6 masks" in out and "--tta" in out
    names = (folder / "dataset/oxford-iiit-pet/annotations/test.txt").read_text().split()[::4]
    for name in names:
        mask, picture = (
            Image.open(path)
            for path in (folder / "masks" / f"{name}.png", folder / f"dataset/oxford-iiit-pet/images/{name}.jpg")
        )
        assert mask.size == picture.size and set(np.unique(np.asarray(mask))) <= {0, 255}
    assert (folder / "masks" / "panels.png").exists()


def test_inference_on_files_and_folders_leaves_out_only_what_is_broken(trained, tmp_path):
    folder, _ = trained
    photos = tmp_path / "photos"
    (photos / "images").mkdir(parents=True)
    (photos / "annotations" / "trimaps").mkdir(parents=True)
    draw_pet(photos, "cat", 1, 90, 61)
    Image.open(photos / "images" / "cat.jpg").save(photos / "images" / "cat.png")
    (photos / "images" / "broken.jpg").write_text("no picture")
    before = (photos / "images" / "cat.png").read_bytes()
    arguments = (
        "--model",
        folder / "saved_models/unet.pth",
        "--input",
        photos / "images",
        "--output",
        photos / "images",
    )
    done = script("inference", *arguments, cwd=tmp_path, expect=2)
    assert "broken.jpg is not a picture" in error_of(done) and "wrote mask of 2 pictures" in done.stdout
    assert (photos / "images" / "cat.png").read_bytes() == before
    masks = sorted(photos.glob("images/cat*.png*.png")) + sorted(photos.glob("images/cat.jpg.png"))
    assert len(masks) == 2 and all(Image.open(mask).size == (90, 61) for mask in masks)


def test_resume_takes_more_epochs_and_refuses_another_batch_size(tmp_path):
    script("train", *SHAPES, *TINY, "--name", "a", cwd=tmp_path)
    out = script("train", "--resume", "saved_models/a.last.pth", "--epochs", 3, cwd=tmp_path).stdout
    assert "--epochs changes from 2 to 3" in out and len(read_history(tmp_path / "saved_models/a.csv")) == 3
    done = script("train", "--resume", "saved_models/a.last.pth", "-b", 7, cwd=tmp_path, expect=2)
    assert "--batch_size 7 differs" in error_of(done)
    done = script("train", "--resume", "saved_models/a.pth", cwd=tmp_path, expect=2)
    assert "NAME.last.pth" in error_of(done)


def test_a_second_run_does_not_touch_the_first(tmp_path):
    script("train", *SHAPES, *TINY, cwd=tmp_path)
    before = (tmp_path / "saved_models/unet.pth").read_bytes()
    script("train", *SHAPES, *TINY, "--seed", 1, cwd=tmp_path)
    assert (tmp_path / "saved_models/unet-2.pth").exists()
    done = script("train", *SHAPES, *TINY, "--name", "unet", cwd=tmp_path, expect=2)
    assert "saved_models/unet.pth exists already" in error_of(done)
    assert (tmp_path / "saved_models/unet.pth").read_bytes() == before


UNSTEADY = (*SHAPES, *TINY, "--norm", "none", "--optimizer", "sgd", "--schedule", "none", "--ema", 0)


def test_a_loss_that_explodes_stops_the_run_and_keeps_the_best(tmp_path):
    script("train", *UNSTEADY, "-lr", 1e-4, "--name", "a", "--epochs", 1, cwd=tmp_path)
    kept = torch.load(tmp_path / "saved_models/a.last.pth", weights_only=True)
    kept["settings"]["learning_rate"] = 30.0
    torch.save(kept, tmp_path / "saved_models/a.last.pth")
    before = (tmp_path / "saved_models/a.pth").read_bytes()
    done = script("train", "--resume", "saved_models/a.last.pth", "--epochs", 9, cwd=tmp_path, expect=2)
    assert "the loss exploded in epoch " in error_of(done) and "lower --learning_rate" in done.stderr
    assert "saved_models/a.pth keeps the best weights" in done.stderr
    assert (tmp_path / "saved_models/a.pth").read_bytes() == before


def test_a_run_that_diverges_in_its_last_step_saves_nothing_of_it(tmp_path):
    flags = ("--dataset", "shapes", "--width", 4, "--depth", 2, "--image_size", 32, "--limit", 4, "--batch_size", 4)
    flags = (*flags, "--norm", "none", "--optimizer", "sgd", "--schedule", "none", "--ema", 0, "--learning_rate", 1e10)
    done = script("train", *flags, "--steps", 1, "--epochs", 1, cwd=tmp_path, expect=2)
    assert "what the network predicts is not a number" in error_of(done)
    assert not [*(tmp_path / "saved_models").glob("*.pth")]


def test_a_loss_that_is_not_a_number_is_told_from_one_that_explodes(tmp_path):
    done = script("train", *UNSTEADY, "-lr", 1e30, cwd=tmp_path, expect=2)
    assert "the loss is not a number in epoch 1" in error_of(done) and "nothing was saved yet" in done.stderr


def test_a_loss_that_never_moves_is_said(tmp_path):
    done = script("train", *SHAPES, *TINY, "--schedule", "none", "-lr", 0, "--weight_decay", 0, "--steps", 12,
                  "--augment", "none", cwd=tmp_path)  # fmt: skip
    [note] = done.stderr.splitlines()
    assert note.startswith("note: the training loss has not moved from ") and "raise --learning_rate" in note


def test_parts_of_a_batch_give_what_the_batch_gives(tmp_path):
    flags = (*SHAPES, *TINY, "--norm", "none", "--augment", "full", "--precision", "float32", "--optimizer", "sgd")
    for parts in (1, 3):
        script("train", *flags, "--name", f"parts{parts}", "--accumulate", parts, cwd=tmp_path)
    whole, cut = (torch.load(tmp_path / f"saved_models/parts{n}.pth", weights_only=True)["model"] for n in (1, 3))
    for name, value in whole.items():
        torch.testing.assert_close(value, cut[name], atol=1e-5, rtol=1e-4)
    done = script("train", *flags, "--accumulate", 5, cwd=tmp_path, expect=2)
    assert "a batch of 4 pictures has too few for 5 parts" in error_of(done)


def test_a_lack_of_memory_says_which_flag_to_lower(tmp_path, monkeypatch):
    def forward(self, x):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("models.unet.UNet.forward", forward)
    done = script("train", *SHAPES, *TINY, cwd=tmp_path, expect=2)
    assert "the GPU's memory is not enough; use --accumulate 2 (the same batch of 4, in parts of 2" in error_of(done)


def test_pictures_that_grow(tmp_path):
    """While pictures grow, the best checkpoint is one of the largest size so far, and says its size."""
    flags = ("--dataset", "shapes", "--steps", 2, "--limit", 6, "--width", 2, "--batch_size", 2)
    out = script("train", *flags, "--start_size", 32, "--image_size", 64, "--epochs", 5, cwd=tmp_path).stdout
    history = read_history(tmp_path / "saved_models/unet.csv")
    assert [int(row["image_size"]) for row in history] == [32, 32, 64, 64, 64] and "32x32 then 64x64" in out
    best = torch.load(tmp_path / "saved_models/unet.pth", weights_only=True)
    dices = [float(row["valid_dice"]) for row in history]
    assert best["image_size"] == 64 and best["epoch"] == 3 + dices[2:].index(max(dices[2:]))


@pytest.mark.parametrize("with_fc", [True, False])
def test_published_encoder_weights_load(with_fc, tmp_path):
    weights = torchvision.models.resnet34(weights=None).state_dict()
    if not with_fc:
        weights = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    torch.save(weights, tmp_path / "resnet34.pth")
    flags = ("--model", "resnet34_unet", *SHAPES, "--image_size", 32, "--batch_size", 2)
    flags = (*flags, "--epochs", 1, "--learning_rate", 0, "--weight_decay", 0, "--schedule", "none", "--ema", 0)
    script("train", *flags, "--encoder_weights", "resnet34.pth", cwd=tmp_path)
    kept = torch.load(tmp_path / "saved_models/resnet34_unet.pth", weights_only=True)["model"]
    assert torch.equal(kept["encoder.layer4.2.conv2.weight"], weights["layer4.2.conv2.weight"])
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    done = script("train", *flags, "--encoder_weights", "other.pth", cwd=tmp_path, expect=2)
    assert "other.pth is not a resnet34 state_dict" in error_of(done)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("train --data_path nowhere", "--data_path nowhere not found"),
        ("train --model vnet", "invalid choice: 'vnet'"),
        ("train --batch_size 0", "0 is not a whole number of at least 1"),
        ("train --dropout 2", "2 is not a number of at least 0 and below 1"),
        ("train --no_such_flag", "unrecognized arguments: --no_such_flag"),
        ("train --model resnet34_unet --width 32", "resnet34_unet has no option 'width'"),
        ("train --encoder_weights x.pth", "--encoder_weights is for --model resnet34_unet"),
        ("train --device cuda:99", "--device cuda:99 cannot be used ("),
        ("train --device toaster", "--device toaster cannot be used ("),
        ("train --save_dir file.txt", "--save_dir file.txt cannot be written"),
        ("train --resume nowhere.last.pth", "nowhere.last.pth not found"),
        ("train --resume file.txt", "file.txt is not a checkpoint, or is damaged"),
        (
            "train --data_path empty",
            "--data_path empty must hold images/ and masks/ of your own, or images/ and annotations/",
        ),
        ("evaluate", "the following arguments are required: --model"),
        ("evaluate --model nowhere.pth", "nowhere.pth not found"),
        ("evaluate --model file.txt", "file.txt is not a checkpoint, or is damaged"),
        ("evaluate --model plain.pth", "plain.pth is not a checkpoint of src/train.py"),
        ("inference --model empty.pth", "empty.pth is not a checkpoint, or is damaged"),
    ],
)
def test_mistakes_get_one_line_and_exit_status_2(arguments, words, tmp_path, monkeypatch, capsys):
    (tmp_path / "file.txt").write_text("some text")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "empty").mkdir()
    torch.save({"weight": torch.zeros(1)}, tmp_path / "plain.pth")
    name, *rest = arguments.split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *rest])
    with pytest.raises(SystemExit, match="^2$"):
        run(importlib.import_module(name).main)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line


def test_inference_names_an_input_that_is_not_there(trained):
    folder, _ = trained
    done = script("inference", "--model", "saved_models/unet.pth", "--input", "nowhere.jpg", cwd=folder, expect=2)
    assert "--input nowhere.jpg not found" in error_of(done)


def test_weights_of_another_network_are_refused(trained, tmp_path):
    folder, _ = trained
    checkpoint = torch.load(folder / "saved_models/unet.pth", weights_only=True)
    torch.save({**checkpoint, "name": "resnet34_unet", "options": {"in_channels": 3}}, tmp_path / "swapped.pth")
    done = script("evaluate", "--model", tmp_path / "swapped.pth", cwd=folder, expect=2)
    assert "does not fit the network it names" in error_of(done)
    checkpoint["model"]["head.bias"].fill_(float("nan"))
    torch.save(checkpoint, tmp_path / "nan.pth")
    done = script("evaluate", "--model", tmp_path / "nan.pth", cwd=folder, expect=2)
    assert "not finite numbers" in error_of(done)
