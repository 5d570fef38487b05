"""Count the usable CPU cores. Imports no slow modules, so it can run before torch is imported."""

import math
import os
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
    try:
        path = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip().lstrip("/")
    except OSError:
        return math.inf
    for folder in (CGROUPS / path, *(CGROUPS / path).parents):
        with suppress(OSError, ValueError):  # no such file, or "max"
            quota, period = (folder / "cpu.max").read_text().split()
            quotas.append(float(quota) / float(period))
    return min(quotas)


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
