"""Batches of a dataset, from its name to a DataLoader. A dataset returns the batch of a list of indices."""

import hashlib
import importlib
import os
import signal
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from splits import DataOptions, SegmentationDataset
from training.distributed import rank, rank_zero_first, shard, world_size
from utils import UserError

CPU = torch.device("cpu")
DATASETS = {"pets": "oxford_pet", "shapes": "shapes", "folder": "folder"}  # modules
# Ctrl-C; kill, Slurm and torchrun; a terminal that closes; --signal=USR1@90 of Slurm; SGE, LSF and submitit; ulimit -t
STOP_SIGNALS = [each for each in signal.Signals if each.name[3:] in ("INT", "TERM", "HUP", "USR1", "USR2", "XCPU")]
LAYOUTS = "your own images/ and masks/, or the pets' images/ and annotations/"


def module_of(dataset: str):
    """Import a dataset's module, which defines load_dataset and more."""
    return importlib.import_module(DATASETS[dataset])


def choose_dataset(dataset: str | None, data_path: Path | None) -> tuple[str, Path | None]:
    """Return --dataset (by default detected from the folder's layout) and --data_path. Raises UserError."""
    if dataset == "shapes" and data_path:
        raise UserError("--data_path does not apply to --dataset shapes; omit it")
    if dataset == "folder" and data_path is None:
        raise UserError(f"--dataset folder needs --data_path DIR, a folder that contains {LAYOUTS}")
    pets = module_of("pets").find_data_path()
    if dataset == "shapes" or not (dataset or data_path or (pets / "annotations").is_dir()):
        return "shapes", None
    if data_path is None:
        dataset, data_path = "pets", pets
    if not data_path.is_dir():
        hint = f"run python src/oxford_pet.py to download the pets, or pass a folder that contains {LAYOUTS}"
        raise UserError(f"--data_path {data_path} not found; {hint}")
    dataset = dataset or next((name for name in ("pets", "folder") if module_of(name).has_layout(data_path)), None)
    if not dataset:
        raise UserError(f"--data_path {data_path} must contain {LAYOUTS}")
    return dataset, data_path


def load_split(options: DataOptions, split: str) -> SegmentationDataset:
    """Load the images of a split. Raises UserError that lists what is missing or broken."""
    return module_of(options.dataset).load_dataset(options, split)


def hashes(dataset: SegmentationDataset, indices: Iterable[int] | None = None) -> list[str]:
    """Return a short hash of the identity of each image, or of each image at `indices`."""
    identities = dataset.identities if indices is None else [dataset.identities[index] for index in indices]
    return [hashlib.sha256(os.fsencode(identity)).hexdigest()[:12] for identity in identities]


def hash_of_set(dataset: SegmentationDataset, indices: Iterable[int] | None = None) -> str:
    """Return a short hash of which images a dataset contains, in total or at `indices`."""
    return hashlib.sha256(" ".join(hashes(dataset, indices)).encode()).hexdigest()[:12]


class ShuffledBatches(Sampler):
    """Lists of batch_size indices, taken from an endless stream of shuffled epochs over `indices`.

    Each step's list depends only on the seed and the step. Each rank gets its shard of it.
    """

    def __init__(self, indices: list[int], batch_size: int, seed: int, steps: Iterable[int]):
        self.indices, self.batch_size, self.seed, self.steps = indices, batch_size, seed, steps

    def __iter__(self):
        shuffled = None
        mine = shard(self.batch_size, rank(), world_size())
        for step in self.steps:
            batch = []
            for position in range(step * self.batch_size + mine.start, step * self.batch_size + mine.stop):
                epoch, index = divmod(position, len(self.indices))
                if epoch != shuffled:
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.indices)
                    shuffled = epoch
                batch.append(int(order[index]))
            yield batch


class TrainingData:
    """The training and validation sets, at the options' size. Raises UserError. Collective.

    indices: of the images to train on, which exclude the few pets with empty masks.
    """

    def __init__(self, options: DataOptions):
        self.options = options
        self.train, self.valid = self._load(options)
        self.indices = list(range(len(self.train)))
        present = self.indices if options.dataset == "shapes" else with_foreground(self.train)
        if options.dataset == "pets":
            self.indices = present
        if not present:
            size, hint = options.image_size, "check the masks, or use a larger --image_size"
            raise UserError(f"no training image in {options.path} has any foreground at {size} pixels; {hint}")

    def at(self, size: int) -> tuple[SegmentationDataset, SegmentationDataset]:
        """Return both sets with images of size x size pixels. Collective."""
        if size == self.options.image_size:
            return self.train, self.valid
        return self._load(replace(self.options, image_size=size))

    def describe(self) -> list[str]:
        """Return lines about the data for the start of a run."""
        own = self.options.dataset == "folder"
        lines = module_of("folder").describe(self.options) if own else []
        shared = set(self.train.names) & set(self.valid.names)
        if shared:
            which = f"{len(shared)} of {len(self.valid.names)} validation images (e.g. {min(shared)}) are also in the"
            lines.append(f"note: {which} training set, so validation Dice overestimates performance on new images")
        return lines

    @staticmethod
    def _load(options):
        with rank_zero_first():
            return load_split(options, "train"), load_split(options, "valid")


def with_foreground(dataset: SegmentationDataset) -> list[int]:
    """Return the indices of the images whose mask has any foreground."""
    found = []
    for first in range(0, len(dataset), 64):
        masks = dataset[list(range(first, min(first + 64, len(dataset))))]["mask"]
        found += (first + (masks == 1).flatten(1).any(1).nonzero()[:, 0]).tolist()
    return found


def train_loader(dataset, indices, args: Namespace, steps, device=CPU, workers: int | None = None) -> DataLoader:
    """Load shuffled batches of the images at `indices`, one per global step. Uses batch_size, seed, workers of args."""
    batches = ShuffledBatches(indices, args.batch_size, args.seed, steps)
    return make_loader(dataset, args.workers if workers is None else workers, device, batch_sampler=batches)


def eval_loader(dataset, batch_size, workers=0, device=CPU) -> DataLoader:
    """Load every image once, in order; under torchrun each rank gets every world_size-th image."""
    mine = range(rank(), len(dataset), world_size())
    return make_loader(dataset, workers, device, batch_size=batch_size, sampler=mine)


def make_loader(dataset, workers, device, **batches) -> DataLoader:
    """Make a DataLoader whose own generator leaves the global random state untouched."""
    on_device = isinstance(getattr(dataset, "packed", None), torch.Tensor)
    return DataLoader(
        dataset,
        num_workers=0 if on_device else workers,
        pin_memory=device.type == "cuda" and not on_device,
        collate_fn=identity,
        generator=torch.Generator(),
        worker_init_fn=ignore_stop_signals,
        **batches,
    )


def identity(batch):
    """Return the batch unchanged: the dataset already returns one for a list of indices."""
    return batch


def ignore_stop_signals(worker):
    """Ignore the signals that all processes of a job receive: the parent saves and ends its workers."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
