"""Convert a decoded image of any mode and color profile to 8-bit sRGB.

| mode | range from black to white |
|---|---|
| 1, L, P, RGB, YCbCr, HSV, CMYK, LAB, with or without alpha | as Pillow converts it |
| I;16 and its byte orders | 0 to 65535; in a TIFF of fewer bits 0 to 2 ** bits - 1 |
| I | 0 to 65535 (PNG, PPM); in TIFF 0 to the largest number of its type |
| F | 0 to 1 in TIFF and PFM, by their convention; elsewhere 0 to 255 |

The range depends on the type, never on the values of one image. Values outside it are clipped, NaN is black, and a TIFF
whose zero is white is inverted. Alpha channels, transparent colors and palettes with alpha all count as alpha.
"""

from contextlib import suppress
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

DEEP = ("I", "F")  # modes of more than 8 bits begin with these letters
SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "LAB": "LAB"}  # color space of a profile: mode it applies to
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF tags


def to_rgb(image: Image.Image, intensity_range=None) -> Image.Image:
    """Convert an image of any mode to RGB for training: EXIF and profile ignored, transparency on white.

    intensity_range: see `to_srgb`.
    """
    colors, alpha = split_alpha(image, image, intensity_range)
    return on_white(merge(colors.convert("RGB"), alpha))


def to_srgb(image: Image.Image, keep_alpha: bool = True, intensity_range=None) -> Image.Image:
    """Convert a decoded image to sRGB, oriented by EXIF, without metadata: RGBA if it has transparency, else RGB.

    keep_alpha: if False, put transparency on white. intensity_range: the values (low, high) of a deep image that become
    black and white; default: the range of its type.
    """
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # EXIF that cannot be parsed raises many kinds of errors
        upright = image.copy()
    colors, alpha = split_alpha(upright, image, intensity_range)
    result = merge(apply_profile(colors, image.info.get("icc_profile")), alpha)
    result.info = {}
    return result if keep_alpha else on_white(result)


def merge(colors, alpha):
    if alpha:
        colors.putalpha(alpha)
    return colors


def on_white(image: Image.Image) -> Image.Image:
    """Put an RGBA image on white; return an RGB image unchanged."""
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def split_alpha(image, original, intensity_range=None):
    """Return an image's colors (mode L, RGB, CMYK or LAB) and its alpha (mode L), or None.

    original: the image as it was opened, which still has the file's tags.
    """
    key = image.info.get("transparency")
    if image.mode.startswith(DEEP):
        values = np.asarray(image)
        alpha = Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)) if isinstance(key, int) else None
        return deep_to_gray(values, original, intensity_range), alpha
    if image.has_transparency_data:
        is_gray = image.mode in ("1", "L", "LA", "La")
        image = image.convert("LA" if is_gray else "RGBA")
        return image.getchannel(0) if is_gray else image.convert("RGB"), image.getchannel("A")
    if image.mode in SPACES.values():
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def deep_to_gray(values, original, intensity_range):
    """Scale the values of a deep mode (I;16, I, F) to mode L, by intensity_range, or by the range of their type."""
    tags = getattr(original, "tag_v2", {})
    is_tiff = original.format == "TIFF"
    bits = tags.get(BITS, (16,))[0]
    signed = tags.get(SAMPLE_FORMAT, (1,))[0] == 2
    if is_tiff and original.mode == "I" and bits == 32 and not signed:
        values = values.view(np.uint32)
    if original.mode == "F":
        white = 1.0 if original.format in ("TIFF", "PPM") else 255.0
    else:
        white = 2.0 ** (bits - signed) - 1 if is_tiff else 65535.0
    low, high = intensity_range or (0.0, white)
    scaled = np.nan_to_num(values.astype(np.float32), nan=low, posinf=high, neginf=low).clip(low, high)
    gray = ((scaled - low) * (255 / ((high - low) or 1)) + 0.5).astype(np.uint8)
    inverted = is_tiff and tags.get(PHOTOMETRIC) == 0 and not intensity_range
    return Image.fromarray(255 - gray if inverted else gray)


def apply_profile(colors, content):
    """Convert colors to sRGB by an ICC profile, ignoring one that is broken, of another color space, or sRGB itself."""
    if content:
        with suppress(Exception):  # broken profiles, and a Pillow without LittleCMS
            from PIL import ImageCms

            profile = ImageCms.ImageCmsProfile(BytesIO(content))
            is_srgb = ImageCms.getProfileDescription(profile).startswith("sRGB")
            if SPACES[profile.profile.xcolor_space.strip().upper()] == colors.mode and not is_srgb:
                return ImageCms.profileToProfile(colors, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return colors if colors.mode == "RGB" else colors.convert("RGB")
