"""inference.py: the masks, panels and run lengths of a split."""

import numpy as np
from conftest import error_of, make_checkpoint, make_pets, read_table, script
from PIL import Image
from test_scripts import contents


def test_masks_panels_and_run_lengths_of_a_split_are_written_but_not_into_the_dataset(tmp_path):
    trimaps = make_pets(tmp_path / "pets", 3, 2) / "annotations/trimaps"
    make_checkpoint(tmp_path / "a.pth", threshold=0.3)
    flags = ("--model", "a.pth", "--data_path", "pets", "--precision", "float32")
    for threshold in ("0.5", "chosen"):  # the second run replaces the files of the first
        done = script("inference", *flags, "--rle", "r.csv", "--threshold", threshold, cwd=tmp_path)
    assert "2 masks" in done.stdout and "0.3" in done.stdout
    assert [row["image_id"] for row in read_table(tmp_path / "r.csv")] == ["Drawn_3", "Drawn_4"]
    assert {path.name for path in (tmp_path / "predictions").iterdir()} == {"Drawn_3.png", "Drawn_4.png", "panels.png"}
    for name, size in (("Drawn_3", (60, 44)), ("Drawn_4", (40, 53))):
        mask = Image.open(tmp_path / f"predictions/{name}.png")
        assert mask.size == size and set(np.unique(mask)) <= {0, 255}
    before = contents(trimaps)
    for output in (trimaps, trimaps / "new"):
        assert "--output" in error_of(script("inference", *flags, "--output", output, cwd=tmp_path, expect=2))
    assert contents(trimaps) == before
