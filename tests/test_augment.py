import pytest
import torch
import torchvision.transforms.functional as TF
from conftest import load_shapes

from augment import AUGMENTS, Strength, augment, jitter_color, normalize, random_params


def params(n, seed=0):
    return random_params(n, torch.Generator().manual_seed(seed))


@pytest.fixture
def batch():
    items = load_shapes("train", 48)[list(range(6))]
    mask = items["mask"].clone()
    mask[:, :, 10:13] = 255  # an ignored band
    return items["image"], mask


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("level", AUGMENTS)
def test_masks_keep_their_values_and_images_their_range(level, channels, batch):
    images = batch[0][:, :channels]
    image, mask = augment(images, batch[1], AUGMENTS[level], params(6))
    assert image.shape == images.shape and mask.shape == batch[1].shape and mask.dtype == torch.uint8
    assert set(mask.unique().tolist()) <= {0, 1, 255}
    assert image.isfinite().all() and image.min() > -0.01 and image.max() < 255.01


def test_augment_none_changes_nothing(batch):
    image, mask = augment(*batch, AUGMENTS["none"], params(6))
    assert torch.equal(image, batch[0].float()) and torch.equal(mask, batch[1])


@pytest.mark.parametrize("level", ["flips", "light", "scale_jitter", "full"])
def test_a_mask_moves_with_its_image(level, batch):
    """The augmented mask is what augmenting the mask as an image and thresholding it gives."""
    mask = (batch[1] == 1).to(torch.uint8)
    strength = AUGMENTS[level]
    without_color = Strength(**{**vars(strength), "color": 0})
    as_image, moved = augment(mask.repeat(1, 3, 1, 1) * 255, mask, without_color, params(6))
    seen = moved != 255
    near_threshold = (as_image[:, :1] - 127.5).abs() < 0.01
    inside = torch.nn.functional.max_pool2d((~seen).float(), 3, 1, 1) == 0  # the mean color mixes in along the border
    compared = inside & ~near_threshold
    assert compared.float().mean() > 0.5
    assert torch.equal((as_image[:, :1] >= 127.5)[compared], (moved == 1)[compared])


def test_growth_ramps_up_all_parameters_but_the_flips():
    grown = Strength(True, True, 20, (0.64, 1.44), 1.21, 0.1, 0.2, 0.02)
    growing = Strength(True, True, 20, (0.64, 1.44), 1.21, 0.1, 0.2, 0.02, growth=10)
    assert growing.after(0) == Strength(flip_horizontal=True, flip_vertical=True)
    assert growing.after(5) == Strength(True, True, 10, pytest.approx((0.8, 1.2)), pytest.approx(1.1), 0.05, 0.1, 0.01)
    assert growing.after(10) == growing.after(1000) == grown.after(0) == grown


def test_pixels_outside_the_image_are_ignored():
    image, mask = torch.full((4, 3, 64, 64), 200, dtype=torch.uint8), torch.ones(4, 1, 64, 64, dtype=torch.uint8)
    _, rotated = augment(image, mask, Strength(rotation=45, scale=(1.2, 1.3)), params(4, 3))
    assert set(rotated.unique().tolist()) == {1, 255}  # nothing becomes background


def test_flips_are_exact(batch):
    image, mask = augment(*batch, Strength(flip_horizontal=True), params(6))
    flipped = 0
    for new, old, new_mask, old_mask in zip(image, batch[0].float(), mask, batch[1], strict=True):
        is_flipped = not torch.allclose(new, old, atol=0.01)
        flipped += is_flipped
        torch.testing.assert_close(new, old.flip(2) if is_flipped else old, atol=0.01, rtol=0)
        assert torch.equal(new_mask, old_mask.flip(2) if is_flipped else old_mask)
    assert 0 < flipped < len(image)


def test_rotation_does_not_distort_images_that_are_not_square():
    """A disc in a wide image stays a disc: its bounding box stays square."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(128), indexing="ij")
    disc = ((y - 32) ** 2 + (x - 64) ** 2 < 20**2).to(torch.uint8)[None, None].repeat(8, 1, 1, 1)
    _, rotated = augment(disc.repeat(1, 3, 1, 1), disc, Strength(rotation=80), params(8))
    for mask in rotated[:, 0] == 1:
        rows, columns = mask.any(1).sum().item(), mask.any(0).sum().item()
        assert abs(rows - 39) <= 2 and abs(columns - 39) <= 2


def test_each_image_has_its_own_params_in_micro_batches_too(batch):
    same = batch[0][:1].repeat(6, 1, 1, 1), batch[1][:1].repeat(6, 1, 1, 1)
    whole, whole_mask = augment(*same, AUGMENTS["full"], params(6, 5))
    assert all(not torch.allclose(whole[0], other) for other in whole[1:])
    torch.manual_seed(99)
    rows = slice(2, 5)
    own = {name: value[rows] for name, value in params(6, 5).items()}
    part, part_mask = augment(same[0][rows], same[1][rows], AUGMENTS["full"], own)
    torch.testing.assert_close(part, whole[rows])
    assert torch.equal(part_mask, whole_mask[rows])


def test_color_jitter_matches_torchvision():
    image = torch.rand(5, 3, 8, 8) * 0.2 + 0.4  # far from 0 and 1, where torchvision clamps after each step
    factors = torch.rand(5, 3) * 0.4 + 0.8
    found = jitter_color(image * 255, factors) / 255
    for one, result, brightness, contrast, saturation in zip(image, found, *factors.T.tolist(), strict=True):
        expected = TF.adjust_contrast(TF.adjust_saturation(one, saturation), contrast)
        torch.testing.assert_close(result, TF.adjust_brightness(expected, brightness), atol=1e-3, rtol=0)


def test_normalize_subtracts_mean_and_divides_by_mean_and_std():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    scaled = normalize(image, [0.0, 0.2, 0.5], [1.0, 1.0, 0.25]).flatten()
    torch.testing.assert_close(scaled, torch.tensor([0.0, 0.0, 2.0]))
