"""Any picture to the probability of foreground at its own size, for the commands and for a notebook."""

import os
from collections.abc import Sequence
from dataclasses import replace
from operator import index

import numpy as np
import torch
from PIL import Image

from photos.pictures import develop, on_white, read_picture, resize
from predictor import Predictor, load_predictor
from runtime import choose_runtime
from utils import LARGEST_SIDE, to_size

ACCEPTED = "a path, a PIL picture, an array of uint8 (H, W), (H, W, 3) or (H, W, 4), or a list of these"


def predict(model: Predictor, pictures, image_size: int | None = None, tile: int | None = None, tta: bool = False):
    """The probability of foreground for each pixel of each picture.

    | pictures | how it is read |
    |---|---|
    | path: str or pathlib.Path | upright as its EXIF says, colours as sRGB, transparency on white |
    | open binary file | as a path |
    | PIL picture of any mode | as a path |
    | array uint8 (H, W) | grey |
    | array uint8 (H, W, 3) | RGB |
    | array uint8 (H, W, 4) | RGBA, transparency on white |
    | list or tuple of these, of any sizes | each of them |

    image_size: side of the network's input, by default the checkpoint's. tile: see `tile_probability`. tta: average
    with the mirror image.

    Returns a float32 array (H, W) in [0, 1]; for a list or tuple, a list of them. Raises PictureError for a file that
    cannot be read, TypeError or ValueError for anything that is not in the table.
    """
    size = model.size if image_size is None else whole_number("image_size", image_size)
    tile = None if tile is None else whole_number("tile", tile)
    model = replace(model, size=size, tta=tta)
    if isinstance(pictures, (list, tuple)):
        return [probability_at_own_size(model, open_photo(picture), tile).numpy() for picture in pictures]
    return probability_at_own_size(model, open_photo(pictures), tile).numpy()


def whole_number(name, value):
    """The value as an int, if it is a side in pixels."""
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None
    if isinstance(value, bool) or not 1 <= number <= LARGEST_SIDE:
        raise ValueError(f"{name} must be from 1 to {LARGEST_SIDE:,} pixels, not {value!r}")
    return number


def open_photo(picture, keep_alpha: bool = False) -> Image.Image:
    """One picture of `predict`'s table as a PIL picture in mode RGB; with keep_alpha, RGBA if it has transparency."""
    if isinstance(picture, Image.Image):
        if min(picture.size) == 0:
            raise ValueError(f"a picture must have pixels, not {picture.width}x{picture.height}")
        return develop(picture, keep_alpha)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,), (4,)):
            raise ValueError(
                f"an array must be uint8 (H, W), (H, W, 3) or (H, W, 4), not {picture.dtype} {picture.shape}"
            )
        if picture.size == 0:
            raise ValueError(f"an array must have pixels, not {picture.shape}")
        return develop(Image.fromarray(np.ascontiguousarray(picture)), keep_alpha)
    if isinstance(picture, (str, os.PathLike)) or (hasattr(picture, "read") and hasattr(picture, "seek")):
        return read_picture(picture, keep_alpha)
    raise TypeError(f"a picture must be {ACCEPTED}, not {type(picture).__name__}")


def to_input(model: Predictor, photo: Image.Image) -> torch.Tensor:
    """A PIL picture as uint8 (C, S, S): what the network takes."""
    photo = on_white(photo)
    pixels = np.array(resize(photo.convert("L") if model.channels == 1 else photo, model.size))
    return torch.from_numpy(pixels.reshape(model.size, model.size, -1)).permute(2, 0, 1)


def probability_of(model: Predictor, images: Sequence[torch.Tensor]) -> torch.Tensor:
    """uint8 (C, S, S) each, as probability float32 (N, S, S) on the CPU."""
    return model.probability(torch.stack(list(images)))[:, 0].cpu()


def probability_at_own_size(model: Predictor, photo: Image.Image, tile: int | None = None) -> torch.Tensor:
    """Probability float32 (H, W) of the photo's own size."""
    if tile:
        return tile_probability(model, photo, tile)
    return to_size(probability_of(model, [to_input(model, photo)])[0], photo.size)


def tile_probability(model: Predictor, photo: Image.Image, tile: int) -> torch.Tensor:
    """Predict a big photo in squares of `tile` x `tile` of its own pixels, half overlapping, and blend them."""
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
    """Where tiles begin along a side: half a tile apart, the last one ending at the edge."""
    last = max(0, length - tile)
    return [*range(0, last, max(1, tile // 2)), last]


def load_model(path, device="auto", precision="auto", model_type=None) -> Predictor:
    """Open a checkpoint of train.py, or a state_dict of the network `model_type`, for `predict`. Raises UserError."""
    return load_predictor(path, choose_runtime(device, precision), model_type)
