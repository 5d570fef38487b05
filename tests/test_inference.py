"""inference.py: the masks, panels and run lengths of a split."""

import numpy as np
import pytest
from conftest import error_of, make_checkpoint, make_pets, read_table, script
from PIL import Image


@pytest.fixture
def model(tmp_path):
    make_pets(tmp_path / "dataset/oxford-iiit-pet", 3, 2)
    return make_checkpoint(tmp_path / "tiny.pth", threshold=0.3)


def test_masks_panels_and_run_lengths_of_a_split_are_written(model, tmp_path):
    flags = ("--model", model, "--data_path", tmp_path / "dataset/oxford-iiit-pet", "--precision", "float32")
    for threshold in ("0.5", "chosen"):  # the second run replaces the files of the first
        done = script("inference", *flags, "--rle", "r.csv", "--threshold", threshold, cwd=tmp_path)
    assert "2 masks" in done.stdout and "0.3" in done.stdout
    assert [row["image_id"] for row in read_table(tmp_path / "r.csv")] == ["Drawn_3", "Drawn_4"]
    assert {path.name for path in (tmp_path / "predictions").iterdir()} == {"Drawn_3.png", "Drawn_4.png", "panels.png"}
    for name, size in (("Drawn_3", (60, 44)), ("Drawn_4", (40, 53))):
        mask = Image.open(tmp_path / f"predictions/{name}.png")
        assert mask.size == size and set(np.unique(mask)) <= {0, 255}


def test_a_folder_of_the_dataset_is_refused_as_output_folder(model, tmp_path):
    pets = tmp_path / "dataset/oxford-iiit-pet"
    before = {path: path.read_bytes() for path in (pets / "annotations/trimaps").iterdir()}
    flags = ("--model", model, "--data_path", pets, "--output", pets / "annotations/trimaps")
    assert "--output" in error_of(script("inference", *flags, cwd=tmp_path, expect=2))
    assert before == {path: path.read_bytes() for path in (pets / "annotations/trimaps").iterdir()}
