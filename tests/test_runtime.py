"""The measured precision, available cores, and threads of OpenMP."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, measure_speeds

import cores
import runtime
from photos.pipeline import pixels_in_flight
from runtime import Runtime


@pytest.mark.parametrize(
    ("float32", "bfloat16", "chosen"),
    [(331, 167, torch.float32), (100, 110, torch.float32), (100, 121, torch.bfloat16)],
)
def test_auto_chooses_bfloat16_only_if_it_is_clearly_faster(float32, bfloat16, chosen, monkeypatch):
    monkeypatch.setattr(runtime, "convolution_speeds", lambda: {"float32": float32, "bfloat16": bfloat16})
    assert runtime.choose_runtime("cpu").dtype == chosen
    assert runtime.choose_runtime("cpu", "float32").dtype == torch.float32


def test_only_copies_to_cuda_do_not_wait():
    """On MPS, a copy that does not wait can read memory that is already freed."""

    class Values:
        def to(self, device, non_blocking):
            return device.type, non_blocking

    devices = [torch.device(name) for name in ("cpu", "cuda", "mps")]
    assert [runtime.copy_to(Values(), device)[1] for device in devices] == [False, True, False]


def test_measuring_speeds_does_not_change_threads_or_random_state():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    speeds = measure_speeds()
    assert min(speeds.values()) > 0
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


def test_cgroups_limit_the_cores_and_the_pixels_in_flight(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(24)), raising=False)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 6_000_000}.get, raising=False)
    assert (cores.available_cores(), cores.memory_limit()) == (24, 4096 * 6_000_000)
    for quota, memory, limits in (
        ("150000 100000\n", "12000000000\n", (2, 50_000_000)),
        ("50000 100000\n", "1000000000\n", (1, 16_000_000)),
        ("max 100000\n", "max\n", (24, 100_000_000)),
    ):
        (tmp_path / "cpu.max").write_text(quota)
        (tmp_path / "memory.max").write_text(memory)
        assert (cores.available_cores(), pixels_in_flight()) == limits


bound = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or cores.cgroup_quota() < float("inf") or cores.available_cores() == 1,
    reason="needs Linux and two cores without a quota",
)


@pytest.mark.parametrize(
    ("given", "spin"),
    [pytest.param({}, None, marks=bound), ({"OMP_NUM_THREADS": "1"}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7")],
)
def test_unbound_threads_spin_briefly_unless_the_user_sets_the_spin_count(given, spin):
    assert environment_of_a_command(given).get("GOMP_SPINCOUNT") == spin


@bound
def test_only_openmp_threads_are_bound_to_cores():
    """The main thread, which starts loaders and decoders, may use every core."""
    code = """
import os, startup, torch
torch.ones(1 << 20).sin().sum()  # starts OpenMP's threads
threads = {len(os.sched_getaffinity(int(thread))) for thread in os.listdir("/proc/self/task")}
import cores
with cores.main_thread_bound():
    inside = len(os.sched_getaffinity(0))
print(inside, len(os.sched_getaffinity(0)), threads == {1, len(os.sched_getaffinity(0))}, torch.get_num_threads())
"""
    allowed = str(len(os.sched_getaffinity(0)))
    assert in_a_command(code, {}).split()[:3] == ["1", allowed, "True"]
    assert in_a_command(code, {"OMP_NUM_THREADS": "2"}).split() == [allowed, allowed, "False", "2"]
    assert not {"OMP_PROC_BIND", "OMP_PLACES"} & environment_of_a_command({}).keys()


def in_a_command(code, given):
    """Run code in a process with only the given OpenMP settings, and return its output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP_", "OMP_"))} | given
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT / "src", env=environment, capture_output=True, text=True, timeout=60)
    assert not done.returncode, done.stderr
    return done.stdout


def environment_of_a_command(given):
    return json.loads(in_a_command("import json, os, startup; print(json.dumps(dict(os.environ)))", given))


def test_networks_with_dilated_depthwise_convolutions_are_contiguous_on_a_cpu():
    """In bfloat16 and channels last, torch 2.14 gives wrong weight gradients on a CPU with AMX."""
    for groups, layout in ((8, torch.contiguous_format), (1, torch.channels_last)):
        network = torch.nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=groups)
        assert Runtime(dtype=torch.bfloat16).suited_to(network).memory_format == layout
