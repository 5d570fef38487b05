"""Photos in, pictures out: what a person's folder may hold, and what must come out of it."""

import csv
import os
import resource
import subprocess
import sys
from pathlib import Path, PurePath

import numpy as np
import pytest
import torch
from conftest import ROOT, draw_pet, make_checkpoint, make_pets, process
from PIL import Image

import inference
from inference import load_model, predict
from photos.inputs import Source, choose_names, find_pictures, name_outputs
from photos.outputs import KINDS, box, cutout, mask_of, overlay, probability_picture, run_lengths, to_size
from photos.pictures import PictureError
from utils import UserError, run


@pytest.fixture
def model(tmp_path):
    return make_checkpoint(tmp_path / "tiny.pth")


@pytest.fixture
def call(tmp_path, monkeypatch, capsys, model):
    """Run inference.py's main in tmp_path; -> exit status, stdout and stderr."""

    def inner(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["inference.py", "--model", str(model), *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run(inference.main)
        return ended.value.code, *capsys.readouterr()

    return inner


def photo(width=50, height=30, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_a_folder_of_everything(call, tmp_path):
    """Everything good is done, everything bad is named, exit status tells, nothing is overwritten."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    good = {
        "plain.jpg": lambda path: photo().save(path),
        "plain.png": lambda path: photo(31, 47).save(path),
        "tiny.png": lambda path: photo(1, 1).save(path),
        "cmyk.jpg": lambda path: photo().convert("CMYK").save(path),
        "deep.png": lambda path: Image.fromarray(np.arange(800, dtype=np.uint16).reshape(20, 40) * 80).save(path),
        "moves.gif": lambda path: photo().save(path, save_all=True, append_images=[photo(seed=1)]),
        "Mein Hund ist süß 犬.jpg": lambda path: photo().save(path),
        "sub/plain.jpg": lambda path: photo(20, 20).save(path),
    }
    for name, save in good.items():
        save(folder / name)
    (folder / "text.jpg").write_text("no picture")
    (folder / "truncated.jpg").write_bytes((folder / "plain.jpg").read_bytes()[:700])
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "notes.txt").write_text("not a picture, and not named like one")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    status, out, err = call("--input", folder, "--recursive", "--output", folder, "--save", *KINDS)
    assert status == 2 and f"of {len(good)} pictures" in out
    for bad in (
        "text.jpg is not a picture",
        "truncated.jpg cannot be decoded",
        "loop.jpg cannot be",
        "up is a link back",
    ):
        assert bad in err
    assert "4 of 12 were left out" in err and len(err.strip().splitlines()) == 1
    assert all(path.read_bytes() == content for path, content in before.items())
    for kind, suffix in KINDS.items():
        made = [path for path in (folder / kind).rglob("*") if path.is_file()]
        assert len(made) == len(good) and all(path.suffix == suffix for path in made)
    assert Image.open(folder / "mask/sub/plain.png").size == (20, 20)
    assert {Image.open(folder / f"mask/plain{end}.png").size for end in ("", ".png")} == {(50, 30), (31, 47)}
    assert Image.open(folder / "mask/Mein Hund ist süß 犬.png").size == (50, 30)


def test_an_unreadable_file_is_named(call, tmp_path, monkeypatch):
    photo().save(tmp_path / "closed.png")
    photo().save(tmp_path / "open.png")
    opened = os.open

    def refuse(path, *arguments, **options):
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr("photos.pictures.os.open", refuse)  # root, who runs these tests, may read anything
    status, out, err = call("--input", "closed.png", "open.png")
    assert status == 2 and "closed.png cannot be opened (Permission denied)" in err and "of 1 pictures" in out


def test_a_second_run_gives_the_same_files(call, tmp_path):
    photo().save(tmp_path / "a.jpg")
    for _ in range(2):
        assert call("--input", "a.jpg", "--output", "out")[0] == 0
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


@pytest.mark.slow
def test_24_megapixels_in_under_2_gib(tmp_path, model):
    photo(600, 400).resize((6000, 4000)).save(tmp_path / "big.jpg")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    process("inference", "--model", model, "--input", "big.jpg", "--save", *KINDS, "--output", "out", cwd=tmp_path)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert Image.open(tmp_path / "out/mask/big.png").size == (6000, 4000)
    assert max(peak, before) < 2 * 2**20, f"{peak / 2**20:.2f} GiB"


def test_standard_input_and_output(tmp_path, model):
    photo(33, 21).save(tmp_path / "a.png")
    command = [sys.executable, ROOT / "src/inference.py", "--model", model, "--input", "-", "--output", "-"]
    done = subprocess.run(
        [*command, "--save", "cutout"], input=(tmp_path / "a.png").read_bytes(), capture_output=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "out.png").write_bytes(done.stdout)
    picture = Image.open(tmp_path / "out.png")
    assert picture.mode == "RGBA" and picture.size == (33, 21)
    done = subprocess.run(command, input=b"nothing", capture_output=True, cwd=tmp_path)
    assert done.returncode == 2 and b"is not a picture" in done.stderr and done.stdout == b""


def test_csv_and_rle(call, tmp_path):
    pets = make_pets(tmp_path / "pets", 3, 2)
    names = tmp_path / "names.txt"
    names.write_text("Drawn_2\nDrawn_0.jpg 1 1 1\n")
    arguments = ("--input", pets / "images", "--names", names, "--csv", "numbers.csv", "--rle", "sub/mission.csv")
    assert call(*arguments, "--output", "out")[0] == 0
    numbers = table(tmp_path / "numbers.csv")
    rows = table(tmp_path / "sub/mission.csv")
    assert [row["name"] for row in numbers] == ["Drawn_2.jpg", "Drawn_0.jpg"]
    assert [row["image_id"] for row in rows] == ["Drawn_2", "Drawn_0"]
    for number, row in zip(numbers, rows, strict=True):
        mask = np.asarray(Image.open(tmp_path / "out" / f"{row['image_id']}.png"))
        assert float(number["foreground"]) == pytest.approx((mask > 0).mean(), abs=1e-6)
        decoded = np.zeros(mask.size, dtype=bool)
        runs = [int(word) for word in row["encoded_mask"].split()]
        for start, length in zip(runs[::2], runs[1::2], strict=True):
            decoded[start - 1 : start - 1 + length] = True
        assert ((mask > 0) == decoded.reshape(mask.shape[::-1]).T).all()
        trimap = np.asarray(Image.open(pets / "annotations/trimaps" / f"{row['image_id']}.png"))
        both = 2 * ((mask > 0) & (trimap != 2)).sum() / ((mask > 0).sum() + (trimap != 2).sum())
        assert float(number["dice"]) == pytest.approx(both, abs=1e-6)


def test_rle_of_a_split(call, tmp_path):
    make_pets(tmp_path / "dataset/oxford-iiit-pet", 3, 2)
    assert call("--rle", "r.csv", "--output", "out")[0] == 0
    assert [row["image_id"] for row in table(tmp_path / "r.csv")] == ["Drawn_3", "Drawn_4"]


def test_run_lengths_go_down_the_columns_from_1():
    mask = Image.fromarray(np.array([[0, 255, 0], [255, 255, 0]], dtype=np.uint8))
    assert run_lengths(mask) == "2 3" and run_lengths(Image.new("L", (4, 4))) == ""
    assert run_lengths(Image.new("L", (3, 2), 255)) == "1 6"


def test_mistakes(call, tmp_path):
    photo().save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (("--input", "nowhere/*.jpg"), "--input nowhere/*.jpg not found"),
        (("--input", "empty"), "has no picture in it"),
        (("--input", "-", "--output", "x"), "--input - goes with --output -"),
        (
            ("--input", "-", "--output", "-", "--csv", "n.csv", "--recursive", "--limit", "3"),
            "--csv, --recursive, --limit are for files; name them with --input",
        ),
        (("--save", "overlay"), "are for --input"),
        (
            ("--input", "a.png", "--device", "meta"),
            "--device meta cannot be used (it holds no values); use --device cpu",
        ),
        (("--input", "a.png", "--device", "hpu"), "--device hpu cannot be used"),
        (("--input", "a.png", "--device", "privateuseone"), "--device privateuseone cannot be used"),
        (("--input", "a.png", "--names", "a.png"), "--names a.png is not a text file"),
        (("--input", "a.png", "--output", "a.png"), "--output a.png cannot be made"),
        (("--input", "a.png", "--save", "statue"), "invalid choice: 'statue'"),
    ):
        status, _, err = call(*arguments)
        assert status == 2 and words in err and len(err.strip().splitlines()) == 1, err
    (tmp_path / "two\nlines\x1b[31m.png").write_text("no picture")
    status, _, err = call("--input", "two\nlines\x1b[31m.png", "a.png")
    assert status == 2 and len(err.strip().splitlines()) == 1 and r"two\nlines\x1b[31m.png is not a picture" in err


# ------------------------------------------------------------------------------------ the parts


def test_globs_files_and_folders_name_each_picture_once(tmp_path):
    for name in ("b.png", "a.jpg", ".hidden.png"):
        photo().save(tmp_path / name)
    found = find_pictures([tmp_path / "*.png", tmp_path, tmp_path / "a.jpg"])
    sources = found.sources
    assert [source.path.name for source in sources] == ["b.png", "a.jpg"] and not found.left_out
    assert [source.path.name for source in choose_names(sources, write(tmp_path / "n.txt", "a\n"))] == ["a.jpg"]
    with pytest.raises(UserError, match="names c, not found"):
        choose_names(sources, write(tmp_path / "n.txt", "a\nc\n"))


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write(path, text):
    path.write_text(text)
    return path


def test_output_names_never_collide(tmp_path):
    for folder, name in (("x", "a.jpg"), ("y", "a.jpg"), ("y", "a.png"), ("y", "a.gif")):
        (tmp_path / folder).mkdir(exist_ok=True)
        photo().save(tmp_path / folder / name)
    sources = find_pictures([tmp_path / "x", tmp_path / "y"]).sources
    outputs = name_outputs(sources, {"mask": tmp_path / "y"}, KINDS)
    files = [files["mask"] for files in outputs]
    assert len(set(files)) == 4 and not {path.resolve() for path in files} & {s.path.resolve() for s in sources}


def test_a_name_of_its_own_is_taken_without_trying_others(monkeypatch):
    monkeypatch.setattr("photos.inputs.with_end", lambda *_: pytest.fail("a numbered name was made"))
    sources = [Source(Path(f"{number}.jpg"), PurePath(f"{number}.jpg")) for number in range(100)]
    outputs = name_outputs(sources, {"mask": Path("out")}, KINDS)
    assert [files["mask"] for files in outputs] == [Path(f"out/{number}.png") for number in range(100)]


def test_cutout_has_a_soft_edge_and_is_cropped():
    probability = torch.zeros(60, 90)
    probability[10:40, 20:70] = 1
    picture = cutout(Image.new("RGB", (90, 60), "orange"), probability)
    alpha = np.asarray(picture.getchannel("A"))
    assert picture.size == (90, 60) and alpha[25, 45] == 255 and alpha[0, 0] == 0 and 0 < alpha[25, 21] < 255
    left, top, right, bottom = picture.getchannel("A").getbbox()
    cropped = cutout(Image.new("RGB", (90, 60), "orange"), probability, crop=True)
    assert cropped.size == (right - left, bottom - top) < (90, 60)
    assert cutout(photo(30, 20), torch.zeros(20, 30), crop=True).size == (30, 20)


def test_overlay_colors_the_foreground_and_leaves_the_rest():
    probability = torch.zeros(40, 40)
    probability[10:30, 10:30] = 1
    picture = photo(40, 40)
    drawn, plain = np.asarray(overlay(picture, probability)), np.asarray(picture)
    assert (drawn[:8] == plain[:8]).all() and (drawn[9, 10:30] == (255, 64, 64)).all()
    assert (drawn[15:25, 15:25] != plain[15:25, 15:25]).any()


def test_probability_picture_keeps_16_bits_and_box_is_the_masks(tmp_path):
    probability = torch.linspace(0, 1, 100).view(10, 10)
    probability_picture(probability).save(tmp_path / "p.png")
    read = np.asarray(Image.open(tmp_path / "p.png"))
    np.testing.assert_allclose(read / 65535, probability, atol=1e-5)
    assert box(mask_of(probability)) == (0, 5, 10, 10) and box(Image.new("L", (3, 3))) == (0, 0, 0, 0)


# ---------------------------------------------------------------------------------- in a notebook


def test_predict_takes_paths_pictures_arrays_and_lists(model, tmp_path):
    predictor = load_model(model)
    first, second = photo(50, 30), photo(17, 41, seed=1)
    first.save(tmp_path / "first.png")
    expected = predict(predictor, tmp_path / "first.png")
    assert expected.shape == (30, 50) and expected.dtype == np.float32 and 0 <= expected.min() <= expected.max() <= 1
    several = predict(predictor, [first, np.asarray(first), second, np.asarray(second.convert("L"))])
    assert [p.shape for p in several] == [(30, 50), (30, 50), (41, 17), (41, 17)]
    np.testing.assert_array_equal(several[0], expected)
    np.testing.assert_array_equal(several[1], expected)
    with pytest.raises(PictureError, match="is missing"):
        predict(predictor, tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="uint8"):
        predict(predictor, np.zeros((4, 4, 3)))


def test_predict_is_the_networks_probability(model):
    """At the network's own size nothing is resized: predict is sigmoid(network(picture))."""
    predictor, picture = load_model(model, precision="float32"), photo(32, 32)
    image = (torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    with torch.inference_mode():
        expected = predictor.network(image).sigmoid()[0, 0]
        mirrored = predictor.network(image.flip(3)).sigmoid().flip(3)[0, 0]
    np.testing.assert_allclose(predict(predictor, picture), expected, atol=1e-5)
    np.testing.assert_allclose(predict(predictor, picture, tta=True), (expected + mirrored) / 2, atol=1e-5)


@pytest.mark.parametrize("size", [(50, 30), (64, 64), (10, 100), (33, 7)])
def test_tiles_cover_the_picture(model, size):
    probability = predict(load_model(model), photo(*size), tile=32)
    assert probability.shape == size[::-1] and np.isfinite(probability).all()


def test_a_single_tile_is_the_plain_prediction(model):
    predictor, picture = load_model(model), photo(32, 32)
    np.testing.assert_allclose(predict(predictor, picture, tile=32), predict(predictor, picture), atol=1e-6)


def test_to_size_keeps_what_has_the_size():
    probability = torch.rand(5, 7)
    assert to_size(probability, (7, 5)) is probability and to_size(probability, (14, 10)).shape == (10, 14)


def test_grey_networks_and_photos_with_trimaps_beside(call, tmp_path, model):
    make_checkpoint(model, in_channels=1, out_channels=2)
    folder = tmp_path / "photos"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations/trimaps").mkdir(parents=True)
    draw_pet(folder, "cat", 0)
    (folder / "annotations/trimaps").rename(folder / "trimaps")
    assert call("--input", folder / "images/cat.jpg", "--csv", "n.csv", "--tile", "32", "--output", "out")[0] == 0
    assert float(table(tmp_path / "n.csv")[0]["dice"]) >= 0
    assert Path(tmp_path / "out/cat.png").exists()
