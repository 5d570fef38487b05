"""Oxford-IIIT Pet (Parkhi, Vedaldi, Zisserman, Jawahar: "Cats and Dogs", CVPR 2012).

    python src/oxford_pet.py                       # download into dataset/oxford-iiit-pet (about 800 MB)
    python src/oxford_pet.py --data_path ~/pets    # ... or elsewhere

Files on disk -> uint8 batches. Pictures are decoded and resized once, and packed into one array on
disk; every later run maps that array into memory.
"""

import hashlib
import json
import mmap
import os
import shutil
import sys
import tarfile
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from files import read_names
from photos.pictures import PictureError, decode, read_picture, resize, to_rgb
from utils import Parser, UserError, run

DATA_PATH = Path("dataset/oxford-iiit-pet")
SPLITS = ("train", "valid", "test")
BORDERS = ("foreground", "background", "ignore")  # --border: what the trimap's border becomes in the mask
A_DAY = 24 * 60 * 60  # seconds
HEADER = 128  # bytes before the pixels of a packed array
PACKING = 1  # part of a packed array's name: raise it when what is packed changes


class OxfordPet(Dataset):
    """Packed pictures with their masks.

    packed: uint8 (N, C + 1, S, S), the picture's channels (RGB or grey) and then its trimap; an array, or a tensor.
    An index gives a dict of `image` (C, S, S) uint8, `mask` (1, S, S) uint8 of 0, 1, 255, and `name`;
    a list of indices gives the same with a first dimension, in one call.
    """

    def __init__(self, packed, names, border="foreground", data_path=None):
        self.packed, self.names, self.border, self.data_path = packed, names, border, data_path

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        pixels = self.packed[index]
        if isinstance(pixels, np.ndarray):
            copied = np.asarray(pixels) if isinstance(index, list) else np.array(pixels)  # a list copies already
            pixels = torch.from_numpy(copied)
            let_go(self.packed)
        name = [self.names[i] for i in index] if isinstance(index, list) else self.names[index]
        image, trimap = pixels[..., :-1, :, :], pixels[..., -1:, :, :]
        return {"image": image, "mask": truth_of(trimap, self.border), "name": name}

    __getitems__ = __getitem__  # what DataLoader calls with a batch's list

    def to(self, device):
        """The same set with its pixels on a GPU, where they take at most a quarter of the memory that is free."""
        if device.type != "cuda" or self.packed.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
            return self
        packed = torch.from_numpy(np.array(self.packed)).to(device)
        return OxfordPet(packed, self.names, self.border, self.data_path)

    def original_size(self, index):
        """(width, height) of a picture before it was resized."""
        with Image.open(trimap_path(self.data_path, self.names[index])) as trimap:
            return trimap.size

    def original_mask(self, index):
        """The mask of a picture before it was resized: uint8 (1, H, W) of 0, 1, 255."""
        trimap = read_trimap(trimap_path(self.data_path, self.names[index]))
        return truth_of(torch.from_numpy(np.array(trimap)), self.border)[None]


def load_dataset(data_path, mode, image_size=256, grey=False, border="foreground", limit=None, cache_dir=None):
    """The pictures of an official split, at image_size x image_size pixels.

    mode: train, valid, test. limit: only the first so many. cache_dir: where packed arrays are kept,
    by default `cache` in data_path. Raises UserError that names what is missing or broken.
    """
    data_path = Path(data_path)
    names = split_names(data_path, mode)[:limit]
    return OxfordPet(pack(data_path, names, mode, image_size, grey, cache_dir), names, border, data_path)


def split_names(data_path, mode):
    """Picture names of a split: test.txt, or trainval.txt cut 9 : 1, every tenth name (0, 10, ...) to valid."""
    listing = data_path / "annotations" / ("test.txt" if mode == "test" else "trainval.txt")
    try:
        names = read_names(listing)
    except (OSError, UnicodeDecodeError):
        raise UserError(
            f"{listing} is missing or not a text file; {data_path} must hold images/ and annotations/ "
            f"(python src/oxford_pet.py downloads them), or name another folder with --data_path"
        ) from None
    for name in names:
        if name != Path(name).name or name.startswith(".") or not name.isprintable():
            raise UserError(f"{listing} names {name!r}, which is not a plain file name; remove that line")
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()
    if repeated:
        raise UserError(f"{listing} names {min(repeated)} more than once; remove the repeated line")
    if mode != "test":
        names = [name for index, name in enumerate(names) if (index % 10 == 0) == (mode == "valid")]
    if not names:
        raise UserError(f"{listing} leaves no picture for the {mode} split; add names to it")
    return names


def picture_path(data_path, name):
    return data_path / "images" / f"{name}.jpg"


def trimap_path(data_path, name):
    return data_path / "annotations" / "trimaps" / f"{name}.png"


# ---------------------------------------------------------------------------------- decode once


