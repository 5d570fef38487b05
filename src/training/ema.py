"""EMA of the weights, and batch-norm statistics that fit it."""

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from runtime import Runtime
from training.distributed import mean_over_ranks


def floats(network: nn.Module) -> list[torch.Tensor]:
    """Return the floating-point tensors of a network's state_dict, tied ones once."""
    tensors = {id(value): value for value in network.state_dict(keep_vars=True).values()}
    return [value for value in tensors.values() if value.is_floating_point()]


class EMA:
    """Exponential moving average of a network's weights and running statistics, in `module`.

    The first update copies the weights. After n updates the decay is (1 + n) / (10 + n), at most `decay`, so that short
    runs forget their first weights. torch's AveragedModel would wait for the GPU at every step.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.module = deepcopy(network).requires_grad_(False)
        self.decay, self.count = decay, 0
        self.averages, self.values = floats(self.module), floats(network)

    @torch.no_grad()
    def update(self):
        """Move the average toward the network's weights."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count)) if self.count else 0.0
        torch._foreach_lerp_(self.averages, self.values, 1 - decay)
        self.count += 1

    def state_dict(self) -> dict:
        return {"module": self.module.state_dict(), "count": self.count}

    def load_state_dict(self, state: dict):
        self.module.load_state_dict(state["module"])
        self.count = state["count"]


def refresh_batch_norm(network: nn.Module, images: Iterable[torch.Tensor], runtime: Runtime):
    """Recompute batch norm's running statistics from training images (N, C, H, W). Collective.

    Wu and Johnson, 2021 (arXiv 2105.07576), section 3.
    """
    with runtime.autocast():
        update_bn(images, network)
    mean_over_ranks([value for value in network.buffers() if value.is_floating_point()])
