"""Every kind of file that turns up under a .jpg name, in the official download and in people's folders."""

import io

import numpy as np
import pytest
from PIL import Image

from photos.pictures import PictureError, read_picture

RED = Image.new("RGB", (12, 8), (200, 30, 40))


def saved(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def transparent_left_half():
    picture = RED.convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 6, 8))
    return picture


FILES = {
    "jpeg": saved(RED, "JPEG", quality=95),
    "png": saved(RED, "PNG"),
    "gif": saved(RED, "GIF"),
    "animated gif": saved(RED, "GIF", save_all=True, append_images=[Image.new("RGB", (12, 8), "blue")]),
    "palette png": saved(RED.quantize(4), "PNG"),
    "alpha png": saved(RED.convert("RGBA"), "PNG"),
    "cmyk jpeg": saved(RED.convert("CMYK"), "JPEG", quality=95),
    "trailing garbage": saved(RED, "JPEG", quality=95) + b"\0garbage" * 50,
    "bmp": saved(RED, "BMP"),
    "webp": saved(RED, "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_decodes_to_the_same_picture(kind, tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(FILES[kind])
    picture = read_picture(path)
    assert picture.mode == "RGB" and picture.size == (12, 8)
    assert np.abs(np.asarray(picture, dtype=int) - (200, 30, 40)).max() < 12


def test_grey_and_sixteen_bits(tmp_path):
    ramp = np.linspace(0, 65535, 96, dtype=np.uint16).reshape(8, 12)
    for name, picture in (("grey", Image.fromarray((ramp >> 8).astype(np.uint8))), ("deep", Image.fromarray(ramp))):
        picture.save(tmp_path / f"{name}.png")
        read = np.asarray(read_picture(tmp_path / f"{name}.png"), dtype=int)
        assert np.abs(read - (ramp >> 8)[..., None]).max() <= 1


def test_transparency_becomes_white(tmp_path):
    transparent_left_half().save(tmp_path / "a.png")
    pixels = np.asarray(read_picture(tmp_path / "a.png"))
    assert (pixels[:, :6] == 255).all() and (pixels[:, 6:] == (200, 30, 40)).all()


def test_exif_orientation_is_applied(tmp_path):
    picture = Image.new("RGB", (12, 8), "black")
    picture.paste("white", (0, 0, 12, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = np.asarray(read_picture(tmp_path / "turned.jpg"), dtype=int)
    assert upright.shape == (12, 8, 3) and upright[:, 5:].min() > 200 and upright[:, :3].max() < 55


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "is not a picture"),
        (b"no picture at all", "is not a picture"),
        (FILES["jpeg"][: len(FILES["jpeg"]) // 2], "cannot be decoded"),
        (FILES["png"][:50], "cannot be decoded"),
        (None, "is missing"),
    ],
)
def test_what_cannot_be_read_says_why(content, reason, tmp_path):
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PictureError, match=reason):
        read_picture(path)
