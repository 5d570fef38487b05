import json

import pytest
import torch
from conftest import error_of, load_pets, make_checkpoint, make_pets, read_scores, read_table, script
from protocols import boundary_f, count_images, dice_of_target, near, table_of, tolerance_of
from recount import differences, recount

from data import eval_loader
from predictor import load_predictor
from runtime import Runtime


def test_every_row_matches_a_recount_in_plain_python(tmp_path):
    pets = make_pets(tmp_path / "pets", 10, 6)
    predictor = load_predictor(make_checkpoint(tmp_path / "a.pth", threshold=0.45), Runtime())
    dataset = load_pets(pets, "test", predictor.size, border="ignore")
    rows = table_of(count_images(predictor, eval_loader(dataset, 4), (0.5, 0.45), "count"), predictor.size)
    found = differences(rows, recount(predictor, pets, dataset.names, (0.5, 0.45)))
    assert len(rows) == len(found) == 2 * (3 * 2 * 2 + 1)  # thresholds * (borders * sizes * averages + target's pixels)
    assert max(found.values()) < 1e-6
    assert not any(row.reported for row in rows if row.size == "network")  # it is 32x32, which nobody reports
    assert len({round(row.dice, 6) for row in rows}) > 20  # most rows differ


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


def test_near_dilates_by_a_disc():
    point = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    point[0, 0, 4, 4] = True
    y, x = torch.meshgrid(torch.arange(9) - 4, torch.arange(9) - 4, indexing="ij")
    assert torch.equal(near(point, 3)[0, 0], y**2 + x**2 <= 9)


def test_protocols_writes_tables_and_agrees_with_evaluate(pets, tmp_path):
    make_checkpoint(tmp_path / "a.pth", threshold=0.45)
    flags = ("--model", "a.pth", "--data_path", pets)
    out = script("protocols", *flags, "--output", "out", cwd=tmp_path).stdout
    records = json.loads((tmp_path / "out.json").read_text())
    assert len(read_table(tmp_path / "out.csv")) == len(records) == 26
    assert "32x32" in out and "segmentation_models.pytorch" not in out  # whose scores are for 256x256
    scores = {(r["border"], r["size"], r["average"], r["pixels"], r["threshold"]): r["dice"] for r in records}
    script("evaluate", *flags, "--output", "plain", cwd=tmp_path)
    plain = read_scores(tmp_path, "plain")
    pairs = (("image", 0.5, "dice"), ("pooled", 0.5, "pooled_dice"), ("image", 0.45, "dice_at_threshold"))
    for average, threshold, name in pairs:
        row = scores["foreground", "network", average, "all", threshold]
        assert row == pytest.approx(plain[name], abs=1e-9)
    assert "--border" in error_of(script("protocols", *flags, "--border", "ignore", cwd=tmp_path, expect=2))


def test_protocols_needs_a_checkpoint_of_the_pets(tmp_path):
    checkpoint = torch.load(make_checkpoint(tmp_path / "a.pth"), weights_only=True)
    torch.save({**checkpoint, "dataset": "shapes"}, tmp_path / "b.pth")
    assert "b.pth" in error_of(script("protocols", "--model", "b.pth", cwd=tmp_path, expect=2))
