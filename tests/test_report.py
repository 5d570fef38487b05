import re

import numpy as np
import pytest
import torch
from conftest import error_of, make_checkpoint, make_pets, script
from PIL import Image

from reports.statistics import (
    bootstrap,
    breed,
    calibrate,
    calibration_error,
    group_means,
    in_ranges,
    paired_test,
    species,
    what_the_worst_share,
)

FIGURES = ("curves", "histogram", "breeds", "size", "frame", "thresholds", "calibration", "examples")


def test_the_page_of_two_checkpoints(tmp_path):
    make_pets(tmp_path / "dataset/oxford-iiit-pet", 40, 6)
    make_checkpoint(tmp_path / "a.pth")
    make_checkpoint(tmp_path / "b.pth", seed=1, image_size=48)
    header = "epoch,image_size,train_loss,train_dice,valid_loss,valid_dice\n"
    (tmp_path / "a.csv").write_text(header + "1,32,1.0,.5,1.1,.6\n2,64,.9,.6,1.0,.4\n3,64,.9,.6,1.0,.5\n")
    for path in (tmp_path / "dataset/oxford-iiit-pet").rglob("Drawn_1?.*"):  # a second breed, and so a species
        path.rename(path.with_name(path.name.replace("Drawn", "sketch_dog")))
    listing = tmp_path / "dataset/oxford-iiit-pet/annotations/trainval.txt"
    listing.write_text(re.sub(r"Drawn_1(\d) ", r"sketch_dog_1\1 ", listing.read_text()))
    script("report", "--model", "a.pth", "b.pth", cwd=tmp_path)
    page = (tmp_path / "report/index.html").read_text()
    assert "<script" not in page and "http" not in page.replace("data:image", "")
    assert page.count("data:image/png;base64,") == page.count("<figcaption>") == len(FIGURES)
    for name in FIGURES:
        assert min(Image.open(tmp_path / "report" / f"{name}.png").size) > 100
    said = ("b has no history", "Best valid Dice: a 0.5000", "at the last size", "paired test", "cats", "dogs")
    assert all(words in page for words in said)
    assert 'name="viewport"' in page


def test_calibration_sums_by_bin_and_leaves_out_ignored_pixels():
    table = calibrate(torch.tensor([[0.04, 0.05, 1.0, 0.5]]), torch.tensor([[0, 1, 1, 255]])).numpy()
    expected = np.zeros((10, 3))
    expected[0], expected[9] = (0.09, 1, 2), (1, 1, 1)
    np.testing.assert_allclose(table, expected, rtol=1e-6)


def test_checkpoints_of_different_datasets_are_refused(tmp_path):
    make_pets(tmp_path / "dataset/oxford-iiit-pet", 10, 2)
    make_checkpoint(tmp_path / "a.pth")
    other = torch.load(make_checkpoint(tmp_path / "b.pth"), weights_only=True)
    torch.save({**other, "dataset": "shapes"}, tmp_path / "b.pth")
    done = script("report", "--model", "a.pth", "b.pth", cwd=tmp_path, expect=2)
    assert "different datasets" in error_of(done)


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(40):
        low, high = bootstrap(rng.normal(0.8, 0.1, 60), seed=trial)
        inside += low <= 0.8 <= high
        assert high - low == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(60), rel=0.35)
    assert 33 <= inside <= 40


def test_paired_test_tells_a_difference_from_chance():
    rng = np.random.default_rng(0)
    first = rng.uniform(0.5, 1, 80)
    assert paired_test(first, first - 0.02 + rng.normal(0, 0.01, 80)) < 0.001
    assert paired_test(first, first) == 1
    assert paired_test(first, first + rng.normal(0, 0.01, 80)) > 0.01


def test_calibration_error_of_known_tables():
    right = np.array([[10, 10, 100], [90, 90, 100]], dtype=float)
    assert calibration_error(right) == 0
    assert calibration_error(np.array([[50, 100, 100], [90, 90, 100]], dtype=float)) == 0.25


def test_groups():
    assert (breed("great_pyrenees_12"), species("great_pyrenees_12"), species("Maine_Coon_3")) == (
        "great_pyrenees", "dogs", "cats"
    )  # fmt: skip
    assert group_means(np.array([1.0, 0.0, 0.5]), ["a", "b", "b"]) == {"b": (0.25, 2), "a": (1.0, 1)}
    labels, groups = in_ranges(np.array([0.0, 0.1, 0.35, 1.0]), (0, 0.1, 0.5, 1))
    assert groups == [labels[0], labels[1], labels[1], labels[2]]


def test_what_the_worst_share_finds_the_planted_cause():
    rng = np.random.default_rng(0)
    small = rng.uniform(0, 1, 200)
    scored = np.where(small < 0.15, 0.3, 0.9) + rng.normal(0, 0.01, 200)
    rows = what_the_worst_share(scored, {"noise": rng.uniform(0, 1, 200), "foreground share": small})
    assert rows[0][0] == "foreground share" and rows[0][1] < rows[0][2]
