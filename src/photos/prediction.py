"""Predict the probability of foreground for any image, at its original size."""

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from photos.colors import on_white
from photos.decode import ImageError, image_errors, read_image, to_srgb
from predictor import Predictor, load_predictor, to_size
from runtime import PRECISIONS, choose_runtime
from utils import UserError

BATCH = 8  # images of a list that are predicted at once


def load_model(path, device="auto", precision="auto", model_type=None) -> Predictor:
    """Load a checkpoint of train.py, or a plain state_dict of the network `model_type`.

    device: "auto", "cpu", "cuda", "cuda:1", ... precision: "auto", "float32", "bfloat16" or
    "float16". Raises UserError for a file or a device that cannot be used.
    """
    check("precision", precision, precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
    return load_predictor(os.path.expanduser(path), choose_runtime(str(device), precision), model_type)


def check(name, value, fits, wanted):
    """Raise ValueError unless an argument fits."""
    if not fits:
        raise ValueError(f"{name} must be {wanted}, not {value!r:.80}")


def predict(model: Predictor, images, image_size: int | None = None, tile: int | None = None, tta: bool = False):
    """Predict each pixel's probability of foreground.

    | images | read as |
    |---|---|
    | path, open binary file (first page), PIL image | EXIF orientation applied, sRGB |
    | array uint8 (H, W) | gray |
    | array uint8 (H, W, 3) or (H, W, 4) | RGB or RGBA |
    | list or tuple of these, of any sizes | in batches |

    Transparent images are put on white. image_size: the network's input size; default: the checkpoint's.
    tile: see `tile_probability`. tta: average the predictions for the image and its mirror image.

    Returns a float32 array (H, W) in [0, 1]; for a list or tuple, a list of arrays. Raises
    ImageError for a file that cannot be read, ValueError for another kind of model or image, UserError for NaN.
    """
    check("model", model, isinstance(model, Predictor), "what load_model returns")
    model = replace(model, size=int(image_size or model.size), tta=tta)
    several = images if isinstance(images, (list, tuple)) else [images]
    results: list[np.ndarray] = []
    for first in range(0, len(several), BATCH):
        sizes, inputs = [], []
        for image in several[first : first + BATCH]:
            try:
                photo = read_any(model, image)
            except ImageError as error:
                raise ImageError(f"{image} {error}") from None
            if tile:
                results.append(tile_probability(model, photo, tile).numpy())
            else:
                sizes.append(photo.size)
                inputs.append(to_input(model, photo))
        if inputs:
            for probability, size in zip(probability_of(model, inputs), sizes, strict=True):
                results.append(to_size(probability, size).numpy())
    return results if several is images else results[0]


def read_any(model: Predictor, image, keep_alpha: bool = False) -> Image.Image:
    """Read as sRGB any image that `predict` accepts; scale high bit depths as in training."""
    values = model.checkpoint.intensity_range if model.checkpoint else None
    if isinstance(image, np.ndarray):
        fits = image.dtype == np.uint8 and image.ndim > 1 and image.shape[2:] in ((), (3,), (4,)) and image.size
        check("an array", (image.dtype, image.shape), fits, "uint8 (H, W), (H, W, 3) or (H, W, 4)")
        image = Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, Image.Image):
        with image_errors():
            image.load()
            return to_srgb(image, keep_alpha, values)
    is_file = isinstance(image, (str, os.PathLike)) or hasattr(image, "read")
    check("an image", image, is_file, "a path, an open file, a PIL image or a uint8 array")
    return read_image(image, keep_alpha, values)


def to_input(model: Predictor, photo: Image.Image) -> torch.Tensor:
    """Convert a PIL image to the network's input, uint8 (C, S, S)."""
    side = model.size
    photo = on_white(photo).convert("L" if len(model.mean) == 1 else "RGB")
    pixels = np.array(photo.resize((side, side), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels.reshape(side, side, -1)).permute(2, 0, 1)


def probability_of(model: Predictor, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Predict the probability, float32 (N, S, S) on the CPU, for N inputs, uint8 (C, S, S)."""
    probability = model.probability(torch.stack(list(inputs)))[:, 0].cpu()
    if not probability.isfinite().all():
        raise UserError("the network outputs NaN; use --precision float32, or another checkpoint")
    return probability


def tile_probability(model: Predictor, photo: Image.Image, tile: int) -> torch.Tensor:
    """Predict a large photo in half-overlapping tiles of tile x tile pixels, and blend them."""
    width, height = photo.size
    total, weight = torch.zeros(height, width), torch.zeros(height, width)
    ramp = 1 - (torch.arange(tile) + 0.5 - tile / 2).abs() / (tile / 2)  # highest in the middle
    window = ramp[:, None] * ramp[None, :]
    for top in starts(height, tile):
        for left in starts(width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            part = photo.crop((left, top, right, bottom))
            probability = probability_of(model, [to_input(model, part)])[0]
            here = window[: part.height, : part.width]
            total[top:bottom, left:right] += to_size(probability, part.size) * here
            weight[top:bottom, left:right] += here
    return total / weight


def starts(length, tile):
    """Return where tiles begin: half a tile apart, the last one ending at the edge."""
    last = max(0, length - tile)
    return [*range(0, last, max(1, tile // 2)), last]
