"""On-disk cache: a split's images and labels, decoded once into a memory-mapped uint8 array."""

import hashlib
import json
import mmap
import os
import re
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from cores import PixelBudget, available_cores
from files import write_atomically
from pairs import Pair
from photos.decode import ImageError, open_image
from splits import SPLIT_NAMES, DataOptions, first_few
from utils import UserError, count_of, note

HOUR = 60 * 60  # seconds
HEADER = 128  # bytes before the pixels of a packed array
FORMAT = 3  # increment when the packed pixels change
KEPT_BYTES = 4_000_000_000  # of all kept arrays together; four times the new array if that is more
PIXELS_IN_FLIGHT = 48_000_000  # decoded at once, about 12 bytes each
remembered: dict[Path, object] = {}  # results of `remember`


class PackedDataset(Dataset):
    """Packed images with their masks.

    packed: uint8 (N, C + 1, S, S), the image's channels (RGB or gray), then its label; array or tensor.
    read_label: callable(path, page) that returns a label as a PIL image of mode L.
    mask_of: callable that turns uint8 labels into a mask. Both must be picklable, for spawned workers.
    identities: strings that identify the images in other runs and folders; default: the names.

    An index gives a dict of `image` (C, S, S) uint8, `mask` (1, S, S) uint8 of 0, 1, 255, and `name`.
    A list of indices gives the same with a leading batch dimension.
    """

    def __init__(self, packed, pairs: list[Pair], read_label: Callable, mask_of: Callable, identities=None):
        self.packed, self.pairs = packed, pairs
        self.read_label, self.mask_of = read_label, mask_of
        self.names = [pair.name for pair in pairs]
        self.identities = identities or self.names

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        if not isinstance(index, list):
            return {key: values[0] for key, values in self[[index]].items()}
        if isinstance(self.packed, torch.Tensor):  # indexing with a list would wait for the GPU
            pixels = self.packed[torch.tensor(index).to(self.packed.device, non_blocking=True)]
        else:
            pixels = torch.from_numpy(np.asarray(self.packed[index]))
            release_pages(self.packed)
        names = [self.names[i] for i in index]
        return {"image": pixels[:, :-1], "mask": self.mask_of(pixels[:, -1:]), "name": names}

    __getitems__ = __getitem__  # called by DataLoader with a batch's indices

    def __getstate__(self):
        """Pass the mapped file's name to a spawned worker, not its bytes."""
        packed = Path(self.packed.filename) if isinstance(self.packed, np.memmap) else self.packed
        return {**self.__dict__, "packed": packed}

    def __setstate__(self, state):
        self.__dict__.update(state)
        if isinstance(self.packed, Path):
            self.packed = np.load(self.packed, mmap_mode="r")

    def to(self, device: torch.device) -> "PackedDataset":
        """Return the dataset with its pixels on a GPU, if they fit in a quarter of its free memory."""
        if device.type != "cuda" or self.packed.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
            return self
        packed = torch.empty(self.packed.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(packed), 256):  # without a copy of the whole dataset in memory
            part = slice(start, start + 256)
            packed[part] = torch.from_numpy(np.array(self.packed[part]))
            release_pages(self.packed)
        return PackedDataset(packed, self.pairs, self.read_label, self.mask_of, self.identities)

    def original_size(self, name: str) -> tuple[int, int]:
        """Return an image's (width, height) before resizing."""
        pair = self.pairs[self.names.index(name)]
        with Image.open(pair.label) as label:
            label.seek(pair.page)
            return label.size

    def original_mask(self, name: str) -> torch.Tensor:
        """Return an image's mask before resizing: uint8 (1, H, W) of 0, 1, 255."""
        pair = self.pairs[self.names.index(name)]
        return self.mask_of(torch.from_numpy(np.array(self.read_label(pair.label, pair.page))))[None]


def pack(pairs: list[Pair], read: Callable, split: str, options: DataOptions, *settings):
    """Decode, resize (images bilinearly, labels by nearest neighbor) and store a split's pairs.

    read: callable(pair) that returns image and label. settings: other JSON values that affect the pixels.
    Returns uint8 (N, C + 1, S, S), mapped from the cache, or in memory if that fails. Raises UserError.
    """
    size, folder = options.image_size, Path(options.cache)
    target = folder / f"{split}-{size}-{fingerprint(pairs, size, options.gray, *settings)}.npy"
    shape = (len(pairs), 2 if options.gray else 4, size, size)
    temporary = folder / f"unfinished-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        if target.exists():
            with suppress(OSError):  # another user's file
                os.utime(target)  # last use, for `remove_old`
            return np.load(target, mmap_mode="r")
        packed = new_array(temporary, shape)
        fill(packed, pairs, read, split, options)
        packed.flush()
        del packed  # some systems cannot rename mapped files
        os.replace(temporary, target)
        return np.load(target, mmap_mode="r")
    except OSError as error:
        reason = error.strerror
    finally:
        with suppress(OSError):
            temporary.unlink()
    packed = np.empty(shape, dtype=np.uint8)
    kept = f"{packed.nbytes / 1e6:.0f} MB of images are kept in memory instead; choose another --cache_dir"
    note(f"cannot use the cache {folder} ({reason}); {kept}")
    fill(packed, pairs, read, split, options)
    return packed


