import re

import numpy as np
import pytest
import torch
from conftest import FIGURES, load_shapes, make_checkpoint
from PIL import Image

from predictor import load_predictor
from reports import plots
from runtime import Runtime


@pytest.fixture(autouse=True)
def real_figures(monkeypatch):
    for name, function in FIGURES.items():
        monkeypatch.setattr(plots, name, function)


@pytest.fixture
def figures(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure))
    return drawn


def test_the_title_shows_the_best_epoch_at_the_largest_image_size(figures):
    dices, sizes = [0.7, 0.9, 0.8, 0.75], [64, 64, 96, 96]
    keys = ("train_loss", "valid_loss", "train_dice", "learning_rate")
    history = [
        {"epoch": epoch, "valid_dice": dice, "image_size": size, **dict.fromkeys(keys, 0.5)}
        for epoch, (dice, size) in enumerate(zip(dices, sizes, strict=True), 1)
    ]
    plots.plot_history(history, "a", None)
    plots.plot_history(history[:2], "b", None)
    grown, constant = figures
    assert re.search("0.8000.*3", grown.axes[1].get_title())
    assert [line.get_xdata() for line in grown.axes[1].lines if line.get_linestyle() == ":"] == [[2.5, 2.5]]
    assert re.search("0.9000.*2", constant.axes[1].get_title()) and constant.get_suptitle() == "b"


def test_panels_show_the_chosen_images(tmp_path):
    predictor = load_predictor(make_checkpoint(tmp_path / "a.pth"), Runtime())
    rows = plots.panel_rows(predictor, load_shapes("valid", 32, limit=9), [8, 3, 0])
    assert [row["name"] for row in rows] == ["valid_8", "valid_3", "valid_0"]
    assert rows[0]["probability"].shape == rows[0]["mask"].shape == (32, 32)


def test_a_batch_is_drawn_with_its_masks_overlaid(figures):
    masks = torch.zeros(9, 1, 8, 8, dtype=torch.uint8)
    masks[0, 0, :4], masks[0, 0, 4:6] = 1, 255
    plots.plot_batch(torch.full((9, 1, 8, 8), 0.5), masks, "a", None)
    axes = figures[0].axes
    assert [len(axis.images) for axis in axes] == [2] * 9 + [0] * 7
    image, overlay = (image.get_array() for image in axes[0].images)
    assert (image == 0.5).all() and image.shape == (8, 8, 3)
    assert (overlay[:4, :, 0] == 1).all() and (overlay[4:6, :, 2] == 1).all() and (overlay[6:, :, 3] == 0).all()


NAMES = ["$x_1$", "a$b", r"\$\frac{", "犬の写真", "\udce9.jpg", "n" * 200]


def rows_of(names):
    image, mask = np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    row = {"image": image, "mask": mask, "probability": mask / 2, "predicted": mask == 1, "dice": 0.5, "note": "best"}
    return [{**row, "name": name} for name in names]


def test_names_are_drawn_as_plain_text_without_warnings(tmp_path, recwarn, capsys):
    plots.plot_panels(rows_of(NAMES), "$y^{$ 犬", tmp_path / "a.png")
    assert not [str(warning.message) for warning in recwarn] and not capsys.readouterr().err


@pytest.mark.parametrize("number", [1, 4, 9])
def test_panels_fit_a_screen(number, tmp_path):
    plots.plot_panels(rows_of(map(str, range(number))), "a", tmp_path / "a.png")
    width, height = Image.open(tmp_path / "a.png").size
    assert width <= 1600 and height <= 900
