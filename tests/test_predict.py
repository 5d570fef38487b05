"""predict.py: files and folders, tables, errors and signals, outputs, and the functions for notebooks."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import ROOT, encoded, error_of, make_checkpoint, read_table, script
from conftest import random_photo as photo
from PIL import Image

from cores import PixelBudget
from files import CannotWrite
from photos.decode import ImageError
from photos.inputs import find_images, plan
from photos.outputs import KINDS, cut_out, mask_of, overlay, render, run_lengths
from photos.pipeline import Pipeline, pixels_in_flight
from photos.prediction import load_model, predict
from predictor import Predictor
from utils import UserError


@pytest.fixture
def model(tmp_path):
    return make_checkpoint(tmp_path / "tiny.pth", threshold=0.3)


@pytest.fixture
def call(tmp_path, model):
    """Return a function that runs predict.py in tmp_path, by default on the folder d."""
    (tmp_path / "d").mkdir()

    def inner(*flags, inputs=("d",), expect=0):
        return script("predict", *inputs, "--model", model, *flags, cwd=tmp_path, expect=expect)

    return inner


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------- files and folders


def test_a_folder_is_processed_and_bad_files_are_reported(call, tmp_path):
    folder, long = tmp_path / "d", "n" * 246
    (folder / "sub").mkdir()
    for name in ("plain.jpg", "plain.png", "Mein Hund ist süß 犬.jpg", "$x_1$.png", "sub/plain.jpg"):
        photo().save(folder / name)
    for name in ("-two\nlines %s{}.png", f"{long}.png"):
        photo().save(folder / name)
    photo().save(folder / "moves.gif", save_all=True, append_images=[photo(seed=1), photo(seed=2)])
    (folder / "text.jpg").write_text("no image")
    for name in ("notes.txt", "list.txt", "scan.dcm", ".hidden.png"):
        (folder / name).write_text("not an image")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = call("--recursive", "--output", "out", "--save", *KINDS, expect=2)
    assert "8 images" in done.stdout and "text.jpg" in error_of(done)
    assert all(words in done.stdout for words in ("2 .txt", "1 .dcm", "1 hidden"))
    assert done.stdout.count("moves.gif") == 1  # a note that only its first page is used
    assert {path: path.read_bytes() for path in before} == before
    stems = ["$x_1$", "-two\nlines %s{}", "Mein Hund ist süß 犬", "moves", long, "plain.jpg", "plain.png", "sub/plain"]
    for kind, suffix in KINDS.items():
        assert names(tmp_path / "out" / kind) == [stem + suffix for stem in stems]
    assert Image.open(tmp_path / "out/mask/sub/plain.png").size == (50, 30)


def test_an_output_with_a_suffix_is_a_file(call, tmp_path):
    photo().save(tmp_path / "d/cat.jpg")
    call("--output", "cat.png", "--csv", "n.csv", inputs=("d/cat.jpg",))
    assert Image.open(tmp_path / "cat.png").size == (50, 30) and len(read_table(tmp_path / "n.csv")) == 1
    call("--output", "new/cat.jpeg", "--save", "overlay", inputs=("d/cat.jpg",))
    assert Image.open(tmp_path / "new/cat.jpeg").format == "JPEG"
    photo().save(tmp_path / "d/dog.jpg")
    before = Image.open(tmp_path / "d/dog.jpg").tobytes()
    for flags, inputs in (
        (("--output", "cat.png"), ("d/cat.jpg",)),  # it exists
        (("--output", "both.png"), ("d",)),  # two images
        (("--output", "mask.jpg"), ("d/cat.jpg",)),  # masks are PNG
        (("--output", "x.tif"), ("d/cat.jpg",)),
        (("--output", "d/dog.jpg", "--save", "overlay", "--overwrite"), ("d/dog.jpg",)),  # the input itself
    ):
        assert flags[1] in error_of(call(*flags, inputs=inputs, expect=2))
        assert flags[1] in ("cat.png", "d/dog.jpg") or not (tmp_path / flags[1]).exists()
    assert Image.open(tmp_path / "d/dog.jpg").tobytes() == before


def test_tildes_and_globs_are_expanded(call, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a.png", "b.png", "[c].png"):
        photo().save(tmp_path / "d" / name)
    call("--output", "~/out", "--csv", "~/n.csv", inputs=("~/d/*.png", "d/a.png", "d/[c].png"))
    assert names(tmp_path / "out") == ["[c].png", "a.png", "b.png"] and len(read_table(tmp_path / "n.csv")) == 3
    assert not (tmp_path / "~").exists()


def test_an_output_folder_may_not_hold_inputs_and_is_not_searched_for_them(call, tmp_path):
    photo().save(tmp_path / "d/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "d")
    for folder in ("d", ".", "link"):
        assert "--output" in error_of(call("--output", folder, expect=2))
    assert names(tmp_path / "d") == ["a.jpg"]
    for _ in range(2):
        call("--recursive", "--output", "d/out", "--overwrite", "--save", "mask", "overlay")
    assert names(tmp_path / "d") == ["a.jpg", "out/mask/a.png", "out/overlay/a.jpg"]


def test_existing_outputs_are_refused_replaced_or_skipped(call, tmp_path):
    for index in range(3):
        photo(40, 30, index).save(tmp_path / f"d/{index}.png")
    call("--output", "out", "--csv", "n.csv", "--rle", "r.csv")
    (tmp_path / "out/1.png").unlink()
    (tmp_path / "out/2.png").write_text("mine")
    done = call("--output", "out", expect=2)
    assert "out/0.png" in error_of(done) and "--overwrite" in error_of(done) and "--skip_existing" in error_of(done)
    assert "r.csv" in error_of(call("--output", "other", "--csv", "new.csv", "--rle", "r.csv", expect=2))
    assert not (tmp_path / "new.csv").exists()
    call("--output", "out", "--csv", "n.csv", "--rle", "r.csv", "--skip_existing")
    assert (tmp_path / "out/2.png").read_text() == "mine" and (tmp_path / "out/1.png").exists()
    assert [row["name"] for row in read_table(tmp_path / "n.csv")] == ["0.png", "1.png", "2.png"]
    assert [row["image_id"] for row in read_table(tmp_path / "r.csv")] == ["0", "1", "2"]
    call("--output", "out", "--csv", "n.csv", "--overwrite")
    assert Image.open(tmp_path / "out/2.png").size == (40, 30) and len(read_table(tmp_path / "n.csv")) == 3


def test_rows_that_a_killed_run_did_not_write_are_completed(call, tmp_path):
    for name in "abc":
        photo().save(tmp_path / f"d/{name}.png")
    call("--output", "out", "--csv", "n.csv", "--rle", "r.csv")
    whole = (tmp_path / "n.csv").read_text()
    header, first, second, _ = whole.splitlines(keepends=True)
    (tmp_path / "n.csv").write_text(header + first + second[:5])  # the outputs exist
    (tmp_path / "r.csv").write_text("image_id,encoded_mask\nx," + "1 2 " * 50_000 + "\n")
    (tmp_path / "out/b.png").write_text("mine")
    call("--output", "out", "--csv", "n.csv", "--rle", "r.csv", "--skip_existing")
    assert sorted((tmp_path / "n.csv").read_text().splitlines()) == sorted(whole.splitlines())
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 5
    assert (tmp_path / "out/b.png").read_text() == "mine"


def test_images_without_foreground_and_skipped_subfolders_are_noted(call, tmp_path):
    (tmp_path / "d/sub").mkdir()
    for name in ("a.png", "b.png", "sub/c.png"):
        photo().save(tmp_path / "d" / name)
    done = call("--output", "out", "--threshold", 0.999999)
    assert "no foreground in 2 images (e.g. a.png)" in done.stdout and "--recursive" in done.stdout
    assert "--recursive" not in call("--output", "out2", "--recursive").stdout


def test_images_with_the_same_name_get_different_outputs_or_an_error(tmp_path):
    for path in ("x/cat.jpg", "x/Cat.png", "y/cat.jpg", "x/dog.jpg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        photo().save(tmp_path / path)
    jobs = plan(find_images([tmp_path / "x"])[0], {"mask": Path("o")}, KINDS)
    assert [job.files["mask"].name for job in jobs] == ["Cat.png.png", "cat.jpg.png", "dog.png"]
    assert [job.image_id for job in jobs] == ["Cat.png", "cat.jpg", "dog"]
    jobs = plan(find_images([tmp_path], recursive=True)[0], {"mask": Path("o")}, KINDS)
    assert jobs[-1].files["mask"] == Path("o/y/cat.png") and jobs[-1].name == "y/cat.jpg"
    with pytest.raises(UserError, match="x/cat.jpg.*y/cat.jpg"):
        plan(find_images([tmp_path / "x/cat.jpg", tmp_path / "y"])[0], {"mask": Path("o")}, KINDS)


def test_mistakes_are_reported_before_any_work(call, tmp_path, monkeypatch):
    photo().save(tmp_path / "d/a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no image")
    for inputs, flags, words in (
        (["nowhere/*.jpg"], [], "nowhere/*.jpg"),
        (["empty"], [], "empty"),
        (["d"], ["--save", "cutout", "--background", "text"], "--background text"),
        (["d"], ["--crop", "--each"], "--each"),
        (["d"], ["--csv", "text/n.csv"], "--csv text"),
        (["d"], ["--csv", "d/a.png", "--overwrite"], "--csv d/a.png"),
        (["d"], ["--output", "text"], "--output text"),
        (["d"], ["--threshold", "1.5"], "--threshold"),
        (["d"], ["--device", "meta"], "--device meta"),
        (["-"], ["--csv", "n.csv"], "--csv"),
        (["-", "d/a.png"], [], "-"),
    ):
        assert words in error_of(call(*flags, inputs=inputs, expect=2))
    monkeypatch.setattr("predict.find_spec", lambda name: None)
    assert "requirements-matting.txt" in error_of(call("--save", "cutout", "--matting", expect=2))
    assert not [path for path in tmp_path.rglob("*.png") if path.parent.name != "d"]


# ------------------------------------------------------------------------- tables, errors and signals


def test_the_tables_describe_the_masks(call, tmp_path):
    for index in range(3):
        photo(40 + index, 30, index).save(tmp_path / f"d/{index}.png")
    call("--csv", "numbers.csv", "--rle", "sub/runs.csv", "--output", "out")
    for row, runs in zip(read_table(tmp_path / "numbers.csv"), read_table(tmp_path / "sub/runs.csv"), strict=True):
        mask = Image.open(tmp_path / "out" / f"{runs['image_id']}.png")
        pixels = np.asarray(mask) > 0
        assert float(row["foreground"]) == pytest.approx(pixels.mean(), abs=1e-6)
        box = tuple(int(row[side]) for side in ("left", "top", "right", "bottom"))
        assert box == (mask.getbbox() or (0, 0, 0, 0))
        assert runs["encoded_mask"] == run_lengths(mask)


def before_writing(monkeypatch, stem, act):
    """Call act(job) before the outputs of the image with this stem are written. Outputs are written slowly."""
    write = Pipeline.write_outputs

    def write_slowly(self, job, *arguments):
        if job.path.stem == stem:
            act(job)
        time.sleep(0.05)
        return write(self, job, *arguments)

    monkeypatch.setattr(Pipeline, "write_outputs", write_slowly)


def test_failures_are_one_line_that_names_each_image_and_do_not_stop_the_others(call, tmp_path, monkeypatch):
    for name in "abcd":
        photo().save(tmp_path / f"d/{name}.jpg")
    (tmp_path / "out/a.png/x").mkdir(parents=True)  # a folder in place of an output
    before_writing(monkeypatch, "b", Mock(side_effect=RuntimeError("a bug")))
    os.truncate(tmp_path / "d/c.jpg", (tmp_path / "d/c.jpg").stat().st_size // 2)
    error = error_of(call("--output", "out", "--overwrite", "--csv", "n.csv", expect=2))
    assert all(
        words in error for words in ("3 of 4", "d/a.jpg has no output: out/a.png", "d/b.jpg", "a bug", "decoded")
    )
    assert error.count("c.jpg") == 1 and [row["name"] for row in read_table(tmp_path / "n.csv")] == ["d.jpg"]


def test_a_full_disk_ends_the_run_and_keeps_the_rows_so_far(call, tmp_path, monkeypatch):
    for index in range(6):
        photo().save(tmp_path / f"d/{index}.png")
    full = CannotWrite(Path("3.png"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    before_writing(monkeypatch, "3", Mock(side_effect=full))
    done = call("--csv", "n.csv", "--batch_size", 1, expect=2)
    assert "3.png" in error_of(done) and "--skip_existing" in done.stderr
    assert "--overwrite" in call("--overwrite", expect=2).stderr  # since --skip_existing would keep old outputs
    assert {"0.png", "1.png", "2.png"} <= {row["name"] for row in read_table(tmp_path / "n.csv")}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_and_keeps_the_rows_so_far(call, tmp_path, monkeypatch, number):
    for index in range(12):
        photo().save(tmp_path / f"d/{index:02d}.png")
    before_writing(monkeypatch, "02", lambda job: os.kill(os.getpid(), number))
    done = call("--csv", "n.csv", "--rle", "r.csv", "--batch_size", 2, expect=128 + number)
    written = [row["image_id"] for row in read_table(tmp_path / "r.csv")]
    assert len(read_table(tmp_path / "n.csv")) == len(written) >= 3 and "stopped" in done.stderr
    assert sorted(path.stem for path in (tmp_path / "predictions").iterdir()) == sorted(written)
    monkeypatch.undo()
    call("--csv", "n.csv", "--rle", "r.csv", "--skip_existing")
    assert sorted(row["image_id"] for row in read_table(tmp_path / "r.csv")) == [f"{index:02d}" for index in range(12)]


def test_pixels_in_flight_are_bounded_and_a_larger_image_is_admitted_alone():
    budget, in_flight, seen = PixelBudget(100), [], []

    def work(pixels):
        in_flight.append(pixels)
        seen.append(list(in_flight))
        time.sleep(0.01)
        in_flight.remove(pixels)
        return pixels

    sizes = [60, 30, 500, 50, 10, 1, 99, 100, 101]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda pixels: budget.spend(pixels, work, pixels), sizes)) == sizes
    assert all(sum(now) <= 100 or len(now) == 1 for now in seen) and budget.taken == 0


def test_dash_reads_standard_input_and_writes_standard_output(tmp_path, model):
    content = encoded(photo(33, 21), "PNG")
    command = [sys.executable, ROOT / "src/predict.py", "--model", model]
    done = subprocess.run([*command, "-", "--save", "cutout"], input=content, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    image = Image.open(io.BytesIO(done.stdout))
    assert image.mode == "RGBA" and image.size == (33, 21)
    stack = io.BytesIO()
    photo().save(stack, "TIFF", save_all=True, append_images=[photo()])
    done = subprocess.run([*command, "-"], input=stack.getvalue(), capture_output=True, cwd=tmp_path)
    assert done.stderr == b"note: standard input: only the first of 2 pages is used\n" and done.stdout
    done = subprocess.run([*command, "-"], input=b"nothing", capture_output=True, cwd=tmp_path)
    assert done.returncode == 2 and b"standard input" in done.stderr and done.stdout == b""


def test_reading_and_writing_a_photo_take_its_pixels_from_the_budget(call, tmp_path, pixels_taken):
    photo(50, 30).save(tmp_path / "d/a.png")
    call()
    assert pixels_taken == [(50 * 30 // 4, pixels_in_flight()), (50 * 30, pixels_in_flight())]


# ------------------------------------------------------------------------------------ outputs


def two_animals(probability, size):
    """Return a probability of a large and a small animal, and of a single pixel."""
    drawn = torch.zeros(size[::-1])
    drawn[10:50, 10:60] = 1
    drawn[60:80, 80:110] = 1
    drawn[2, 100] = 1
    return drawn


def test_only_the_largest_animal_or_each_animal_is_cut_out(call, tmp_path, monkeypatch):
    monkeypatch.setattr("photos.pipeline.to_size", two_animals)
    photo(120, 90).save(tmp_path / "d/a.png")
    call("--csv", "n.csv", "--largest", "--output", "out")
    assert Image.open(tmp_path / "out/a.png").getbbox() == (10, 10, 60, 50)
    assert [int(read_table(tmp_path / "n.csv")[0][side]) for side in ("left", "bottom")] == [10, 50]
    each = ("--save", "cutout", "--each", "--output", "each")
    call(*each)
    assert names(tmp_path / "each") == ["a/1.png", "a/2.png"]
    first, second = (Image.open(tmp_path / f"each/a/{number}.png").size for number in (1, 2))
    assert 45 <= first[0] <= 60 and 35 <= first[1] <= 50 and 25 <= second[0] <= 40 and 15 <= second[1] <= 30
    assert "for 0 images" in call(*each, "--skip_existing").stdout
    call(*each, "--largest", "--overwrite")
    assert names(tmp_path / "each") == ["a/1.png"]
    monkeypatch.setattr("photos.pipeline.to_size", lambda probability, size: torch.zeros(size[::-1]))
    call(*each, "--overwrite")
    assert not Image.open(tmp_path / "each/a/1.png").getchannel("A").getbbox()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_background_may_be_a_color_or_an_image(call, tmp_path, monkeypatch, mode):
    monkeypatch.setattr("photos.pipeline.to_size", two_animals)
    image = Image.new("RGB", (120, 90), "orange").convert(mode)
    if mode == "RGBA":
        image.paste((255, 165, 0, 0), (10, 10, 40, 50))  # the left part of the animal is transparent
    image.save(tmp_path / "d/a.png")
    Image.new("RGB", (300, 50), "blue").save(tmp_path / "blue.png")
    for background, expected in (("#00ff00", (0, 255, 0)), ("blue.png", (0, 0, 255))):
        call("--save", "cutout", "--background", background, "--overwrite", "--output", "out")
        cutout = Image.open(tmp_path / "out/a.png")
        assert cutout.mode == "RGB" and cutout.size == (120, 90)
        assert cutout.getpixel((0, 0)) == expected and cutout.getpixel((50, 30)) == (255, 165, 0)
        assert cutout.getpixel((25, 30)) == (expected if mode == "RGBA" else (255, 165, 0))


def test_outputs_have_no_metadata_and_no_hidden_colors(call, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "SECRET camera"
    photo().save(tmp_path / "d/a.jpg", exif=exif, comment=b"SECRET comment", dpi=(300, 300), icc_profile=b"SECRET")
    call("--save", *KINDS, "--output", "out")
    for path in (tmp_path / "out").rglob("*.*"):
        content = path.read_bytes()
        assert not any(word in content for word in (b"SECRET", b"Exif", b"eXIf", b"pHYs"))
    cutouts = {}
    for hidden in ("black", "lime"):
        image = photo(60, 40).convert("RGBA")
        image.paste(Image.new("RGBA", (20, 40), hidden), (40, 0))
        image.putalpha(Image.fromarray(np.where(np.arange(60) < 40, 255, 0).astype(np.uint8)[None].repeat(40, 0)))
        cutouts[hidden] = np.asarray(cut_out(image, torch.ones(40, 60)))
    assert (cutouts["black"] == cutouts["lime"]).all() and not cutouts["lime"][:, 40:].any()


def test_probabilities_are_saved_with_16_bits_and_masks_begin_at_the_threshold(tmp_path):
    probability = torch.linspace(0, 1, 100).view(10, 10)
    render("probability", None, probability).save(tmp_path / "p.png")
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path / "p.png")) / 65535, probability, atol=1e-5)
    assert mask_of(probability).getbbox() == (0, 5, 10, 10)


def test_an_overlay_tints_the_mask_and_outlines_it_with_one_pixel():
    probability = torch.zeros(40, 60)
    probability[10:30, 20:50] = 1
    drawn = np.asarray(overlay(Image.new("RGB", (60, 40), (128, 128, 128)), probability))
    changed, expected = (drawn != 128).any(2), np.zeros((40, 60), dtype=bool)
    expected[9:31, 19:51] = True
    assert np.array_equal(changed, expected) and (drawn[9, 20:50] == (255, 64, 64)).all()
    assert len(np.unique(drawn[12:28, 22:48].reshape(-1, 3), axis=0)) == 1


def test_run_lengths_are_column_wise_and_start_at_1():
    mask = Image.fromarray(np.array([[0, 255, 0], [255, 255, 0]], dtype=np.uint8))
    assert run_lengths(mask) == "2 3" and run_lengths(Image.new("L", (4, 4))) == ""
    assert run_lengths(Image.new("L", (3, 2), 255)) == "1 6"


def test_the_threshold_is_a_number_or_the_checkpoints(call, tmp_path):
    photo().save(tmp_path / "d/a.png")
    call("--save", "probability", "--output", "p")
    probability = np.asarray(Image.open(tmp_path / "p/a.png")) / 65535
    for flag, value in (("0.45", 0.45), ("chosen", 0.3)):
        call("--threshold", flag, "--output", "m", "--overwrite", "--precision", "auto")
        assert ((np.asarray(Image.open(tmp_path / "m/a.png")) > 0) == (probability >= value)).mean() > 0.999


# ---------------------------------------------------------------------------------- in a notebook


IMPORTS = """
import os, signal, sys, warnings
import matplotlib, torch, PIL.Image
def state():
    signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KMP_")}
    settings = torch.get_num_threads(), matplotlib.rcParams._get("backend"), PIL.Image.MAX_IMAGE_PIXELS
    return signals, environment, [*warnings.filters], torch.get_rng_state().tolist(), settings
