from reports import plots


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
