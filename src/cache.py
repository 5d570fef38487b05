"""A split decoded once: its pictures and labels in one packed uint8 array on disk, which later runs map into memory."""

import hashlib
import json
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset
from tqdm import tqdm

from cores import available_cores
from photos.pictures import PictureError, decode, resize, to_rgb
from utils import UserError

A_DAY = 24 * 60 * 60  # seconds
HEADER = 128  # bytes before the pixels of a packed array
PACKING = 2  # part of a packed array's name: raise it when what is packed changes


@dataclass(frozen=True)
class Pair:
    """A picture file, and the file that labels its pixels."""

    name: str
    image: Path
    label: Path


class PackedDataset(Dataset):
    """Packed pictures with their masks.

    packed: uint8 (N, C + 1, S, S), the picture's channels (RGB or grey) and then its label; an array or a tensor.
    read_label: a label's path to a PIL picture of mode L, as packed. mask_of: a uint8 tensor of labels to one of 0, 1,
    255. Both must be picklable, for workers that are spawned.
    identities: by which a picture is known again in another run or folder; the names unless given.
    An index gives a dict of `image` (C, S, S) uint8, `mask` (1, S, S) uint8 of 0, 1, 255, and `name`;
    a list of indices gives the same with a first dimension, in one call.
    """

    def __init__(
        self, packed, pairs: list[Pair], read_label: Callable, mask_of: Callable, identities: list[str] | None = None
    ):
        self.packed, self.pairs, self.read_label, self.mask_of = packed, pairs, read_label, mask_of
        self.names = [pair.name for pair in pairs]
        self.identities = identities or self.names
        self.places = {name: place for place, name in enumerate(self.names)}

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        if isinstance(self.packed, torch.Tensor):
            where = index
            if isinstance(index, list):  # as it is, each would wait for the GPU to have copied it
                where = torch.tensor(index).to(self.packed.device, non_blocking=True)
            pixels = self.packed[where]
        else:
            pixels = self.packed[index]
            copied = np.asarray(pixels) if isinstance(index, list) else np.array(pixels)  # a list copies already
            pixels = torch.from_numpy(copied)
            let_go(self.packed)
        name = [self.names[i] for i in index] if isinstance(index, list) else self.names[index]
        image, label = pixels[..., :-1, :, :], pixels[..., -1:, :, :]
        return {"image": image, "mask": self.mask_of(label), "name": name}

    __getitems__ = __getitem__  # what DataLoader calls with a batch's list

    def __getstate__(self):
        """For a spawned worker: the name of the mapped file, which it maps itself, not its bytes."""
        state = self.__dict__.copy()
        if isinstance(self.packed, np.memmap):
            state["packed"] = Path(self.packed.filename)
        return state

    def __setstate__(self, state):
        self.__dict__.update(state)
        if isinstance(self.packed, Path):
            self.packed = np.load(self.packed, mmap_mode="r")

    def to(self, device: torch.device) -> "PackedDataset":
        """The same set with its pixels on a GPU, where they take at most a quarter of the free memory."""
        if device.type != "cuda" or self.packed.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
            return self
        packed = torch.from_numpy(np.array(self.packed)).to(device)
        return PackedDataset(packed, self.pairs, self.read_label, self.mask_of, self.identities)

    def original_size(self, name: str) -> tuple[int, int]:
        """(width, height) of a picture before it was resized."""
        with Image.open(self.pairs[self.places[name]].label) as label:
            return label.size

    def original_mask(self, name: str) -> torch.Tensor:
        """The mask of a picture before it was resized: uint8 (1, H, W) of 0, 1, 255."""
        label = self.read_label(self.pairs[self.places[name]].label)
        return self.mask_of(torch.from_numpy(np.array(label)))[None]


def read_labelled(pair: Pair, read_label: Callable, root: Path) -> tuple[Image.Image, Image.Image]:
    """A picture (RGB) and its label, of one size. root: what paths in messages are relative to. Raises PictureError.

    A label is of the pixels as they are stored, whatever turn EXIF asks for; one that fits the turned picture alone
    is of that.
    """
    try:
        stored = decode(pair.image)
        picture = to_rgb(stored)
    except PictureError as error:
        raise PictureError(f"{pair.image.relative_to(root).as_posix()} {error}") from None
    place = pair.label.relative_to(root).as_posix()
    try:
        label = read_label(pair.label)
    except PictureError as error:
        raise PictureError(f"{place} {error}") from None
    if label.size != picture.size:
        picture = upright(stored, picture)
    if label.size != picture.size:
        raise PictureError(
            f"{place} is {label.size[0]}x{label.size[1]}, its picture {picture.size[0]}x{picture.size[1]}"
        )
    return picture, label