def read_pair(data_path, name):
    """-> the picture (RGB) and its trimap (values 1, 2, 3), PIL pictures of one size. Raises PictureError."""
    try:
        picture = read_picture(picture_path(data_path, name))
    except PictureError as error:
        raise PictureError(f"images/{name}.jpg {error}") from None
    where = f"annotations/trimaps/{name}.png"
    try:
        trimap = read_trimap(trimap_path(data_path, name))
    except PictureError as error:
        raise PictureError(f"{where} {error}") from None
    if trimap.size != picture.size and trimap.size == picture.size[::-1]:
        picture = to_rgb(decode(picture_path(data_path, name)))  # annotated as stored, not as EXIF turns it
    if trimap.size != picture.size:
        raise PictureError(
            f"{where} is {trimap.size[0]}x{trimap.size[1]}, its picture {picture.size[0]}x{picture.size[1]}"
        )
    return picture, trimap


def read_trimap(path):
    """-> PIL picture in mode L, of values 1 (pet), 2 (background), 3 (border). Raises PictureError."""
    trimap = decode(path)
    if trimap.mode not in ("L", "P", "1"):
        raise PictureError(f"is of mode {trimap.mode}, not 8-bit grey")
    pixels = np.asarray(trimap, dtype=np.uint8)
    values = set(np.unique(pixels).tolist())
    if not values <= {1, 2, 3}:
        raise PictureError(f"has values {sorted(values)}, not 1, 2 and 3")
    return Image.fromarray(pixels)


def truth_of(trimap, border):
    """Trimap uint8, any shape -> mask uint8 of 0, 1, 255 by the rule --border."""
    if border == "foreground":
        return (trimap != 2).view(torch.uint8)
    mask = (trimap == 1).view(torch.uint8)
    return mask if border == "background" else mask + 255 * (trimap == 3).view(torch.uint8)


def pack(data_path, names, mode, size, grey, cache_dir):
    """-> uint8 (N, C + 1, size, size), mapped from a file that is made the first time."""
    folder = Path(cache_dir) if cache_dir else data_path / "cache"
    target = folder / f"{mode}-{size}-{fingerprint(data_path, names, size, grey)}.npy"
    shape = (len(names), 2 if grey else 4, size, size)
    if target.exists():
        try:
            packed = np.load(target, mmap_mode="r")
            if (
                packed.shape == shape
                and packed.dtype == np.uint8
                and packed.flags.c_contiguous
                and packed.offset == HEADER
            ):
                return packed
        except Exception:  # whatever numpy makes of a damaged header
            pass
        print(f"note: {target} is damaged; making it anew", file=sys.stderr)
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("unfinished-*"):  # of a run that was killed
            if time.time() - left.stat().st_mtime > A_DAY:
                left.unlink()
        handle, temporary = tempfile.mkstemp(dir=folder, prefix="unfinished-")
        if hasattr(os, "posix_fallocate"):  # a full disk says so here, and not by a bus error later
            os.posix_fallocate(handle, 0, int(np.prod(shape)) + HEADER)
        os.close(handle)
        packed = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
    except OSError as error:
        if temporary:
            os.unlink(temporary)
        temporary = None
        packed = np.empty(shape, dtype=np.uint8)
        print(
            f"note: {folder} cannot hold the decoded pictures ({error.strerror}); keeping "
            f"{packed.nbytes / 1e6:.0f} MB in memory, --cache_dir DIR keeps them on disk",
            file=sys.stderr,
        )
    try:
        fill(packed, data_path, names, mode, grey)
        if temporary:
            packed.flush()
            del packed  # unmapped, as some systems want of a file that is renamed
            with open(temporary, "r+b") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
            return np.load(target, mmap_mode="r")
        return packed
    except BaseException:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise


def let_go(array):
    """Unmap the pages that were touched of an array mapped from a file, so that reading it takes no memory."""
    mapped = getattr(array, "_mmap", None)
    if mapped and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def fingerprint(data_path, names, size, grey):
    """A short hash of all that a packed array depends on: names, sizes and times of the files, and the settings."""

    def stat(path):
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns

    files = [(name, stat(picture_path(data_path, name)), stat(trimap_path(data_path, name))) for name in names]
    return hashlib.sha256(json.dumps([PACKING, size, grey, files]).encode()).hexdigest()[:16]


def fill(packed, data_path, names, mode, grey):
    """Decode, resize (pictures bilinearly, trimaps by nearest neighbour) and store every name, on all cores."""
    size = packed.shape[-1]

    def work(index):
        try:
            picture, trimap = read_pair(data_path, names[index])
        except PictureError as error:
            return str(error)
        pixels = np.asarray(resize(picture.convert("L") if grey else picture, size))
        packed[index, :-1] = pixels.reshape(size, size, -1).transpose(2, 0, 1)
        packed[index, -1] = np.asarray(resize(trimap, size, Image.Resampling.NEAREST))
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without holding the GIL
        results = pool.map(work, range(len(names)))
        results = tqdm(results, f"decoding {mode}", len(names), unit="picture", disable=not sys.stderr.isatty())
        problems = []
        try:
            for index, problem in enumerate(results):
                problems += [problem] if problem else []
                if index % 64 == 63:
                    let_go(packed)
        except BaseException:  # asked to stop
            pool.shutdown(cancel_futures=True)
            raise
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(
            f"{len(problems)} of {len(names)} pictures of the {mode} split in {data_path} cannot be used: "
            f"{'; '.join(problems[:5])}{more}; restore these files, or remove their lines in annotations/"
        )


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
