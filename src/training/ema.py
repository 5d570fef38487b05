"""The exponential moving average of the weights, and batch-norm statistics that fit averaged weights."""

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from runtime import Runtime
from training.distributed import mean_over_ranks


class EMA:
    """Exponential moving average of a network's weights and running statistics, in `module`.

    The decay starts low, so that a short run is not held back by its first weights: 0, then (1 + n) / (10 + n) after n
    updates, until it reaches `decay`. `torch.optim.swa_utils.AveragedModel` would wait for the GPU at every step.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.module, self.decay, self.count = deepcopy(network).requires_grad_(False), decay, 0
        averages, values = self.module.state_dict(), network.state_dict()  # they share the networks' memory
        names = [name for name, value in averages.items() if value.is_floating_point()]  # not the counters
        self.averages, self.values = ([tensors[name] for name in names] for tensors in (averages, values))

    @torch.no_grad()
    def update(self):
        """Move the average toward the network's current weights."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count)) if self.count else 0.0
        torch._foreach_lerp_(self.averages, self.values, 1 - decay)
        self.count += 1

    def state_dict(self) -> dict:
        return {"module": self.module.state_dict(), "count": self.count}

    def load_state_dict(self, state: dict):
        self.module.load_state_dict(state["module"])
        self.count = state["count"]


def refresh_batch_norm(network: nn.Module, images: Iterable[torch.Tensor], runtime: Runtime):
    """Recompute the batch norms' running statistics from batches of training images (N, C, H, W).

    Running statistics lag the weights by about ten steps, and averaged weights have no matching statistics at all. Wu
    and Johnson, "Rethinking 'Batch' in BatchNorm", 2021 (arXiv 2105.07576), section 3. Collective.
    """
    with runtime.autocast():
        update_bn(images, network)
    mean_over_ranks([value for value in network.buffers() if value.is_floating_point()])
