"""The built-in set: pictures of drawn discs and their masks, made from a seed; nothing is read from disk.

Each picture: ones; `count` discs of random place, radius and grey level, later ones over earlier
ones; Gaussian noise on every pixel; then shifted and scaled to the full range. The mask is the
union of the discs.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

from splits import SPLITS, DataOptions, names_of_split

LENGTHS = {"train": 8000, "valid": 100, "test": 200}


def draw(rng, height, width, count=12, sigma=20, grey=False, squares=False):
    """Draw one picture from a NumPy Generator.

    sigma: standard deviation of the noise, in grey levels. Radii (5 to 50 pixels) and the distance of
    centres from the edge are those of a 128-pixel picture, and scale with it.
    Returns picture uint8 (H, W) if grey else (H, W, 3), mask uint8 (H, W): 0 background, 1 discs and, with
    `squares`, 2 for count // 2 squares, the harder form.
    """
    scale = min(height, width) / 128
    margin = round(12 * scale)
    y, x = np.mgrid[:height, :width]
    picture = np.ones((height, width, 1 if grey else 3))
    mask = np.zeros((height, width), dtype=np.uint8)
    for kind in [1] * count + [2] * (count // 2 if squares else 0):
        row, column = rng.integers(margin, height - margin), rng.integers(margin, width - margin)
        radius = rng.uniform(5, 50) * scale
        level = rng.uniform(1, 255)
        if kind == 1:
            inside = (y - row) ** 2 + (x - column) ** 2 < radius**2
        else:
            inside = np.maximum(abs(y - row), abs(x - column)) < radius / 2
        picture[inside] = level if grey else color(level)
        mask[inside] = kind
    picture += rng.normal(scale=sigma, size=picture.shape)
    picture -= picture.min()
    picture *= 255 / picture.max()
    return np.squeeze(picture.round().astype(np.uint8)), mask


def color(level):
    """A grey level in [1, 255) to an RGB color: its place on a turn around the color wheel, never black."""
    angle = 2 * np.pi * (level / 255 + np.array([0, 1 / 3, 2 / 3]))
    return 150 + 105 * np.cos(angle)


class Shapes(Dataset):
    """A name's picture is always the same, and no two names share one.

    split: or the names themselves.

    An index gives a dict of `image` (C, S, S) uint8, `mask` (1, S, S) uint8 of 0 and 1, and `name`;
    a list of indices gives the same with a first dimension.
    """

    def __init__(self, split, size=64, grey=False, limit=None, seed=0):
        self.size, self.grey, self.seed = size, grey, seed
        self.names = (own_names(split) if isinstance(split, str) else list(split))[:limit]
        self.identities = self.names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        if isinstance(index, list):
            items = [self[i] for i in index]
            image = torch.stack([item["image"] for item in items])
            mask = torch.stack([item["mask"] for item in items])
            return {"image": image, "mask": mask, "name": [item["name"] for item in items]}
        name = self.names[index]
        split, _, number = name.partition("_")
        rng = np.random.default_rng([self.seed, SPLITS.index(split), int(number)])
        picture, mask = draw(rng, self.size, self.size, grey=self.grey)
        image = torch.from_numpy(picture.reshape(self.size, self.size, -1)).permute(2, 0, 1)
        return {"image": image.contiguous(), "mask": torch.from_numpy(mask)[None], "name": name}

    __getitems__ = __getitem__

    def to(self, device):
        """Itself: pictures are drawn on the CPU."""
        return self

    def original_size(self, name: str) -> tuple[int, int]:
        """(width, height) of a picture."""
        return self.size, self.size

    def original_mask(self, name: str) -> torch.Tensor:
        """The mask of a picture: it has no other size."""
        return self[self.names.index(name)]["mask"]


def own_names(split: str) -> list[str]:
    """The names of a split; "trainval" is train and valid."""
    parts = ("train", "valid") if split == "trainval" else (split,)
    return [f"{part}_{index}" for part in parts for index in range(LENGTHS[part])]


def load_dataset(options: DataOptions, split: str) -> Shapes:
    """The pictures of a split; path, border and cache_dir mean nothing here."""
    every = {name for part in SPLITS for name in own_names(part)}
    names = names_of_split(options, split, own_names, every.__contains__)
    return Shapes(names, options.image_size, options.grey, options.limit)


def has_layout(data_path) -> bool:
    """Whether a folder holds this dataset: none does."""
    return False


def describe(options: DataOptions) -> list[str]:
    """Lines about the data for the start of a run: none."""
    return []
