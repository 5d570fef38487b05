import csv
import json

import pytest
import torch
from conftest import error_of, make_checkpoint, make_pets, script
from recount import differences, recount

from data import eval_loader, load_split
from oxford_pet import truth_of
from predictor import load_predictor
from reports.boundary import boundary_f, contour, near, tolerance_of
from reports.protocols import count_pictures, dice_of_truth, table_of, truth_under
from runtime import Runtime
from splits import BORDERS, DataOptions


def test_every_row_is_that_of_a_plain_recount(tmp_path):
    pets = make_pets(tmp_path / "pets", 10, 6)
    predictor = load_predictor(make_checkpoint(tmp_path / "a.pth", threshold=0.45), Runtime())
    dataset = load_split(DataOptions("pets", pets, predictor.size, border="ignore"), "test")
    rows = table_of(count_pictures(predictor, eval_loader(dataset, 4), (0.5, 0.45), "count"), predictor.size)
    found = differences(rows, recount(predictor, pets, dataset.names, (0.5, 0.45)))
    assert len(rows) == len(found) == 2 * (3 * 2 * 2 + 1)  # thresholds * (borders * sizes * averages + truth's pixels)
    assert max(found.values()) < 1e-6
    assert not any(row.reported for row in rows if row.size == "network")  # it is 32 x 32, and nobody reports that
    assert len({round(row.dice, 6) for row in rows}) > 20  # the rows do differ


def test_the_ignoring_mask_holds_the_other_two():
    trimap = torch.tensor([[1, 2, 3, 1], [3, 3, 2, 2]], dtype=torch.uint8)
    for border in BORDERS:
        assert torch.equal(truth_under(truth_of(trimap, "ignore"), border), truth_of(trimap, border))


def test_the_peers_dice_takes_no_notice_of_false_positives():
    counts = torch.tensor([[6, 0, 2, 9], [6, 9, 2, 0], [0, 5, 0, 9]])
    assert dice_of_truth(counts).tolist() == [12 / 14, 12 / 14, 1]


def square(top, left, side=20, size=64):
    mask = torch.zeros(1, 1, size, size, dtype=torch.bool)
    mask[..., top : top + side, left : left + side] = True
    return mask


def test_boundary_f_of_squares():
    assert tolerance_of(256, 256) == 3 and tolerance_of(480, 854) == 8 and tolerance_of(64, 64) == 1
    truth = square(20, 20)
    assert boundary_f(truth, truth).item() == 1
    assert boundary_f(square(20, 21), truth).item() == 1  # within the tolerance of one pixel
    assert 0 < boundary_f(square(20, 23), truth).item() < 1  # the upper and lower edges still lie on the true ones
    assert boundary_f(square(2, 2, side=8), truth).item() == 0
    nothing = torch.zeros_like(truth)
    assert boundary_f(nothing, nothing).item() == 1
    assert boundary_f(nothing, truth).item() == boundary_f(truth, nothing).item() == 0


def test_a_contour_is_one_pixel_wide_and_a_full_picture_has_none():
    assert contour(square(20, 20)).sum() == 4 * 20
    assert not contour(torch.ones(1, 1, 8, 8, dtype=torch.bool)).any()


def test_near_is_a_disk():
    point = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    point[0, 0, 4, 4] = True
    y, x = torch.meshgrid(torch.arange(9) - 4, torch.arange(9) - 4, indexing="ij")
    assert torch.equal(near(point, 3)[0, 0], y**2 + x**2 <= 9)


def test_the_table_of_evaluate(pets, tmp_path):
    make_checkpoint(tmp_path / "a.pth", threshold=0.45)
    flags = ("--model", "a.pth", "--data_path", pets)
    out = script("evaluate", *flags, "--protocols", "--output", "out", cwd=tmp_path).stdout
    records = json.loads((tmp_path / "out.json").read_text())
    with open(tmp_path / "out.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(records) == 26
    assert ".45, chosen on valid" in out and "tolerance" in out and "32x32" in out
    assert "segmentation_models.pytorch" not in out  # which scores at 256x256
    scores = {(r["border"], r["size"], r["average"], r["pixels"], r["threshold"]): r["dice"] for r in records}
    script("evaluate", *flags, "--output", "plain", cwd=tmp_path)
    plain = json.loads((tmp_path / "plain.json").read_text())[0]
    pairs = (("picture", 0.5, "dice"), ("pooled", 0.5, "pooled_dice"), ("picture", 0.45, "dice_at_threshold"))
    for average, threshold, name in pairs:
        row = scores["foreground", "network", average, "all", threshold]
        assert row == pytest.approx(plain[name], abs=1e-9)


def test_protocols_are_of_the_pets_and_take_no_border(pets, tmp_path):
    about = torch.load(make_checkpoint(tmp_path / "a.pth"), weights_only=True)
    torch.save({**about, "dataset": "shapes"}, tmp_path / "b.pth")
    done = script("evaluate", "--model", "b.pth", "--protocols", cwd=tmp_path, expect=2)
    assert "--protocols" in error_of(done)
    for flags in (("--border", "ignore"), ("--own_size",)):
        more = ("--model", "a.pth", "--data_path", pets, "--protocols", *flags)
        assert "--protocols" in error_of(script("evaluate", *more, cwd=tmp_path, expect=2))
