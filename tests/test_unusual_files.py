"""predict.py on unusual files: every format, mode, depth, profile, orientation and name that Pillow can write.

Outputs are compared with what plain Pillow reads. The network predicts foreground everywhere, so a cutout shows the
whole photo.
"""

import contextlib
import io
import os
import random
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import profiles
import pytest
import torch
from conftest import ROOT, encoded, make_checkpoint, read_table, with_orientation
from PIL import Image, ImageCms, ImageOps

from photos.inputs import find_images, plan
from photos.outputs import KINDS

pytestmark = pytest.mark.slow
NOT_DECODED = {"PDF", "EPS", "WMF", "BUFR", "GRIB", "HDF5", "PALM", "IPTC", "MPEG"}
MODES = (
    *("1", "L", "P", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"),
    *("I", "F", "I;16", "I;16B", "I;16L"),
)
ORIENTED = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "MPO")
LIMIT_MIB = 2560  # of peak memory
SECONDS = 5.0  # from SIGTERM to the end, on a busy machine
SAVED = ("mask", "overlay", "cutout")  # the cutout is compared with plain Pillow


class Folder:
    """Writes files. expected: by path (size, RGB, alpha), or None if predict.py must report the file as unreadable."""

    def __init__(self, path):
        self.path, self.expected, self.count = path, {}, 0
        path.mkdir()

    def add(self, name, content, readable=True):
        self.count += 1
        path = self.path / f"{self.count:03d} {name}" if not name.startswith("=") else self.path / name[1:]
        path.write_bytes(content)
        self.expected[path] = reference(path) if readable else None
        return path

    def add_image(self, image, kind, name=None, **options):
        """Save an image if Pillow can write it."""
        label = f"{image.mode.replace(';', '-')} {' '.join(options)}".strip()
        with contextlib.suppress(Exception):
            self.add(name or f"{label}.{kind.lower()}", encoded(image, kind, **options))


