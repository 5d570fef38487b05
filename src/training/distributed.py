"""Several processes, started by torchrun, that share every batch; a single process needs nothing of this.

Process 0 alone prints and writes. Small values go over gloo, gradients over NCCL on GPUs and gloo on the CPU.
"""

import os
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from runtime import Runtime
from utils import UserError

SMALL_SHARE = 16  # pictures per process below which batch norm takes its statistics over all processes


def rank():
    """This process's number; 0 where there is one."""
    return int(os.environ.get("RANK", 0))


def world_size():
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def start(runtime: Runtime) -> Runtime:
    """Join the other processes, if there are any; all but process 0 are silenced.

    Returns the runtime in the precision of process 0, since each measured for itself which is fastest.
    """
    if world_size() == 1 or dist.is_initialized():
        return runtime
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if runtime.device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the processes did not find each other ({reason}); start them with torchrun") from None
    if rank():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return replace(runtime, dtype=getattr(torch, on_first(lambda: runtime.precision)))


def finish():
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def on_first(function):
    """Call a function on rank 0; every rank gets its result, or its UserError. Collective: call on all ranks."""
    if world_size() == 1:
        return function()
    outcome = [None, None]
    if rank() == 0:
        try:
            outcome = [function(), None]
        except UserError as error:
            outcome = [None, str(error)]
    dist.broadcast_object_list(outcome, device=torch.device("cpu"))
    if outcome[1]:
        raise UserError(outcome[1])
    return outcome[0]


def all_of(value):
    """What each rank has, in the order of ranks; anything that can be pickled. Collective: call on all ranks."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def first_alone():
    """Local rank 0 runs the block first; the others of its machine reuse its files."""
    waits = int(os.environ.get("LOCAL_RANK", 0)) > 0
    if waits:
        dist.barrier()
    try:
        yield
    finally:
        if world_size() > 1 and not waits:
            dist.barrier()


def share(n, part, parts):
    """The part-th of `parts` equal slices of n items, in order."""
    return slice(part * n // parts, (part + 1) * n // parts)


def wrap(model, device, pictures):
    """The network to call in training: its gradients are the mean over the processes.

    pictures: how many one process takes in one forward pass.
    """
    if world_size() == 1:
        return model
    if device.type == "cuda" and pictures < SMALL_SHARE:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def no_sync(forward):
    """A context for a backward pass whose gradients are added to by the next one, and not yet exchanged."""
    return forward.no_sync() if world_size() > 1 else nullcontext()


def agree(*values):
    """The largest of each whole number over the ranks. Collective: call on all ranks."""
    if world_size() == 1:
        return values
    values = torch.tensor(values)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return tuple(values.tolist())


def gather(values):
    """A tensor of one shape on every rank as (ranks, ...), on the CPU. Collective: call on all ranks."""
    values = values.detach().cpu()
    if world_size() == 1:
        return values[None]
    parts = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.stack(parts)


def gather_rows(rows, total):
    """Rows of every world_size-th of `total` items, from item `rank`, as those of all items, in order, on the CPU.

    Collective: call on all ranks.
    """
    if world_size() == 1:
        return rows.cpu()
    length = -(-total // world_size())
    padded = torch.zeros(length, *rows.shape[1:], dtype=rows.dtype)
    padded[: len(rows)] = rows
    return gather(padded).transpose(0, 1).flatten(0, 1)[:total]


def mean_over_ranks(values: list[torch.Tensor]):
    """Replace each tensor by its mean over the ranks. Collective: call on all ranks."""
    if world_size() > 1:
        for value in values:
            dist.all_reduce(value)
            value /= world_size()
