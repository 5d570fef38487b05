"""Lists of names, folds, and the warning about evaluating on training images."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import (
    load_folder,
    load_pets,
    make_checkpoint,
    make_folder,
    make_pets,
    read_scores,
    read_table,
    script,
)

from checkpoint import load
from data import TrainingData, hashes, load_split
from oxford_pet import split_names
from reports.table import leakage_note, seen_and_new_dice
from splits import SPLITS, DataOptions, read_list
from utils import UserError

TINY = ("--width", 4, "--image_size", 32, "--batch_size", 4, "--epochs", 1, "--steps", 2)


def write(path, names):
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def find_in(*names):
    return {name: name for name in names}.get


# --------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa\nb c\nd\n",
        b"a\r\nb c\r\nd\r\n",
        b"a\rb c\rd",
        b"  # names\n\n a\t\n\tb c  \n\t# more\nd\t1\t1\n",
        b"a 1 1 1\nb c\nd 2\n",
        b"a.png\nb c.jpg\nd.jpg\t1\n",
    ],
)
def test_lists_may_have_other_line_ends_comments_columns_and_suffixes(content, tmp_path):
    (tmp_path / "list.txt").write_bytes(content)
    assert read_list(tmp_path / "list.txt", find_in("a", "b c", "d")) == ["a", "b c", "d"]


def test_spaces_and_dots_belong_to_a_name_if_the_dataset_has_it(tmp_path):
    listing = write(tmp_path / "list.txt", ["x 1", "y 1", "a.b", "c.d.jpg"])
    assert read_list(listing, find_in("x 1", "x", "y", "a.b", "a", "c.d", "c")) == ["x 1", "y", "a.b", "c.d"]
    with pytest.raises(UserError, match="'a.b'"):
        read_list(listing, find_in("x 1", "y", "a", "c.d"))


def test_a_list_replaces_its_split_and_is_excluded_from_the_others(pets, tmp_path):
    own = {split: load_pets(pets, split, 32).names for split in SPLITS}
    chosen = [own["train"][3], own["valid"][0], own["test"][1]]
    with pytest.raises(UserError, match=r"--test_list.*'Drawn_99', '../Drawn_2'"):
        load_pets(pets, "test", 32, test_list=write(tmp_path / "unknown", ["Drawn_1", "Drawn_99", "../Drawn_2"]))
    options = {"test_list": write(tmp_path / "test", chosen)}
    assert load_pets(pets, "test", 32, **options).names == chosen
    for split in ("train", "valid"):
        assert load_pets(pets, split, 32, **options).names == [name for name in own[split] if name not in chosen]
    options["valid_list"] = write(tmp_path / "valid", own["train"][:5])
    rest = [name for name in split_names(pets, "trainval") if name not in [*chosen, *own["train"][:5]]]
    assert load_pets(pets, "train", 32, **options).names == rest
    options["train_list"] = write(tmp_path / "train", own["train"])
    assert load_pets(pets, "train", 32, **options).names == own["train"]


@pytest.mark.parametrize("dataset", ["pets", "folder", "shapes"])
def test_folds_partition_train_and_valid(dataset, pets, tmp_path):
    data = make_folder(tmp_path / "data", 20) if dataset == "folder" else pets
    options_of = {"dataset": dataset, "path": data, "image_size": 32}

    def names(split, **options):
        return load_split(DataOptions(**options_of, **options), split).names

    both = sorted(names("train") + names("valid"))
    parts = [names("valid", fold=f"{part}/3") for part in (1, 2, 3)]
    assert sorted(sum(parts, [])) == both and max(map(len, parts)) - min(map(len, parts)) <= 1
    for part in (1, 2, 3):
        assert sorted(names("train", fold=f"{part}/3") + parts[part - 1]) == both
        assert names("test", fold=f"{part}/3") == names("test")


def test_the_first_of_ten_folds_of_the_pets_is_the_default_split(pets):
    for split in SPLITS:
        assert load_pets(pets, split, 32, fold="1/10").names == load_pets(pets, split, 32).names


def test_validation_images_that_are_trained_on_are_noted(pets, tmp_path):
    own = load_pets(pets, "train", 32).names
    lists = {"train_list": write(tmp_path / "a", own), "valid_list": write(tmp_path / "b", own[2:4] + ["Drawn_0"])}
    [note] = TrainingData(DataOptions("pets", pets, 32, **lists)).describe()
    assert "2 of 3" in note and "Drawn_3" in note


# ------------------------------------------------------------- evaluation on training images


@pytest.mark.integration
def test_dice_is_given_separately_for_training_images_and_others(tmp_path):
    pets = make_pets(tmp_path / "pets", 30, 6)
    trained = TrainingData(DataOptions("pets", pets, 32))
    names = [trained.train.names[index] for index in trained.indices]
    chosen = [f"Drawn_{number}" for number in range(0, 36, 2)]
    write(tmp_path / "chosen.txt", chosen)
    script("train", "--data_path", "pets", *TINY, "--name", "a", cwd=tmp_path)
    flags = ("--model", "saved_models/a.pth", "--test_list", "chosen.txt", "--output", "scores")
    out = script("evaluate", *flags, cwd=tmp_path).stdout
    dices = {row["name"]: float(row["dice"]) for row in read_table(tmp_path / "scores.csv")}
    seen = [dices[name] for name in chosen if name in names]
    new = [dices[name] for name in chosen if name not in names]
    assert len(seen) == 12 and len(new) == 6  # 0, 10, 20 are in valid; 30, 32, 34 in test
    result = read_scores(tmp_path)
    assert result["trained_on"] == 12
    assert result["dice_trained_on"] == pytest.approx(np.mean(seen), abs=1e-6)
    assert result["dice_new"] == pytest.approx(np.mean(new), abs=1e-6)
    words = ("12 of 18", f"{np.mean(seen):.4f}", f"{np.mean(new):.4f}")
    assert all(word in out for word in words)
    flags = ("--model", "saved_models/a.pth", "--test_list", "chosen.txt", "--output", "masks")
    out = script("inference", *flags, "--precision", "float32", cwd=tmp_path).stdout
    assert all(word in out for word in words)


@pytest.mark.integration
def test_training_images_of_earlier_runs_count_after_fine_tuning(tmp_path):
    make_folder(tmp_path / "A", 12)
    script("train", "--data_path", "A", *TINY, "--fold", "2/3", "--name", "a", cwd=tmp_path)
    flags = ("--weights", "saved_models/a.pth", "--data_path", "A", *TINY[2:], "--fold", "1/3", "--name", "fine")
    script("train", *flags, cwd=tmp_path)
    out = script("evaluate", "--model", "saved_models/fine.pth", "--split", "valid", cwd=tmp_path).stdout
    assert re.search(r"(\d+) of \1 images", out)


def test_there_is_no_warning_without_known_training_images(pets, tmp_path):
    dataset, scores = load_pets(pets, "test", 32), torch.ones(6)
    make_checkpoint(tmp_path / "old.pth")
    assert seen_and_new_dice(load(tmp_path / "old.pth"), dataset, scores) == {}
    assert leakage_note({"images": 6}) == ""
    none = seen_and_new_dice(SimpleNamespace(trained_on=hashes(load_pets(pets, "train", 32))), dataset, scores)
    assert none["trained_on"] == 0 and leakage_note({"images": 6, **none}) == ""
    whole = seen_and_new_dice(SimpleNamespace(trained_on=hashes(dataset)), dataset, scores)
    assert leakage_note({"images": 6, **whole}).startswith("6 of 6 ")


def test_images_of_the_same_name_but_another_file_size_are_not_training_images(tmp_path):
    first = make_folder(tmp_path / "first", 6)
    second = make_folder(tmp_path / "second", 6)
    for path in (second / "images").iterdir():
        path.write_bytes(path.read_bytes() + b"\0")
    everything = [text for split in SPLITS for text in hashes(load_folder(first, split))]
    for data, expected in ((first, 1), (second, 0)):
        [only] = [load_folder(data, "valid", limit=1)]
        assert seen_and_new_dice(SimpleNamespace(trained_on=everything), only, torch.ones(1))["trained_on"] == expected
