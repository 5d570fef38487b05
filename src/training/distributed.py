"""Several processes, started by torchrun, that split each batch. Only rank 0 prints.

A function whose docstring says "Collective" must be called on all ranks.
"""

import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from runtime import Runtime
from utils import UserError

SMALL_SHARD = 16  # images per forward pass; on GPUs, batch norm synchronizes below this
files_group: Any = None  # process group of `rank_zero_first`


def rank() -> int:
    """Return this process's number, from 0."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Return the number of processes; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def init_processes(runtime: Runtime) -> Runtime:
    """Join the other processes, and silence all but rank 0. Return the runtime in rank 0's precision."""
    global files_group
    if world_size() == 1 or dist.is_initialized():
        return runtime
    dist.init_process_group("cpu:gloo,cuda:nccl" if runtime.device.type == "cuda" else "gloo")
    files_group = dist.new_group(backend="gloo", timeout=timedelta(days=7))  # for decoding many images
    if rank():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return replace(runtime, dtype=getattr(torch, on_rank_zero(lambda: runtime.precision)))


def destroy_processes():
    if dist.is_initialized():
        dist.destroy_process_group()


def on_rank_zero(function: Callable):
    """Call a function on rank 0. Every rank gets its result or UserError. Collective."""
    if world_size() == 1:
        return function()
    outcome: list = [None]
    if rank() == 0:
        try:
            outcome = [function()]
        except UserError as error:
            outcome = [UserError(str(error))]  # subclasses cannot all be pickled
    dist.broadcast_object_list(outcome, device=torch.device("cpu"))
    if isinstance(outcome[0], UserError):
        raise outcome[0]
    return outcome[0]


def all_gather_object(value) -> list:
    """Return every rank's picklable value, in rank order. Collective."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def rank_zero_first():
    """Let one process per machine run the block first, so that the others find its files."""
    waits = int(os.environ.get("LOCAL_RANK", 0)) > 0
    if waits:
        dist.barrier(files_group)
    try:
        yield
    finally:
        if world_size() > 1 and not waits:
            dist.barrier(files_group)


def shard(n: int, part: int, parts: int) -> slice:
    """Cut n items into `parts` nearly equal slices, and return slice `part`, from 0."""
    return slice(part * n // parts, (part + 1) * n // parts)


def micro_batches(n: int, parts: int) -> list[slice]:
    """Cut n images into `parts` nearly equal slices."""
    return [shard(n, part, parts) for part in range(parts)]


def images_per_pass(args) -> int:
    """Return how many images a process passes through the network at once, rounded down."""
    return max(1, args.batch_size // world_size() // args.accumulation_steps)


def wrap_ddp(model: nn.Module, device: torch.device, images: int) -> nn.Module:
    """Wrap a network to average its gradients over the processes. images: number per forward pass."""
    if world_size() == 1:
        return model
    if device.type == "cuda" and images < SMALL_SHARD:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def max_over_ranks(*values: int) -> tuple[int, ...]:
    """Return each value's maximum over the ranks. Collective."""
    return tuple(all_gather(torch.tensor(values)).amax(0).tolist())


def all_gather(values: torch.Tensor) -> torch.Tensor:
    """Stack the ranks' tensors, of equal shape, on the CPU: (ranks, ...). Collective."""
    values = values.detach().cpu()
    if world_size() == 1:
        return values[None]
    parts = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.stack(parts)


def gather_rows(rows: torch.Tensor, total: int) -> torch.Tensor:
    """Gather the rows of `total` items, of which each rank has every world_size-th, in order. Collective."""
    padded = torch.zeros(-(-total // world_size()), *rows.shape[1:], dtype=rows.dtype)
    padded[: len(rows)] = rows
    return all_gather(padded).transpose(0, 1).flatten(0, 1)[:total]


def mean_over_ranks(values: list[torch.Tensor]):
    """Replace each tensor with its mean over the ranks. Collective."""
    if world_size() > 1:
        for value in values:
            dist.all_reduce(value)
            value /= world_size()
