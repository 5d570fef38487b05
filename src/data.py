"""From a dataset's name to its pictures in batches.

Batches come from the stock DataLoader; a dataset answers a whole list of indices in one call.
"""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

import folder
import oxford_pet
import shapes
from leakage import hash_of_set, hashes
from splits import DataOptions, SegmentationDataset
from training.distributed import first_alone, rank, share, world_size
from utils import UserError

CPU = torch.device("cpu")
DATASETS = {"pets": oxford_pet, "shapes": shapes, "folder": folder}  # modules: load_dataset, has_layout, describe
LAYOUTS = "images/ and masks/ of your own, or images/ and annotations/ of the pets"


def choose_dataset(dataset: str | None, data_path: Path | None) -> tuple[str, Path | None]:
    """The name and the folder of --dataset and --data_path, either of which may be None.

    A folder alone is the dataset whose layout it has. Raises UserError where what was asked for is not found.
    """
    if dataset == "shapes" and data_path is None:
        return "shapes", None
    if dataset == "shapes":
        raise UserError("--data_path names a folder of pictures; leave it out with --dataset shapes")
    if data_path is None and dataset is None and not (oxford_pet.DATA_PATH / "annotations").is_dir():
        return "shapes", None
    if data_path is None and dataset not in (None, "pets"):
        raise UserError(f"--dataset {dataset} needs --data_path DIR, the folder that holds {LAYOUTS}")
    dataset, data_path = ("pets", oxford_pet.DATA_PATH) if data_path is None else (dataset, data_path)
    if not data_path.is_dir():
        raise UserError(
            f"--data_path {data_path} not found; python src/oxford_pet.py downloads the pets into "
            f"{oxford_pet.DATA_PATH}, or name the folder that holds {LAYOUTS}"
        )
    fitting = [name for name, module in DATASETS.items() if module.has_layout(data_path)]
    if not (dataset or fitting):
        raise UserError(f"--data_path {data_path} must hold {LAYOUTS}")
    return dataset or fitting[0], data_path


def load_split(options: DataOptions, split: str) -> SegmentationDataset:
    """The pictures of a split. Raises UserError that names what is missing or broken."""
    return DATASETS[options.dataset].load_dataset(options, split)


class ShuffledBatches(Sampler):
    """Lists of batch_size indices, cut from an endless stream of shuffled passes over `indices`.

    A step's list depends on nothing but the seed and the step, so a run can be resumed from any step.
    Under torchrun, each rank gets its share of the list.
    """

    def __init__(self, indices, batch_size, seed, steps):
        self.indices, self.batch_size, self.seed, self.steps = indices, batch_size, seed, steps

    def __len__(self):
        return len(self.steps)

    def __iter__(self):
        order, order_pass = None, None
        mine = share(self.batch_size, rank(), world_size())
        for step in self.steps:
            batch = []
            for position in range(step * self.batch_size + mine.start, step * self.batch_size + mine.stop):
                this_pass, place = divmod(position, len(self.indices))
                if this_pass != order_pass:
                    order = np.random.default_rng([self.seed, this_pass]).permutation(self.indices)
                    order_pass = this_pass
                batch.append(int(order[place]))
            yield batch


def as_it_is(batch):
    """A dataset that answers a whole list returns a batch already."""
    return batch


class TrainingData:
    """The pictures to train on and to validate with, at any size.

    train, valid: the sets at the options' size. indices: of the training pictures that have any foreground, since
    one without teaches a segmentation network least. Raises UserError. Collective: call on all ranks.
    """

    def __init__(self, options: DataOptions):
        self.options = options
        self.train, self.valid = self._load(options)
        self.indices = with_foreground(self.train) if options.dataset != "shapes" else list(range(len(self.train)))
        if not self.indices:
            raise UserError(
                f"no training picture in {options.path} has any foreground at {options.image_size} pixels; "
                f"look at its masks, or use a larger --image_size"
            )

    def at(self, size: int) -> tuple[SegmentationDataset, SegmentationDataset]:
        """Both sets with pictures of size x size pixels. Collective: call on all ranks."""
        if size == self.options.image_size:
            return self.train, self.valid
        return self._load(replace(self.options, image_size=size))

    def describe(self) -> list[str]:
        """Lines about the data for the start of a run."""
        lines = DATASETS[self.options.dataset].describe(self.options)
        shared = set(self.train.names) & set(self.valid.names)
        if shared:
            lines.append(
                f"note: {len(shared)} of {len(self.valid.names)} valid pictures, such as {min(shared)}, are trained on "
                f"too: the valid Dice says little about new pictures"
            )
        return lines

    def hashes(self) -> list[str]:
        """Of the pictures that are trained on; what a checkpoint keeps as `trained_on`."""
        return hashes(self.train, self.indices)

    def valid_set(self) -> str:
        """A short hash of which pictures are validated with; what a checkpoint keeps as `validated_on`."""
        return hash_of_set(self.valid)

    @staticmethod
    def _load(options):
        with first_alone():
            return load_split(options, "train"), load_split(options, "valid")


def with_foreground(dataset: SegmentationDataset) -> list[int]:
    """Indices of the pictures whose mask has any foreground."""
    found = []
    for first in range(0, len(dataset), 64):
        indices = list(range(first, min(first + 64, len(dataset))))
        present = (dataset[indices]["mask"] == 1).flatten(1).any(1).tolist()
        found += [index for index, is_there in zip(indices, present, strict=True) if is_there]
    return found


def train_loader(dataset, indices, batch_size, seed, steps, workers=0, device=CPU):
    """Shuffled batches of the pictures `indices` for a range of global steps."""
    return make_loader(dataset, workers, device, batch_sampler=ShuffledBatches(indices, batch_size, seed, steps))


def eval_loader(dataset, batch_size, workers=0, device=CPU):
    """Every picture once, in order; under torchrun, each rank gets every world_size-th picture."""
    mine = range(rank(), len(dataset), world_size())
    return make_loader(dataset, workers, device, batch_size=batch_size, sampler=mine)


def make_loader(dataset, workers, device, **batches):
    """The stock DataLoader; its own generator keeps it from moving the global random state."""
    on_device = isinstance(getattr(dataset, "packed", None), torch.Tensor)
    pinned = device.type == "cuda" and not on_device
    generator = torch.Generator()
    return DataLoader(
        dataset,
        num_workers=0 if on_device else workers,
        pin_memory=pinned,
        collate_fn=as_it_is,
        generator=generator,
        worker_init_fn=leave_signals_to_the_parent,
        **batches,
    )


def leave_signals_to_the_parent(worker):
    """Ctrl-C reaches every process of the terminal, and SIGTERM of torchrun or Slurm every process of a run.

    The parent alone answers them, once it has saved, and ends its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
