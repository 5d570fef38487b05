"""Load datasets by name, and make batches. A dataset indexed with a list returns a batch."""

import hashlib
import os
import signal
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

import folder
import oxford_pet
import shapes
from cache import PackedDataset
from splits import DataOptions
from training.distributed import rank, rank_zero_first, shard, world_size
from utils import UserError

CPU = torch.device("cpu")
DATASETS = {"pets": oxford_pet, "shapes": shapes, "folder": folder}
SegmentationDataset = PackedDataset | shapes.Shapes  # with the same interface
# senders, in order: Ctrl-C; kill, Slurm and torchrun; a closed terminal; Slurm; SGE; a CPU limit
STOP_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
STOP_SIGNALS = [number for number in signal.Signals if number.name in STOP_NAMES]
LAYOUTS = "images/ and masks/, or Oxford-IIIT Pet's images/ and annotations/"


def choose_dataset(dataset: str | None, data_path: Path | None) -> tuple[str, Path | None]:
    """Return --dataset, by default detected from the folder, and --data_path. Raises UserError."""
    if dataset == "shapes" and data_path:
        raise UserError("--data_path does not apply to --dataset shapes; omit it")
    if dataset == "folder" and not data_path:
        raise UserError("--dataset folder needs --data_path DIR, a folder that contains images/ and masks/")
    if not data_path:
        pets = oxford_pet.find_data_path()
        if dataset == "shapes" or not (dataset or oxford_pet.has_layout(pets)):
            return "shapes", None
        dataset, data_path = "pets", pets
    if not data_path.is_dir():
        hint = f"run python src/oxford_pet.py to download the pets, or pass a folder that contains {LAYOUTS}"
        raise UserError(f"--data_path {data_path} is not a folder; {hint}")
    if dataset:
        return dataset, data_path
    if oxford_pet.has_layout(data_path):
        return "pets", data_path
    if folder.has_layout(data_path):
        return "folder", data_path
    raise UserError(f"--data_path {data_path} must contain {LAYOUTS}")


def load_split(options: DataOptions, split: str) -> SegmentationDataset:
    """Load a split. Raises UserError, listing the missing or broken files."""
    return DATASETS[options.dataset].load_dataset(options, split)


def hashes(dataset: SegmentationDataset, indices: Iterable[int] | None = None) -> list[str]:
    """Return a short hash of the identity of each image, or of each image at `indices`."""
    indices = range(len(dataset)) if indices is None else indices
    return [hashlib.sha256(os.fsencode(dataset.identities[index])).hexdigest()[:12] for index in indices]


def hash_of_set(dataset: SegmentationDataset, indices: Iterable[int] | None = None) -> str:
    """Return one short hash for all images of a dataset, or for those at `indices`."""
    return hashlib.sha256(" ".join(hashes(dataset, indices)).encode()).hexdigest()[:12]


def shuffled_batches(indices, batch_size: int, seed: int, steps: Iterable[int]) -> Iterator[list[int]]:
    """Yield this rank's shard of each step's batch, from an endless stream of shuffled epochs.

    A batch depends only on the seed and the step.
    """
    shuffled = None
    mine = shard(batch_size, rank(), world_size())
    for step in steps:
        batch = []
        for position in range(step * batch_size + mine.start, step * batch_size + mine.stop):
            epoch, index = divmod(position, len(indices))
            if epoch != shuffled:
                order = np.random.default_rng([seed, epoch]).permutation(indices)
                shuffled = epoch
            batch.append(int(order[index]))
        yield batch


class TrainingData:
    """The training and validation sets. Raises UserError. Collective.

    indices: training images to use; on Oxford-IIIT Pet, only images with foreground.
    """

    def __init__(self, options: DataOptions):
        self.options = options
        self.train, self.valid = self._load(options)
        self.indices = list(range(len(self.train)))
        if options.dataset == "shapes":
            return  # every image has foreground
        present: list[int] = []
        for indices in torch.arange(len(self.train)).split(64):
            has_foreground = (self.train[indices.tolist()]["mask"] == 1).flatten(1).any(1)
            present += indices[has_foreground].tolist()
            if present and options.dataset != "pets":
                break  # one is enough: all images are used
        if not present:
            where = f"{options.path} has any foreground at {options.image_size} pixels"
            raise UserError(f"no training image in {where}; check the masks, or use a larger --image_size")
        if options.dataset == "pets":
            self.indices = present

    def at(self, size: int) -> tuple[SegmentationDataset, SegmentationDataset]:
        """Return both sets at another image size, in pixels. Collective."""
        if size == self.options.image_size:
            return self.train, self.valid
        return self._load(replace(self.options, image_size=size))

    def describe(self) -> list[str]:
        """Return lines about the data for the start of a run."""
        lines = folder.describe(self.options) if self.options.dataset == "folder" else []
        shared = set(self.train.names) & set(self.valid.names)
        if shared:
            images = f"{len(shared)} of {len(self.valid.names)} validation images (e.g. {min(shared)})"
            risk = "validation Dice overestimates performance on new images"
            lines.append(f"note: {images} are also in the training set, so {risk}")
        return lines

    @staticmethod
    def _load(options):
        with rank_zero_first():
            return load_split(options, "train"), load_split(options, "valid")


def train_loader(dataset, indices, args: Namespace, steps, device=CPU, workers: int | None = None) -> DataLoader:
    """Load the images at `indices`, shuffled, in one batch per step. workers: by default args.workers."""
    batches = shuffled_batches(indices, args.batch_size, args.seed, steps)
    workers = args.workers if workers is None else workers
    return make_loader(dataset, workers, device, batch_sampler=batches)


def eval_loader(dataset, batch_size, workers=0, device=CPU) -> DataLoader:
    """Load every image once, in order; each rank gets every world_size-th image."""
    mine = range(rank(), len(dataset), world_size())
    return make_loader(dataset, workers, device, batch_size=batch_size, sampler=mine)


def make_loader(dataset, workers, device, **batches) -> DataLoader:
    """Make a DataLoader whose own generator leaves the global random state untouched."""
    on_device = isinstance(getattr(dataset, "packed", None), torch.Tensor)
    return DataLoader(
        dataset,
        num_workers=0 if on_device else workers,
        pin_memory=device.type == "cuda" and not on_device,
        collate_fn=dict,  # the dataset has already made the batch, a dict
        generator=torch.Generator(),
        worker_init_fn=ignore_stop_signals,
        **batches,
    )


def ignore_stop_signals(worker):
    """Ignore stop signals, which reach all processes of a job: the parent ends its workers."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
