"""What the page keeps of a visitor's photos, and what it makes of them; no browser, no Gradio."""

from zipfile import ZipFile

import numpy as np
import pytest
from conftest import make_checkpoint
from PIL import Image

import shapes
from photos import album as albums
from photos.album import open_album
from photos.outputs import Style
from photos.prediction import load_model


@pytest.fixture
def model(tmp_path):
    return load_model(make_checkpoint(tmp_path / "a.pth"), precision="float32")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shown").mkdir()
    return tmp_path / "shown"


def draw(path, width=64, height=48, **options):
    picture, _ = shapes.draw(np.random.default_rng([9, width]), height, width, count=4)
    Image.fromarray(picture).save(path, **options)
    return path


def names_in(folder):
    return sorted(path.name.split("-")[0] for path in folder.rglob("*") if path.is_file())


def test_two_hundred_moves_leave_one_picture_on_show_and_downloads_one_file(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(albums, "SHOWN_SIZE", 64)
    album = open_album(model, [draw(tmp_path / "cat.jpg", 320, 240)], folder)
    seen = {album.show("cutout", Style(0.4 + move / 400))[1] for move in range(200)}
    assert len(seen) == 200  # a browser never takes one from its cache for another
    assert names_in(folder) == ["after", "before_0", "thumbnail_1"]
    for kind in ("mask", "overlay", "cutout", "cutout"):
        saved = album.save(kind, Style())
    assert names_in(folder) == ["after", "before_0", "cat_cutout.png", "thumbnail_1"]
    with Image.open(saved) as picture:
        assert picture.mode == "RGBA" and picture.size == (320, 240)
    assert album.photos[0].probability.shape == (32, 32)  # of the network's size, whatever the photo's
    album.forget()
    assert not list(folder.iterdir())


def test_the_chosen_photo_is_shown_and_all_are_saved_under_names_of_their_own(model, folder, tmp_path):
    (tmp_path / "broken.jpg").write_text("no picture")
    (tmp_path / "dog.jpg").write_bytes(draw(tmp_path / "whole.jpg", 80, 60).read_bytes()[:-600])
    paths = [
        draw(tmp_path / "cat.jpg"),
        draw(tmp_path / "cat.png", 50, 70),
        tmp_path / "broken.jpg",
        tmp_path / "dog.jpg",
    ]
    album = open_album(model, paths, folder)
    assert len(album.photos) == len(album.thumbnails) == 2
    assert album.problems[0] == "broken.jpg is not a picture" and album.problems[1].startswith("dog.jpg cannot")
    assert "cat.jpg: 64×48 pixels" in album.show("overlay", Style())[2]
    album.chosen = 1
    before, after, sentence = album.show("overlay", Style())
    assert "cat.png: 50×70 pixels" in sentence
    assert Image.open(before).size == Image.open(after).size == (50, 70)
    assert names_in(folder) == ["after", "before_1", "thumbnail_1", "thumbnail_2"]
    with ZipFile(album.save("cutout", Style())) as archive:
        sizes = {name: Image.open(archive.open(name)).size for name in archive.namelist()}
    assert sizes == {"cat_cutout.png": (64, 48), "cat_cutout.png.png": (50, 70)}


def test_what_was_transparent_stays_so_and_is_shown_on_a_checkerboard(model, folder, tmp_path):
    picture = Image.open(draw(tmp_path / "cat.png"))
    alpha = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    picture.putalpha(Image.fromarray(alpha))
    picture.save(tmp_path / "cat.png")
    album = open_album(model, [tmp_path / "cat.png"], folder)
    for method in ("guided", "plain"):
        found = np.asarray(Image.open(album.save("cutout", Style(method=method))).getchannel("A"))
        assert (found <= alpha).all() and found.any()
    shown = np.asarray(Image.open(album.show("cutout", Style())[1]))
    assert (shown[:, 0] == np.asarray(albums.checkerboard(64, 48))[:, :1]).all()
    assert {216, 255} <= set(shown[:, 0].ravel())
