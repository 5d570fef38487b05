import os
import subprocess
import sys

import pytest
from conftest import ROOT, make_checkpoint, make_pets

sys.path.append(str(ROOT / "benchmarks"))
from turns import in_turns, quartiles, ratios_to, refuse_noise

from utils import UserError


def rows_of(benchmark, *flags, starting_with):
    """The lines that a benchmark prints, of those that begin with some words; the machine may be too noisy for it."""
    command = [sys.executable, ROOT / "benchmarks" / f"{benchmark}.py", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 or "too noisy" in done.stderr, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(starting_with)]


def test_a_row_for_each_contender(tmp_path):
    names = ("cast per call", "torchscript")
    flags = ["--rounds", 2, "--precision", "float32", "--only", *names, "--batch_size", 1, 3, "--threads", 1]
    model = make_checkpoint(tmp_path / "unet.pth", image_size=33)
    rows = rows_of("prediction", *flags, "--model", model, starting_with=("eager", *names))
    assert len(rows) == 2 * 3
    assert all(float(row.split()[-1]) < 1e-4 for row in rows)


def test_a_row_for_each_kind_of_output(tmp_path):
    model, pets = make_checkpoint(tmp_path / "unet.pth", image_size=33), make_pets(tmp_path / "pets")
    flags = ["--input", pets / "images", "--limit", 5, "--rounds", 2, "--megapixels", 0.01, "--save", "mask", "overlay"]
    rows = rows_of("outputs", "--model", model, *flags, starting_with=("network", "mask", "overlay"))
    assert [row.split()[0] for row in rows] == ["network", "mask", "overlay"]
    assert rows[0].split()[2] == "100%"


def test_turns_alternate_and_are_compared_in_pairs():
    order = []
    clocks = {"slow": iter([4.0, 8.0]), "fast": iter([2.0, 2.0])}
    turns = {name: lambda name=name: order.append(name) or next(clocks[name]) for name in clocks}
    ratios = ratios_to("slow", in_turns(turns, 2))
    assert order == ["slow", "fast", "slow", "fast"]
    assert ratios == {"slow": [1.0, 1.0], "fast": [2.0, 4.0]}
    assert quartiles(ratios["fast"]) == (2.5, 3.5)


def test_noise_is_refused_by_name():
    refuse_noise({"steady": (1.0, 1.4)})
    with pytest.raises(UserError, match="turns of wild differ"):
        refuse_noise({"steady": (1.0, 1.4), "wild": (1.0, 1.6)})
