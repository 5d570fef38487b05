import itertools
import re

import numpy as np
import pytest
import torch
from conftest import error_of, make_checkpoint, make_folder, make_pets, script
from PIL import Image

from models import build_model
from report import recipes_of
from reports.page import verdict
from reports.statistics import (
    Result,
    agreement,
    best_median_worst,
    bootstrap,
    breed,
    calibrate,
    calibration_error,
    compare,
    doubtful,
    group_means,
    in_ranges,
    over_seeds,
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
    said = (
        "b has no history",
        "Best valid Dice: a 0.5000",
        "at the last size",
        "sign-flip test",
        "cats",
        "dogs",
    )
    assert all(words in page for words in said)
    assert 'name="viewport"' in page


def test_the_page_of_two_seeds_shows_their_spread_and_doubtful_masks(tmp_path):
    make_pets(tmp_path / "dataset/oxford-iiit-pet", 40, 2)
    about = torch.load(make_checkpoint(tmp_path / "a.pth"), weights_only=True)
    for seed, name in enumerate("ab"):  # of one network, so that the two agree with one another, if not with the masks
        torch.save({**about, "settings": {"seed": seed, "name": name, "width": 4}}, tmp_path / f"{name}.pth")
    script("report", "--model", "a.pth", "b.pth", cwd=tmp_path)
    page = (tmp_path / "report/index.html").read_text()
    seeds = page.partition("<h2>Seeds</h2>")[2].partition("<h2>")[0]
    assert "a, b" in seeds and "0, 1" in seeds and "± 0.0000" in seeds
    assert "a and b have the same Dice on every picture" in page
    assert "Perhaps the truth is wrong" in page and (tmp_path / "report/doubtful.png").exists()
    script("report", "--model", "a.pth", cwd=tmp_path)
    alone = (tmp_path / "report/index.html").read_text()
    parameters = sum(value.numel() for value in build_model("unet", **about["options"]).parameters())
    assert f"<td>{parameters:,}</td>" in alone  # those of the network, not of the one with batch norms folded away
    assert "<h2>Seeds" not in alone and "Perhaps the truth" not in alone


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
    assert "of different pictures" in error_of(done)


def test_pictures_of_other_folders_are_not_compared(tmp_path):
    for index, name in enumerate("AB"):
        make_folder(tmp_path / name, 12 + index)
        (tmp_path / name / "images/0.png").write_bytes((tmp_path / name / "images/0.png").read_bytes() + bytes(index))
        flags = ("--width", 2, "--image_size", 32, "--batch_size", 4, "--steps", 2, "--epochs", 1)
        script("train", "--data_path", name, *flags, "--seed", index, "--name", name.lower(), cwd=tmp_path)
    models = ("--model", "saved_models/a.pth", "saved_models/b.pth", "--split", "train")
    done = script("report", *models, cwd=tmp_path, expect=2)
    assert "checkpoints of different pictures" in error_of(done)
    out = script("evaluate", *models, "--output", "e", cwd=tmp_path).stdout
    assert "train split, of several sets of pictures" in out and "saved_models/b.pth  scored on " in out
    done = script("report", *models, "--data_path", "A", "--image_size", 16, "--tta", cwd=tmp_path)
    page = (tmp_path / "report/index.html").read_text()
    assert "a: 16 pixels, border foreground, predictions averaged with the mirror image" in page
    assert "a: " in done.stdout and "pictures were trained on: the Dice says little about new ones" in page
    assert "By size and position" in page and "breed" not in page and "dogs" not in page and "<h2>Seeds" not in page


def test_a_history_is_not_overwritten_by_scores_and_another_table_is_no_history(pets, tmp_path):
    make_checkpoint(tmp_path / "a.pth")
    (tmp_path / "a.csv").write_text("epoch,valid_dice\n1,.5\n")
    flags = ("--model", "a.pth", "--data_path", pets)
    done = script("evaluate", *flags, "--output", "a", cwd=tmp_path, expect=2)
    assert "a.csv is the history of a.pth; name another file" in error_of(done)
    script("report", *flags, cwd=tmp_path)
    assert "a has no history" in (tmp_path / "report/index.html").read_text()


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


def test_bootstrap_is_near_the_exact_interval():
    values = np.array([0.1, 0.5, 0.6, 0.9])
    means = sorted(sum(picked) / 4 for picked in itertools.product(values.tolist(), repeat=4))  # every resample
    low, high = bootstrap(values)
    assert low == pytest.approx(means[round(0.025 * len(means))], abs=0.026)  # means are up to .025 apart
    assert high == pytest.approx(means[round(0.975 * len(means))], abs=0.026)


def test_paired_test_is_near_the_exact_p():
    first, second = np.array([0.9, 0.8, 0.7, 0.95, 0.6]), np.array([0.8, 0.85, 0.5, 0.9, 0.55])
    differences = (first - second).tolist()
    flips = itertools.product((1, -1), repeat=5)  # every choice of signs
    flipped = [sum(sign * difference for sign, difference in zip(signs, differences, strict=True)) for signs in flips]
    exact = sum(abs(total) >= abs(sum(differences)) - 1e-12 for total in flipped) / 32
    assert 0.1 < exact < 0.5 and paired_test(first, second) == pytest.approx(exact, abs=0.02)


def result_of(dices, label="", bits=None, **scored):
    names = [f"Drawn_{index}" for index in range(len(dices))]
    scored = {name: scored.get("dice", 0.5) for name in ("dice", "jaccard", "accuracy", "precision", "recall")} | scored
    scored = {"pooled_dice": 0.5, **scored}
    return Result(label, 1, names, np.asarray(dices, dtype=float), scored, np.zeros(19), np.zeros((10, 3)), bits, 1.0)


@pytest.mark.parametrize("gap", [0.05, 0.002, -0.002, -0.05])
def test_compare_keeps_the_interval_of_the_difference(gap):
    rng = np.random.default_rng(1)
    first = rng.uniform(0.5, 0.9, 60)
    second = first - gap + rng.normal(0, 0.02, 60)
    a, b = result_of(first, "a"), result_of(second, "b")
    found = compare(a, b)
    better, worse = (a, b) if first.mean() > second.mean() else (b, a)
    low, high = bootstrap(first - second)
    assert (found.better, found.worse) == (better, worse)
    assert (found.low, found.high) == ((low, high) if better is a else (-high, -low))
    assert found.mean == pytest.approx(sum(x - y for x, y in zip(better.dice, worse.dice, strict=True)) / 60)
    assert found.low < found.mean < found.high and found.p == paired_test(first, second)
    assert (found.low < 0) == (abs(gap) < 0.01) == (not found.significant)
    assert found.wins == sum(x > y for x, y in zip(better.dice, worse.dice, strict=True))
    words = verdict(a, b)
    assert f"{found.mean:.4f} Dice on average (95 % interval {found.low:.4f} to {found.high:.4f}" in words
    assert words.startswith(better.label) and ("not significant" in words) == (not found.significant)
    assert (compare(b, a).better, compare(b, a).wins) == (better, found.wins)


def test_equal_results_are_said_to_be_equal():
    same = np.linspace(0.5, 1, 12)
    assert "a and b have the same Dice" in verdict(result_of(same, "a"), result_of(same, "b"))


def test_examples_of_a_split():
    dices = torch.tensor([0.5, 0.9, 0.1, 0.7, 0.3, 0.8])
    assert best_median_worst(dices, best=2, median=2, worst=1) == [
        ("best", 1), ("best", 5), ("median", 0), ("median", 3), ("worst", 2)
    ]  # fmt: skip
    assert best_median_worst([0.5, 0.2]) == [(g, i) for g, i in zip(
        ("best", "best", "median", "median", "worst", "worst"), (0, 1, 1, 0, 1, 0), strict=True)]  # fmt: skip


def test_seeds_of_one_recipe_are_found_and_summed_up():
    def checkpoint(seed, width=4):
        return {"settings": {"seed": seed, "width": width, "name": f"run{seed}", "save_every": (10.0, "minutes")}}

    checkpoints = [checkpoint(0), checkpoint(0, width=8), checkpoint(1), {}, {}, checkpoint(1), checkpoint(2)]
    assert recipes_of(checkpoints) == [[0, 2, 6], [1], [3], [4], [5]]  # the second run of seed 1 is no new one
    spread = over_seeds([result_of([1], dice=value) for value in (0.8, 0.9, 0.85)])["dice"]
    assert (spread.mean, spread.low, spread.high) == pytest.approx((0.85, 0.8, 0.9))
    assert spread.deviation == pytest.approx(0.05)


def test_a_mask_that_all_contradict_is_doubted():
    right, other = np.zeros((3, 16), dtype=bool), np.zeros((3, 16), dtype=bool)
    right[:, :8], other[:, :8] = True, True
    other[1, 4:12] = True  # on this picture they disagree: 8 pixels shared of 8 and 12
    a, b = (np.packbits(bits, axis=1) for bits in (right, other))
    first, second = result_of([0.2, 0.2, 0.95], bits=a), result_of([0.3, 0.3, 0.9], bits=b)
    assert agreement([first, second]).tolist() == [1, 2 * 8 / 20, 1]
    assert doubtful([first, second]) == [0] and doubtful([first]) == []
    empty = result_of([1, 1, 1], bits=np.zeros_like(a))
    assert agreement([empty, empty]).tolist() == [1, 1, 1]


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
