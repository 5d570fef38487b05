"""Settings of a command's process; commands import this before torch. A notebook's process is left as it is.

OpenMP's threads spin while they wait for each other. If another process has one of the cores, each wait lasts until the
scheduler brings the missing thread back, and a training step takes three to four times as long. After a short spin they
give the core away instead (benchmarks/README.md has the measurements).

glibc returns large freed blocks to the system, which then clears every page of the next batch's activations: a tenth of
a training step on the CPU, a quarter of a small network's prediction. Freed memory is kept instead.
"""

import ctypes
import os
from contextlib import suppress

from cores import available_cores, cgroup_quota

SPINS = 5000
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt

if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)
if cgroup_quota() < float("inf"):  # OpenMP knows affinity, but no quota
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
with suppress(AttributeError, OSError, TypeError):  # another C library
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