def sample(mode, size=(40, 28), seed=0):
    """Return an image of smooth colors with some noise, and with alpha if its mode has it."""
    width, height = size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), 255 - x * 200 // width], axis=-1)
    rgb = Image.fromarray((rgb + rng.integers(-20, 20, rgb.shape)).clip(0, 255).astype(np.uint8))
    alpha = Image.fromarray(((x + y) * 255 // (width + height)).astype(np.uint8))
    if mode.startswith("I;16"):
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257).convert("I;16").convert(mode)
    if mode in ("I", "F"):
        gray = np.asarray(rgb.convert("L"))
        return Image.fromarray(gray.astype(np.int32) * 257 if mode == "I" else gray.astype(np.float32) / 255)
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(rgb, srgb, lab, outputMode="LAB")
    if mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        image = rgb.convert("LA" if mode in ("LA", "La") else "RGBA")
        image.putalpha(alpha)
        return image.convert(mode)
    return rgb.convert(mode)


# ------------------------------------------------------------------------------- expected results


def reference(path):
    """Read a file with plain Pillow. Return size, RGB and alpha, or None if it cannot be read."""
    try:
        # Read from bytes: for a TIFF with EXIF orientation that Pillow maps from a path, it swaps width and height.
        with warnings.catch_warnings(), Image.open(io.BytesIO(path.read_bytes())) as image:
            warnings.simplefilter("ignore")
            kind, bits = image.format, getattr(image, "tag_v2", {}).get(258, (16,))[0]
            if kind in NOT_DECODED:
                return None
            image.load()
            content = image.info.get("icc_profile")
            try:
                upright = ImageOps.exif_transpose(image)
            except Exception:  # unreadable EXIF does not transpose
                upright = image.copy()
            if upright.mode.startswith(("I", "F")):
                return deep(upright, kind, bits)
            alpha = np.asarray(upright.convert("RGBA").getchannel("A")) if upright.has_transparency_data else None
            return upright.size, colors(upright, content), alpha
    except Exception:
        return None


def deep(image, kind, bits):
    """Return the same for an image of more than 8 bits, by the table in photos/colors.py."""
    values = np.asarray(image).astype(np.float64)
    key = image.info.get("transparency")
    white = 65535.0
    if image.mode == "F":
        white = 1.0 if kind in ("TIFF", "PPM") else 255.0
    elif kind == "TIFF" and image.mode == "I":
        white = 2.0 ** (bits - 1) - 1
    gray = (np.nan_to_num(values, nan=0.0).clip(0, white) * 255 / white).round().astype(np.uint8)
    alpha = None if key is None else np.where(values == key, 0, 255)
    return image.size, np.repeat(gray[..., None], 3, axis=2), alpha


def colors(image, content):
    if image.mode == "LA":
        plain = image.getchannel("L")
    elif image.mode in ("L", "CMYK"):
        plain = image
    else:
        plain = image.convert("RGBA").convert("RGB")
    if content:
        with contextlib.suppress(Exception):
            source, target = ImageCms.ImageCmsProfile(io.BytesIO(content)), ImageCms.createProfile("sRGB")
            plain = ImageCms.profileToProfile(plain, source, target, outputMode="RGB")
    return np.asarray(plain.convert("RGB"))


# ------------------------------------------------------------------------------------------- files


def fill(folder):
    """Write every kind of file."""
    Image.init()
    writers = sorted(set(Image.SAVE) - NOT_DECODED)
    for kind in writers:
        for mode in MODES:
            folder.add_image(sample(mode), kind)
        for size in ((1, 1), (1, 90), (90, 1), (33, 7)):
            folder.add_image(sample("RGB", size), kind, f"{size[0]}x{size[1]}.{kind.lower()}")
    add_options(folder)
    add_transparency(folder)
    add_profiles(folder)
    add_orientations(folder)
    add_frames(folder)
    add_names(folder)
    add_broken(folder, writers)
    add_large(folder)


def add_options(folder):
    # Only combinations that libtiff accepts: if it refuses one, Pillow 12 corrupts memory.
    modes = dict.fromkeys(("tiff_lzw", "tiff_deflate", "packbits"), ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "F", "P"))
    modes |= {"group3": ("1",), "group4": ("1",), "jpeg": ("L", "RGB", "CMYK")}
    for compression, able in modes.items():
        for mode in able:
            folder.add_image(sample(mode), "TIFF", compression=compression)
    for mode in ("L", "RGB", "CMYK"):
        folder.add_image(sample(mode), "JPEG", progressive=True, quality=90)
        folder.add_image(sample(mode), "JPEG", subsampling=2, optimize=True)
    for bits in (1, 2, 4):
        folder.add_image(sample("RGB").quantize(2**bits), "PNG", bits=bits)
    for mode in ("RGB", "RGBA", "L"):
        folder.add_image(sample(mode), "WEBP", lossless=True)
        folder.add_image(sample(mode), "JPEG2000", irreversible=True)
        folder.add_image(sample(mode), "PNG", interlace=1)
    holes = np.asarray(sample("F")).copy()
    holes[:3], holes[3:6], holes[6:9] = np.nan, np.inf, -np.inf
    folder.add_image(Image.fromarray(holes), "TIFF", "nan and infinity.tiff")
    folder.add_image(Image.fromarray(np.float32(np.arange(1200).reshape(30, 40))), "TIFF", "above one.tiff")
    folder.add_image(Image.fromarray(np.float32(np.arange(1200).reshape(30, 40))), "SPIDER", "above 255.spider")


def add_transparency(folder):
    palette = sample("RGB").quantize(16)
    for kind in ("PNG", "GIF"):
        folder.add_image(palette, kind, transparency=3)
    folder.add_image(palette, "PNG", "palette with alpha.png", transparency=bytes(range(0, 256, 16)))
    gray = sample("L")
    folder.add_image(gray, "PNG", transparency=gray.getpixel((5, 5)))
    folder.add_image(sample("RGB"), "PNG", transparency=sample("RGB").getpixel((5, 5)))
    folder.add_image(sample("1"), "PNG", transparency=0)
    folder.add_image(sample("I;16"), "PNG", transparency=sample("I;16").getpixel((5, 5)))
    folder.add_image(sample("RGBA").quantize(), "PNG", "quantized RGBA.png")


