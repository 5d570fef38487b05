import itertools
import re

import numpy as np
import pytest
import torch
from conftest import error_of, make_checkpoint, make_folder, make_pets, script
from PIL import Image

from checkpoint import Checkpoint
from models import build_model
from report import recipes_of
from reports import statistics
from reports.statistics import best_median_worst, compare, confidence_interval, paired_test, possible_label_errors

FIGURES = ("curves", "histogram", "breeds", "sizes", "thresholds", "examples")


def test_a_report_on_two_checkpoints_is_one_page_with_all_figures(tmp_path):
    pets = make_pets(tmp_path / "pets", 40, 6)
    make_checkpoint(tmp_path / "$a_<b>$.pth")
    make_checkpoint(tmp_path / "b.pth", seed=1, image_size=48)
    header = "epoch,image_size,train_loss,train_dice,valid_loss,valid_dice\n"
    (tmp_path / "$a_<b>$.csv").write_text(header + "1,32,1.0,.5,1.1,.6\n2,64,.9,.6,1.0,.4\n3,64,.9,.6,1.0,.5\n")
    for path in pets.rglob("Drawn_1?.*"):  # a second breed and species
        path.rename(path.with_name(path.name.replace("Drawn", "$sketch_犬$")))
    listing = pets / "annotations/trainval.txt"
    listing.write_text(re.sub(r"Drawn_1(\d) ", r"$sketch_犬$_1\1 ", listing.read_text()))
    done = script("report", "--model", "$a_<b>$.pth", "b.pth", "--data_path", pets, cwd=tmp_path)
    page = (tmp_path / "report/index.html").read_text()
    assert not done.stderr and "<b>" not in page and "$a_&lt;b&gt;$ 0.5000" in page  # best at the largest size
    assert "<script" not in page and "http" not in page.replace("data:image", "")
    assert page.count("data:image/png;base64,") == page.count("<figcaption>") == len(FIGURES)
    for name in FIGURES:
        with Image.open(tmp_path / "report" / f"{name}.png") as figure:
            assert min(figure.size) > 100
    assert all(words in page for words in ("no usable NAME.csv", "permutation test", "cats", "dogs"))


def test_a_report_on_two_seeds_shows_their_spread_and_possible_label_errors(tmp_path):
    pets = make_pets(tmp_path / "pets", 40, 2)
    checkpoint = torch.load(make_checkpoint(tmp_path / "a.pth"), weights_only=True)
    for seed, name in enumerate("ab"):  # the same network, so the two agree with each other but not with the masks
        torch.save({**checkpoint, "settings": {"seed": seed, "name": name, "width": 4}}, tmp_path / f"{name}.pth")
    script("report", "--model", "[ab].pth", "--data_path", pets, cwd=tmp_path)
    page = (tmp_path / "report/index.html").read_text()
    seeds = page.partition("<h2>Seeds</h2>")[2].partition("<h2>")[0]
    assert "a, b" in seeds and "0, 1" in seeds and "± 0.0000" in seeds
    assert "have the same mean Dice" not in page and "Possible label errors" in page  # no comparison of seeds
    assert (tmp_path / "report/label_errors.png").exists()
    script("report", "--model", "a.pth", "--data_path", pets, cwd=tmp_path)
    single = (tmp_path / "report/index.html").read_text()
    parameters = sum(value.numel() for value in build_model("unet", **checkpoint["options"]).parameters())
    assert f"<td>{parameters:,}</td>" in single  # of the network before batch norms are folded
    assert "<h2>Seeds" not in single and "Possible label errors" not in single


@pytest.mark.integration
def test_checkpoints_of_different_folders_need_a_common_data_path(tmp_path):
    for index, name in enumerate("AB"):
        make_folder(tmp_path / name, 12 + index)
        (tmp_path / name / "images/0.png").write_bytes((tmp_path / name / "images/0.png").read_bytes() + bytes(index))
        flags = ("--width", 2, "--image_size", 32, "--batch_size", 4, "--steps", 2, "--epochs", 1)
        foreground = ("--foreground", 255) if index else ()
        run = ("--data_path", name, *foreground, "--seed", index, "--name", name.lower())
        script("train", *run, *flags, cwd=tmp_path)
    models = ("--model", "saved_models/a.pth", "saved_models/b.pth", "--split", "train")
    assert "--data_path" in error_of(script("report", *models, cwd=tmp_path, expect=2))
    out = script("evaluate", *models, cwd=tmp_path).stdout
    assert str(tmp_path / "B") in out
    assert "--foreground" in error_of(script("report", *models, "--data_path", "A", cwd=tmp_path, expect=2))
    done = script("report", *models, "--data_path", "A", *foreground, "--image_size", 16, "--tta", cwd=tmp_path)
    page = (tmp_path / "report/index.html").read_text()
    assert "16×16" in page and "--tta" in page
    assert "used for training" in done.stdout and "used for training" in page
    assert "breed" not in page and "dogs" not in page and "<h2>Seeds" not in page


