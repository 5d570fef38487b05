"""Augment batches of images and masks on the device, each image with its own random parameters.

All geometry is one grid sample; all color is one matrix per image. Pixels outside an image get its mean color, and
255 (ignored) in the mask.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F

from runtime import copy_to

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in gray (ITU-R BT.601)


@dataclass
class Strength:
    """Range of each effect, in both directions: uniform, log-uniform (scale, aspect) or Gaussian (elastic)."""

    flip_horizontal: bool = False
    flip_vertical: bool = False
    rotation: float = 0.0  # degrees
    scale: tuple = (1.0, 1.0)  # visible fraction of the size: below 1 crops
    aspect: float = 1.0  # largest ratio of the scales of width and height
    shift: float = 0.0  # fraction of the size
    color: float = 0.0  # largest relative change of brightness, contrast and saturation
    elastic: float = 0.0  # standard deviation of 3x3 displacements, fraction of the size
    growth: float = 0.0  # epochs (by images seen) over which everything but the flips ramps up

    def after(self, epochs: float) -> "Strength":
        """Return the ranges after `epochs` epochs."""
        grown = min(1.0, epochs / self.growth) if self.growth else 1.0
        linear = ("rotation", "shift", "color", "elastic")
        ranges: dict = {name: grown * getattr(self, name) for name in linear}
        scale = tuple(limit**grown for limit in self.scale)
        return replace(self, **ranges, scale=scale, aspect=self.aspect**grown, growth=0.0)


AUGMENTS = {
    "none": Strength(),
    "flips": Strength(flip_horizontal=True, flip_vertical=True),
    "light": Strength(True, rotation=20, scale=(0.8, 1.0), shift=0.1, color=0.2),
    # scale: Ghiasi et al., "Simple Copy-Paste", CVPR 2021, section 3
    # growth: a network does not overfit in its first epochs (benchmarks/README.md)
    "scale_jitter": Strength(True, rotation=20, scale=(0.65, 1.5), aspect=1.2, shift=0.1, color=0.2, growth=10),
    # elastic: 10 of the paper's 512 pixels (Ronneberger et al. 2015, section 3.1)
    "full": Strength(True, rotation=30, scale=(0.6, 1.6), aspect=1.25, shift=0.15, color=0.4, elastic=10 / 512),
}


def normalize(image: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """Divide images (N, C, H, W) by 255, and normalize each channel: float32."""
    means = constant(tuple(mean), image.device).view(-1, 1, 1)
    stds = constant(tuple(std), image.device).view(-1, 1, 1)
    return (image.float() / 255 - means) / stds


@lru_cache
@torch.inference_mode(False)
def constant(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Copy values to a device once, as float32, because a copy waits for the GPU."""
    return torch.tensor(values, device=device)


def random_params(n: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draw random parameters for n images, on the CPU."""
    return {
        "uniform": torch.rand(n, 10, generator=generator),  # flips, rotation, scale, shifts, color (3), aspect
        "normal": torch.randn(n, 2, 3, 3, generator=generator),  # elastic
    }


def augment(image, mask, strength: Strength, params: dict) -> tuple:
    """Augment uint8 images (N, C, H, W) to float32 in [0, 255], and uint8 masks (N, 1, H, W) of 0, 1, 255."""
    image = image.float()
    if strength.color:
        image = jitter_color(image, 1 + strength.color * (2 * params["uniform"][:, 6:9] - 1))
    if replace(strength, color=0.0) != Strength():
        image, mask = warp(image, mask, sampling_grid(image, strength, params))
    return image, mask


def sampling_grid(image, strength, params):
    """Return each pixel's position in the source, (N, H, W, 2), whose edges are at -1 and 1."""
    n, _, height, width = image.shape
    flip_x, flip_y, rotation, log_scale, shift_x, shift_y, *_, aspect = params["uniform"].unbind(1)
    angle = (2 * rotation - 1) * math.radians(strength.rotation)
    smallest, largest = strength.scale
    scale = smallest * (largest / smallest) ** log_scale
    cos, sin = angle.cos() * scale, angle.sin() * scale
    wider = strength.aspect ** (aspect - 0.5)
    taller = 1 / wider
    if strength.flip_horizontal:
        wider = torch.where(flip_x < 0.5, -wider, wider)
    if strength.flip_vertical:
        taller = torch.where(flip_y < 0.5, -taller, taller)
    shift_x = (2 * shift_x - 1) * 2 * strength.shift
    shift_y = (2 * shift_y - 1) * 2 * strength.shift
    ratio = width / height  # so that a rotation does not shear
    x = torch.stack([cos * wider, -sin / ratio * taller, shift_x], dim=1)
    y = torch.stack([sin * ratio * wider, cos * taller, shift_y], dim=1)
    theta = copy_to(torch.stack([x, y], dim=1), image.device)
    grid = F.affine_grid(theta, (n, 1, height, width), align_corners=False)
    if strength.elastic:
        coarse = copy_to(params["normal"], image.device) * 2 * strength.elastic
        fine = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
        grid = grid + fine.permute(0, 2, 3, 1)
    return grid


def warp(image, mask, grid):
    """Sample images (float) bilinearly and masks (uint8) by majority, at `grid`."""
    mean = image.mean((2, 3), keepdim=True)
    target, known = (mask == 1).float(), (mask != 255).float()
    stacked = torch.cat([image - mean, target, known], dim=1)  # outside: mean color, ignored
    stacked = F.grid_sample(stacked, grid, align_corners=False)
    image, target, known = stacked.split([image.shape[1], 1, 1], dim=1)
    mask = (target >= known / 2).to(torch.uint8)
    return image + mean, mask.masked_fill_(known < 0.5, 255)


def jitter_color(image, factors):
    """Scale each image's brightness, contrast and saturation by its factors (N, 3)."""
    n, channels = image.shape[:2]
    brightness, contrast, saturation = copy_to(factors, image.device).T.reshape(3, n, 1, 1)
    gray = constant(LUMA if channels == 3 else (1.0,), image.device)
    identity = torch.eye(channels, device=image.device)
    matrix = brightness * contrast * (saturation * identity + (1 - saturation) * gray)
    mean_gray = (image.mean((2, 3)) @ gray).view(n, 1, 1)
    offset = brightness * (1 - contrast) * mean_gray
    return torch.baddbmm(offset, matrix, image.flatten(2)).view_as(image).clamp_(0, 255)
