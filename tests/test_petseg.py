"""petseg, imported by a program whose own modules have the same names as ours."""

import subprocess
import sys

from conftest import ROOT, make_checkpoint

PROGRAM = """
import sys
import data, inference, models, photos, predict as own, utils
import numpy as np
sys.path.append({src!r})
from petseg import ImageError, UserError, load_model, predict

probability, _ = predict(load_model({model!r}), [np.full((40, 60, 3), 128, np.uint8)] * 2)
assert probability.shape == (40, 60) and probability.dtype == np.float32
import data as again
assert again is data and [module.OWN for module in (data, inference, models, photos, own, utils)] == [True] * 6
assert "runtime" not in sys.modules and "petseg.runtime" in sys.modules
"""


def test_petseg_and_the_program_each_import_their_own_modules(tmp_path):
    for name in ("data", "predict", "utils"):
        (tmp_path / f"{name}.py").write_text("OWN = True\n")
    for name in ("inference", "models", "photos"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWN = True\n")
    model = make_checkpoint(tmp_path / "a.pth")
    (tmp_path / "program.py").write_text(PROGRAM.format(src=str(ROOT / "src"), model=str(model)))
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
