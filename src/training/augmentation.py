"""Augmented, normalized batches, each a function of seed and step."""

import math
from argparse import Namespace

import numpy as np
import torch

from augment import AUGMENTS, Strength, augment, normalize, random_params
from data import train_loader
from runtime import Runtime, copy_to
from training.distributed import rank, shard, world_size


class BatchAugmentation:
    """Turns batches into network input. images: number of training images. normalization: (mean, std)."""

    def __init__(self, args: Namespace, images: int, normalization: tuple, runtime: Runtime):
        self.args, self.images, self.runtime = args, images, runtime
        self.mean, self.std = normalization
        self.strength = AUGMENTS[args.augment]

    def __call__(self, batch: dict, step: int, rows: slice | None = None, strength: Strength | None = None):
        """Return float images (n, C, H, W) and uint8 masks (n, 1, H, W), on the device.

        batch: this rank's shard of the step's batch. rows: which to use. strength: by default the step's.
        """
        n, rows = self.args.batch_size, rows or slice(None)
        generator = torch.Generator().manual_seed(seed_of(self.args.seed, step))
        mine = shard(n, rank(), world_size())
        params = {name: values[mine][rows] for name, values in random_params(n, generator).items()}
        image, mask = (copy_to(batch[name][rows], self.runtime.device) for name in ("image", "mask"))
        if strength is None:
            strength = self.strength.after(step * n / self.images)
        with torch.autocast(self.runtime.device.type, enabled=False):
            image, mask = augment(image, mask, strength, params)
        return self.runtime.layout(normalize(image, self.mean, self.std)), mask

    def batches(self, dataset, indices, steps, strength: Strength | None = None):
        """Yield images and masks of a range of steps, as this rank trains on them."""
        loader = train_loader(dataset, indices, self.args, steps, self.runtime.device, workers=0)
        for step, batch in zip(steps, loader, strict=True):
            yield self(batch, step, strength=strength)

    def sample(self, dataset, indices, step: int, number: int):
        """Return up to `number` images (N, C, H, W) in [0, 1] and masks from `step` on, fully augmented, on the CPU."""
        steps = range(step, step + math.ceil(number * world_size() / self.args.batch_size))
        images, masks = zip(*self.batches(dataset, indices, steps, self.strength), strict=True)
        mean, std = torch.tensor([self.mean, self.std])[..., None, None]
        return torch.cat(images)[:number].cpu() * std + mean, torch.cat(masks)[:number].cpu()


def seed_of(*numbers: int) -> int:
    """Combine the run's seed, the step and other numbers into one seed, for exact resuming."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
