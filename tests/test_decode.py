"""Decoding of image files: formats, pages, color profiles, transparency, bit depths and EXIF orientation."""

import io
import os
import warnings
from contextlib import suppress
from itertools import product

import numpy as np
import profiles
import pytest
from conftest import encoded, with_orientation
from conftest import random_photo as photo
from PIL import Image, ImageCms, ImageOps, features

from photos.colors import to_rgb
from photos.decode import ImageError, decode, open_image, page_count, read_image

RED = Image.new("RGB", (12, 8), (200, 30, 40))


def saved(image, kind, **options):
    return io.BytesIO(encoded(image, kind, **options))


FILES = {
    "jpeg": saved(RED, "JPEG", quality=95),
    "animated gif": saved(RED, "GIF", save_all=True, append_images=[Image.new("RGB", (12, 8), "blue")]),
    "palette png": saved(RED.quantize(4), "PNG"),
    "alpha png": saved(RED.convert("RGBA"), "PNG"),
    "cmyk jpeg": saved(RED.convert("CMYK"), "JPEG", quality=95),
    "trailing garbage": io.BytesIO(saved(RED, "JPEG", quality=95).getvalue() + b"\0garbage" * 50),
    "bmp": saved(RED, "BMP"),
    "webp": saved(RED, "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_content_decides_the_format_not_the_suffix(kind, tmp_path):
    (tmp_path / "image.jpg").write_bytes(FILES[kind].getvalue())
    image = read_image(tmp_path / "image.jpg")
    assert image.mode == "RGB" and image.size == (12, 8)
    assert np.abs(np.asarray(image, dtype=int) - (200, 30, 40)).max() < 12


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "not an image"),
        (b"no image at all", "not an image"),
        (FILES["jpeg"].getvalue()[:300], "decoded"),
        (FILES["bmp"].getvalue()[:100], "decoded"),
        (saved(RED, "EPS").getvalue(), "not an image"),  # Ghostscript is never started
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC|decoded"),
        (None, "missing"),
    ],
)
def test_the_error_gives_the_reason_why_a_file_cannot_be_read(content, reason, tmp_path):
    if content is not None:
        (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=reason):
        read_image(tmp_path / "broken.jpg")


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for path in (tmp_path, tmp_path / "pipe.jpg", tmp_path / "zero.jpg"):
        with pytest.raises(ImageError, match="regular file"):
            read_image(path)


def test_too_many_pixels_are_refused(monkeypatch, tmp_path):
    RED.save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(ImageError, match="80 pixels"):
        read_image(tmp_path / "a.png")


# ------------------------------------------------------------------------------------ pages


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_the_first_page_of_a_stack_or_an_animation_is_read(kind):
    pages = [Image.new("RGB", RED.size, color) for color in ("blue", "lime")]
    file = saved(RED, kind, save_all=True, append_images=pages)
    with open_image(file) as image:
        assert page_count(image) == 3
    assert np.abs(np.asarray(read_image(file), dtype=int) - (200, 30, 40)).max() < 12
    with open_image(saved(RED, kind)) as image:
        assert page_count(image) == 1


# ------------------------------------------------------------------------- profiles, transparency


@pytest.mark.parametrize(
    "mode, content", [("RGB", profiles.display_p3()), ("CMYK", profiles.cmyk()), ("L", profiles.gray(1.0))]
)
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_photos_are_converted_to_srgb(mode, content, kind):
    image = photo(64, 48).resize((128, 96)).convert(mode)
    file = saved(image, kind, icc_profile=content, **({"quality": 95} if kind == "JPEG" else {}))
    stored = decode(file)
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(content)), ImageCms.createProfile("sRGB")
    expected = np.asarray(ImageCms.profileToProfile(stored, source, target, outputMode="RGB"))
    assert np.abs(expected.astype(int) - np.asarray(stored.convert("RGB"))).max() > 20
    np.testing.assert_array_equal(np.asarray(read_image(file)), expected)
    np.testing.assert_array_equal(np.asarray(to_rgb(stored)), np.asarray(stored.convert("RGB")))  # as in training


@pytest.mark.parametrize("content", [profiles.cmyk(), profiles.gray(), b"short", b""])
@pytest.mark.parametrize("mode", ["RGBA", "RGB"])
def test_a_profile_that_does_not_fit_the_mode_is_ignored(content, mode):
    read = read_image(saved(photo().convert(mode), "PNG", icc_profile=content))
    assert (np.asarray(read) == np.asarray(photo())).all() and not read.info