before = state()
import numpy as np
from photos.prediction import load_model, predict
predict(load_model("tiny.pth"), np.zeros((30, 50, 3), np.uint8))
slow = {"torch._dynamo", "jinja2", "scipy.stats", "scipy.ndimage"} & set(sys.modules)
assert not slow, slow
import train, evaluate, inference, report, export
assert state() == before
assert "matplotlib.pyplot" not in sys.modules
"""


def test_imports_and_predict_leave_the_process_unchanged_and_load_no_slow_modules(tmp_path):
    make_checkpoint(tmp_path / "tiny.pth")
    environment, command = {**os.environ, "PYTHONPATH": str(ROOT / "src")}, [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_predict_accepts_every_type_in_its_docstring(model, tmp_path, monkeypatch):
    photo().save(tmp_path / "a.png")
    gray = np.asarray(photo().convert("L"))
    predictor = load_model(model, precision="float32")
    expected = predict(predictor, tmp_path / "a.png")
    assert expected.shape == (30, 50) and expected.dtype == np.float32 and 0 <= expected.min() <= expected.max() <= 1
    same = [str(tmp_path / "a.png"), io.BytesIO((tmp_path / "a.png").read_bytes()), photo(), photo().convert("RGBA")]
    same += [np.asarray(photo()), np.asfortranarray(photo()), np.asarray(photo().convert("RGBA"))]
    for image in same:
        np.testing.assert_array_equal(predict(predictor, image), expected)
    batches, predict_batch = [], Predictor.probability
    monkeypatch.setattr(
        Predictor, "probability", lambda self, pixels: batches.append(len(pixels)) or predict_batch(self, pixels)
    )
    several = predict(predictor, (gray, photo(20, 10), *same[:2] * 5))
    assert batches == [8, 4]
    assert [p.shape for p in several] == [(30, 50), (10, 20), *[(30, 50)] * 10] and predict(predictor, []) == []
    np.testing.assert_allclose(several[-1], expected, atol=1e-5)
    assert predict(predictor, photo(), image_size=np.int64(16), tile=20).shape == (30, 50)


def test_predict_is_the_networks_probability(model):
    """At the size of the network's input nothing is resized: predict is sigmoid(network(image))."""
    predictor, image = load_model(model, precision="float32"), photo(32, 32)
    pixels = (torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    with torch.inference_mode():
        expected = predictor.network(pixels).sigmoid()[0, 0]
        mirrored = predictor.network(pixels.flip(3)).sigmoid().flip(3)[0, 0]
    np.testing.assert_allclose(predict(predictor, image), expected, atol=1e-5)
    np.testing.assert_allclose(predict(predictor, image, tta=True), (expected + mirrored) / 2, atol=1e-5)
    np.testing.assert_allclose(predict(predictor, image, tile=32), expected, atol=1e-5)
    for size in ((50, 30), (64, 64), (10, 100), (33, 7)):
        assert np.isfinite(predict(predictor, photo(*size), tile=32)).all()


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(3, 8, 8, dtype=torch.uint8), None, b"bytes", [[0, 1], [2, 3]],
        np.zeros((0, 5, 3), np.uint8), np.zeros((4, 4, 3)), np.zeros((2, 4, 4, 3), np.uint8),
    ],
)  # fmt: skip
def test_predict_refuses_other_arguments(model, images):
    with pytest.raises(ValueError, match="must be"):
        predict(load_model(model), images)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"precision": "fp16"}, "precision"), ({"device": "tiny.pth"}, "--device tiny.pth"),
        ({"device": 0}, "--device 0"), ({"model_type": "vgg"}, "unet.*vgg"), ({"path": "nowhere.pth"}, "nowhere.pth"),
    ],
)  # fmt: skip
def test_load_model_names_the_argument_it_refuses(model, arguments, message):
    with pytest.raises((ValueError, UserError), match=message):
        load_model(**{"path": model, **arguments})


def test_predict_raises_for_a_missing_file_or_model_and_warns_of_further_pages(model, tmp_path):
    with pytest.raises(ValueError, match="load_model"):
        predict("cat.jpg", None)
    predictor = load_model(model)
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        predict(predictor, tmp_path / "nowhere.png")
    photo().save(tmp_path / "stack.tif", save_all=True, append_images=[photo(seed=1)])
    with pytest.warns(UserWarning, match=r"stack\.tif"):
        first = predict(predictor, tmp_path / "stack.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(first, predict(predictor, photo()))
