"""Oxford-IIIT Pet (Parkhi, Vedaldi, Zisserman, Jawahar: "Cats and Dogs", CVPR 2012).

python src/oxford_pet.py                       # download into dataset/oxford-iiit-pet (about 800 MB)
python src/oxford_pet.py --data_path ~/pets    # ... or elsewhere
"""

if __name__ == "__main__":
    import startup  # noqa: F401  # before torch is imported

import os
import shutil
import tarfile
import zlib
from functools import partial
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cache import PackedDataset, Pair, pack, read_labelled
from files import read_names
from photos.pictures import PictureError, decode
from splits import SPLITS, DataOptions, names_of_split
from utils import Parser, UserError, run

DATA_PATH = Path("dataset/oxford-iiit-pet")


def load_dataset(options: DataOptions, split: str) -> PackedDataset:
    """The pictures of a split, the official one unless lists or a fold are given.

    Raises UserError that names what is missing or broken.
    """
    path = options.folder
    names = names_of_split(options, split, partial(split_names, path), partial(is_picture, path))[: options.limit]
    pairs = [Pair(name, picture_path(path, name), trimap_path(path, name)) for name in names]
    packed = pack(pairs, read_pair, split, options.image_size, options.grey, options.cache, path)
    return PackedDataset(packed, pairs, read_trimap, partial(truth_of, border=options.border))


def split_names(data_path: Path, split: str) -> list[str]:
    """Picture names of an official split: test.txt, or trainval.txt cut 9 : 1, every tenth name (0, 10, ...) to valid.

    split: "trainval" is all of trainval.txt.
    """
    listing = data_path / "annotations" / ("test.txt" if split == "test" else "trainval.txt")
    try:
        names = read_names(listing)
    except (OSError, UnicodeDecodeError):
        raise UserError(
            f"{listing} is missing or not a text file; {data_path} must hold images/ and annotations/ "
            f"(python src/oxford_pet.py downloads them), or name another folder with --data_path"
        ) from None
    for name in names:
        if not is_plain(name):
            raise UserError(f"{listing} names {name!r}, which is not a plain file name; remove that line")
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()
    if repeated:
        raise UserError(f"{listing} names {min(repeated)} more than once; remove the repeated line")
    if split in ("train", "valid"):
        names = [name for index, name in enumerate(names) if (index % 10 == 0) == (split == "valid")]
    if not names:
        raise UserError(f"{listing} leaves no picture for the {split} split; add names to it")
    return names


def is_plain(name: str) -> bool:
    """Whether a name leads to no other folder."""
    return name == Path(name).name and not name.startswith(".") and name.isprintable()


def is_picture(data_path: Path, name: str) -> bool:
    """Whether a name of a list is that of a picture here."""
    return is_plain(name) and picture_path(data_path, name).is_file()


def has_layout(data_path: Path) -> bool:
    """Whether a folder is laid out as the pets are."""
    folder = data_path / "annotations"
    return (folder / "trimaps").is_dir() or any((folder / f"{name}.txt").is_file() for name in ("trainval", "test"))


def describe(options: DataOptions) -> list[str]:
    """Lines about the data for the start of a run: none, since everybody's copy is the same."""
    return []


def picture_path(data_path: Path, name: str) -> Path:
    return data_path / "images" / f"{name}.jpg"


def trimap_path(data_path: Path, name: str) -> Path:
    return data_path / "annotations" / "trimaps" / f"{name}.png"


def read_pair(pair: Pair) -> tuple[Image.Image, Image.Image]:
    """A picture (RGB) and its trimap (values 1, 2, 3), of one size. Raises PictureError."""
    return read_labelled(pair, read_trimap, pair.image.parents[1])


def read_trimap(path: Path) -> Image.Image:
    """A PIL picture of mode L, of values 1 (pet), 2 (background), 3 (border). Raises PictureError."""
    trimap = decode(path)
    if trimap.mode not in ("L", "P", "1"):
        raise PictureError(f"is of mode {trimap.mode}, not 8-bit grey")
    pixels = np.asarray(trimap, dtype=np.uint8)
    values = set(np.unique(pixels).tolist())
    if not values <= {1, 2, 3}:
        raise PictureError(f"has values {sorted(values)}, not 1, 2 and 3")
    return Image.fromarray(pixels)


def truth_of(trimap: torch.Tensor, border: str) -> torch.Tensor:
    """A trimap, uint8 of any shape, as a mask of 0, 1, 255 by the rule --border."""
    if border == "foreground":
        return (trimap != 2).view(torch.uint8)
    mask = (trimap == 1).view(torch.uint8)
    return mask if border == "background" else mask + 255 * (trimap == 3).view(torch.uint8)


# ------------------------------------------------------------------------------------ download


def download(data_path):
    """Fetch the official archives with torchvision's downloader, check their sums, and unpack them.

    Safe to interrupt and to repeat: an archive whose sum is right is not fetched again, and unpacking starts over.
    """
    from torchvision.datasets import OxfordIIITPet
    from torchvision.datasets.utils import download_url

    for url, md5 in OxfordIIITPet._RESOURCES:
        print(f"{url} -> {data_path}", flush=True)
        try:
            download_url(url, data_path, md5=md5)
            with tarfile.open(data_path / Path(url).name) as archive:
                unpack(archive, data_path)
        except (OSError, RuntimeError, ValueError, EOFError, HTTPException, tarfile.TarError, zlib.error) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{url} was not fetched and unpacked ({reason}); run the same command again, or fetch images.tar.gz "
                f"and annotations.tar.gz on any machine, put both into {data_path}, and run it again"
            ) from None


def unpack(archive, folder):
    """Write the plain files of a tar archive, with their times; no links, and nothing outside `folder`.

    `TarFile.extractall(filter="data")` would do, but Python has it from 3.11.4 on, and Debian 12 has 3.11.2.
    """
    for member in filter(tarfile.TarInfo.isfile, archive):
        name = os.path.normpath(member.name)
        if os.path.isabs(name) or name.split(os.sep)[0] == os.pardir:
            raise tarfile.TarError(f"its file {member.name} leads out of the folder")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.extractfile(member) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)
        os.utime(target, (member.mtime, member.mtime))  # which caches are keyed by


def main():
    parser = Parser(__doc__)
    parser.add_argument("--data_path", type=Path, default=DATA_PATH, help="folder to fill; default %(default)s")
    args = parser.parse_args()
    download(args.data_path)
    for mode in SPLITS:
        print(f"{mode}: {len(split_names(args.data_path, mode)):,} pictures in {args.data_path}")


if __name__ == "__main__":
    run(main)
