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


def test_a_batch_is_drawn_as_trained_on_with_its_masks_over_it(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    masks = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    masks[0, 0, :4], masks[0, 0, 4:6] = 1, 255
    plots.plot_batch(torch.full((5, 1, 8, 8), 0.5), masks, "a", tmp_path / "a.png")
    [figure] = figures
    assert len(figure.axes) == 8 and [len(axis.images) for axis in figure.axes] == [3] * 5 + [0] * 3
    picture, foreground, ignored = (image.get_array() for image in figure.axes[0].images)
    assert (picture == 0.5).all() and picture.shape == (8, 8, 3)
    assert (foreground[:4, :, 3] > 0).all() and (foreground[4:, :, 3] == 0).all()
    assert (ignored[4:6, :, 3] > 0).all() and (ignored[:4, :, 3] == 0).all() and (ignored[6:, :, 3] == 0).all()
