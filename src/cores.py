"""How many cores this process may use; imports nothing slow, so that commands can ask before torch is imported."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Return the number of cores that affinity (taskset, Slurm) and cgroup quotas (Docker, Kubernetes) allow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cgroup_quota())))


def cgroup_quota() -> float:
    """Return the cores that the cgroup's quota amounts to, or infinity if there is none."""
    quotas = [math.inf]
    try:
        path = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip().lstrip("/")
    except OSError:
        return math.inf
    for folder in (CGROUPS / path, *(CGROUPS / path).parents):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
            quotas.append(float(quota) / float(period))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    try:  # version 1
        quota, period = ((CGROUPS / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        quotas.append(float(quota) / float(period) if float(quota) > 0 else math.inf)
    except (OSError, ValueError):
        pass
    return min(quotas)
