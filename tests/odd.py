"""A folder of odd files: every format, mode, depth, transparency, profile, orientation and name that Pillow can write.

    python tests/odd.py --kills 12

makes it, runs predict.py over it, and checks every file against plain Pillow: named or written; size, orientation,
alpha, colours within 2 of 255; outputs open again, without a profile; nothing outside the output folder; no program
started; no file left over; peak memory; and that SIGTERM ends it in time at random moments. The network finds
foreground everywhere, so a cut-out shows the whole photo. The last line has the counts.
"""

import argparse
import contextlib
import io
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "src")]

import numpy as np  # noqa: E402
import profiles  # noqa: E402
import torch  # noqa: E402
from conftest import make_checkpoint  # noqa: E402
from PIL import Image, ImageCms, ImageOps  # noqa: E402

NO_PICTURES = {"PDF", "EPS", "WMF", "BUFR", "GRIB", "HDF5", "PALM", "IPTC", "MPEG"}
MODES = (
    *("1", "L", "P", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"),
    *("I", "F", "I;16", "I;16B", "I;16L"),
)
ORIENTED = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "MPO")
LIMIT_MIB = 2560  # of peak memory
SECONDS = 2.0  # from SIGTERM to the end


class Folder:
    """Writes files; `expected` has for each path None for one that must be named, else (size, RGB, alpha)."""

    def __init__(self, path):
        self.path, self.expected, self.count = path, {}, 0
        path.mkdir()

    def add(self, name, content, readable=True):
        self.count += 1
        path = self.path / f"{self.count:03d} {name}" if not name.startswith("=") else self.path / name[1:]
        path.write_bytes(content)
        self.expected[path] = reference(path) if readable else None
        return path

    def picture(self, picture, kind, name=None, **options):
        """Save a picture, where Pillow can write such a one."""
        file = io.BytesIO()
        try:
            picture.save(file, kind, **options)
        except Exception:
            return None
        label = name or f"{picture.mode.replace(';', '-')} {' '.join(options)}"
        return self.add(name or f"{label.strip()}.{kind.lower()}", file.getvalue())