def add_profiles(folder):
    made = {"P3": profiles.display_p3(), "gray": profiles.gray(), "CMYK": profiles.cmyk(), "broken": b"no profile"}
    made |= {"sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), "large": os.urandom(1_100_000)}
    for label, content in made.items():
        for kind in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF"):
            for mode in ("L", "RGB", "RGBA", "CMYK", "LA", "P"):
                name = f"profile {label} {mode}.{kind.lower()}"
                folder.add_image(sample(mode), kind, name, icc_profile=content)


def add_orientations(folder):
    for orientation in [*range(9), 9, 300]:
        exif = with_orientation(orientation)
        for kind in ORIENTED:
            for mode in ("RGB", "RGBA", "P", "I;16"):
                name = f"orientation {orientation} {mode.replace(';', '-')}.{kind.lower()}"
                folder.add_image(sample(mode), kind, name, exif=exif)
    folder.add_image(sample("RGB"), "JPEG", "cut EXIF.jpg", exif=exif.tobytes()[:-6])
    folder.add_image(sample("RGB"), "PNG", "no EXIF.png", exif=b"Exif\0\0nothing")


def add_frames(folder):
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"):
        for mode in ("RGB", "RGBA", "P", "L"):
            frames = [sample(mode, seed=seed) for seed in (1, 2)]
            folder.add_image(sample(mode), kind, f"frames {mode}.{kind.lower()}", save_all=True, append_images=frames)


def add_names(folder):
    content = encoded(sample("RGB"), "PNG")
    names = ["two\nlines.png", "-dash.png", 'quote\'s "two".png', "[ab]*?.png", "%s{}.png", " blank .png", "犬 süß.png"]
    names += ["e\u0301.png", "a;b,c.png", "UPPER.PNG", "two.dots.png", "x=" * 60 + ".png"]
    names += ["n" * 246 + ".png", "n" * 246 + ".jpg", "犬" * 83 + ".jpg", os.fsdecode(b"caf\xe9.jpg")]
    names += ["sub/deep/same.png", "sub/same.png", "sub/same.jpg"]
    (folder.path / "sub/deep").mkdir(parents=True)
    for name in names:
        try:
            folder.add(f"={name}", content)
        except OSError:
            assert not name.isprintable()  # not all file systems take those


def add_broken(folder, writers):
    """Add files without an image or with only part of one, misleading suffixes, links, a pipe and a socket."""
    for kind in writers:
        for part in (3, 1.1):
            with contextlib.suppress(Exception):
                content = encoded(sample("L" if kind == "SPIDER" else "RGB", (80, 60)), kind)
                folder.add(f"cut {part}.{kind.lower().replace('spider', 'png')}", content[: int(len(content) / part)])
    for name, content in (("empty.jpg", b""), ("text.jpg", b"no image\n" * 99), ("zeros.png", bytes(5000))):
        folder.add(name, content, readable=False)
    for kind in ("EPS", "PDF"):
        folder.add(f"is {kind}.jpg", encoded(sample("RGB"), kind), readable=False)
    folder.add("is HEIC.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", readable=False)
    for kind in ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"):
        for ending in ("jpg", "gif"):
            folder.add(f"{kind} named.{ending}", encoded(sample("RGB"), kind))
    folder.path.joinpath("loop.png").symlink_to("loop.png")
    folder.path.joinpath("zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(folder.path / "pipe.jpg")
    folder.path.joinpath("folder.jpg").mkdir()
    before = Path.cwd()
    os.chdir(folder.path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
    os.chdir(before)
    for name in ("loop.png", "zero.jpg", "pipe.jpg", "socket.jpg"):
        folder.expected[folder.path / name] = None


def add_large(folder):
    """Add a photo of 12 megapixels and a decompression bomb."""
    folder.add_image(sample("RGB", (400, 300)).resize((4000, 3000)), "JPEG", "12 megapixels.jpg")
    folder.add("bomb.png", encoded(Image.new("1", (20000, 20000)), "PNG"), readable=False)


# ------------------------------------------------------------------------------------------- tests


def start(here, output, *kinds):
    """Start predict.py on the folder `d`, with a log of the programs it starts."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests/audit")}
    environment |= {"AUDIT_LOG": str(here / "started"), "PATH": f"{here / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, ROOT / "src/predict.py", "d", "--model", here / "all.pth", "--recursive"]
    command += ["--output", output, "--csv", f"{output}.csv", "--save", *kinds]
    with open(here / f"{output}.log", "wb") as log:
        return subprocess.Popen(command, cwd=here, env=environment, stdout=log, stderr=log)


def end_of(process):
    """Wait for a process. Return its exit status, and its peak memory in MiB."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss / 1024


def log_of(here, output):
    return (here / f"{output}.log").read_text(errors="replace")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Make a folder with a checkpoint, and with programs that log their start."""
    here = tmp_path_factory.mktemp("unusual")
    checkpoint = torch.load(make_checkpoint(here / "all.pth"), weights_only=True)
    bias = [name for name in checkpoint["model"] if name.endswith("bias")][-1]
    checkpoint["model"][bias] += 80  # foreground everywhere
    torch.save(checkpoint, here / "all.pth")
    (here / "bin").mkdir()
    for program in ("gs", "gswin64c", "ddjvu", "convert", "ffmpeg"):
        (here / "bin" / program).write_text(f"#!/bin/sh\necho {program} >> '{here / 'started'}'\n")
        (here / "bin" / program).chmod(0o755)
    return here


@pytest.fixture(scope="module")
def run(here):
    """Run predict.py once on every file. Return the files, the seconds it took, and changes outside its outputs."""

    def others():
        outputs = ("out", "out.csv", "out.log", "started")
        return {path for path in here.rglob("*") if path.relative_to(here).parts[0] not in outputs}

    folder = Folder(here / "d")
    fill(folder)
    before, began = others(), time.perf_counter()
    status, peak = end_of(start(here, "out", *SAVED))
    seconds = time.perf_counter() - began
    assert status == 2 and "Traceback" not in log_of(here, "out") and peak < LIMIT_MIB
    return folder, seconds, others() ^ before


def test_every_file_is_segmented_as_plain_pillow_reads_it_or_reported(run, here):
    folder, rows = run[0], {row["name"]: row for row in read_table(here / "out.csv")}
    log, wrong = log_of(here, "out"), []
    sources, _ = find_images([here / "d"], recursive=True)
    jobs = plan(sources, {kind: here / "out" / kind for kind in SAVED}, {kind: KINDS[kind] for kind in SAVED})
    jobs = {job.path: job for job in jobs}
    for path, expected in folder.expected.items():
        if path.suffix.lower() == ".spider" or path not in jobs:
            if expected and path.suffix[1:].lower() in {"jpg", "png"}:
                wrong.append(f"{path} was not found")
            continue
        name = jobs[path].name.encode(errors="backslashreplace").decode()  # as tables and messages show it
        if expected is None:
            if name in rows or " ".join(f"d/{name}".split()) not in log:
                wrong.append(f"{name} is not reported")
        elif name not in rows:
            wrong.append(f"{name} was not written")
        else:
            wrong += differences(name, jobs[path].files, *expected)
    assert not wrong and len(rows) > 400


def differences(name, files, size, rgb, alpha):
    """Return in which way outputs differ from what they should be."""
    wrong = []
    for kind, path in files.items():
        with Image.open(path if path.exists() else path.with_name(path.name + ".png")) as image:
            pixels = np.asarray(image).astype(int)
        if image.size != size or "icc_profile" in image.info:
            wrong.append(f"{name}: {kind} is {image.size}, not {size}, or has a profile")
    if pixels.shape[:2] != size[::-1]:
        return wrong
    opaque = np.full(size[::-1], 255) if alpha is None else alpha.astype(int)
    if (pixels[..., 3] > opaque).any() or (pixels[..., 3] < opaque - 2).any():
        wrong.append(f"{name}: alpha differs")
    gap = np.abs(pixels[..., :3] - rgb)[opaque > 0].max(initial=0)
    return wrong + [f"{name}: colors differ by {gap}"] * bool(gap > 2)


def test_no_program_is_started_and_only_outputs_are_written(run, here):
    started = (here / "started").read_text().splitlines() if (here / "started").exists() else []
    assert not [line for line in started if "ldconfig" not in line]  # which torch starts when it is imported
    assert not run[2] and not list((here / "out").rglob(".*"))


def test_sigterm_at_random_moments_ends_a_run_in_time_without_broken_files(run, here):
    for number in range(12):
        output = f"stopped{number}"
        process = start(here, output, *SAVED)
        while not list((here / output).rglob("*.png")):
            assert not has_ended(process), log_of(here, output)
            time.sleep(0.02)
        time.sleep(random.Random(number).uniform(0, 0.7 * run[1]))
        os.kill(process.pid, signal.SIGTERM)  # Popen.send_signal would reap a process that has ended
        began = time.perf_counter()
        status, _ = end_of(process)
        # 143 is from our handler, -15 is from the default one after Python restored it, 2 means the run had ended.
        assert status in (143, -15, 2) and time.perf_counter() - began <= SECONDS
        assert not list((here / output).rglob(".*"))
        for path in (here / output).rglob("*.png"):
            Image.open(path).load()


def has_ended(process):
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def palettes():
    """Return the kinds of output, and files: palette images of 8,000×8,000 pixels."""
    palette = Image.new("P", (8000, 8000))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    return ("mask",), 8 * [encoded(palette, "PNG", transparency=0)]


def photos():
    """Return the kinds of output, and files: photos of 12 megapixels."""
    return SAVED, 12 * [encoded(sample("RGB", (400, 300)).resize((4000, 3000)), "JPEG", quality=80)]


@pytest.mark.parametrize("make", [palettes, photos])
def test_large_images_need_bounded_memory(make, here, tmp_path):
    kinds, files = make()
    (tmp_path / "d").mkdir()
    for index, content in enumerate(files):
        (tmp_path / f"d/{index}.jpg").write_bytes(content)
    for name in ("all.pth", "bin"):
        (tmp_path / name).symlink_to(here / name)
    status, peak = end_of(start(tmp_path, "out", *kinds))
    assert status == 0 and peak < LIMIT_MIB
