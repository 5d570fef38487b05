"""Connected pieces of a mask."""

import numpy as np
import pytest
import torch

from photos.pieces import attached, boxes, drop_specks, fill_holes, find_pieces, largest


def mask_of(*rows):
    """Rows of "." and "#" -> bool (H, W)."""
    return torch.tensor([[letter == "#" for letter in row] for row in rows])


SCENE = mask_of(
    "##....#",
    "##...#.",
    "......#",
    "###....",
    "#.#..##",
    "###...#",
)


def flood(mask):
    """Areas by flood fill, pixel by pixel, in descending order."""
    left, areas = set(map(tuple, mask.nonzero().tolist())), []
    while left:
        stack, area = [left.pop()], 0
        while stack:
            y, x = stack.pop()
            area += 1
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            stack += near
        areas.append(area)
    return sorted(areas, reverse=True)


def test_pieces_touch_at_corners():
    assert find_pieces(SCENE).areas.tolist() == [8, 4, 3, 3]
    assert boxes(SCENE, 0) == [(0, 3, 3, 6), (0, 0, 2, 2), (5, 0, 7, 3), (5, 4, 7, 6)]


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_pieces_are_those_of_a_flood_fill(density):
    for seed in range(5):
        mask = torch.rand(17, 23, generator=torch.Generator().manual_seed(seed)) < density
        assert find_pieces(mask).areas.tolist() == flood(mask)
        assert (drop_specks(mask, 0) == mask).all()


def test_a_spiral_is_one_piece():
    y, x = np.mgrid[-60:61, -60:61]
    mask = torch.from_numpy(np.sin(np.hypot(x, y) / 2 - np.arctan2(y, x)) > 0.3)
    assert find_pieces(mask).areas.tolist() == flood(mask)


def test_largest_and_specks():
    assert largest(SCENE).sum() == 8 and largest(SCENE)[3, 0]
    assert drop_specks(SCENE, 4 / 42).sum() == 12
    assert drop_specks(SCENE, 0.9).equal(largest(SCENE))  # never the last piece
    assert boxes(SCENE, 4 / 42) == [(0, 3, 3, 6), (0, 0, 2, 2)]


def test_a_piece_of_half_a_percent_stays_by_default():
    mask = torch.zeros(100, 100, dtype=torch.bool)
    mask[:50, :50] = True
    mask[80:85, 80:90] = True  # 50 of 10,000
    mask[95, 0:40] = True
    assert drop_specks(mask).sum() == 2550


def test_holes():
    filled = fill_holes(SCENE, 2)
    assert filled[4, 1] and filled.sum() == SCENE.sum() + 1
    assert fill_holes(SCENE, 1).equal(SCENE)  # a hole of one pixel is not smaller than one
    assert not fill_holes(mask_of("###", "#.."), 10)[1, 1]  # open at the picture's edge


def test_attached():
    core = torch.zeros_like(SCENE)
    core[0, 0] = core[2, 6] = core[2, 2] = True
    assert attached(SCENE, core).sum() == 7


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
@pytest.mark.parametrize("value", [True, False])
def test_empty_full_and_tiny(shape, value):
    mask = torch.full(shape, value)
    for function in (largest, drop_specks, lambda mask: fill_holes(mask, 100)):
        assert function(mask).equal(mask)
    assert boxes(mask) == ([(0, 0, shape[1], shape[0])] if value else [])