def new_array(path: Path, shape: tuple):
    """Return an empty array mapped from a new file. Raises OSError.

    Its disk blocks are allocated at once, since mapped writes to a full disk kill the process (SIGBUS).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    size = int(np.prod(shape)) + HEADER
    remove_old(path.parent, max(KEPT_BYTES, 4 * size) - size)
    packed = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    return packed


def remove_old(folder: Path, room: int):
    """Remove files of killed runs, and the least recently used arrays beyond `room` bytes.

    Arrays opened in the last hour stay, for concurrent runs.
    """
    now = time.time()
    with suppress(OSError):  # files that others remove or own
        for path in folder.glob("unfinished-*"):
            if path.stat().st_mtime < now - 24 * HOUR:
                path.unlink()
        ours = re.compile(r"[a-z]+-\d+-[0-9a-f]{16}\.npy")
        arrays = [path for path in folder.iterdir() if ours.fullmatch(path.name)]
        for path in sorted(arrays, key=lambda path: path.stat().st_mtime, reverse=True):
            room -= path.stat().st_size
            if room < 0 and path.stat().st_mtime < now - HOUR:
                path.unlink()


def release_pages(array):
    """Free the memory of a mapped array's touched pages."""
    mapped = getattr(array, "_mmap", None)
    if mapped and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def fingerprint(pairs: list[Pair], *settings) -> str:
    """Return a short hash of what the pixels depend on: settings, and the files' names, sizes and times."""

    def stat_of(path):
        with suppress(OSError, ValueError):
            found = path.stat()
            return found.st_size, found.st_mtime_ns

    files = [(pair.name, pair.page, stat_of(pair.image), stat_of(pair.label)) for pair in pairs]
    return hashlib.sha256(json.dumps([FORMAT, *settings, files]).encode()).hexdigest()[:16]


def fill(packed, pairs: list[Pair], read: Callable, split: str, options: DataOptions):
    """Fill the array on all cores. Raises UserError, listing the unusable files."""
    size = options.image_size
    emptied = []  # masks that lose all foreground at this size

    def store(index):
        try:
            image, label = read(pairs[index])
        except ImageError as error:
            return str(error)
        if options.gray:
            image = image.convert("L")
        pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
        packed[index, :-1] = pixels.reshape(size, size, -1).transpose(2, 0, 1)
        packed[index, -1] = np.asarray(label.resize((size, size), Image.Resampling.NEAREST))
        if not (packed[index, -1] == 1).any() and (np.asarray(label) == 1).any():
            emptied.append(pairs[index].name)
        if index % 64 == 63:
            release_pages(packed)

    problems = list(filter(None, in_parallel(store, pairs, f"decoding {split}")))
    where = f"of the {SPLIT_NAMES[split]} split"
    if problems:
        images = f"{len(problems)} of {len(pairs)} images {where} in {options.folder} cannot be used"
        raise UserError(f"{images}: {first_few(problems, '; ')}; restore or remove them")
    if emptied:
        masks = f"{count_of(len(emptied), 'mask')} {where} (e.g. {min(emptied)})"
        note(f"{masks}: no foreground left at {size}x{size} pixels; raise --image_size")


def in_parallel(work: Callable, pairs: list[Pair], title: str):
    """Yield work(index) for each pair, in order, on all cores, in bounded memory."""
    budget = PixelBudget(PIXELS_IN_FLIGHT)

    def within_budget(index):
        pixels = 0
        with suppress(ImageError), open_image(pairs[index].image) as image:
            pixels = image.width * image.height
        return budget.spend(pixels, work, index)

    pool = ThreadPoolExecutor(available_cores())  # Pillow decodes without holding the GIL
    try:
        results = pool.map(within_budget, range(len(pairs)))
        yield from tqdm(results, title, len(pairs), unit="file", disable=None)  # None: if stderr is not a terminal
    finally:
        pool.shutdown(cancel_futures=True)  # after an interrupt


def remember(folder: Path, kind: str, pairs: list[Pair], measure: Callable, combine: Callable):
    """Return combine(measure(pair) for all pairs), cached in `folder`."""
    path = folder / f"{kind}-{fingerprint(pairs)}.json"
    if path not in remembered:
        try:
            remembered[path] = json.loads(path.read_text())
        except (OSError, ValueError):  # missing or damaged
            measured = in_parallel(lambda index: measure(pairs[index]), pairs, f"reading {kind}")
            remembered[path] = combine(measured)
            data = json.dumps(remembered[path]).encode()
            with suppress(OSError, UserError):
                write_atomically(path, lambda file: file.write(data), fsync=False)
    return remembered[path]
