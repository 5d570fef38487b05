"""Alpha and colors of a cutout: a known alpha is recovered, also in corner cases."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from checkpoint import Checkpoint
from photos import matting
from photos.matting import BORDER, edge_depth, matte
from photos.outputs import Style, cut_out

ORANGE, BLUE, GREEN = (200, 120, 40), (30, 60, 160), (0, 255, 0)


def scene(width=240, height=180, radius=50, hairs=60):
    """Return photo, probability and alpha of an orange disc with hairs on blue. The mask is half a border too wide."""
    scale = 4
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: height * scale, : width * scale]
    x, y = (x + 0.5) / scale - width / 2, (y + 0.5) / scale - height / 2
    away, angle = np.hypot(x, y), np.arctan2(y, x)
    pet = away < radius
    for toward in rng.uniform(-np.pi, np.pi, hairs):
        pet |= (away < radius + 6) & (np.abs(np.sin(angle - toward)) * away < 0.4) & (np.cos(angle - toward) > 0)
    alpha = F.avg_pool2d(torch.from_numpy(pet).float()[None], scale)[0]
    photo = blend(alpha, ORANGE, BLUE)
    border = BORDER * (np.sqrt(np.pi) * radius * max(width, height)) ** 0.5
    depth = radius + border / 2 - torch.from_numpy(np.ascontiguousarray(away)).float()
    return photo, F.avg_pool2d((depth / 2).sigmoid()[None], scale)[0], alpha


def blend(alpha, over, under):
    """Blend two colors by alpha (H, W) into a PIL image."""
    colors = alpha[..., None] * torch.tensor(over) + (1 - alpha[..., None]) * torch.tensor(under)
    return Image.fromarray(colors.round().to(torch.uint8).numpy())


def soft_threshold(probability):
    """Return the alpha of a cutout without matting."""
    return ((probability - 0.5) * 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("size", [768, 120])
def test_a_known_alpha_is_recovered_even_of_single_hairs(monkeypatch, size):
    monkeypatch.setattr(matting, "WORK_SIZE", size)
    photo, probability, target = scene()
    alpha, _ = matte(photo, probability)
    error, before = (alpha - target).abs().sum(), (soft_threshold(probability) - target).abs().sum()
    assert error < before / 4
    assert alpha[target == 1].mean() > 0.98 and alpha[target == 0].mean() < 0.01
    if size == 768:
        hair = (target > 0.1) & (target < 0.9)
        assert torch.corrcoef(torch.stack([alpha[hair], target[hair]]))[0, 1] > 0.9


def test_the_old_background_is_removed_from_the_colors():
    photo, probability, target = scene()
    alpha, foreground = matte(photo, probability)
    edge = (alpha > 0.2) & (alpha < 0.95)
    colors, old = foreground[edge].float(), torch.from_numpy(np.array(photo))[edge].float()
    off = (colors - torch.tensor(ORANGE)).abs().mean()
    assert off < 12 and off < (old - torch.tensor(ORANGE)).abs().mean() / 3
    on_green = np.asarray(cut_out(photo, probability, Style(background=GREEN))).astype(int)
    expected = np.asarray(blend(target, ORANGE, GREEN)).astype(int)
    assert np.abs(on_green - expected).mean() < 1
    assert on_green[edge.numpy()][:, 2].max() < 80  # blue is 160 in the background, 40 in the pet


def test_a_cutout_on_a_background_is_opaque_and_may_be_cropped():
    photo, probability, _ = scene()
    red = Image.new("RGB", (31, 17), (200, 0, 0))
    for background in ("#c80000", (200, 0, 0), red):
        image = cut_out(photo, probability, Style(background=background))
        assert image.mode == "RGB" and image.size == photo.size
        assert image.getpixel((0, 0)) == (200, 0, 0) and image.getpixel((120, 90)) == ORANGE
    left, top, right, bottom = cut_out(photo, probability).getchannel("A").getbbox()
    for background in (None, "white"):
        cropped = cut_out(photo, probability, Style(crop=True, background=background))
        assert cropped.size == (right - left, bottom - top) < photo.size
    assert cut_out(photo, 0 * probability, Style(crop=True)).size == photo.size  # without foreground


def test_small_components_are_dropped_and_small_holes_filled():
    photo, probability, _ = scene()
    probability[2:20, 2:20] = 1  # 0.7% of the image
    probability[168:178, 228:238] = 1  # 0.2%
    probability[88:91, 118:121] = 0.4
    alpha, _ = matte(photo, probability)
    assert alpha[2:20, 2:20].max() > 0.9 and alpha[165:, 225:].max() == 0
    assert alpha[80:100, 110:130].min() == 1


@pytest.mark.parametrize("checkpoint, depth", [
    (Checkpoint({}, "unet", {}), 0.5), (Checkpoint({}, "unet", {}, border="background"), -0.5),
    (Checkpoint({}, "unet", {}, border="ignore"), 0), (Checkpoint({}, "unet", {}, dataset="folder"), 0),
])  # fmt: skip
def test_the_edge_is_inside_the_mask_only_if_borders_were_foreground_in_training(checkpoint, depth):
    assert edge_depth(checkpoint) == depth


def test_thin_objects_of_exact_masks_are_kept():
    exact = torch.zeros(180, 240)
    exact[40:140, 20:120] = exact[40:140, 150:158] = 1
    alpha, _ = matte(blend(exact, ORANGE, BLUE), exact, edge=0.0)
    assert (alpha - exact).abs().mean() < 0.01 and alpha[42:138, 151:157].mean() > 0.95


def test_the_guided_filter_is_exact_for_black_on_white():
    """Without color, three channels are one: the equations of He et al. for gray photos."""
    photo, alpha, _ = scene()
    gray = (torch.from_numpy(np.array(photo.convert("L"))) > 100).double()
    mean, level = (matting.box(values[None], 2)[0].double() for values in (gray, alpha))
    covariance = matting.box((gray * alpha)[None], 2)[0].double() - mean * level
    variance = matting.box((gray * gray)[None], 2)[0].double() - mean**2
    slope = 3 * covariance / (3 * variance + 1e-4)
    expected = matting.box(torch.stack([slope, level - slope * mean]), 2)
    found = matting.guided_filter(gray.float().expand(3, -1, -1), alpha, 2)
    torch.testing.assert_close(found[:3].sum(0), expected[0], rtol=0, atol=2e-4)
    torch.testing.assert_close(found[3], expected[1], rtol=0, atol=2e-4)


@pytest.mark.parametrize("factor", [1, 3])
def test_tiles_do_not_change_the_result(monkeypatch, factor):
    monkeypatch.setattr(matting, "WORK_SIZE", 240 // factor)
    photo, probability, _ = scene()
    monkeypatch.setattr(matting, "TILE", 10**6)
    whole, whole_colors = matte(photo, probability)
    monkeypatch.setattr(matting, "TILE", 7)
    tiled, tiled_colors = matte(photo, probability)
    assert torch.allclose(whole, tiled, atol=1e-5)
    assert (whole_colors.int() - tiled_colors.int()).abs().max() <= 1


@pytest.mark.parametrize("probability", [0.0, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (50, 30), (1000, 3)])
def test_without_an_edge_alpha_is_the_mask_and_colors_are_the_photos(size, probability):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    alpha, foreground = matte(photo, torch.full(size[::-1], probability))
    assert alpha.dtype == torch.float32 and alpha.shape == size[::-1] and (alpha == probability).all()
    assert (foreground.numpy() == np.asarray(photo)).all()


def test_a_photo_of_one_color_gets_alpha_by_depth_in_the_mask():
    _, probability, target = scene(hairs=0)
    photo = Image.new("RGB", (240, 180), BLUE)
    alpha, foreground = matte(photo, probability)
    assert (alpha - target).abs().mean() < 0.02 and alpha[90, 120] == 1 and alpha[0, 0] == 0
    assert (foreground.int() - torch.tensor(BLUE)).abs().max() <= 1


@pytest.mark.integration
def test_closed_form_matting_recovers_alpha():
    pytest.importorskip("pymatting")
    photo, probability, target = scene()
    alpha, _ = matte(photo, probability, closed_form=True)
    assert (alpha - target).abs().sum() < (soft_threshold(probability) - target).abs().sum() / 4
    empty, _ = matte(photo, torch.zeros(180, 240), closed_form=True)
    assert (empty == 0).all()
