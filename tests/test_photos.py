"""Any folder of anybody's pictures: what one odd file may do, and what it may not."""

import csv
import errno
import io
import os
import signal
import socket
import time
from pathlib import Path, PurePath

import numpy as np
import profiles
import pytest
import torch
from conftest import draw_pet, error_of, make_checkpoint, script
from odd import harness
from PIL import Image, ImageCms
from processes import finish, launch, launch_pair

import files
from files import CannotWrite, printable
from inference import load_model, predict
from photos.budget import PixelBudget
from photos.inputs import Source, find_pictures, labels, name_outputs
from photos.outputs import KINDS
from photos.pictures import PictureError, read_picture
from photos.pipeline import Pipeline


@pytest.fixture
def model(tmp_path):
    """A network for which everything is foreground, so that a cut-out is the whole photo."""
    path = make_checkpoint(tmp_path / "tiny.pth", threshold=0.3)
    checkpoint = torch.load(path, weights_only=True)
    name = [name for name in checkpoint["model"] if name.endswith("bias")][-1]
    checkpoint["model"][name] += 50
    torch.save(checkpoint, path)
    return path


@pytest.fixture
def infer(tmp_path, model):
    """Run inference.py in tmp_path on the folder d."""
    (tmp_path / "d").mkdir()

    def inner(*flags, inputs=("d",), expect=0):
        flags = ("--output", "out", *flags) if "--output" not in flags else flags
        return script("inference", "--model", model, "--input", *inputs, *flags, cwd=tmp_path, expect=expect)

    return inner


