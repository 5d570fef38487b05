"""Connected components of a mask."""

import torch

from photos.components import attached, drop_small, fill_holes, label


def mask_of(*rows):
    """Convert rows of "." and "#" to bool (H, W)."""
    return torch.tensor([[letter == "#" for letter in row] for row in rows])


SCENE = mask_of(
    "##....#",
    "##...#.",
    "......#",
    "###....",
    "#.#..##",
    "###...#",
)


def test_pixels_that_touch_at_corners_are_connected():
    assert sorted(label(SCENE)[1][1:].tolist(), reverse=True) == [8, 4, 3, 3]


def test_small_components_are_dropped_but_never_the_largest():
    largest = drop_small(SCENE, 1)
    assert largest.sum() == 8 and largest[3, 0]
    assert drop_small(SCENE, 4 / 42).sum() == 12
    assert drop_small(SCENE, 0.9).equal(largest)  # the largest always stays
    mask = torch.zeros(100, 100, dtype=torch.bool)
    mask[:50, :50] = True
    mask[80:85, 80:90] = True  # 50 of 10,000 pixels are not small by default
    mask[95, 0:40] = True
    assert drop_small(mask).sum() == 2550


def test_holes_below_the_area_are_filled():
    filled = fill_holes(SCENE, 2)
    assert filled[4, 1] and filled.sum() == SCENE.sum() + 1
    assert fill_holes(SCENE, 1).equal(SCENE)  # a hole of one pixel is not below an area of one
    assert not fill_holes(mask_of("###", "#.."), 10)[1, 1]  # open at the edge of the image


def test_attached_keeps_the_components_that_touch_the_core():
    core = torch.zeros_like(SCENE)
    core[0, 0] = core[2, 6] = core[2, 2] = True
    assert attached(SCENE, core).sum() == 7
