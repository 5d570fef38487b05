import sys

import numpy as np
from conftest import ROOT, make_checkpoint
from PIL import Image

from utils import run


def test_silhouettes_hold_no_pixel_of_a_photo(pets, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import silhouettes

    drawn = []
    monkeypatch.setattr(silhouettes, "squared", lambda picture: drawn.append(picture) or picture)
    flags = ("--model", make_checkpoint(tmp_path / "a.pth"), "--data_path", pets, "--output", tmp_path / "out.png")
    monkeypatch.setattr(sys, "argv", ["silhouettes.py", *map(str, flags)])
    try:
        run(silhouettes.main)
    except SystemExit as ended:
        assert not ended.code
    assert Image.open(tmp_path / "out.png").size[0] == 1200
    assert len(drawn) == 12  # truth and prediction of two best, two median, two worst
    allowed = {silhouettes.GROUND, silhouettes.RIGHT, silhouettes.MISSED, silhouettes.INVENTED}
    assert {
        tuple(color) for picture in drawn for color in np.unique(picture.reshape(-1, 3), axis=0).tolist()
    } <= allowed
    assert {picture.shape[:2] for picture in drawn} <= {(44, 60), (53, 40)}  # the pictures' own shapes


def test_a_silhouette_tells_misses_from_inventions(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import silhouettes as s

    truth, prediction = np.array([[True, True, False, False]]), np.array([[True, False, True, False]])
    assert list(map(tuple, s.silhouette(truth, prediction)[0].tolist())) == [s.RIGHT, s.MISSED, s.INVENTED, s.GROUND]
    assert s.squared(s.silhouette(truth, prediction)).shape == (4, 4, 3)
