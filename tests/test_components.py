"""Connected components of a mask."""

import pytest
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


def flood(mask):
    """Return the components' areas by flood fill, pixel by pixel, in descending order."""
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


def areas_of(mask):
    return sorted(label(mask)[1][1:].tolist(), reverse=True)


def test_pixels_that_touch_at_corners_are_connected():
    assert areas_of(SCENE) == [8, 4, 3, 3]


@pytest.mark.parametrize("density", [0.05, 0.5, 0.95])
def test_components_match_a_flood_fill(density):
    for seed in range(3):
        mask = torch.rand(17, 23, generator=torch.Generator().manual_seed(seed)) < density
        assert areas_of(mask) == flood(mask)
        assert (drop_small(mask, 0) == mask).all()


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


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
@pytest.mark.parametrize("value", [True, False])
def test_empty_full_and_tiny_masks_stay_as_they_are(shape, value):
    mask = torch.full(shape, value)
    for function in (drop_small, lambda mask: fill_holes(mask, 100)):
        assert function(mask).equal(mask)
