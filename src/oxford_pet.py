"""Download and load Oxford-IIIT Pet.

    python src/oxford_pet.py                     # download 800 MB into dataset/oxford-iiit-pet
    python src/oxford_pet.py --data_path ~/pets  # or into another folder

Parkhi et al., "Cats and Dogs", CVPR 2012.
"""

if __name__ == "__main__":
    import startup  # noqa: F401  # before torch is imported

from functools import partial
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cache import PackedDataset, pack
from files import read_lines
from pairs import Pair, read_pair
from photos.decode import ImageError, decode
from splits import SPLITS, DataOptions, names_of_split
from utils import Parser, UserError, run, user_path

DATA_PATH = Path("dataset/oxford-iiit-pet")


def find_data_path() -> Path:
    """Return the first folder with the dataset: DATA_PATH, dataset/, or either one next to src/; else DATA_PATH."""
    root = Path(__file__).resolve().parents[1]
    places = (DATA_PATH, DATA_PATH.parent, root / DATA_PATH, root / DATA_PATH.parent)
    return next(filter(has_layout, places), DATA_PATH)


def part_of(data_path: Path, name: str) -> Path:
    """Return the path of images/ or annotations/; copies on Kaggle nest them (images/images/)."""
    nested = data_path / name / name
    return nested if nested.is_dir() else data_path / name


def load_dataset(options: DataOptions, split: str) -> PackedDataset:
    """Load a split. Raises UserError that names the missing or broken files."""
    path = options.folder
    images, trimaps = part_of(path, "images"), part_of(path, "annotations") / "trimaps"

    def find(text):  # NAME or .../images/NAME
        name = text.rpartition("images/")[2]
        return name if "/" not in name and (images / f"{name}.jpg").is_file() else None

    names = names_of_split(options, split, lambda part, lists: split_names(path, part), find)
    names = names[: options.limit]
    pairs = [Pair(name, images / f"{name}.jpg", trimaps / f"{name}.png") for name in names]
    read = partial(read_pair, read_label=read_trimap, root=path)
    packed = pack(pairs, read, split, options)
    mask_of = partial(trimap_to_mask, border=options.border)
    return PackedDataset(packed, pairs, read_trimap, mask_of)


def split_names(data_path: Path, split: str) -> list[str]:
    """Return a split's official names: "valid" is every tenth of "trainval". Raises UserError."""
    listing = part_of(data_path, "annotations") / ("test.txt" if split == "test" else "trainval.txt")
    try:
        names = [line.split()[0] for line in read_lines(listing)]
    except (OSError, UnicodeDecodeError):
        advice = "run python src/oxford_pet.py to download the pets, or pass --data_path"
        raise UserError(f"{listing} is missing or not a text file; {advice}") from None
    if split == "valid":
        names = names[::10]
    if split == "train":
        del names[::10]
    return names


def has_layout(data_path: Path) -> bool:
    """Check whether a folder contains the dataset."""
    annotations = part_of(data_path, "annotations")
    return any((annotations / name).exists() for name in ("trimaps", "trainval.txt", "test.txt"))


def read_trimap(path: Path, page: int = 0) -> Image.Image:
    """Read a trimap as a PIL image of mode L: 1 pet, 2 background, 3 border. Raises ImageError."""
    trimap = decode(path)
    pixels = np.asarray(trimap)
    if trimap.mode not in ("L", "P", "1") or not np.isin(pixels, (1, 2, 3)).all():
        values = np.unique(pixels)[:5].tolist()
        raise ImageError(f"has mode {trimap.mode} and the values {values}, not gray levels 1, 2 and 3")
    return Image.fromarray(pixels)


def trimap_to_mask(trimap: torch.Tensor, border: str) -> torch.Tensor:
    """Convert a trimap, uint8 of any shape, to a mask of 0, 1, 255. border: one of BORDERS."""
    if border == "foreground":
        return (trimap != 2).view(torch.uint8)
    mask = (trimap == 1).view(torch.uint8)
    return mask if border == "background" else mask + 255 * (trimap == 3).view(torch.uint8)


def download(data_path: Path):
    """Download, verify and extract the official archives. Raises UserError."""
    from torchvision.datasets import OxfordIIITPet
    from torchvision.datasets.utils import download_and_extract_archive

    for url, md5 in OxfordIIITPet._RESOURCES:
        print(f"{url} -> {data_path}", flush=True)
        try:
            download_and_extract_archive(url, data_path, md5=md5)
        except (OSError, RuntimeError, ValueError, EOFError, HTTPException) as error:
            advice = f"run the command again, or first copy images.tar.gz and annotations.tar.gz into {data_path}"
            raise UserError(f"downloading or extracting {url} failed ({error!r}); {advice}") from None


def main():
    parser = Parser(__doc__)
    parser.add_argument("--data_path", type=user_path, default=DATA_PATH, help="target folder; default %(default)s")
    args = parser.parse_args()
    download(args.data_path)
    for split in SPLITS:
        print(f"{split}: {len(split_names(args.data_path, split)):,} images in {args.data_path}")


if __name__ == "__main__":
    run(main)
