"""Precision by measurement, and cores by affinity and quota."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, measure_speeds

import cores
import runtime


@pytest.mark.parametrize(
    ("float32", "bfloat16", "chosen"),
    [(331, 167, torch.float32), (100, 110, torch.float32), (100, 121, torch.bfloat16)],
)
def test_auto_takes_bfloat16_only_if_it_is_measured_to_be_faster(float32, bfloat16, chosen, monkeypatch):
    monkeypatch.setattr(runtime, "convolution_speeds", lambda: {"float32": float32, "bfloat16": bfloat16})
    assert runtime.choose_runtime("cpu").dtype == chosen
    assert runtime.choose_runtime("cpu", "float32").dtype == torch.float32


def test_measuring_leaves_threads_and_random_numbers_as_they_were():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    speeds = measure_speeds()
    assert min(speeds.values()) > 0
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


def test_cores_follow_the_cgroup_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(24)), raising=False)
    assert cores.available_cores() == 24
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cores.available_cores() == 2
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cores.available_cores() == 24


@pytest.mark.parametrize(("given", "expected"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_commands_set_a_short_spin_unless_the_user_has_set_one(given, expected):
    code = "import os, startup; print(os.environ['GOMP_SPINCOUNT'])"
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")} | given
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "src", env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == expected