def test_evaluate_does_not_overwrite_a_history_and_other_tables_are_not_histories(pets, tmp_path):
    make_checkpoint(tmp_path / "a.pth")
    (tmp_path / "a.csv").write_text("epoch,valid_dice\n1,.5\n")
    flags = ("--model", "a.pth", "--data_path", pets)
    done = script("evaluate", *flags, "--output", "a", cwd=tmp_path, expect=2)
    assert "--output" in error_of(done) and "a.csv" in error_of(done)
    done = script("evaluate", *flags, "--output", "a.pth/scores", cwd=tmp_path, expect=2)
    assert "--output a.pth" in error_of(done) and "test split" not in done.stdout  # before any work
    script("report", *flags, "--limit", 1, cwd=tmp_path)
    assert "no usable NAME.csv" in (tmp_path / "report/index.html").read_text()


@pytest.mark.parametrize("n", [3, 30])
def test_the_interval_covers_the_true_mean_in_19_of_20_samples(n):
    samples = np.random.default_rng(0).normal(0.9, 0.05, (1000, n))
    covered = [low <= 0.9 <= high for low, high in map(confidence_interval, samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)
    assert confidence_interval(np.array([0.5])) == (-np.inf, np.inf)


def test_the_paired_test_of_few_images_is_exact():
    differences = [0.1, -0.05, 0.2, 0.05, 0.05]
    flips = itertools.product((1, -1), repeat=5)  # every choice of signs
    flipped = [sum(sign * part for sign, part in zip(signs, differences, strict=True)) for signs in flips]
    exact = sum(abs(total) >= abs(sum(differences)) - 1e-12 for total in flipped) / 32
    assert 0.1 < exact < 0.5 and paired_test(np.array(differences)) == pytest.approx(exact)
    assert paired_test(np.zeros(5)) == paired_test(np.array([0.1])) == 1


def result_of(dices, label="", bits=None):
    names = [f"Drawn_{index}" for index in range(len(dices))]
    dices = np.asarray(dices, dtype=float)
    return statistics.Result(label, 1, names, dices, {}, np.zeros(19), 0.5, dices, bits, 1.0)


def test_compare_gives_the_interval_of_the_paired_difference():
    rng = np.random.default_rng(1)
    first = rng.uniform(0.5, 0.9, 60)
    better, worse = result_of(first), result_of(first - 0.05 + rng.normal(0, 0.02, 60))
    difference = better.dice - worse.dice
    for found in (compare(better, worse), compare(worse, better)):
        assert (found["better"], found["worse"]) == (better, worse)
        assert (found["low"], found["high"]) == confidence_interval(difference)
        assert found["mean"] == pytest.approx(difference.mean()) and found["p"] == paired_test(difference) < 0.05
        assert (found["wins"], found["losses"]) == ((difference > 0).sum(), (difference < 0).sum())


def test_examples_are_chosen_by_dice_even_from_two_images():
    dices = torch.tensor([0.5, 0.9, 0.1, 0.7, 0.3, 0.8])
    assert best_median_worst(dices, best=2, median=2, worst=1) == [
        ("best", 1), ("best", 5), ("median", 0), ("median", 3), ("worst", 2)
    ]  # fmt: skip
    groups = ("best", "best", "median", "median", "worst", "worst")
    assert best_median_worst([0.5, 0.2]) == [*zip(groups, (0, 1, 1, 0, 1, 0), strict=True)]


def test_runs_that_differ_only_in_their_seed_are_grouped():
    def checkpoint(seed, width=4):
        args = {"seed": seed, "width": width, "name": f"run{seed}", "precision": "bfloat16" if seed == 2 else "auto"}
        return Checkpoint({}, "unet", {}, args=args, precision="bfloat16")  # args of a resumed run have its precision

    unknown = Checkpoint({}, "unet", {})
    checkpoints = [checkpoint(0), checkpoint(0, width=8), checkpoint(1), unknown, unknown, checkpoint(1), checkpoint(2)]
    checkpoints.append(Checkpoint({}, "unet", {}, args=checkpoint(3).args, precision="float32"))
    assert recipes_of(checkpoints) == [{0: 0, 1: 2, 2: 6}]  # another run of seed 1 adds nothing


def test_a_mask_that_contradicts_all_networks_is_a_possible_label_error():
    one, other = np.zeros((3, 16), dtype=bool), np.zeros((3, 16), dtype=bool)
    one[:, :8], other[:, :8] = True, True
    other[1, 4:12] = True  # here the two share 8 pixels of 8 and of 12
    a, b = (np.packbits(bits, axis=1) for bits in (one, other))
    first, second = result_of([0.2, 0.2, 0.95], bits=a), result_of([0.3, 0.3, 0.9], bits=b)
    assert statistics.agreement([first, second]).tolist() == [1, 2 * 8 / 20, 1]
    assert possible_label_errors([first, second]) == [0] and possible_label_errors([first]) == []
    empty = result_of([1, 1, 1], bits=np.zeros_like(a))
    assert statistics.agreement([empty, empty]).tolist() == [1, 1, 1]


def test_images_are_grouped_by_breed_species_and_range():
    assert statistics.breed("great_pyrenees_12") == "great pyrenees"
    assert statistics.species("great_pyrenees_12") == "dogs" and statistics.species("Maine_Coon_3") == "cats"
    means = statistics.group_means(np.array([1.0, 0.0, 0.5]), ["a", "b", "b"])
    assert means == {"b": (0.25, 2), "a": (1.0, 1)}
    ranges = statistics.in_ranges(np.array([0.0, 0.1, 0.35, 1.0]), (0, 0.1, 0.5, 1))
    assert ranges == ["0–10%", "10–50%", "10–50%", "50–100%"]
