import json
from itertools import product

import pytest
import torch
from conftest import error_of, load_pets, make_checkpoint, make_pets, read_scores, read_table, script
from protocols import boundary_f, contour, dice_of_target, near, tolerance_of

from predictor import load_predictor
from runtime import Runtime
from splits import BORDERS


def test_dice_of_the_target_ignores_false_positives():
    counts = torch.tensor([[6, 0, 2, 9], [6, 9, 2, 0], [0, 5, 0, 9]])
    assert dice_of_target(counts).tolist() == [12 / 14, 12 / 14, 1]


def square(top, left, side=20, size=64):
    mask = torch.zeros(1, 1, size, size, dtype=torch.bool)
    mask[..., top : top + side, left : left + side] = True
    return mask


def test_boundary_f_tolerates_a_shift_of_one_pixel():
    assert tolerance_of(256, 256) == 3 and tolerance_of(480, 854) == 8 and tolerance_of(64, 64) == 1
    target = square(20, 20)
    assert boundary_f(target, target).item() == 1
    assert boundary_f(square(20, 21), target).item() == 1  # within the tolerance of one pixel
    assert 0 < boundary_f(square(20, 23), target).item() < 1  # the upper and lower edges still match
    assert boundary_f(square(2, 2, side=8), target).item() == 0
    nothing = torch.zeros_like(target)
    assert boundary_f(nothing, nothing).item() == 1
    assert boundary_f(nothing, target).item() == boundary_f(target, nothing).item() == 0


def test_a_contour_is_left_above_or_diagonally_above_a_change():
    point = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    point[0, 0, 2, 2] = True
    expected = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]) > 0
    assert torch.equal(contour(point)[0, 0], expected)


def test_near_dilates_by_a_disc():
    point = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    point[0, 0, 4, 4] = True
    y, x = torch.meshgrid(torch.arange(9) - 4, torch.arange(9) - 4, indexing="ij")
    assert torch.equal(near(point, 3)[0, 0], y**2 + x**2 <= 9)


def test_every_row_of_protocols_agrees_with_evaluate(tmp_path):
    pets = make_pets(tmp_path / "pets", 10, 6)
    predictor = load_predictor(make_checkpoint(tmp_path / "a.pth", threshold=0.45), Runtime())
    flags = ("--model", "a.pth", "--data_path", pets, "--batch_size", 4)
    out = script("protocols", *flags, "--output", "out", cwd=tmp_path).stdout
    assert "32x32" in out and "segmentation_models.pytorch" not in out  # whose scores are for 256x256
    rows = {}
    for row in json.loads((tmp_path / "out.json").read_text()):
        rows[row["border"], row["size"], row["average"], row["pixels"], row["threshold"]] = row
    assert len(rows) == len(read_table(tmp_path / "out.csv")) == 2 * (3 * 2 * 2 + 1)  # the last: the target's pixels
    assert len({round(row["dice"], 6) for row in rows.values()}) > 20  # most rows differ
    for border, size, value in product(BORDERS, ("network", "original"), (0.5, 0.45)):
        protocol = ("--border", border, "--threshold", value, *["--original_size"] * (size == "original"))
        script("evaluate", *flags, *protocol, "--output", "plain", cwd=tmp_path)
        plain = read_scores(tmp_path, "plain")
        mean, pooled = (rows[border, size, average, "all", value] for average in ("image", "pooled"))
        assert (mean["dice"], mean["iou"]) == pytest.approx((plain["dice"], plain["jaccard"]), abs=1e-9)
        dice = plain["pooled_dice"]
        assert (pooled["dice"], pooled["iou"]) == pytest.approx((dice, dice / (2 - dice)), abs=1e-9)
    images = load_pets(pets, "test", 32, border="ignore")[list(range(6))]
    for border, target in (("foreground", images["mask"] != 0), ("background", images["mask"] == 1)):
        contours = boundary_f(predictor.probability(images["image"]) >= 0.5, target)
        found = rows[border, "network", "image", "all", 0.5]["boundary"]
        assert found == pytest.approx(contours.mean().item(), abs=1e-6)
    assert "--border" in error_of(script("protocols", *flags, "--border", "ignore", cwd=tmp_path, expect=2))
    torch.save({**torch.load(tmp_path / "a.pth", weights_only=True), "dataset": "shapes"}, tmp_path / "b.pth")
    assert "b.pth" in error_of(script("protocols", "--model", "b.pth", cwd=tmp_path, expect=2))