def transparent_files():
    alpha = Image.fromarray(np.tile(np.arange(50, dtype=np.uint8) * 5, (30, 1)))
    rgba, gray = photo().convert("RGBA"), photo().convert("LA")
    rgba.putalpha(alpha)
    gray.putalpha(alpha)
    yield "rgba", saved(rgba, "PNG")
    yield "gray and alpha", saved(gray, "PNG")
    yield "palette", saved(photo().quantize(8), "PNG", transparency=bytes([0, 128, 255, 255, 255, 255, 255, 255]))
    yield "key", saved(photo().quantize(8), "GIF", transparency=3)
    yield "key of a gray", saved(photo().convert("L"), "PNG", transparency=int(photo().convert("L").getpixel((3, 3))))
    yield "webp", saved(rgba, "WEBP", lossless=True)
    yield "tiff", saved(rgba, "TIFF", compression="tiff_lzw")
    yield "rotated", saved(rgba, "PNG", exif=with_orientation(6))


TRANSPARENT = dict(transparent_files())


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparency_is_kept_or_put_on_white(kind):
    stored = decode(TRANSPARENT[kind])
    upright = stored.transpose(Image.Transpose.ROTATE_270) if kind == "rotated" else stored
    expected = np.asarray(upright.convert("RGBA").getchannel("A"))
    assert expected.min() < 255
    np.testing.assert_array_equal(np.asarray(read_image(TRANSPARENT[kind], keep_alpha=True).getchannel("A")), expected)
    white = np.asarray(read_image(TRANSPARENT[kind]))
    assert white.shape[2] == 3 and (white[expected == 0] == 255).all()


def test_a_transparent_16_bit_value_is_transparent():
    deep = Image.fromarray(np.arange(1500, dtype=np.uint16).reshape(30, 50) * 40)
    alpha = np.asarray(read_image(saved(deep, "PNG", transparency=400), keep_alpha=True).getchannel("A"))
    np.testing.assert_array_equal(alpha == 0, np.asarray(deep) == 400)


# ------------------------------------------------------------------------------------ depth


def deep_files():
    ramp = np.tile(np.arange(256, dtype="f4"), (64, 1))
    ramp[0, 0] = 256
    unit = np.tile(np.linspace(0, 1, 256, dtype="f4"), (64, 1))
    holes = unit.copy()
    holes[:, :8] = np.nan
    holes[:, 8:16] = np.inf
    gray = np.tile(np.arange(256), (64, 1))
    yield "16 bits", Image.fromarray((unit * 65535).astype(np.uint16)), "PNG", {}, gray
    yield "16 bits, dark", Image.fromarray((unit * 255).astype(np.uint16)), "PNG", {}, 0 * gray
    yield "16 bits in a TIFF", Image.fromarray((unit * 65535).astype(np.uint16)), "TIFF", {}, gray
    yield "zero is white", Image.fromarray((unit * 65535).astype(np.uint16)), "TIFF", {"tiffinfo": {262: 0}}, 255 - gray
    yield "16 bits in a PGM", Image.fromarray((unit * 65535).astype(np.int32)), "PPM", {}, gray
    yield "32 bits in a TIFF", Image.fromarray((unit * (2**31 - 129)).astype(np.int32)), "TIFF", {}, gray
    yield "floats in a TIFF", Image.fromarray(unit), "TIFF", {}, gray
    yield "floats in a PFM", Image.fromarray(unit), "PPM", {}, gray
    yield "NaN and infinity", Image.fromarray(holes), "TIFF", {}, np.where(gray < 8, 0, np.where(gray < 16, 255, gray))
    yield "floats of a SPIDER file, one above 255", Image.fromarray(ramp), "SPIDER", {}, np.asarray(ramp).clip(0, 255)


DEEP = {name: rest for name, *rest in deep_files()}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_images_are_scaled_by_the_range_of_their_type(kind):
    image, name, options, expected = DEEP[kind]
    read = np.asarray(read_image(saved(image, name, **options)), dtype=int)
    assert np.abs(read - expected[..., None]).max() <= 1


# ----------------------------------------------------------------------------- camera files