def sample(mode, size=(40, 28), seed=0):
    """A picture of smooth colours and some noise, with alpha where its mode has that."""
    width, height = size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), 255 - x * 200 // width], axis=-1)
    rgb = Image.fromarray((rgb + rng.integers(-20, 20, rgb.shape)).clip(0, 255).astype(np.uint8))
    alpha = Image.fromarray(((x + y) * 255 // (width + height)).astype(np.uint8))
    if mode.startswith("I;16"):
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257).convert("I;16").convert(mode)
    if mode in ("I", "F"):
        grey = np.asarray(rgb.convert("L"))
        return Image.fromarray(grey.astype(np.int32) * 257 if mode == "I" else grey.astype(np.float32) / 255)
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(rgb, srgb, lab, outputMode="LAB")
    if mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        picture = rgb.convert("LA" if mode in ("LA", "La") else "RGBA")
        picture.putalpha(alpha)
        return picture.convert(mode)
    return rgb.convert(mode)


# --------------------------------------------------------------------------------- plain Pillow's answer


def reference(path):
    """What plain Pillow makes of a file: size, RGB and alpha; None where it cannot."""
    try:
        # By its bytes: of a TIFF that is to be turned and that it maps from a path, Pillow mixes up width and height.
        with warnings.catch_warnings(), Image.open(io.BytesIO(path.read_bytes())) as picture:
            warnings.simplefilter("ignore")
            kind, bits = picture.format, getattr(picture, "tag_v2", {}).get(258, (16,))[0]
            if kind in NO_PICTURES:
                return None
            picture.load()
            content = picture.info.get("icc_profile")
            try:
                upright = ImageOps.exif_transpose(picture)
            except Exception:  # EXIF that cannot be read turns nothing
                upright = picture.copy()
            if upright.mode.startswith(("I", "F")):
                return deep(upright, kind, bits)
            alpha = np.asarray(upright.convert("RGBA").getchannel("A")) if upright.has_transparency_data else None
            return upright.size, colors(upright, content), alpha
    except Exception:
        return None


def deep(picture, kind, bits):
    """By the table in photos/colors.py."""
    values = np.asarray(picture).astype(np.float64)
    key = picture.info.get("transparency")
    white = 65535.0
    if picture.mode == "F":
        white = 1.0 if kind in ("TIFF", "PPM") else 255.0
    elif kind == "TIFF" and picture.mode == "I":
        white = 2.0 ** (bits - 1) - 1
    grey = (np.nan_to_num(values, nan=0.0).clip(0, white) * 255 / white).round().astype(np.uint8)
    alpha = None if key is None else np.where(values == key, 0, 255)
    return picture.size, np.repeat(grey[..., None], 3, axis=2), alpha


def colors(picture, content):
    if picture.mode == "LA":
        plain = picture.getchannel("L")
    elif picture.mode in ("L", "CMYK"):
        plain = picture
    else:
        plain = picture.convert("RGBA").convert("RGB")
    if content:
        with contextlib.suppress(Exception):
            source, target = ImageCms.ImageCmsProfile(io.BytesIO(content)), ImageCms.createProfile("sRGB")
            plain = ImageCms.profileToProfile(plain, source, target, outputMode="RGB")
    return np.asarray(plain.convert("RGB"))


# ------------------------------------------------------------------------------------------- the files


def fill(folder):
    """Every kind of odd file."""
    Image.init()
    writers = sorted(set(Image.SAVE) - NO_PICTURES)
    for kind in writers:
        for mode in MODES:
            folder.picture(sample(mode), kind)
        for size in ((1, 1), (1, 90), (90, 1), (33, 7)):
            folder.picture(sample("RGB", size), kind, f"{size[0]}x{size[1]}.{kind.lower()}")
    add_options(folder)
    add_transparency(folder)
    add_profiles(folder)
    add_orientations(folder)
    add_frames(folder)
    add_names(folder)
    add_broken(folder, writers)
    add_large(folder)


def add_options(folder):
    # Only what libtiff takes: where it refuses, Pillow 12 corrupts its memory.
    modes = dict.fromkeys(("tiff_lzw", "tiff_deflate", "packbits"), ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "F", "P"))
    modes |= {"group3": ("1",), "group4": ("1",), "jpeg": ("L", "RGB", "CMYK")}
    for compression, able in modes.items():
        for mode in able:
            folder.picture(sample(mode), "TIFF", compression=compression)
    for mode in ("L", "RGB", "CMYK"):
        folder.picture(sample(mode), "JPEG", progressive=True, quality=90)
        folder.picture(sample(mode), "JPEG", subsampling=2, optimize=True)
    for bits in (1, 2, 4):
        folder.picture(sample("RGB").quantize(2**bits), "PNG", bits=bits)
    for mode in ("RGB", "RGBA", "L"):
        folder.picture(sample(mode), "WEBP", lossless=True)
        folder.picture(sample(mode), "JPEG2000", irreversible=True)
        folder.picture(sample(mode), "PNG", interlace=1)
    holes = np.asarray(sample("F")).copy()
    holes[:3], holes[3:6], holes[6:9] = np.nan, np.inf, -np.inf
    folder.picture(Image.fromarray(holes), "TIFF", "nan and infinity.tiff")
    folder.picture(Image.fromarray(np.float32(np.arange(1200).reshape(30, 40))), "TIFF", "above one.tiff")
    folder.picture(Image.fromarray(np.float32(np.arange(1200).reshape(30, 40))), "SPIDER", "above 255.spider")


def add_transparency(folder):
    palette = sample("RGB").quantize(16)
    for kind in ("PNG", "GIF"):
        folder.picture(palette, kind, transparency=3)
    folder.picture(palette, "PNG", "palette with alpha.png", transparency=bytes(range(0, 256, 16)))
    grey = sample("L")
    folder.picture(grey, "PNG", transparency=grey.getpixel((5, 5)))
    folder.picture(sample("RGB"), "PNG", transparency=sample("RGB").getpixel((5, 5)))
    folder.picture(sample("1"), "PNG", transparency=0)
    folder.picture(sample("I;16"), "PNG", transparency=sample("I;16").getpixel((5, 5)))
    folder.picture(sample("RGBA").quantize(), "PNG", "quantized RGBA.png")


