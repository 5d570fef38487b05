"""Settings of a command's process; commands import this before torch. A notebook's process is left as it is.

OpenMP's threads spin while they wait for each other, and the scheduler moves threads that sleep onto each other's
cores: if another process computes, a training step takes four to eight times as long. Each of them is bound to a core
and spins briefly instead (benchmarks/README.md). glibc returns large freed blocks to the system, which clears them for
the next batch: a tenth of a training step. They are kept.
"""

import ctypes
import os
from contextlib import suppress

from cores import available_cores, cgroup_quota

SPINS = 10_000
BINDING = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's mallopt

if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)
if cgroup_quota() < float("inf"):  # OpenMP respects affinity but not quotas
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
with suppress(AttributeError, OSError, TypeError):  # another C library
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
    libc.mallopt(M_ARENA_MAX, 1)  # else every thread keeps its own freed memory
if not {"OMP_NUM_THREADS", "GOMP_CPU_AFFINITY", *BINDING} & os.environ.keys() and hasattr(os, "sched_setaffinity"):
    cores = os.sched_getaffinity(0)
    os.environ.update(BINDING)
    import torch  # noqa: F401  # OpenMP reads its settings once

    os.sched_setaffinity(0, cores)  # the main thread, and the threads and processes it starts, are not bound
    for name in BINDING:
        del os.environ[name]
