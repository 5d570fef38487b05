"""A uint8 batch as a float batch, on the device, image and mask together, each picture with its own parameters.

All geometry (flips, rotation, scale, shift, elastic deformation) is one grid sample of the image's
channels and the mask's; all color is one matrix per picture. What a picture does not cover is
filled with its mean color, and ignored (255) in the mask.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601)


@dataclass
class Strength:
    """How far each effect may go; every picture draws its own amounts, uniformly unless said otherwise."""

    flip_horizontal: bool = False
    flip_vertical: bool = False
    rotation: float = 0.0  # degrees, either way
    scale: tuple = (1.0, 1.0)  # share of the side that is seen: below 1 crops, above 1 shrinks; log-uniform
    aspect: float = 1.0  # largest ratio of the two sides' scales, either way, log-uniform
    shift: float = 0.0  # share of the side, either way
    color: float = 0.0  # brightness, contrast and saturation, as a share either way
    elastic: float = 0.0  # standard deviation of a 3x3 grid of displacements, as a share of the side
    growth: float = 0.0  # passes over the pictures in which all but the flips grow from nothing to these amounts

    def after(self, passes: float) -> "Strength":
        """How far each effect may go after so many passes over the training pictures."""
        share = min(1.0, passes / self.growth) if self.growth else 1.0
        return replace(
            self,
            rotation=share * self.rotation,
            scale=tuple(limit**share for limit in self.scale),
            aspect=self.aspect**share,
            shift=share * self.shift,
            color=share * self.color,
            elastic=share * self.elastic,
            growth=0.0,
        )


AUGMENTS = {
    "none": Strength(),
    "flips": Strength(flip_horizontal=True, flip_vertical=True),
    "light": Strength(flip_horizontal=True, rotation=20, scale=(0.8, 1.0), shift=0.1, color=0.2),
    # large on both sides of 1 (Ghiasi et al., "Simple Copy-Paste", CVPR 2021, section 3); it grows, since a network in
    # its first passes does not overfit yet (benchmarks/README.md)
    "scale_jitter": Strength(
        flip_horizontal=True, rotation=20, scale=(0.65, 1.5), aspect=1.2, shift=0.1, color=0.2, growth=10
    ),
    # elastic: 10 of the paper's 512 pixels (Ronneberger et al. 2015, section 3.1)
    "full": Strength(
        flip_horizontal=True, rotation=30, scale=(0.6, 1.6), aspect=1.25, shift=0.15, color=0.4, elastic=10 / 512
    ),
}


def to_float(image: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """uint8 (N, C, H, W) as float32: divided by 255, less the channels' mean, over their std."""
    shift, scale = (constant(tuple(values), image.device).view(1, -1, 1, 1) for values in (mean, std))
    return (image.float() / 255 - shift) / scale


@lru_cache
@torch.inference_mode(False)
def constant(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """A float32 tensor that is copied to a device once: each copy would wait for a GPU."""
    return torch.tensor(values, device=device)


def random_draws(n, generator):
    """The random draws of n pictures, from a generator on the CPU: a dict of tensors (n, ...)."""
    return {
        "uniform": torch.rand(n, 10, generator=generator),  # flips 2, rotation, scale, shift 2, color 3, aspect
        "normal": torch.randn(n, 2, 3, 3, generator=generator),  # elastic
    }


def augment(image, mask, strength, chance):
    """image uint8 (N, C, H, W) and mask uint8 (N, 1, H, W) as image float32 in [0, 255] and mask uint8 of 0, 1, 255.

    chance: what `random_draws` gave for these N pictures.
    """
    image = image.float()
    if strength.color:
        image = jitter_color(image, 1 + strength.color * (2 * chance["uniform"][:, 6:9] - 1))
    if replace(strength, color=0.0) != Strength():
        image, mask = warp(image, mask, sampling_grid(image, strength, chance))
    return image, mask


def sampling_grid(image, strength, chance):
    """For each pixel, where in the source it comes from: (N, H, W, 2), in [-1, 1] across the picture."""
    n, _, height, width = image.shape
    uniform = chance["uniform"]
    signs = torch.where(uniform[:, :2] < 0.5, -1.0, 1.0)
    flip_x = signs[:, 0] if strength.flip_horizontal else torch.ones(n)
    flip_y = signs[:, 1] if strength.flip_vertical else torch.ones(n)
    angle = (2 * uniform[:, 2] - 1) * math.radians(strength.rotation)
    smallest, largest = strength.scale
    scale = smallest * (largest / smallest) ** uniform[:, 3]
    stretch = strength.aspect ** (uniform[:, 9] - 0.5)
    shift = (2 * uniform[:, 4:6] - 1) * 2 * strength.shift
    cos, sin = angle.cos() * scale, angle.sin() * scale
    wider, taller = stretch * flip_x, flip_y / stretch
    aspect = width / height  # so that a rotation turns and does not shear
    theta = torch.stack(
        [
            torch.stack([cos * wider, -sin / aspect * taller, shift[:, 0]], dim=1),
            torch.stack([sin * aspect * wider, cos * taller, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta.to(image.device, non_blocking=True), (n, 1, height, width), align_corners=False)
    if strength.elastic:
        coarse = chance["normal"].to(image.device, non_blocking=True) * 2 * strength.elastic
        fine = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
        grid = grid + fine.permute(0, 2, 3, 1)
    return grid


def warp(image, mask, grid):
    """Sample image (float) and mask (uint8) at `grid`, bilinearly; a mask's pixel is what most of it is."""
    mean = image.mean((2, 3), keepdim=True)
    truth, known = (mask == 1).float(), (mask != 255).float()
    stacked = torch.cat([image - mean, truth, known], dim=1)  # zeros, what lies outside, mean mean color and unknown
    stacked = F.grid_sample(stacked, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    image, truth, known = stacked.split([image.shape[1], 1, 1], dim=1)
    mask = torch.where(known >= 0.5, (truth >= known / 2).to(torch.uint8), 255).to(torch.uint8)
    return image + mean, mask


def jitter_color(image, factors):
    """Scale brightness, contrast (about the mean grey) and saturation by each picture's three factors (N, 3).

    They make one affine map of a pixel's channels, so the three cost one matrix product.
    """
    n, channels = image.shape[:2]
    brightness, contrast, saturation = factors.to(image.device, non_blocking=True).T.reshape(3, n, 1, 1)
    grey = constant(LUMA if channels == 3 else (1.0,), image.device)
    identity = torch.eye(channels, device=image.device)
    matrix = brightness * contrast * (saturation * identity + (1 - saturation) * grey)
    mean_grey = (image.mean((2, 3)) @ grey).view(n, 1, 1)
    offset = brightness * (1 - contrast) * mean_grey
    return torch.baddbmm(offset, matrix, image.flatten(2)).view_as(image).clamp_(0, 255)