def add_profiles(folder):
    made = {"P3": profiles.display_p3(), "grey": profiles.grey(), "CMYK": profiles.cmyk(), "broken": b"no profile"}
    made |= {"sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), "large": os.urandom(1_100_000)}
    for label, content in made.items():
        for kind in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF"):
            for mode in ("L", "RGB", "RGBA", "CMYK", "LA", "P"):
                name = f"profile {label} {mode}.{kind.lower()}"
                folder.picture(sample(mode), kind, name, icc_profile=content)


def add_orientations(folder):
    for orientation in [*range(9), 9, 300]:
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ORIENTED:
            for mode in ("RGB", "RGBA", "P", "I;16"):
                name = f"orientation {orientation} {mode.replace(';', '-')}.{kind.lower()}"
                folder.picture(sample(mode), kind, name, exif=exif)
    folder.picture(sample("RGB"), "JPEG", "cut EXIF.jpg", exif=exif.tobytes()[:-6])
    folder.picture(sample("RGB"), "PNG", "no EXIF.png", exif=b"Exif\0\0nothing")


def add_frames(folder):
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"):
        for mode in ("RGB", "RGBA", "P", "L"):
            frames = [sample(mode, seed=seed) for seed in (1, 2)]
            folder.picture(sample(mode), kind, f"frames {mode}.{kind.lower()}", save_all=True, append_images=frames)


def add_names(folder):
    content = io.BytesIO()
    sample("RGB").save(content, "PNG")
    names = ["two\nlines.png", "-dash.png", 'quote\'s "two".png', "[ab]*?.png", "%s{}.png", " blank .png", "犬 süß.png"]
    names += ["e\u0301.png", "a;b,c.png", "UPPER.PNG", "two.dots.png", "x=" * 60 + ".png"]
    for name in names:
        folder.add(f"={name}", content.getvalue())
    folder.add("=" + "n" * 246 + ".png", content.getvalue())
    folder.add("=" + "n" * 246 + ".jpg", content.getvalue())
    folder.add("=" + "犬" * 83 + ".jpg", content.getvalue())
    with contextlib.suppress(OSError):
        folder.add("=" + os.fsdecode(b"caf\xe9.jpg"), content.getvalue())
    (folder.path / "sub/deep").mkdir(parents=True)
    folder.add("=sub/deep/same.png", content.getvalue())
    folder.add("=sub/same.png", content.getvalue())
    folder.add("=sub/same.jpg", content.getvalue())


def add_broken(folder, writers):
    """Files that hold no picture, or not all of it, and what is no file."""
    for kind in writers:
        for part in (3, 1.1):
            file = io.BytesIO()
            with contextlib.suppress(Exception):
                sample("L" if kind == "SPIDER" else "RGB", (80, 60)).save(file, kind)
                content = file.getvalue()
                folder.add(f"cut {part}.{kind.lower().replace('spider', 'png')}", content[: int(len(content) / part)])
    for name, content in (("empty.jpg", b""), ("text.jpg", b"no picture\n" * 99), ("zeros.png", bytes(5000))):
        folder.add(name, content, readable=False)
    for kind in ("EPS", "PDF"):
        file = io.BytesIO()
        sample("RGB").save(file, kind)
        folder.add(f"is {kind}.jpg", file.getvalue(), readable=False)
    folder.add("is HEIC.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", readable=False)
    for kind in ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"):
        for ending in ("jpg", "gif"):
            file = io.BytesIO()
            sample("RGB").save(file, kind)
            folder.add(f"{kind} named.{ending}", file.getvalue())
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
    """A bomb, photos of 12 megapixels, and palettes of 8,000 pixels a side."""
    folder.picture(sample("RGB", (400, 300)).resize((4000, 3000)), "JPEG", "12 megapixels.jpg")
    file = io.BytesIO()
    Image.new("1", (20000, 20000)).save(file, "PNG")
    folder.add("bomb.png", file.getvalue(), readable=False)


# ------------------------------------------------------------------------------------------- the checks


class Checks:
    def __init__(self):
        self.count, self.failures = 0, []

    def that(self, truth, words):
        self.count += 1
        if not truth:
            self.failures.append(words)
            print(f"FAILED: {words}", flush=True)


def all_foreground(path):
    """A checkpoint whose network finds foreground everywhere."""
    make_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    name = [name for name in checkpoint["model"] if name.endswith("bias")][-1]
    checkpoint["model"][name] += 80
    torch.save(checkpoint, path)


def start(here, output, *flags):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS / "audit")}
    environment |= {"AUDIT_LOG": str(here / "started"), "PATH": f"{here / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, TESTS.parent / "src/predict.py", "d", "--model", here / "all.pth"]
    command += ["--recursive", "--output", output, "--csv", f"{output}.csv", *flags]
    log = open(here / f"{output}.log", "wb")  # noqa: SIM115
    return subprocess.Popen(command, cwd=here, env=environment, stdout=log, stderr=log)


def has_ended(process):
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end_of(process):
    """Exit status, and peak memory in MiB."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss / 1024


def check_outputs(checks, here, folder, output, log):
    """Each file was named, or its mask, overlay and cut-out are what plain Pillow says."""
    import csv

    with open(here / f"{output}.csv", newline="", encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    from photos.inputs import find_images, plan
    from photos.outputs import KINDS

    sources, _ = find_images([here / "d"], recursive=True)
    kinds = ("mask", "overlay", "cutout")
    jobs = plan(sources, {kind: here / output / kind for kind in kinds}, {kind: KINDS[kind] for kind in kinds})
    places = {job.path: (shown(job.name), job.files) for job in jobs}
    for path, expected in folder.expected.items():
        if path.suffix.lower() == ".spider" or path not in places:
            checks.that(expected is None or path.suffix[1:].lower() not in {"jpg", "png"}, f"{path} was not found")
            continue
        name, files = places[path]
        if expected is None:
            checks.that(name not in rows and " ".join(f"d/{name}".split()) in log, f"{name} is not named")
            continue
        checks.that(name in rows, f"{name} was not written: {[line for line in log.split('; ') if name in line][:1]}")
        if name in rows:
            check_picture(checks, name, files, *expected)
    written = sum(name in rows for name, _ in places.values())
    return len(places), written


def shown(name):
    """A name as tables and messages have it."""
    return name.encode(errors="backslashreplace").decode()


def check_picture(checks, name, files, size, rgb, alpha):
    for kind, path in files.items():
        path = path if path.exists() else path.with_name(path.name + ".png")
        try:
            with Image.open(path) as picture:
                picture.load()
                checks.that(picture.size == size, f"{name}: {kind} is {picture.size}, not {size}")
                checks.that("icc_profile" not in picture.info, f"{name}: {kind} has a profile")
                pixels = np.asarray(picture).astype(int)
        except Exception as error:
            checks.that(False, f"{name}: {kind} does not open again ({error})")
            return
    if pixels.shape[:2] != size[::-1]:
        return
    opaque = np.full(size[::-1], 255) if alpha is None else alpha.astype(int)
    checks.that((pixels[..., 3] <= opaque).all(), f"{name}: more opaque than it was")
    checks.that((pixels[..., 3] >= opaque - 2).all(), f"{name}: less opaque than it was")
    shown = opaque > 0
    gap = np.abs(pixels[..., :3] - rgb)[shown].max(initial=0)
    checks.that(gap <= 2, f"{name}: colours differ by {gap}")


def everything_but(here, output):
    """All paths but those of an output."""
    own = (output, f"{output}.csv", f"{output}.log", "started")
    return {path for path in here.rglob("*") if path.relative_to(here).parts[0] not in own}


def run_once(checks, here, folder):
    before = everything_but(here, "out")
    began = time.perf_counter()
    status, peak = end_of(start(here, "out", "--save", "mask", "overlay", "cutout"))
    seconds = time.perf_counter() - began
    log = (here / "out.log").read_text(errors="replace")
    checks.that(status == 2, f"the exit status is {status}: {log[-2000:]}")
    checks.that("Traceback" not in log, f"a traceback: {log[-2000:]}")
    checks.that(
        everything_but(here, "out") == before, f"outside the output folder: {everything_but(here, 'out') ^ before}"
    )
    started = (here / "started").read_text() if (here / "started").exists() else ""
    started = [line for line in started.splitlines() if "ldconfig" not in line]  # by torch, as it is imported
    checks.that(not started, f"a program was started: {started[:3]}")
    left_over = list((here / "out").rglob(".*"))
    checks.that(not left_over, f"left over: {left_over}")
    checks.that(peak < LIMIT_MIB, f"peak memory {peak:.0f} MiB")
    return log, peak, seconds


def kill_once(checks, here, after, number):
    """SIGTERM so many seconds after the first output."""
    output = f"kill{number}"
    process = start(here, output, "--save", "mask", "overlay", "cutout")
    while not has_ended(process) and not list((here / output).rglob("*.png")):
        time.sleep(0.02)
    checks.that(not has_ended(process), f"ended by itself: {(here / f'{output}.log').read_text()[-2000:]}")
    time.sleep(after)
    os.kill(process.pid, signal.SIGTERM)  # Popen.send_signal would reap a process that has ended
    began = time.perf_counter()
    status, _ = end_of(process)
    seconds = time.perf_counter() - began
    # 143 from our handler, -15 as Python ends and has taken it away, 2 where the run was over.
    checks.that(status in (143, -15, 2), f"after SIGTERM the exit status is {status}")
    checks.that(seconds <= SECONDS, f"SIGTERM at {after:.1f} s took {seconds:.2f} s")
    left_over = list((here / output).rglob(".*"))
    checks.that(not left_over, f"left over after SIGTERM: {left_over}")
    for path in (here / output).rglob("*.png"):
        with Image.open(path) as picture:
            picture.load()
    return seconds, status


def run_large(checks, here):
    """Masks of eight palettes of 8,000 pixels a side, all outputs of twelve photos of 12 megapixels: peak memory."""
    palette = Image.new("P", (8000, 8000))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palettes, photos = io.BytesIO(), io.BytesIO()
    palette.save(palettes, "PNG", transparency=0)
    sample("RGB", (400, 300)).resize((4000, 3000)).save(photos, "JPEG", quality=80)
    peaks = []
    for name, content, count, kinds in (
        ("palettes", palettes, 8, ("mask",)),
        ("photos", photos, 12, ("mask", "overlay", "cutout")),
    ):
        folder = here / name / "d"
        folder.mkdir(parents=True)
        for index in range(count):
            (folder / f"{index}.jpg").write_bytes(content.getvalue())
        for shared in ("all.pth", "bin"):
            (here / name / shared).symlink_to(here / shared)
        status, peak = end_of(start(here / name, "out", "--save", *kinds))
        checks.that(status == 0, (here / name / "out.log").read_text())
        checks.that(peak < LIMIT_MIB, f"peak memory of {name} {peak:.0f} MiB")
        peaks.append(peak)
    return max(peaks)


def harness(here, kills=12, seed=0):
    """Make, run and check. Returns the failures and the line with the counts."""
    checks, chance = Checks(), random.Random(seed)
    all_foreground(here / "all.pth")
    (here / "bin").mkdir()
    for program in ("gs", "gswin64c", "ddjvu", "convert", "ffmpeg"):
        (here / "bin" / program).write_text(f"#!/bin/sh\necho {program} >> '{here / 'started'}'\n")
        (here / "bin" / program).chmod(0o755)
    folder = Folder(here / "d")
    fill(folder)
    log, peak, seconds = run_once(checks, here, folder)
    tried, written = check_outputs(checks, here, folder, "out", log)
    ends = [kill_once(checks, here, chance.uniform(0, 0.7 * seconds), number) for number in range(kills)]
    peak_large = run_large(checks, here)
    slowest = max((end for end, _ in ends), default=0)
    line = (
        f"{len(folder.expected)} files, {tried} with a picture's suffix or special: {written} written, "
        f"{tried - written} named; {checks.count:,} checks, {len(checks.failures)} failed; {seconds:.0f} s, peak "
        f"{peak:.0f} MiB ({peak_large:.0f} for 20 large ones); {sum(status != 2 for _, status in ends)} of {kills} "
        f"runs ended by SIGTERM, the slowest in {slowest:.2f} s"
    )
    return checks.failures, line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12, help="runs that are ended by SIGTERM; default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as here:
        failures, line = harness(Path(here), args.kills, args.seed)
    print(line)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
