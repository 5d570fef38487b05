"""A decoded picture of any mode and colour profile as 8-bit sRGB, by one rule for each mode.

| mode | black to white |
|---|---|
| 1, L, P, RGB, YCbCr, HSV, CMYK, LAB, with or without alpha | as Pillow converts it |
| I;16 and its byte orders | 0 to 65535; in a TIFF of fewer bits 0 to 2 ** bits - 1 |
| I | 0 to 65535, as PNG and PPM have it; in TIFF 0 to the largest number of its type |
| F | 0 to 1 in TIFF and PFM, the convention of both; elsewhere 0 to 255, as Pillow converts it |

The range is that of the type and never that of the values in one picture; values outside are clipped, NaN is black, and
a TIFF whose zero is white is inverted. An alpha channel, a transparent colour and a palette with alpha are all alpha.
"""

from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image

DEEP = ("I", "F")
BAND = 4_000_000  # pixels converted at once, so that memory is the picture's and the result's
SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "LAB": "LAB"}  # a profile's colour space: the mode it describes
ORIENTATION, BITS, PHOTOMETRIC, SAMPLE_FORMAT = 0x0112, 258, 262, 339  # TIFF and EXIF tags
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn(picture: Image.Image, orientation: int) -> Image.Image:
    """The picture upright, if EXIF says that it is stored in this orientation, 1 to 8."""
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


def orientation_of(picture: Image.Image) -> int:
    """What a picture's EXIF says of its pixels, 1 to 8; 1 where it says nothing that can be read."""
    try:
        orientation = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever broken EXIF makes its parser raise
        return 1
    return orientation if orientation in TURNS else 1


def to_rgb(picture: Image.Image) -> Image.Image:
    """A picture of any mode as RGB, transparency on white, its colour profile not applied: as networks are trained."""
    return convert(picture, picture, None, keep_alpha=False)


def to_srgb(picture: Image.Image, upright: Image.Image | None = None, keep_alpha: bool = True) -> Image.Image:
    """A picture of any mode as sRGB, without metadata: mode RGBA where it has transparency, else RGB.

    upright: the same picture turned, if it is to be turned. keep_alpha: if false, transparency is put on white.
    """
    return convert(picture, upright or picture, transform_of(picture), keep_alpha)


def on_white(picture: Image.Image) -> Image.Image:
    """A picture of mode RGB, or RGBA on white, as mode RGB."""
    if picture.mode == "RGB":
        return picture
    result = Image.new("RGB", picture.size)
    for box in bands(picture.size):
        band = picture.crop(box)
        result.paste(white_under(band.convert("RGB"), band.getchannel("A")), box)
    return result


def bands(size):
    """The boxes (left, top, right, bottom) of the bands of rows that cover a picture."""
    width, height = size
    rows = max(1, BAND // width)
    return [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]


def convert(picture, upright, transform: Callable | None, keep_alpha: bool) -> Image.Image:
    """Convert band by band. picture: with the file's tags, which `upright` may have lost."""
    if upright.mode == "P" and upright.palette is None:  # Pillow forgets it in some ICNS; a copy has it again
        upright = upright.copy()
    if upright.mode == "RGB" and not upright.has_transparency_data and not transform:
        result = upright.copy()
        result.info = {}
        return result
    to_grey = scaling(picture)
    keep_alpha = keep_alpha and upright.has_transparency_data
    result = Image.new("RGBA" if keep_alpha else "RGB", upright.size)
    for box in bands(upright.size):
        colors, alpha = split_alpha(upright.crop(box), to_grey)
        colors = transform(colors) if transform else colors.convert("RGB")
        if alpha and keep_alpha:
            colors.putalpha(alpha)
        elif alpha:
            colors = white_under(colors, alpha)
        result.paste(colors, box)
    return result


def white_under(colors, alpha):
    picture = colors.copy()
    picture.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def split_alpha(band, to_grey):
    """A picture's colours, of mode L, RGB, CMYK or LAB, and its alpha, of mode L, or None."""
    if band.mode.startswith(DEEP):
        key = band.info.get("transparency")
        values = np.asarray(band)
        alpha = Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)) if isinstance(key, int) else None
        return Image.fromarray(to_grey(values)), alpha
    if band.has_transparency_data:
        grey = band.mode in ("1", "L", "LA", "La")
        key = band.info.get("transparency")
        if isinstance(key, tuple) and max(key) > 255:  # of 16 bits, where Pillow keeps 8 of the pixels
            band.info["transparency"] = tuple(value >> 8 for value in key)
        band = band.convert("LA" if grey else "RGBA")
        return band.getchannel(0) if grey else band.convert("RGB"), band.getchannel("A")
    if band.mode in ("L", "CMYK", "LAB"):
        return band, None
    return band.convert("L" if band.mode == "1" else "RGB"), None


def scaling(picture) -> Callable:
    """What turns the values of a deep mode (I;16, I, F) into uint8, by the type's declared range."""
    tags = getattr(picture, "tag_v2", {})
    tiff = picture.format == "TIFF"
    bits = tags.get(BITS, (16,))[0]
    signed = tags.get(SAMPLE_FORMAT, (1,))[0] == 2
    unsigned_32 = tiff and picture.mode == "I" and bits == 32 and not signed
    if picture.mode == "F":
        white = 1.0 if picture.format in ("TIFF", "PPM") else 255.0
    elif tiff:
        white = 2.0 ** (bits - signed) - 1
    else:
        white = 65535.0
    inverted = tiff and tags.get(PHOTOMETRIC) == 0

    def to_grey(values):
        values = values.view(np.uint32) if unsigned_32 else values
        scaled = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=white, neginf=0.0)
        grey = (scaled.clip(0, white) * (255 / white) + 0.5).astype(np.uint8)
        return 255 - grey if inverted else grey

    return to_grey


def transform_of(picture) -> Callable | None:
    """What brings a picture's colours to sRGB, or None where they are sRGB or have no profile that fits and works."""
    content = picture.info.get("icc_profile")
    if not content:
        return None
    try:
        from PIL import ImageCms

        profile = ImageCms.ImageCmsProfile(BytesIO(content))
        mode = SPACES[profile.profile.xcolor_space.strip().upper()]
        if mode != colors_mode(picture):
            return None
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
        apply = lambda colors: ImageCms.applyTransform(colors, transform)  # noqa: E731
        return None if mode == "RGB" and changes_nothing(apply) else apply
    except Exception:  # broken profiles, and a Pillow without LittleCMS
        return None


def colors_mode(picture):
    """The mode that `split_alpha` gives of a picture."""
    if picture.mode.startswith(DEEP) or picture.mode in ("1", "L", "LA", "La"):
        return "L"
    return picture.mode if picture.mode in ("CMYK", "LAB") else "RGB"


def changes_nothing(transform):
    """Whether a transform of RGB colours moves none by more than 1."""
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    colors = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
    changed = np.asarray(transform(Image.fromarray(colors)))
    return bool((np.abs(changed.astype(int) - colors) <= 1).all())
