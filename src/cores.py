"""Find the usable CPU cores and memory. Imports no slow modules, so it can run before torch is imported."""

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
threads_are_bound = False  # set by startup.py, which binds each OpenMP thread but the main one to a core


def available_cores() -> int:
    """Return the number of cores that affinity (Slurm) and cgroup quotas (Docker, Kubernetes) allow."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, math.ceil(min(cores, cgroup_quota())))


def cgroup_quota() -> float:
    """Return the cgroup v2 CPU quota in cores, or infinity if none."""
    quotas = [math.inf]
    for text in cgroup_files("cpu.max"):
        quota, period = text.split()
        if quota != "max":
            quotas.append(float(quota) / float(period))
    return min(quotas)


def memory_limit() -> float:
    """Return the machine's memory in bytes, or the cgroup v2 limit if that is lower; 0 if unknown."""
    limits = [float(text) for text in cgroup_files("memory.max") if text.strip() != "max"]
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=0)


def cgroup_files(name: str) -> Iterator[str]:
    """Yield the contents of the cgroup v2 file `name` for this process's cgroup and each of its ancestors."""
    with suppress(OSError):
        path = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip().lstrip("/")
        for folder in (CGROUPS / path, *(CGROUPS / path).parents):
            with suppress(OSError):
                yield (folder / name).read_text()


@contextmanager
def main_thread_bound():
    """Within the block, keep the main thread on the core that OpenMP's other threads leave free."""
    if not threads_are_bound:
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class PixelBudget:
    """Limits the pixels in memory across threads; an image over the limit is processed by itself."""

    def __init__(self, pixels: int):
        self.pixels, self.taken, self.changed = pixels, 0, threading.Condition()

    def spend(self, pixels: int, work, *arguments):
        """Return work(*arguments), called when `pixels` more pixels fit into the budget."""
        with self.changed:
            self.changed.wait_for(lambda: self.taken == 0 or self.taken + pixels <= self.pixels)
            self.taken += pixels
        try:
            return work(*arguments)
        finally:
            with self.changed:
                self.taken -= pixels
                self.changed.notify_all()
