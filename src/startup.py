"""Settings of a command's process; commands import this before torch. A notebook's process is left as it is.

OpenMP's threads spin while they wait for each other: if another process uses one of the cores, a training step takes
three to four times as long. After a short spin they give the core away instead (benchmarks/README.md). glibc returns
large freed blocks to the system, which clears them for the next batch: a tenth of a training step. They are kept.
"""

import ctypes
import os
from contextlib import suppress

from cores import available_cores, cgroup_quota

SPINS = 10_000
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
