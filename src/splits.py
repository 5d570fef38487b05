"""Which pictures a split of a dataset holds, and how they are read: the options every dataset takes."""

from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "valid", "test")
BORDERS = ("foreground", "background", "ignore")  # what the trimap's border becomes in the mask


@dataclass(frozen=True)
class DataOptions:
    """dataset: its name. path: its folder. image_size: the side of its pictures, in pixels. in_channels: 3, or 1 for
    grey. border: one of BORDERS. limit: use the first so many pictures of a split. cache_dir: where decoded pictures
    are kept, by default `cache` in `path`.
    """

    dataset: str = "pets"
    path: Path | None = None
    image_size: int = 256
    in_channels: int = 3
    border: str = "foreground"
    limit: int | None = None
    cache_dir: Path | None = None

    @property
    def grey(self) -> bool:
        return self.in_channels == 1
