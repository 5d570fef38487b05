import torch
from conftest import load_shapes, make_checkpoint

from predictor import load_predictor
from reports import plots
from runtime import Runtime


def test_the_best_epoch_is_one_with_pictures_of_the_last_size(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    dices, sizes = [0.7, 0.9, 0.8, 0.75], [64, 64, 96, 96]
    keys = ("train_loss", "valid_loss", "train_dice", "learning_rate")
    history = [
        {"epoch": epoch, "valid_dice": dice, "image_size": size, **dict.fromkeys(keys, 0.5)}
        for epoch, (dice, size) in enumerate(zip(dices, sizes, strict=True), 1)
    ]
    plots.plot_history(history, "a", tmp_path / "a.png")
    plots.plot_history(history[:2], "b", tmp_path / "b.png")
    grown, steady = figures
    assert grown.axes[1].get_title() == "Dice, best 0.8000 in epoch 3"
    assert [line.get_xdata() for line in grown.axes[1].lines if line.get_linestyle() == ":"] == [[2.5, 2.5]]
    assert steady.axes[1].get_title() == "Dice, best 0.9000 in epoch 2"
    assert grown.get_suptitle() == "a; dotted: the pictures grow" and steady.get_suptitle() == "b"


def test_example_rows_are_the_best_the_median_and_the_worst(tmp_path):
    predictor = load_predictor(make_checkpoint(tmp_path / "a.pth"), Runtime())
    dataset = load_shapes("valid", 32, limit=9)
    dices = torch.arange(9) / 10
    rows = plots.example_rows(predictor, dataset, dices)
    expected = {"best: ": (8, 7, 6), "median: ": (3, 4, 5), "worst: ": (0, 1, 2)}
    pairs = [(note, dataset.names[index]) for note, indices in expected.items() for index in indices]
    assert [(row["note"], row["name"]) for row in rows] == pairs
    assert rows[0]["probability"].shape == rows[0]["mask"].shape == (32, 32)
