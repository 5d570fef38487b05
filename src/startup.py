"""Settings of a command's process, imported before torch. Notebooks do not import it.

The scheduler moves OpenMP's sleeping threads onto each other's cores: next to another busy process, a training step
takes five to ten times as long. So each thread is bound to a core, or spins only briefly if the user has set the number
of threads or their binding (benchmarks/README.md). glibc returns large freed blocks to the system, which must then
clear them for the next batch; this takes up to a fifth of a training step, so freed blocks are kept.
"""

import ctypes
import os
from contextlib import suppress

import cores

BINDING = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}

if cores.cgroup_quota() < float("inf"):  # OpenMP respects affinity but not quotas
    os.environ.setdefault("OMP_NUM_THREADS", str(cores.available_cores()))
with suppress(AttributeError, OSError, TypeError):  # another C library
    libc = ctypes.CDLL(None)
    libc.mallopt(-4, 0)  # M_MMAP_MAX
    libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD
    libc.mallopt(-8, 1)  # M_ARENA_MAX: else every thread keeps its own freed memory
given = {"OMP_NUM_THREADS", "GOMP_CPU_AFFINITY", *BINDING} & os.environ.keys()
if not given and hasattr(os, "sched_setaffinity"):
    allowed = os.sched_getaffinity(0)
    os.environ.update(BINDING)
    import torch  # noqa: F401  # OpenMP reads its settings once

    os.sched_setaffinity(0, allowed)  # unbind the main thread, and all it starts
    cores.threads_are_bound = True
    for name in BINDING:
        del os.environ[name]
elif not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "10000"