def upright(stored: Image.Image, picture: Image.Image) -> Image.Image:
    """The picture turned as EXIF asks, or as it is where its EXIF cannot be read."""
    try:
        return to_rgb(ImageOps.exif_transpose(stored))
    except Exception:  # whatever broken EXIF makes its parser raise
        return picture


def pack(pairs, read_pair, split, size, grey, folder, source, mapping=None):
    """Decode, resize (pictures bilinearly, labels by nearest neighbour) and store every pair of a split.

    read_pair: a Pair to its picture (RGB) and label (mode L), PIL pictures of one size; raises PictureError.
    folder: where the array is kept. source: what a user calls the data, for messages. mapping: plain values that the
    labels depend on beside their files.
    Returns uint8 (N, C + 1, size, size), mapped from a file that is made the first time, or in memory where `folder`
    cannot hold it. Raises UserError that names the broken files.
    """
    target = Path(folder) / f"{split}-{size}-{fingerprint(pairs, size, grey, mapping)}.npy"
    shape = (len(pairs), 2 if grey else 4, size, size)
    if target.exists():
        packed = open_packed(target, shape)
        if packed is not None:
            return packed
        print(f"note: {target} is damaged; making it anew", file=sys.stderr)
    packed, temporary = new_array(Path(folder), shape)
    try:
        fill(packed, pairs, read_pair, split, grey, source)
        if temporary is None:
            return packed
        packed.flush()
        del packed  # unmapped, as some systems require before a rename
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
        return np.load(target, mmap_mode="r")
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def open_packed(path, shape):
    """The array mapped from a file, or None where the file is not the array it should be."""
    try:
        packed = np.load(path, mmap_mode="r")
    except Exception:  # whatever NumPy makes of a damaged header
        return None
    whole = packed.shape == shape and packed.dtype == np.uint8 and packed.flags.c_contiguous
    return packed if whole and packed.offset == HEADER else None


def new_array(folder, shape):
    """An empty array mapped from a temporary file in `folder`, and that file; or one in memory, and None."""
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("unfinished-*"):  # by a run that was killed
            if time.time() - left.stat().st_mtime > A_DAY:
                left.unlink()
        handle, temporary = tempfile.mkstemp(dir=folder, prefix="unfinished-")
        if hasattr(os, "posix_fallocate"):  # finds a full disk here, not by a bus error later
            os.posix_fallocate(handle, 0, int(np.prod(shape)) + HEADER)
        os.close(handle)
        return np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape), temporary
    except OSError as error:
        if temporary:
            os.unlink(temporary)
        packed = np.empty(shape, dtype=np.uint8)
        print(
            f"note: {folder} cannot hold the decoded pictures ({error.strerror}); keeping "
            f"{packed.nbytes / 1e6:.0f} MB in memory, --cache_dir DIR keeps them on disk",
            file=sys.stderr,
        )
        return packed, None


def let_go(array):
    """Unmap the touched pages of an array mapped from a file, so that reading it takes no memory."""
    mapped = getattr(array, "_mmap", None)
    if mapped and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def fingerprint(pairs, *settings):
    """A short hash of everything a packed array depends on: names, sizes and times of the files, and the settings."""

    def stat(path):
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns

    files = [(pair.name, stat(pair.image), stat(pair.label)) for pair in pairs]
    return hashlib.sha256(json.dumps([PACKING, *settings, files]).encode()).hexdigest()[:16]


def fill(packed, pairs, read_pair, split, grey, source):
    """Fill the array on all cores. Raises UserError that names the files that cannot be used."""
    size = packed.shape[-1]
    emptied = np.zeros(len(pairs), dtype=bool)  # masks whose foreground is so small that it is gone at this size

    def work(index):
        try:
            picture, label = read_pair(pairs[index])
        except PictureError as error:
            return str(error)
        pixels = np.asarray(resize(picture.convert("L") if grey else picture, size))
        packed[index, :-1] = pixels.reshape(size, size, -1).transpose(2, 0, 1)
        packed[index, -1] = np.asarray(resize(label, size, Image.Resampling.NEAREST))
        emptied[index] = not (packed[index, -1] == 1).any() and (np.asarray(label) == 1).any()
        return None

    with ThreadPoolExecutor(available_cores()) as pool:  # Pillow decodes without holding the GIL
        results = pool.map(work, range(len(pairs)))
        results = tqdm(results, f"decoding {split}", len(pairs), unit="picture", disable=not sys.stderr.isatty())
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
            f"{len(problems)} of {len(pairs)} pictures of the {split} split in {source} cannot be used: "
            f"{'; '.join(problems[:5])}{more}; restore these files, or take them out of the data"
        )
    if emptied.any():
        first = pairs[int(emptied.argmax())].name
        print(
            f"note: {emptied.sum():,} of {len(pairs):,} masks of the {split} split, such as {first}, lose all of their "
            f"foreground at {size}x{size} pixels; a larger --image_size keeps it",
            file=sys.stderr,
        )
