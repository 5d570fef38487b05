"""Decoding of image files: formats, pages, color profiles, transparency, bit depths and EXIF orientation."""

import io

import numpy as np
import pytest
from conftest import encoded, with_orientation
from conftest import random_photo as photo
from PIL import Image, ImageCms, features

from photos.colors import to_rgb
from photos.decode import ImageError, decode, open_image, page_count, read_image

RED = Image.new("RGB", (12, 8), (200, 30, 40))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DARK = SRGB.replace("sRGB".encode("utf-16-be"), "dark".encode("utf-16-be"))  # a profile with another name
DARK = DARK.replace(b"\0\2\x66\x66", b"\0\1\x80\0")  # and a gamma of 1.5 instead of 2.4
DARK_GRAY = DARK.replace(b"RGB ", b"GRAY").replace(b"rTRC", b"kTRC")


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
    "lzw tiff": saved(RED, "TIFF", compression="tiff_lzw"),
    "cmyk tiff": saved(RED.convert("CMYK"), "TIFF"),
    "mpo": saved(RED, "MPO", save_all=True, append_images=[Image.new("RGB", (12, 8), "blue")], quality=95),
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


def test_a_folder_and_an_image_of_too_many_pixels_are_refused(monkeypatch, tmp_path):
    with pytest.raises(ImageError, match="regular file"):
        read_image(tmp_path)
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


@pytest.mark.parametrize("mode, content", [("RGB", DARK), ("L", DARK_GRAY)], ids=["RGB", "L"])
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


@pytest.mark.parametrize("content", [DARK_GRAY, b"short", b""], ids=["gray", "short", "empty"])
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


# ------------------------------------------------------------------------------------ depth


def deep_files():
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
