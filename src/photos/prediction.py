"""From any image to the probability of foreground at its original size, for the commands and for notebooks."""

import os
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral

import numpy as np
import torch
from PIL import Image

from models import MODELS
from photos.decode import ImageError, image_errors, on_white, read_image, to_srgb
from predictor import Predictor, load_predictor
from runtime import PRECISIONS, choose_runtime
from utils import LARGEST_SIDE, to_size

BATCH = 8  # images of a list that are predicted at once


def load_model(path, device="auto", precision="auto", model_type=None) -> Predictor:
    """Load a checkpoint of train.py, or a plain state_dict of the network `model_type`, for `predict`.

    device: "auto", "cpu", "cuda", "cuda:1", ... precision: "auto", "float32", "bfloat16" or "float16". Raises
    ValueError for other arguments, UserError for a file or a device that cannot be used.
    """
    is_device = isinstance(device, (str, torch.device)) and not os.path.isfile(str(device))
    check("path", path, isinstance(path, (str, os.PathLike)), "the path of a checkpoint")
    check("device", device, is_device, '"auto", "cpu", "cuda" or a torch.device, and the path comes first')
    check("precision", precision, precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
    check("model_type", model_type, model_type in (None, *MODELS), f"None or one of {', '.join(MODELS)}")
    return load_predictor(os.path.expanduser(path), choose_runtime(str(device), precision), model_type)


def check(name, value, fits, wanted):
    """Raise ValueError unless an argument is valid."""
    if not fits:
        raise ValueError(f"{name} must be {wanted}, not {value!r:.80}")


def predict(model: Predictor, images, image_size: int | None = None, tile: int | None = None, tta: bool = False):
    """Predict the probability of foreground for each pixel of one or several images.

    | images | read as |
    |---|---|
    | path: str or pathlib.Path | EXIF orientation applied, in sRGB, transparency on white; first page or frame |
    | open binary file | as a path |
    | PIL image of any mode | as a path |
    | array uint8 (H, W) | gray |
    | array uint8 (H, W, 3) | RGB |
    | array uint8 (H, W, 4) | RGBA, transparency on white |
    | list or tuple of these, of any sizes | in batches |

    image_size: side of the network's input, by default the checkpoint's. tile: see `tile_probability`. tta: average
    the predictions for the image and its mirror image.

    Returns a float32 array (H, W) in [0, 1]; for a list or tuple, a list of arrays. Raises ImageError for a file that
    cannot be read, ValueError for anything that is not in the table.
    """
    check("model", model, isinstance(model, Predictor), "what load_model returns, and it comes first")
    for name, value in (("image_size", image_size), ("tile", tile)):
        is_side = isinstance(value, Integral) and not isinstance(value, bool) and 1 <= value <= LARGEST_SIDE
        check(name, value, value is None or is_side, f"a whole number from 1 to {LARGEST_SIDE:,}")
    model = replace(model, size=int(image_size or model.size), tta=tta)
    several = images if isinstance(images, (list, tuple)) else [images]
    results: list[np.ndarray] = []
    for first in range(0, len(several), BATCH):
        batch = several[first : first + BATCH]
        if tile:
            results += [tile_probability(model, read_any(model, image), tile).numpy() for image in batch]
            continue
        photos = (read_any(model, image) for image in batch)  # one in memory at a time
        sizes, inputs = zip(*((photo.size, to_input(model, photo)) for photo in photos), strict=True)
        results += [to_size(*pair).numpy() for pair in zip(probability_of(model, inputs), sizes, strict=True)]
    return results if several is images else results[0]


def intensity_range(model: Predictor) -> list[float] | None:
    """Return the values of deep images that become black and white, if the network was trained on such images."""
    return model.checkpoint.intensity_range if model.checkpoint else None


def read_any(model: Predictor, image) -> Image.Image:
    """Read one image of `predict`'s table as a PIL image of mode RGB."""
    if isinstance(image, np.ndarray):
        fits = image.dtype == np.uint8 and image.ndim > 1 and image.shape[2:] in ((), (3,), (4,)) and image.size
        check("an array", (image.dtype, image.shape), fits, "uint8 (H, W), (H, W, 3) or (H, W, 4), and not empty")
        image = Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, Image.Image):
        check("an image", image.size, min(image.size) > 0, "at least 1x1")
        with image_errors():
            image.load()
            return to_srgb(image, False, intensity_range(model))
    is_file = isinstance(image, (str, os.PathLike)) or (hasattr(image, "read") and hasattr(image, "seek"))
    check("an image", image, is_file, "a path, a PIL image, an array of uint8, or a list of these")
    try:
        return read_image(image, intensity_range=intensity_range(model))
    except ImageError as error:
        raise ImageError(f"{image} {error}") from None


def to_input(model: Predictor, photo: Image.Image) -> torch.Tensor:
    """Convert a PIL image to the network's input, uint8 (C, S, S)."""
    photo = on_white(photo).convert("L" if model.channels == 1 else "RGB")
    pixels = np.array(photo.resize((model.size, model.size), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels.reshape(model.size, model.size, -1)).permute(2, 0, 1)


def probability_of(model: Predictor, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Predict inputs, uint8 (C, S, S) each: the probability of foreground, float32 (N, S, S), on the CPU."""
    return model.probability(torch.stack(list(inputs)))[:, 0].cpu()


def tile_probability(model: Predictor, photo: Image.Image, tile: int) -> torch.Tensor:
    """Predict a large photo in half-overlapping tiles of `tile` x `tile` pixels at full resolution, and blend them."""
    width, height = photo.size
    total, weight = torch.zeros(height, width), torch.zeros(height, width)
    ramp = 1 - (torch.arange(tile) + 0.5 - tile / 2).abs() / (tile / 2)  # highest in the middle of a tile
    window = ramp[:, None] * ramp[None, :]
    for top in starts(height, tile):
        for left in starts(width, tile):
            part = photo.crop((left, top, min(left + tile, width), min(top + tile, height)))
            probability = to_size(probability_of(model, [to_input(model, part)])[0], part.size)
            here = window[: part.height, : part.width]
            total[top : top + part.height, left : left + part.width] += probability * here
            weight[top : top + part.height, left : left + part.width] += here
    return total / weight


def starts(length, tile):
    """Return where tiles begin along a side: half a tile apart, the last one ending at the edge."""
    last = max(0, length - tile)
    return [*range(0, last, max(1, tile // 2)), last]
