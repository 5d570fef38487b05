"""Convert a decoded image of any mode and color profile to 8-bit sRGB.

| mode | range from black to white |
|---|---|
| 1, L, P, RGB, YCbCr, HSV, CMYK, LAB, with or without alpha | as Pillow converts it |
| I;16 and its byte orders | 0 to 65535; in a TIFF with fewer bits, 0 to 2 ** bits - 1 |
| I | 0 to 65535 (PNG, PPM); in TIFF, 0 to the largest value of its type, taken as signed |
| F | 0 to 1 in TIFF and PFM, by their convention; elsewhere 0 to 255 |

Values outside the range are clipped; NaN becomes the low end. If no range is given, TIFFs with white at 0 are inverted.
"""

from contextlib import suppress
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

DEEP = ("I", "F")  # first letters of modes with more than 8 bits
SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "LAB": "LAB"}  # ICC color space: Pillow mode
BITS, PHOTOMETRIC = 258, 262  # TIFF tags


def to_rgb(image: Image.Image, intensity_range=None) -> Image.Image:
    """Convert an image to RGB for training, like `to_srgb` but on white, ignoring EXIF and the color profile."""
    colors, alpha = split_alpha(image, image, intensity_range)
    colors = colors.convert("RGB")
    if alpha:
        colors.putalpha(alpha)
    return on_white(colors)


def to_srgb(image: Image.Image, keep_alpha: bool, intensity_range) -> Image.Image:
    """Convert a decoded image to sRGB, apply EXIF orientation, and drop metadata.

    keep_alpha: return transparent images as RGBA instead of putting them on white. intensity_range:
    values that become black and white in images with more than 8 bits; default: see the table.
    """
    colors, alpha = split_alpha(transposed(image), image, intensity_range)
    result = apply_profile(colors, image.info.get("icc_profile"))
    if alpha:
        result.putalpha(alpha)
    result.info = {}
    return result if keep_alpha else on_white(result)


def transposed(image: Image.Image) -> Image.Image:
    """Return a copy with the EXIF orientation applied, or unchanged if the EXIF data is broken."""
    with suppress(Exception):  # broken EXIF raises many kinds of errors
        return ImageOps.exif_transpose(image)
    return image.copy()


def on_white(image: Image.Image) -> Image.Image:
    """Put an RGBA image on white; return RGB unchanged."""
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def split_alpha(image, original, intensity_range):
    """Return colors (mode L, RGB, CMYK or LAB) and alpha (mode L or None). original: with the file's tags."""
    if image.mode.startswith(DEEP):
        return deep_to_gray(np.asarray(image), original, intensity_range), None
    if image.has_transparency_data:
        if image.mode in ("1", "L", "LA", "La"):
            return image.convert("LA").split()
        image = image.convert("RGBA")
        return image.convert("RGB"), image.getchannel("A")
    if image.mode in SPACES.values():
        return image, None
    return image.convert("RGB"), None


def deep_to_gray(values, original, intensity_range):
    """Scale values of a deep mode (I;16, I, F) to an image of mode L."""
    tags = getattr(original, "tag_v2", {})
    is_tiff = original.format == "TIFF"
    white = 65535.0
    if original.mode == "F":
        white = 1.0 if original.format in ("TIFF", "PPM") else 255.0
    elif is_tiff:
        is_signed = original.mode == "I"
        white = 2.0 ** (tags[BITS][0] - is_signed) - 1
    low, high = intensity_range or (0.0, white)
    scaled = np.nan_to_num(values.astype(np.float32), nan=low, posinf=high, neginf=low).clip(low, high)
    gray = ((scaled - low) * (255 / ((high - low) or 1)) + 0.5).astype(np.uint8)
    inverted = is_tiff and tags.get(PHOTOMETRIC) == 0 and not intensity_range
    return Image.fromarray(255 - gray if inverted else gray)


def apply_profile(colors, content):
    """Convert from an ICC profile to sRGB, unless it is broken, sRGB, or for another color space."""
    if content:
        with suppress(Exception):  # broken profiles, and a Pillow without LittleCMS
            from PIL import ImageCms

            profile = ImageCms.ImageCmsProfile(BytesIO(content))
            space = profile.profile.xcolor_space.strip().upper()
            is_srgb = ImageCms.getProfileDescription(profile).startswith("sRGB")
            if SPACES[space] == colors.mode and not is_srgb:
                srgb = ImageCms.createProfile("sRGB")
                return ImageCms.profileToProfile(colors, profile, srgb, outputMode="RGB")
    return colors if colors.mode == "RGB" else colors.convert("RGB")
