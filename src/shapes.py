"""Synthetic shapes: images of discs with their masks, generated from a seed.

Discs with random positions, radii and gray levels (or hues) are drawn over one another, Gaussian
noise is added, and the result is scaled to the full range. The mask is the union of the discs.
"""

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from splits import SPLITS, DataOptions, names_of_split

LENGTHS = {"train": 8000, "valid": 100, "test": 200}


def draw(rng, height, width, count=12, sigma=20, gray=False):
    """Draw one image of `count` discs with a NumPy Generator.

    sigma: standard deviation of the noise. Radii are 5 to 50 pixels at a size of 128. Returns the image,
    uint8 (H, W) if gray else (H, W, 3), and the mask, uint8 (H, W) of 0 and 1.
    """
    scale = min(height, width) / 128
    margin = round(12 * scale)
    y, x = np.mgrid[:height, :width]
    image = np.ones((height, width, 1 if gray else 3))
    mask = np.zeros((height, width), dtype=np.uint8)
    for _ in range(count):
        row, column = rng.integers(margin, height - margin), rng.integers(margin, width - margin)
        radius = rng.uniform(5, 50) * scale
        level = rng.uniform(1, 255)
        inside = (y - row) ** 2 + (x - column) ** 2 < radius**2
        angle = 2 * np.pi * (level / 255 + np.array([0, 1 / 3, 2 / 3]))  # on the color wheel
        image[inside] = level if gray else 150 + 105 * np.cos(angle)  # no hue is black
        mask[inside] = 1
    image += rng.normal(scale=sigma, size=image.shape)
    image -= image.min()
    image *= 255 / image.max()
    return np.squeeze(image.round().astype(np.uint8)), mask


class Shapes(Dataset):
    """Synthetic images; the same name always gives the same image. Items are as in cache.PackedDataset."""

    def __init__(self, names, size, gray):
        self.names = self.identities = names
        self.size, self.gray = size, gray

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        if isinstance(index, list):
            return default_collate([self[i] for i in index])
        name = self.names[index]
        split, _, number = name.partition("_")
        rng = np.random.default_rng([0, SPLITS.index(split), int(number)])
        image, mask = draw(rng, self.size, self.size, gray=self.gray)
        pixels = torch.from_numpy(image.reshape(self.size, self.size, -1)).permute(2, 0, 1)
        return {"image": pixels.contiguous(), "mask": torch.from_numpy(mask)[None], "name": name}

    __getitems__ = __getitem__

    def to(self, device):
        """Return the dataset unchanged: images are drawn on the CPU."""
        return self

    def original_size(self, name: str) -> tuple[int, int]:
        return self.size, self.size

    def original_mask(self, name: str) -> torch.Tensor:
        return self[self.names.index(name)]["mask"]


def load_dataset(options: DataOptions, split: str) -> Shapes:
    """Load a split; path, border and cache_dir have no effect."""
    names = {}
    for part, length in LENGTHS.items():
        names[part] = [f"{part}_{index}" for index in range(length)]
    names["trainval"] = names["train"] + names["valid"]
    every = {name: name for name in names["trainval"] + names["test"]}
    found = names_of_split(options, split, lambda part, lists: names[part], every.get)
    return Shapes(found[: options.limit], options.image_size, options.gray)