NEEDS_AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow cannot read AVIF")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", pytest.param("AVIF", marks=NEEDS_AVIF)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    image = Image.new("RGB", (24, 16), "black")
    image.paste("white", (0, 0, 24, 8))
    read = np.asarray(read_image(saved(image, kind, exif=with_orientation(orientation))), dtype=int)
    assert read.shape[:2] == ((24, 16) if orientation > 4 else (16, 24))
    bright = {1: read[:4], 2: read[:4], 3: read[-4:], 4: read[-4:]}
    bright |= {5: read[:, :4], 6: read[:, -4:], 7: read[:, -4:], 8: read[:, :4]}
    assert bright[orientation].min() > 180


def test_broken_exif_does_not_rotate():
    exif = with_orientation(6).tobytes()[:-6]
    assert read_image(saved(photo(), "JPEG", exif=exif)).size == (50, 30)


def test_heic_is_read_or_the_missing_package_is_named(monkeypatch, tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(photo(64, 48).resize((128, 96))).save(tmp_path / "a.HEIC", quality=95)
    assert read_image(tmp_path / "a.HEIC").size == (128, 96)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(ImageError, match="HEIC.*pip install pillow-heif"):
        read_image(tmp_path / "a.HEIC")


# ------------------------------------------------------------------------- every format and mode

REFUSED = {"PDF", "EPS", "WMF", "BUFR", "GRIB", "HDF5", "PALM", "IPTC", "MPEG"}  # formats
MODES = (
    *("1", "L", "P", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"),
    *("I", "F", "I;16", "I;16B", "I;16L"),
)


def sample(mode, size=(40, 28)):
    """Return an image of this mode, with alpha if the mode has it."""
    rgb = photo(*size)
    gray = np.asarray(rgb.convert("L"))
    if mode.startswith("I;16"):
        return Image.fromarray(gray.astype(np.uint16) * 257).convert("I;16").convert(mode)
    if mode in ("I", "F"):
        return Image.fromarray(gray.astype(np.int32) * 257 if mode == "I" else gray.astype(np.float32) / 255)
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(rgb, srgb, lab, outputMode="LAB")
    if mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        image = rgb.convert("LA" if mode in ("LA", "La") else "RGBA")
        image.putalpha(Image.fromarray(np.linspace(0, 255, gray.size).astype(np.uint8).reshape(gray.shape)))
        return image.convert(mode)
    return rgb.convert(mode)


def images():
    """Yield a label, an image, and the format and the options to save it with."""
    Image.init()
    for kind in sorted(Image.SAVE.keys() - REFUSED - {"HEIF"} | {"EPS", "PDF"}):  # pillow-heif adds HEIF
        for mode in MODES:
            yield mode, sample(mode), kind, {}
        for size in ((1, 1), (1, 90), (90, 1), (33, 7)):
            yield str(size), sample("RGB", size), kind, {}
    # Only combinations that libtiff accepts: if it refuses one, Pillow 12 corrupts memory.
    modes = dict.fromkeys(("tiff_lzw", "tiff_deflate", "packbits"), ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "F", "P"))
    modes |= {"group3": ("1",), "group4": ("1",), "jpeg": ("L", "RGB", "CMYK")}
    for compression, able in modes.items():
        for mode in able:
            yield f"{compression} {mode}", sample(mode), "TIFF", {"compression": compression}
    for mode in ("L", "RGB", "CMYK"):
        yield f"progressive {mode}", sample(mode), "JPEG", {"progressive": True, "quality": 90}
        yield f"subsampled {mode}", sample(mode), "JPEG", {"subsampling": 2, "optimize": True}
    for mode in ("L", "RGB", "RGBA"):
        yield f"lossless {mode}", sample(mode), "WEBP", {"lossless": True}
        yield f"irreversible {mode}", sample(mode), "JPEG2000", {"irreversible": True}
        yield f"interlaced {mode}", sample(mode), "PNG", {"interlace": 1}
    for bits in (1, 2, 4):
        yield f"{bits} bits", sample("RGB").quantize(2**bits), "PNG", {"bits": bits}
    palette = sample("RGB").quantize(16)
    yield "palette key", palette, "GIF", {"transparency": 3}
    for key in (3, bytes(range(0, 256, 16))):
        yield f"palette {key!r}", palette, "PNG", {"transparency": key}
    keys = {"1": 0, **{mode: sample(mode).getpixel((5, 5)) for mode in ("L", "RGB", "I;16")}}
    for mode, key in keys.items():
        yield f"key {mode}", sample(mode), "PNG", {"transparency": key}
    yield "quantized RGBA", sample("RGBA").quantize(), "PNG", {}
    made = {"P3": profiles.display_p3(), "gray": profiles.gray(), "CMYK": profiles.cmyk(), "broken": b"no profile"}
    made |= {"sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), "large": os.urandom(1_100_000)}
    kinds = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF")
    for name, kind, mode in product(made, kinds, ("L", "RGB", "RGBA", "CMYK", "LA", "P")):
        yield f"profile {name} {mode}", sample(mode), kind, {"icc_profile": made[name]}
    for orientation, kind, mode in product([*range(10), 300], (*kinds, "MPO"), ("RGB", "RGBA", "P", "I;16")):
        yield f"orientation {orientation} {mode}", sample(mode), kind, {"exif": with_orientation(orientation)}
    yield "no EXIF", sample("RGB"), "PNG", {"exif": b"Exif\0\0nothing"}
    for kind, mode in product(("GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"), ("RGB", "RGBA", "P", "L")):
        yield f"frames {mode}", sample(mode), kind, {"save_all": True, "append_images": [sample(mode).rotate(180)] * 2}


def files():
    """Yield the name and content of every file that Pillow can write, of truncated and of other files."""
    for label, image, kind, options in images():
        with suppress(Exception):  # Pillow cannot write it
            content = encoded(image, kind, **options)
            for part in (1, 1.1, 3) if label == "RGB" else (1,):
                yield f"{kind} {label} / {part}", content[: int(len(content) / part)]
    yield from {"empty": b"", "text": b"no image\n" * 99, "zeros": bytes(5000)}.items()


def reference(content):
    """Read a file with plain Pillow. Return size, RGB and alpha, or None if it cannot be read."""
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # From bytes: if Pillow maps a TIFF with EXIF orientation from a path, it swaps width and height.
        image = Image.open(io.BytesIO(content))
        kind, bits = image.format, getattr(image, "tag_v2", {}).get(258, (16,))[0]
        if kind in REFUSED:
            return None
        image.load()
        upright = image.copy()
        with suppress(Exception):  # unreadable EXIF does not transpose
            upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I", "F")):
            return deep(upright, kind, bits)
        alpha = np.asarray(upright.convert("RGBA").getchannel("A")) if upright.has_transparency_data else None
        return upright.size, colors(upright, image.info.get("icc_profile")), alpha
    return None


def deep(image, kind, bits):
    """Return the same for an image of more than 8 bits, by the table in photos/colors.py."""
    values, white = np.asarray(image).astype(np.float64), 65535.0
    key = image.info.get("transparency")
    if image.mode == "F":
        white = 1.0 if kind in ("TIFF", "PPM") else 255.0
    elif kind == "TIFF" and image.mode == "I":
        white = 2.0 ** (bits - 1) - 1
    gray = (values.clip(0, white) * 255 / white).round().astype(np.uint8)
    return image.size, np.repeat(gray[..., None], 3, axis=2), None if key is None else np.where(values == key, 0, 255)


def colors(image, content):
    plain = image
    if image.mode == "LA":
        plain = image.getchannel("L")
    elif image.mode not in ("L", "CMYK"):
        plain = image.convert("RGBA").convert("RGB")
    if content:
        with suppress(Exception):
            source, target = ImageCms.ImageCmsProfile(io.BytesIO(content)), ImageCms.createProfile("sRGB")
            plain = ImageCms.profileToProfile(plain, source, target, outputMode="RGB")
    return np.asarray(plain.convert("RGB"))


def differ(image, size, rgb, alpha):
    """Check whether an image is not what plain Pillow reads."""
    if image.size != size:
        return True
    pixels = np.asarray(image.convert("RGBA")).astype(int)
    opaque = np.full(size[::-1], 255) if alpha is None else alpha
    hidden = opaque - pixels[..., 3]
    off = np.abs(pixels[..., :3] - rgb)[opaque > 0].max(initial=0)
    return hidden.min() < 0 or hidden.max() > 2 or off > 2


@pytest.mark.integration
def test_every_file_is_read_as_plain_pillow_reads_it_or_refused(tmp_path):
    wrong, read = [], 0
    for name, content in files():
        (tmp_path / "photo").write_bytes(content)
        expected, found = reference(content), None
        with suppress(ImageError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = read_image(tmp_path / "photo", keep_alpha=True)
        if expected is None or found is None:
            wrong += [name] * (expected is not found)  # only one of the two reads it
            continue
        read += 1
        wrong += [name] * bool(differ(found, *expected))
    assert not wrong and read > 400
