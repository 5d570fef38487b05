"""Augmentation: a uint8 batch to a float batch, on the device, image and mask together, each image with its own params.

All geometry (flips, rotation, scale, shift, elastic deformation) is one grid sample of image and mask; all color is one
matrix per image. Pixels outside an image get its mean color and are ignored (255) in the mask.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in gray (ITU-R BT.601)


@dataclass
class Strength:
    """The range of each effect. Every image draws its own params, uniformly unless noted otherwise."""

    flip_horizontal: bool = False
    flip_vertical: bool = False
    rotation: float = 0.0  # degrees, either way
    scale: tuple = (1.0, 1.0)  # fraction of the side that is seen: below 1 crops, above 1 shrinks; log-uniform
    aspect: float = 1.0  # largest ratio of the two sides' scales, either way, log-uniform
    shift: float = 0.0  # fraction of the side, either way
    color: float = 0.0  # brightness, contrast and saturation, as a fraction either way
    elastic: float = 0.0  # standard deviation of a 3x3 grid of displacements, as a fraction of the side
    growth: float = 0.0  # epochs in which all but the flips grow from nothing to these ranges

    def after(self, epochs: float) -> "Strength":
        """Return the ranges after `epochs` epochs of training."""
        grown = min(1.0, epochs / self.growth) if self.growth else 1.0
        linear = {name: grown * getattr(self, name) for name in ("rotation", "shift", "color", "elastic")}
        scale = tuple(limit**grown for limit in self.scale)
        return replace(self, **linear, scale=scale, aspect=self.aspect**grown, growth=0.0)


AUGMENTS = {
    "none": Strength(),
    "flips": Strength(flip_horizontal=True, flip_vertical=True),
    "light": Strength(True, rotation=20, scale=(0.8, 1.0), shift=0.1, color=0.2),
    # large on both sides of 1 (Ghiasi et al., "Simple Copy-Paste", CVPR 2021, section 3); it grows, because a network
    # does not overfit yet in its first epochs (benchmarks/README.md)
    "scale_jitter": Strength(True, rotation=20, scale=(0.65, 1.5), aspect=1.2, shift=0.1, color=0.2, growth=10),
    # elastic: 10 of the paper's 512 pixels (Ronneberger et al. 2015, section 3.1)
    "full": Strength(True, rotation=30, scale=(0.6, 1.6), aspect=1.25, shift=0.15, color=0.4, elastic=10 / 512),
}


def to_float(image: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """Normalize uint8 (N, C, H, W) to float32: divide by 255, subtract the channels' mean, divide by their std."""
    shift, scale = (constant(tuple(values), image.device).view(1, -1, 1, 1) for values in (mean, std))
    return (image.float() / 255 - shift) / scale


@lru_cache
@torch.inference_mode(False)
def constant(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Make a float32 tensor that is copied to a device only once, because each copy would wait for a GPU."""
    return torch.tensor(values, device=device)


def random_params(n: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draw the random params of n images, tensors (n, ...), from a generator on the CPU."""
    return {
        "uniform": torch.rand(n, 10, generator=generator),  # flips 2, rotation, scale, shift 2, color 3, aspect
        "normal": torch.randn(n, 2, 3, 3, generator=generator),  # elastic
    }


def augment(image: torch.Tensor, mask: torch.Tensor, strength: Strength, params: dict) -> tuple:
    """Augment uint8 images (N, C, H, W), masks (N, 1, H, W): images float32 in [0, 255], masks uint8 of 0, 1, 255."""
    image = image.float()
    if strength.color:
        image = jitter_color(image, 1 + strength.color * (2 * params["uniform"][:, 6:9] - 1))
    if replace(strength, color=0.0) != Strength():
        image, mask = warp(image, mask, sampling_grid(image, strength, params))
    return image, mask


def sampling_grid(image, strength, params):
    """Return each pixel's position in the source: (N, H, W, 2), in [-1, 1] across the image."""
    n, _, height, width = image.shape
    uniform = params["uniform"]
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
    rows = [cos * wider, -sin / aspect * taller, shift[:, 0], sin * aspect * wider, cos * taller, shift[:, 1]]
    theta = torch.stack(rows, dim=1).view(n, 2, 3)
    grid = F.affine_grid(theta.to(image.device, non_blocking=True), (n, 1, height, width), align_corners=False)
    if strength.elastic:
        coarse = params["normal"].to(image.device, non_blocking=True) * 2 * strength.elastic
        fine = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
        grid = grid + fine.permute(0, 2, 3, 1)
    return grid


def warp(image, mask, grid):
    """Sample image (float) and mask (uint8) at `grid`, bilinearly; the mask by majority."""
    mean = image.mean((2, 3), keepdim=True)
    target, known = (mask == 1).float(), (mask != 255).float()
    stacked = torch.cat([image - mean, target, known], dim=1)  # outside: mean color, unknown
    stacked = F.grid_sample(stacked, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    image, target, known = stacked.split([image.shape[1], 1, 1], dim=1)
    mask = torch.where(known >= 0.5, (target >= known / 2).to(torch.uint8), 255).to(torch.uint8)
    return image + mean, mask


def jitter_color(image, factors):
    """Scale brightness, contrast and saturation by each image's factors (N, 3): one affine map, one matrix product."""
    n, channels = image.shape[:2]
    brightness, contrast, saturation = factors.to(image.device, non_blocking=True).T.reshape(3, n, 1, 1)
    gray = constant(LUMA if channels == 3 else (1.0,), image.device)
    identity = torch.eye(channels, device=image.device)
    matrix = brightness * contrast * (saturation * identity + (1 - saturation) * gray)
    mean_gray = (image.mean((2, 3)) @ gray).view(n, 1, 1)
    offset = brightness * (1 - contrast) * mean_gray
    return torch.baddbmm(offset, matrix, image.flatten(2)).view_as(image).clamp_(0, 255)