def photo(width=50, height=30, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def saved(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    file.seek(0)
    return file


# ------------------------------------------------------------------ 1. one file never ends the run


def test_a_picture_that_jpeg_cannot_hold_gets_a_png(infer, tmp_path):
    Image.new("RGB", (70000, 10), "red").save(tmp_path / "d/a.png")
    photo().save(tmp_path / "d/b.png")
    infer("--save", "overlay", "panel", "--csv", "n.csv")
    assert names(tmp_path / "out/overlay") == ["a.jpg.png", "b.jpg"]
    with Image.open(tmp_path / "out/overlay/a.jpg.png") as picture:
        assert picture.size == (70000, 10)
    assert [row["name"] for row in table(tmp_path / "n.csv")] == ["a.png", "b.png"]


@pytest.mark.parametrize("length", [250, 255])
def test_names_as_long_as_names_can_be(infer, tmp_path, length):
    for ending in (".jpg", ".png"):
        photo().save(tmp_path / "d" / ("x" * (length - 4) + ending))
    photo().save(tmp_path / "d/b.png")
    infer("--save", "mask", "overlay", "--csv", "n.csv")
    assert len(table(tmp_path / "n.csv")) == 3
    for kind in ("mask", "overlay"):
        made = names(tmp_path / "out" / kind)
        assert len(made) == 3 and not any(name.startswith(".") for name in made)


def test_what_goes_wrong_with_one_pictures_outputs_is_a_line(infer, tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        photo().save(tmp_path / f"d/{name}.png")
    (tmp_path / "d/sub").mkdir()
    photo().save(tmp_path / "d/sub/e.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").write_text("a file where a folder is needed")
    render = Pipeline.write_outputs

    def fail(self, job, *arguments):
        if job.source.path.stem == "b":
            raise RuntimeError("a bug")
        return render(self, job, *arguments)

    monkeypatch.setattr(Pipeline, "write_outputs", fail)
    done = infer("--csv", "n.csv", "--rle", "r.csv", "--recursive", expect=2)
    assert "d/b.png cannot be used (a bug)" in error_of(done) and "2 of 4 were left out" in error_of(done)
    assert "d/sub/e.png cannot be written" in error_of(done)
    assert [row["name"] for row in table(tmp_path / "n.csv")] == ["a.png", "c.png"]
    assert [row["image_id"] for row in table(tmp_path / "r.csv")] == ["a", "c"]


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EACCES])
def test_what_stops_every_write_ends_the_run_with_the_rows_of_what_is_done(infer, tmp_path, monkeypatch, reason):
    for index in range(6):
        photo().save(tmp_path / f"d/{index}.png")
    save = files.write_whole

    def fail(path, write, wait):
        if path.name in ("3.png", "4.png"):
            raise CannotWrite(path, OSError(reason, os.strerror(reason)))
        save(path, write, wait)

    monkeypatch.setattr("photos.outputs.write_whole", fail)
    monkeypatch.setattr("photos.pipeline.check_can_write", lambda path: fail(path.with_name("3.png"), None, False))
    done = infer("--csv", "n.csv", "--batch_size", 1, expect=2)
    assert os.strerror(reason) in error_of(done) and "--skip_existing" in error_of(done)
    written = [row["name"] for row in table(tmp_path / "n.csv")]
    assert {"0.png", "1.png", "2.png"} <= set(written) <= {f"{index}.png" for index in (0, 1, 2, 5)}
    monkeypatch.undo()
    done = infer("--csv", "n.csv", "--batch_size", 1, "--skip_existing")
    assert f"of {6 - len(written)} pictures" in done.stdout
    assert [row["name"] for row in table(tmp_path / "n.csv")] == [f"{index}.png" for index in range(6)]


@pytest.mark.parametrize(("pictures", "threads"), [(1, 4), (2, 2), (9, 1)])
def test_pictures_share_the_cores(infer, tmp_path, monkeypatch, pictures, threads):
    for index in range(pictures):
        photo().save(tmp_path / f"d/{index}.png")
    render, used, before = Pipeline.write_outputs, set(), torch.get_num_threads()

    def note(self, *arguments):
        used.add(torch.get_num_threads())
        return render(self, *arguments)

    monkeypatch.setattr(Pipeline, "write_outputs", note)
    torch.set_num_threads(4)
    try:
        infer()
        assert torch.get_num_threads() == 4  # the network's
    finally:
        torch.set_num_threads(before)
    assert used == {threads}


# ------------------------------------------------------- 2. regular files alone, and ends on a signal


def test_only_regular_files_are_opened(infer, tmp_path):
    photo().save(tmp_path / "d/a.png")
    os.mkfifo(tmp_path / "d/b.jpg")
    (tmp_path / "d/zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "d/folder.jpg").mkdir()
    (tmp_path / "d/s.jpg").unlink(missing_ok=True)
    here = Path.cwd()
    os.chdir(tmp_path / "d")  # a socket's path may not be long
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s.jpg")
    finally:
        os.chdir(here)
    error = error_of(infer(expect=2))
    for words in ("d/b.jpg is a named pipe", "d/s.jpg is a socket", "d/zero.jpg is a device", "3 of 4 were left out"):
        assert words in error
    assert "d/b.jpg is a named pipe" in error_of(infer(inputs=("d/b.jpg", "d/a.png"), expect=2))
    with pytest.raises(PictureError, match="is a named pipe"):
        read_picture(tmp_path / "d/b.jpg")
    with pytest.raises(PictureError, match="is a folder"):
        read_picture(tmp_path / "d/folder.jpg")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_whatever_a_thread_waits_for(model, tmp_path, number):
    (tmp_path / "d").mkdir()
    photo().save(tmp_path / "d/a.png")
    process = launch("inference", "--model", model, "--input", "d", cwd=tmp_path, STUCK_DECODER=str(tmp_path / "stuck"))
    while not (tmp_path / "stuck").exists():
        assert process.is_alive()
        time.sleep(0.05)
    os.kill(process.pid, number)
    finish(process, expect=128 + number, seconds=60)  # the decoder would take 300


# ---------------------------------------------------------------------- 3. colours, profiles, alpha


def cut(folder, name="a"):
    picture = Image.open(folder / "out" / f"{name}.png")
    picture.load()
    return picture


@pytest.mark.parametrize(
    "content",
    [profiles.cmyk(), profiles.grey(), os.urandom(1_100_000), b"short"],
    ids=["cmyk", "grey", "no profile, and large", "short"],
)
@pytest.mark.parametrize("mode", ["RGBA", "RGB"])
def test_no_output_carries_a_profile_and_all_open_again(infer, tmp_path, content, mode):
    kind = "TIFF" if len(content) > 1_000_000 else "PNG"  # of which Pillow reads no profile of more
    photo().convert(mode).save(tmp_path / "d/a.png", kind, icc_profile=content)
    infer("--save", *KINDS)
    made = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(made) == len(KINDS)
    for path in made:
        with Image.open(path) as picture:
            picture.load()
            assert "icc_profile" not in picture.info
    assert (np.asarray(cut(tmp_path, "../out/cutout/a").convert("RGB")) == np.asarray(photo())).all()


@pytest.mark.parametrize(
    "mode, content", [("RGB", profiles.display_p3()), ("CMYK", profiles.cmyk()), ("L", profiles.grey(1.0))]
)
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_colours_come_out_as_srgb(infer, tmp_path, mode, content, kind):
    picture = photo(64, 48).resize((128, 96)).convert(mode)
    picture.save(tmp_path / "d/a.jpg", kind, icc_profile=content, **({"quality": 95} if kind == "JPEG" else {}))
    infer("--save", "cutout")
    with Image.open(tmp_path / "d/a.jpg") as stored:
        expected = ImageCms.profileToProfile(
            stored, ImageCms.ImageCmsProfile(io.BytesIO(content)), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        assert np.abs(np.asarray(expected, dtype=int) - np.asarray(stored.convert("RGB"))).max() > 20
    colors = np.asarray(cut(tmp_path).convert("RGB"), dtype=int)
    assert np.abs(colors - np.asarray(expected)).max() <= 2


def transparent_files():
    alpha = np.tile(np.arange(50, dtype=np.uint8) * 5, (30, 1))
    rgba = photo().convert("RGBA")
    rgba.putalpha(Image.fromarray(alpha))
    grey = photo().convert("LA")
    grey.putalpha(Image.fromarray(alpha))
    deep = Image.fromarray(np.arange(1500, dtype=np.uint16).reshape(30, 50) * 40)
    yield "rgba", saved(rgba, "PNG")
    yield "grey and alpha", saved(grey, "PNG")
    yield "palette", saved(photo().quantize(8), "PNG", transparency=bytes([0, 128, 255, 255, 255, 255, 255, 255]))
    yield "key", saved(photo().quantize(8), "GIF", transparency=3)
    yield "key of a grey", saved(photo().convert("L"), "PNG", transparency=int(photo().convert("L").getpixel((3, 3))))
    yield "key of 16 bits", saved(deep, "PNG", transparency=400)
    yield "webp", saved(rgba, "WEBP", lossless=True)
    yield "tiff", saved(rgba, "TIFF", compression="tiff_lzw")
    yield "turned", saved(rgba, "PNG", exif=turned_exif(6))


def turned_exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


TRANSPARENT = dict(transparent_files())


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparency_stays(infer, tmp_path, kind):
    (tmp_path / "d/a.png").write_bytes(TRANSPARENT[kind].getvalue())
    infer("--save", "cutout")
    with Image.open(tmp_path / "d/a.png") as stored:
        if kind == "key of 16 bits":
            expected = np.where(np.asarray(stored) == 400, 0, 255)
        else:
            turned = stored.transpose(Image.Transpose.ROTATE_270) if kind == "turned" else stored
            expected = np.asarray(turned.convert("RGBA").getchannel("A"))
    assert expected.min() < 255
    made = np.asarray(cut(tmp_path).getchannel("A"))
    assert (made <= expected).all() and (made == expected).all()
    with Image.open(tmp_path / "d/a.png") as stored:
        white = np.asarray(read_picture(tmp_path / "d/a.png"))
    assert white.shape[2] == 3 and (white[expected == 0] == 255).all()


def test_nothing_private_is_copied(infer, tmp_path):
    exif = turned_exif(1)
    exif[0x010F] = "SECRET camera"
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 15.0)
    photo().save(tmp_path / "d/a.jpg", exif=exif, comment=b"SECRET comment", dpi=(300, 300))
    infer("--save", *KINDS)
    for path in (tmp_path / "out").rglob("*.*"):
        content = path.read_bytes()
        assert b"SECRET" not in content and b"Exif" not in content and b"eXIf" not in content and b"pHYs" not in content


# ------------------------------------------------------------------------------- 4. one rule per mode


def deep_files():
    ramp = np.tile(np.arange(256, dtype="f4"), (64, 1))
    ramp[0, 0] = 256
    unit = np.tile(np.linspace(0, 1, 256, dtype="f4"), (64, 1))
    holes = unit.copy()
    holes[:, :8] = np.nan
    holes[:, 8:16] = np.inf
    grey = np.tile(np.arange(256), (64, 1))
    yield "16 bits", Image.fromarray((unit * 65535).astype(np.uint16)), "PNG", {}, grey
    yield "16 bits, dark", Image.fromarray((unit * 255).astype(np.uint16)), "PNG", {}, 0 * grey
    yield "16 bits in a TIFF", Image.fromarray((unit * 65535).astype(np.uint16)), "TIFF", {}, grey
    yield "zero is white", Image.fromarray((unit * 65535).astype(np.uint16)), "TIFF", {"tiffinfo": {262: 0}}, 255 - grey
    yield "16 bits in a PGM", Image.fromarray((unit * 65535).astype(np.int32)), "PPM", {}, grey
    yield "32 bits in a TIFF", Image.fromarray((unit * (2**31 - 129)).astype(np.int32)), "TIFF", {}, grey
    yield "floats in a TIFF", Image.fromarray(unit), "TIFF", {}, grey
    yield "floats in a PFM", Image.fromarray(unit), "PPM", {}, grey
    yield "not numbers", Image.fromarray(holes), "TIFF", {}, np.where(grey < 8, 0, np.where(grey < 16, 255, grey))
    yield "floats of a SPIDER file, one above 255", Image.fromarray(ramp), "SPIDER", {}, np.asarray(ramp).clip(0, 255)


DEEP = {name: rest for name, *rest in deep_files()}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_pictures_are_read_by_the_range_of_their_type(tmp_path, kind):
    picture, name, options, expected = DEEP[kind]
    file = saved(picture, name, **options)
    read = np.asarray(read_picture(file), dtype=int)
    assert np.abs(read - expected[..., None]).max() <= 1


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBa", "La", "CMYK", "YCbCr", "HSV", "LAB"]
)
def test_every_mode_of_a_notebook_is_as_pillow_converts_it(model, mode):
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        picture, expected = ImageCms.applyTransform(photo(), to_lab), photo()
    else:
        picture = photo().convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode)).convert(mode)
        expected = picture.convert("RGB") if mode != "La" else photo().convert("L").convert("RGB")
    predictor = load_model(model, precision="float32")
    np.testing.assert_allclose(predict(predictor, picture), predict(predictor, expected), atol=0.01)


# ---------------------------------------------------------------------------------------- 5. memory


def test_pixels_in_flight_are_bounded_and_a_large_picture_goes_alone():
    from concurrent.futures import ThreadPoolExecutor

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


@pytest.mark.parametrize("where", ["PIL.Image.Image.transpose", "photos.pictures.to_srgb"])
def test_a_lack_of_memory_is_called_that(infer, tmp_path, monkeypatch, where):
    photo().save(tmp_path / "d/a.jpg", exif=turned_exif(6))

    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(where, fail)
    assert "d/a.jpg needs more memory than is free" in error_of(infer(expect=2))


def test_an_error_without_words_gets_its_name(tmp_path, monkeypatch):
    photo().save(tmp_path / "a.png")

    def fail(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr("photos.pictures.to_srgb", fail)
    with pytest.raises(PictureError, match=r"cannot be decoded \(AssertionError\)"):
        read_picture(tmp_path / "a.png")


# ------------------------------------------------------------------------- 6, 7. which files are taken


@pytest.mark.parametrize("inputs", [("d",), ("d/*",), ("d/a.png", "d/out")])
@pytest.mark.parametrize("save", [("mask",), ("mask", "overlay")])
def test_former_outputs_are_no_inputs(infer, tmp_path, inputs, save):
    photo().save(tmp_path / "d/a.png")
    (tmp_path / "d/out").mkdir()
    for _ in range(3):
        done = infer("--output", "d/out", "--recursive", "--save", *save, inputs=inputs)
        assert "of 1 pictures" in done.stdout


def test_former_outputs_under_a_link_or_beside_the_inputs_are_none_either(infer, tmp_path):
    photo().save(tmp_path / "d/a.png")
    (tmp_path / "real").mkdir()
    (tmp_path / "d/link").symlink_to(tmp_path / "real")
    for _ in range(2):
        assert "of 1 pictures" in infer("--output", "real", "--recursive").stdout
    (tmp_path / "d/link").unlink()
    for _ in range(2):
        assert "of 1 pictures" in infer("--output", "d", "--recursive", "--save", "mask", "overlay").stdout


def test_files_that_are_not_named_like_pictures_are_counted(infer, tmp_path):
    photo().save(tmp_path / "d/a.png")
    for name in ("photo", "photo.jpg_large", "b.jpg_large", "x.pdf", "y.mpg", "z.h5", "e.eps", ".hidden.png"):
        saved_bytes = saved(photo(), "PNG").getvalue()
        (tmp_path / "d" / name).write_bytes(saved_bytes)
    (tmp_path / "d/IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    done = infer("--csv", "n.csv", expect=2)
    [line] = [line for line in done.stdout.splitlines() if "skipped" in line]
    assert "skipped 8 files" in line and "2 .jpg_large" in line and "1 without an ending" in line and "1 hidden" in line
    assert all(f"1 {ending}" in line for ending in (".pdf", ".mpg", ".h5", ".eps"))
    assert "d/IMG_1.HEIC" in error_of(done)
    done = infer("--csv", "n.csv", inputs=("d/photo", "d/photo.jpg_large", "d/.hidden.png"))
    assert [row["name"] for row in table(tmp_path / "n.csv")] == ["photo", "photo.jpg_large", ".hidden.png"]


def test_a_folder_without_pictures_says_what_it_has(infer, tmp_path):
    (tmp_path / "d/x.pdf").write_bytes(b"%PDF")
    assert "1 .pdf" in error_of(infer(expect=2))


# ---------------------------------------------------------------------------------- 8. in a notebook


def test_predict_takes_what_its_docstring_says(model, tmp_path):
    """Each row of the table in the docstring has an example here, and each example a row."""
    photo().save(tmp_path / "a.png")
    grey = np.asarray(photo().convert("L"))
    opened = open(tmp_path / "a.png", "rb")  # noqa: SIM115
    examples = {
        "path: str or pathlib.Path": [str(tmp_path / "a.png"), tmp_path / "a.png"],
        "open binary file": [opened, io.BytesIO((tmp_path / "a.png").read_bytes())],
        "PIL picture of any mode": [
            photo(),
            photo().convert("P"),
            photo().convert("RGBA"),
            Image.open(tmp_path / "a.png"),
        ],
        "array uint8 (H, W)": [grey],
        "array uint8 (H, W, 3)": [np.asarray(photo()), np.asarray(photo())[::-1], np.asfortranarray(photo())],
        "array uint8 (H, W, 4)": [np.asarray(photo().convert("RGBA"))],
        "list or tuple of these, of any sizes": [[grey, photo(20, 10)], (grey,), []],
    }
    lines = [line.strip() for line in predict.__doc__.splitlines() if line.strip().startswith("| ")]
    rows = [line.split("|")[1].strip() for line in lines[1:]]
    assert rows == list(examples)
    predictor = load_model(model)
    for row in rows[:-1]:
        for example in examples[row]:
            probability = predict(predictor, example)
            assert probability.shape == (30, 50) and probability.dtype == np.float32
    shapes = [[p.shape for p in predict(predictor, example)] for example in examples[rows[-1]]]
    assert shapes == [[(30, 50), (10, 20)], [(30, 50)], []]
    assert predict(predictor, photo(), image_size=np.int64(16), tile=20).shape == (30, 50)


@pytest.mark.parametrize(
    "pictures, options",
    [
        (torch.zeros(3, 8, 8, dtype=torch.uint8), {}),
        ((photo() for _ in range(2)), {}),
        (None, {}),
        (b"bytes", {}),
        (np.zeros((0, 5, 3), dtype=np.uint8), {}),
        (Image.new("RGB", (0, 5)), {}),
        ([[photo()]], {}),
        ([[0, 1], [2, 3]], {}),
        (7, {}),
        ({"a": 1}, {}),
        (np.zeros((4, 4, 3)), {}),
        (np.zeros((4, 4), dtype=bool), {}),
        (np.zeros((2, 4, 4, 3), dtype=np.uint8), {}),
        (photo(), {"image_size": 0}),
        (photo(), {"image_size": -1}),
        (photo(), {"image_size": 1.5}),
        (photo(), {"image_size": "256"}),
        (photo(), {"image_size": True}),
        (photo(), {"tile": -3}),
        (photo(), {"tile": 0}),
        (photo(), {"tile": 10**9}),
    ],
)
def test_predict_says_what_it_takes(model, pictures, options):
    with pytest.raises((TypeError, ValueError)) as refused:
        predict(load_model(model), pictures, **options)
    said = str(refused.value)
    assert "\n" not in said and any(words in said for words in ("must be", "must have"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_pil_picture_counts_as_a_paths(model, tmp_path, kind, orientation):
    path = tmp_path / "a.jpg"
    photo().resize((24, 16)).save(path, kind, exif=turned_exif(orientation))
    predictor = load_model(model, precision="float32")
    with Image.open(path) as picture:
        np.testing.assert_array_equal(predict(predictor, picture), predict(predictor, path))
    assert predict(predictor, path).shape == ((24, 16) if orientation > 4 else (16, 24))


# -------------------------------------------------------------------- 9. warnings; and nothing is started


def test_warnings_are_in_the_line_about_their_file(infer, tmp_path, capfd):
    photo().save(tmp_path / "d/a.tif", compression="tiff_adobe_deflate")
    content = bytearray((tmp_path / "d/a.tif").read_bytes())
    content[300:400] = bytes(100)
    (tmp_path / "d/a.tif").write_bytes(content)  # libtiff complains
    exif = turned_exif(1).tobytes()
    photo().save(tmp_path / "d/b.jpg", exif=exif[:-6])  # Pillow complains
    photo().save(tmp_path / "d/c.jpg", exif=exif[:-6])
    photo().save(tmp_path / "d/d.jpg")
    done = infer(expect=2)
    assert capfd.readouterr().err == "" and len(done.stderr.splitlines()) == 1
    assert "d/a.tif cannot be decoded (decoder error -2), after ZIPDecode" in error_of(done)
    [line] = [line for line in done.stdout.splitlines() if "warnings" in line]
    assert (
        "2 were read" in line
        and "d/b.jpg (Corrupt EXIF data" in line
        and "d/c.jpg (" in line
        and "d.jpg" not in line[-9:]
    )


@pytest.mark.parametrize("name", ["a.eps", "a.jpg", "a"])
def test_no_picture_starts_a_program(infer, tmp_path, monkeypatch, name):
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for program in ("gs", "gswin64c", "gswin32c"):
        (stubs / program).write_text(f"#!/bin/sh\ntouch {tmp_path / 'called'}\n")
        (stubs / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(stubs), prepend=os.pathsep)
    photo().save(tmp_path / "d" / name, "EPS")
    assert "is not a picture" in error_of(infer(inputs=(f"d/{name}",), expect=2))
    assert not (tmp_path / "called").exists()


# ---------------------------------------------------------------------------------- cameras' formats


def test_heic_is_read_or_named(infer, tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(photo(64, 48).resize((128, 96))).save(tmp_path / "d/a.HEIC", quality=95)
    infer("--csv", "n.csv")
    assert [(row["width"], row["height"]) for row in table(tmp_path / "n.csv")] == [("128", "96")]
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    assert "d/a.HEIC is HEIC; pip install pillow-heif" in error_of(infer(expect=2))


def test_avif_is_read(infer, tmp_path):
    from PIL import features

    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    photo(64, 48).save(tmp_path / "d/a.avif", exif=turned_exif(6))
    infer()
    assert cut(tmp_path).size == (48, 64)


# --------------------------------------------------------------------- --csv: trimaps as pixels are stored


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_trimap_is_turned_as_its_photo(infer, tmp_path, monkeypatch, kind, orientation):
    """A mask that is the upright truth scores 1, however the photo is stored."""
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations/trimaps").mkdir(parents=True)
    draw_pet(tmp_path, "a", 3)
    stored = Image.open(tmp_path / "images/a.jpg")
    stored.load()
    stored.save(tmp_path / "images/a.jpg", kind, exif=turned_exif(orientation))
    trimap = np.asarray(Image.open(tmp_path / "annotations/trimaps/a.png"))
    marked = Image.fromarray(np.where(trimap != 2, 255, 0).astype(np.uint8))
    marked = saved(marked, "PNG", exif=turned_exif(orientation))
    upright = np.array(read_picture(marked).convert("L"))
    monkeypatch.setattr("photos.pipeline.mask_of", lambda probability, threshold: Image.fromarray(upright))
    infer("--csv", "n.csv", "--save", "probability", inputs=("images/a.jpg",))
    assert float(table(tmp_path / "n.csv")[0]["dice"]) == 1


# --------------------------------------------------------------------------- names of other encodings


def odd_name(folder):
    path = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")
    try:
        photo().save(path)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    return path


def test_a_name_that_is_not_utf8_is_in_every_text(infer, tmp_path):
    odd_name(tmp_path / "d")
    infer("--csv", "n.csv", "--rle", "r.csv")
    assert table(tmp_path / "n.csv")[0]["name"] == r"caf\xe9.jpg"
    assert table(tmp_path / "r.csv")[0]["image_id"] == r"caf\xe9"
    assert os.listdir(os.fsencode(tmp_path / "out")) == [b"caf\xe9.png"]
    assert "of 0 pictures" in infer("--csv", "n.csv", "--rle", "r.csv", "--skip_existing").stdout
    Path(odd_name(tmp_path / "d")).write_text("no picture")
    infer(expect=2)
    assert printable("süß 犬") == "süß 犬"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_printing_never_fails_for_an_encoding(model, tmp_path, encoding):
    (tmp_path / "d 犬").mkdir()
    Path(odd_name(tmp_path / "d 犬")).write_text("no picture")
    photo().save(tmp_path / "d 犬/a.png")
    process = launch(
        "inference", "--model", model, "--input", "d 犬", "--output", "out 犬", cwd=tmp_path, STREAM_ENCODING=encoding
    )
    finish(process, expect=2, log=tmp_path / "inference.log")
    said = (tmp_path / "inference.log").read_bytes()
    assert b"wrote mask of 1 pictures" in said and b"caf" in said and b"Traceback" not in said


# -------------------------------------------------------------------------- sharing, resuming, threshold


def test_two_processes_write_what_one_writes(model, tmp_path):
    (tmp_path / "d").mkdir()
    for index in range(7):
        photo(40 + index, 30, index).save(tmp_path / f"d/{index}.png")
    (tmp_path / "d/3.png").write_text("no picture")
    flags = ("--model", model, "--input", "d", "--batch_size", 2, "--save", *KINDS, "--precision", "float32")
    script("inference", *flags, "--output", "one", "--csv", "one.csv", "--rle", "one.rle", cwd=tmp_path, expect=2)
    pair = launch_pair("inference", *flags, "--output", "two", "--csv", "two.csv", "--rle", "two.rle", cwd=tmp_path)
    log = tmp_path / "inference.log"
    finish(pair[0], expect=2, log=log)
    finish(pair[1], expect=0, log=tmp_path / "second.log")
    assert "d/3.png is not a picture" in log.read_text() and "of 6 pictures" in log.read_text()
    for ending in ("csv", "rle"):
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()
    made = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(made) == 6 * len(KINDS)
    assert made == sorted(path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*.*"))
    for path in made:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path


def test_a_stopped_run_is_resumed(infer, tmp_path):
    for index in range(4):
        photo(40, 30, index).save(tmp_path / f"d/{index}.png")
    infer("--save", "mask", "cutout", "--csv", "n.csv")
    before = table(tmp_path / "n.csv")
    (tmp_path / "out/cutout/2.png").unlink()
    kept = (tmp_path / "out/cutout/1.png").stat().st_mtime_ns
    done = infer("--save", "mask", "cutout", "--csv", "n.csv", "--skip_existing")
    assert "of 1 pictures" in done.stdout and "skipped 3 pictures" in done.stdout
    assert table(tmp_path / "n.csv") == before and (tmp_path / "out/cutout/1.png").stat().st_mtime_ns == kept
    (tmp_path / "n.csv").unlink()
    assert "of 4 pictures" in infer("--save", "mask", "cutout", "--csv", "n.csv", "--skip_existing").stdout
    assert "of 0 pictures" in infer("--save", "mask", "cutout", "--skip_existing").stdout


def test_the_threshold_is_the_one_asked_for(infer, model, tmp_path):
    photo().save(tmp_path / "d/a.png")
    make_checkpoint(model, threshold=0.3)
    infer("--save", "probability")
    probability = np.asarray(cut(tmp_path)) / 65535
    for asked, limit in (("0.45", 0.45), ("chosen", 0.3)):
        done = infer("--threshold", asked)
        assert f"at threshold {limit}" in done.stdout
        assert ((np.asarray(cut(tmp_path)) > 0) == (probability >= limit)).mean() > 0.999
    for wrong in ("0", "1", "nan", "half"):
        assert "--threshold" in error_of(infer("--threshold", wrong, expect=2))


def test_output_names_keep_room_for_what_jpeg_cannot_hold(tmp_path):
    for name in ("a.jpg", "a.jpg.png"):
        photo().save(tmp_path / name)
    outputs = name_outputs(find_pictures([tmp_path]).sources, {"overlay": tmp_path}, KINDS)
    every = [path for files_ in outputs for path in (files_["overlay"], Path(f"{files_['overlay']}.png"))]
    assert len(set(every)) == 4 and not any(path.exists() for path in every)


# ----------------------------------------------------------------------------- cut-outs: pieces, backgrounds


def two_animals(shape):
    """A probability with a large and a small animal, and a speck."""
    drawn = torch.zeros(shape)
    drawn[10:50, 10:60] = 1
    drawn[60:80, 80:110] = 1
    drawn[2, 100] = 1
    return drawn


@pytest.fixture
def animals(monkeypatch):
    def to_two_animals(probability, size):
        return two_animals(size[::-1])

    monkeypatch.setattr("photos.pipeline.to_size", to_two_animals)


def test_the_largest_animal_alone_or_each_of_them(infer, tmp_path, animals):
    photo(120, 90).save(tmp_path / "d/a.png")
    infer("--csv", "n.csv", "--largest")
    assert Image.open(tmp_path / "out/a.png").getbbox() == (10, 10, 60, 50)
    row = table(tmp_path / "n.csv")[0]
    assert [int(row[side]) for side in ("left", "top", "right", "bottom")] == [10, 10, 60, 50]
    infer("--save", "cutout", "mask", "--each", "--output", "each")
    assert names(tmp_path / "each/cutout/a") == ["1.png", "2.png"] and names(tmp_path / "each/mask") == ["a.png"]
    first, second = (Image.open(tmp_path / f"each/cutout/a/{number}.png").size for number in (1, 2))
    assert 45 <= first[0] <= 60 and 35 <= first[1] <= 50 and 25 <= second[0] <= 40 and 15 <= second[1] <= 30
    assert "of 0 pictures" in infer("--save", "cutout", "mask", "--each", "--output", "each", "--skip_existing").stdout


def test_no_animal_is_one_empty_cut_out(infer, tmp_path, monkeypatch):
    photo().save(tmp_path / "d/a.png")
    monkeypatch.setattr("photos.pipeline.to_size", lambda probability, size: torch.zeros(size[::-1]))
    infer("--save", "cutout", "--each")
    picture = Image.open(tmp_path / "out/a/1.png")
    assert picture.size == (50, 30) and not picture.getchannel("A").getbbox()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_background_of_a_colour_or_a_picture(infer, tmp_path, animals, mode):
    picture = Image.new("RGB", (120, 90), "orange").convert(mode)
    if mode == "RGBA":
        picture.paste((255, 165, 0, 0), (10, 10, 40, 50))  # the left part of the animal is transparent
    picture.save(tmp_path / "d/a.png")
    Image.new("RGB", (300, 50), "blue").save(tmp_path / "blue.png")
    for background, expected in (("#00ff00", (0, 255, 0)), ("blue.png", (0, 0, 255))):
        infer("--save", "cutout", "--background", background)
        made = cut(tmp_path)
        assert made.mode == "RGB" and made.size == (120, 90)
        assert made.getpixel((0, 0)) == expected and made.getpixel((50, 30)) == (255, 165, 0)
        assert made.getpixel((25, 30)) == (expected if mode == "RGBA" else (255, 165, 0))


def test_mistakes_are_said_before_any_work(infer, tmp_path, monkeypatch):
    photo().save(tmp_path / "d/a.png")
    (tmp_path / "text").write_text("no picture")
    for flags, words in (
        (("--save", "cutout", "--background", "text"), "--background text is not a picture, nor is it a colour"),
        (("--save", "cutout", "--background", "nowhere.png"), "--background nowhere.png is missing"),
        (("--save", "mask", "--each", "--crop"), "--crop, --each are for cut-outs"),
        (("--csv", "text/n.csv"), "--csv text cannot be made"),
        (("--rle", "d"), "--rle d is a folder"),
    ):
        assert words in error_of(infer(*flags, expect=2))
    monkeypatch.setattr("inference.find_spec", lambda name: None)
    assert "requirements-matting.txt" in error_of(infer("--save", "cutout", "--matting", expect=2))


def test_closed_form_matting(infer, tmp_path, animals):
    pytest.importorskip("pymatting")
    photo(120, 90).save(tmp_path / "d/a.png")
    infer("--save", "cutout", "--matting")
    assert cut(tmp_path).getchannel("A").getbbox()


@pytest.mark.slow
def test_hundreds_of_odd_files(tmp_path):
    failures, line = harness(tmp_path)
    print(line)
    assert not failures


# ---------------------------------------------------------------------- what is there already is never lost


@pytest.fixture
def colliding(tmp_path, infer):
    """A picture d/a.jpg whose outputs would be called like the picture d/a.png."""
    photo().save(tmp_path / "d/a.jpg")
    photo(31, 47, 1).save(tmp_path / "d/a.png")
    return (tmp_path / "d/a.png").read_bytes()


@pytest.mark.parametrize(
    "inputs, flags",
    [
        (["d"], ["--limit", "1"]),
        (["d/a.jpg"], []),
        (["d/*.jpg"], ["--save", "cutout"]),
        (["d"], ["--names", "n.txt"]),
        (["e", "d"], ["--save", "probability"]),
    ],
)
def test_pictures_that_are_no_input_are_not_overwritten(infer, colliding, tmp_path, inputs, flags):
    (tmp_path / "n.txt").write_text("a.jpg\n")
    (tmp_path / "e").mkdir()
    photo().save(tmp_path / "e/a.jpg")
    for _ in range(2):
        infer("--output", "d", *flags, inputs=inputs)
        assert (tmp_path / "d/a.png").read_bytes() == colliding
        assert (tmp_path / "d/a.jpg.png").exists()


@pytest.mark.parametrize("save", ["mask", "cutout", "overlay", "panel"])
def test_outputs_beside_their_pictures_are_not_taken_for_pictures(infer, tmp_path, save):
    for name in "ab":
        photo().save(tmp_path / f"d/{name}.bmp")
    infer("--output", "d", "--save", save)
    made = names(tmp_path / "d")
    assert len(made) == 4
    done = infer("--output", "d", "--save", save, "--skip_existing")
    assert "of 0 pictures" in done.stdout and "skipped 2 outputs of an earlier run" in done.stdout
    assert "of 2 pictures" in infer("--output", "d", "--save", save, inputs=("d", "d/*")).stdout
    assert names(tmp_path / "d") == made


def test_the_output_of_another_picture_is_not_taken_for_ones_own(infer, tmp_path):
    photo(seed=1).save(tmp_path / "d/a.jpg")
    infer()
    photo(20, 20).save(tmp_path / "d/a.bmp")  # which now has the name out/a.png
    assert "of 2 pictures" in infer("--skip_existing").stdout
    assert Image.open(tmp_path / "out/a.png").size == (20, 20)
    assert Image.open(tmp_path / "out/a.jpg.png").size == (50, 30)
    (tmp_path / "e").mkdir()
    photo(24, 24).save(tmp_path / "e/a.bmp")
    assert "of 1 pictures" in infer("--skip_existing", inputs=("e",)).stdout
    assert "of 0 pictures" in infer("--skip_existing", inputs=("e",)).stdout


def test_folders_of_each_animal_beside_pictures_of_their_names(infer, tmp_path, animals):
    for ending in ("jpg", "png"):
        photo(120, 90).save(tmp_path / f"d/a.{ending}")
    for _ in range(2):
        infer("--save", "cutout", "--each", "--output", "d")
        assert names(tmp_path / "d") == ["a", "a.jpg", "a.png", "a.png-2"]
        assert names(tmp_path / "d/a") == names(tmp_path / "d/a.png-2") == ["1.png", "2.png"]


def test_pictures_of_one_name_size_and_time_are_told_apart(infer, tmp_path):
    for folder in "xy":
        (tmp_path / folder).mkdir()
        photo(seed=ord(folder)).save(tmp_path / folder / "a.bmp")
        os.utime(tmp_path / folder / "a.bmp", (1e9, 1e9))
    infer(inputs=("x",))
    assert "of 1 pictures" in infer("--skip_existing", inputs=("y",)).stdout


def test_an_empty_output_is_written_again_and_an_output_folder_is_no_input(infer, tmp_path):
    photo().save(tmp_path / "d/a.png")
    infer("--output", "d/out")
    (tmp_path / "d/out/a.png").write_bytes(b"")
    photo().save(tmp_path / "d/out/mine.png")
    assert "of 1 pictures" in infer("--output", "d/out", "--skip_existing", "--recursive").stdout
    assert names(tmp_path / "d/out") == ["a.png", "mine.png"] and (tmp_path / "d/out/a.png").stat().st_size


def test_image_ids_differ_whatever_the_names(tmp_path):
    places = ["a.jpg", "a.png", "a.jpg.png", "x/b.jpg"]
    sources = [Source(Path("d", place), PurePath(place)) for place in places]
    sources += [Source(Path("e/x/b.jpg"), PurePath("x/b.jpg")), Source(Path("x/b.jpg"), PurePath("b.jpg"))]
    for texts in zip(*labels(sources), strict=True):
        assert len(set(texts)) == len(sources)
    assert labels(sources[3:4]) == [("x/b.jpg", "x/b")]


def test_each_animal_of_an_earlier_run_goes_and_others_files_stay(infer, tmp_path, animals):
    photo(120, 90).save(tmp_path / "d/a.png")
    infer("--save", "cutout", "--each")
    assert names(tmp_path / "out/a") == ["1.png", "2.png"]
    photo().save(tmp_path / "out/a/3.png")
    infer("--save", "cutout", "--each", "--largest")
    assert names(tmp_path / "out/a") == ["1.png", "3.png"]
    photo().save(tmp_path / "out/a/2.png")
    done = infer("--save", "cutout", "--each", expect=2)
    assert "out/a/2.png cannot be written (it is there, without the mark of inference.py)" in error_of(done)


def test_a_split_does_not_overwrite_pictures(model, pets, tmp_path):
    before = {path: path.read_bytes() for path in (pets / "annotations/trimaps").iterdir()}
    flags = ("--model", model, "--data_path", pets)
    done = script("inference", *flags, "--output", pets / "annotations/trimaps", cwd=tmp_path, expect=2)
    assert "is there, without the mark of inference.py; remove it, or name another --output" in error_of(done)
    assert before == {path: path.read_bytes() for path in (pets / "annotations/trimaps").iterdir()}
    for _ in range(2):
        script("inference", *flags, "--output", "out", cwd=tmp_path)


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--csv", "d/a.png"), "d/a.png is there, and is no such table"),
        (("--rle", "notes.txt"), "notes.txt is there, and is no such table"),
        (("--csv", "/dev/null"), "/dev/null is there, and is no such table"),
        (("--csv", "n.csv", "--rle", "n.csv"), "--csv and --rle are both n.csv; name two files"),
        (("--csv", "/proc/n.csv"), "/proc"),
    ],
)
def test_a_table_is_written_over_nothing_but_a_table(infer, tmp_path, flags, words):
    photo().save(tmp_path / "d/a.png")
    (tmp_path / "notes.txt").write_text("mine\n")
    before = (tmp_path / "d/a.png").read_bytes()
    done = infer(*flags, expect=2)
    assert words in error_of(done) and not (tmp_path / "out/a.png").exists()
    assert (tmp_path / "d/a.png").read_bytes() == before and (tmp_path / "notes.txt").read_text() == "mine\n"


def test_a_table_that_cannot_be_written_takes_nothing_else_with_it(infer, tmp_path, monkeypatch):
    photo().save(tmp_path / "d/a.png")
    (tmp_path / "d/b.png").write_text("no picture")
    save = files.write_whole

    def fail(path, write, wait=True):
        if Path(path).name == "n.csv":
            raise CannotWrite(path, OSError(errno.ENOSPC, "disk full"))
        save(path, write, wait)

    monkeypatch.setattr("files.write_whole", fail)
    done = infer("--csv", "n.csv", "--rle", "r.csv", expect=2)
    assert "n.csv cannot be written (disk full)" in error_of(done) and "d/b.png is not a picture" in error_of(done)
    assert "of 1 pictures" in done.stdout and [row["image_id"] for row in table(tmp_path / "r.csv")] == ["a"]


def test_rows_of_pictures_of_one_name_can_be_told_apart(infer, tmp_path):
    for place in ("x/cat.jpg", "y/cat.jpg", "y/cat.png", "y/dog.png"):
        (tmp_path / "d" / place).parent.mkdir(exist_ok=True)
        photo().save(tmp_path / "d" / place)
    infer("--recursive", "--csv", "n.csv", "--rle", "r.csv")
    assert [row["name"] for row in table(tmp_path / "n.csv")] == ["x/cat.jpg", "y/cat.jpg", "y/cat.png", "y/dog.png"]
    assert [row["image_id"] for row in table(tmp_path / "r.csv")] == ["x/cat", "y/cat.jpg", "y/cat.png", "y/dog"]
    infer("--csv", "m.csv", inputs=("d/x", "d/y"))
    assert [row["name"] for row in table(tmp_path / "m.csv")] == ["d/x/cat.jpg", "d/y/cat.jpg", "cat.png", "dog.png"]
    done = infer("--csv", "m.csv", "--skip_existing", inputs=("d/x", "d/y"))
    assert "of 0 pictures" in done.stdout and len(table(tmp_path / "m.csv")) == 4


@pytest.mark.parametrize(
    "lines, chosen, words",
    [
        ("cat 2.jpg\ncat.jpg 1 1\n", ["cat 2.jpg", "cat.jpg"], ""),
        ("x/cat.jpg\n#1.jpg\n# cat.jpg\n", ["x/cat.jpg", "#1.jpg"], ""),
        ("b.jpg\nb.jpg\n", ["b.jpg"], ""),
        ("b\n", [], "b may be d/b.jpg, d/b.png; write one of these"),
        ("dog.jpg\n", [], "dog.jpg may be d/x/dog.jpg, d/y/dog.jpg"),
    ],
)
def test_names_mean_one_picture_each(infer, tmp_path, lines, chosen, words):
    for place in ("cat.jpg", "cat 2.jpg", "#1.jpg", "b.jpg", "b.png", "x/cat.jpg", "x/dog.jpg", "y/dog.jpg"):
        (tmp_path / "d" / place).parent.mkdir(exist_ok=True)
        photo().save(tmp_path / "d" / place)
    (tmp_path / "n.txt").write_text(lines)
    done = infer("--recursive", "--names", "n.txt", "--csv", "n.csv", expect=2 if words else 0)
    if words:
        assert words in error_of(done)
    else:
        assert [row["name"] for row in table(tmp_path / "n.csv")] == chosen


def test_globs_reach_below_and_hidden_folders_are_left(infer, tmp_path):
    for place in ("a.jpg", "x/b.jpg", "x/y/c.jpg", ".Trash/files/d.jpg"):
        (tmp_path / "d" / place).parent.mkdir(exist_ok=True, parents=True)
        photo().save(tmp_path / "d" / place)
    (tmp_path / "link").symlink_to(tmp_path / "d")
    assert "of 3 pictures" in infer(inputs=("d/**/*.jpg", "d/../d/a.jpg")).stdout
    assert "of 3 pictures" in infer("--recursive").stdout
    assert "of 2 pictures" in infer(inputs=("d/a.jpg", "link/a.jpg")).stdout


def test_colors_that_nobody_sees_change_no_cut_out(infer, tmp_path):
    seen = {}
    for hidden in ("black", "white", "lime"):
        picture = photo(60, 40).convert("RGBA")
        picture.paste(Image.new("RGBA", (20, 40), hidden), (40, 0))
        alpha = Image.new("L", (60, 40), 255)
        alpha.paste(0, (40, 0, 60, 40))
        picture.putalpha(alpha)
        picture.save(tmp_path / "d/a.png")
        infer("--save", "cutout")
        seen[hidden] = np.asarray(Image.open(tmp_path / "out/a.png"))
    assert (seen["black"] == seen["white"]).all() and (seen["lime"] == seen["white"]).all()


def test_a_trimap_of_another_size_costs_no_output(infer, tmp_path):
    photo().save(tmp_path / "d/a.png")
    (tmp_path / "trimaps").mkdir()
    Image.new("L", (7, 7), 1).save(tmp_path / "trimaps/a.png")
    done = infer("--csv", "n.csv")
    assert "d/a.png (has a trimap of another size, 7x7)" in done.stdout
    assert table(tmp_path / "n.csv")[0]["dice"] == "" and (tmp_path / "out/a.png").exists()
    Image.new("L", (50, 30), 1).save(tmp_path / "trimaps/a.png")
    infer("--csv", "n.csv")
    assert table(tmp_path / "n.csv")[0]["dice"] == "1.000000"
    script(
        "inference",
        "--model",
        "../tiny.pth",
        "--input",
        ".",
        "--output",
        "../o",
        "--csv",
        "../m.csv",
        cwd=tmp_path / "d",
    )
    assert table(tmp_path / "m.csv")[0]["dice"] == "1.000000"
