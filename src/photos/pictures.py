"""Picture files -> RGB pictures, whatever the file turns out to hold."""

import warnings

import numpy as np
from PIL import Image, ImageOps

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice the limit is still an error


class PictureError(Exception):
    """A file that cannot be read as a picture; the message says why, without the file's name."""


def decode(path):
    """The first frame of a file (a path, or an open binary file) as a PIL picture in its own mode, decoded whole.

    Raises PictureError.
    """
    try:
        picture = Image.open(path)
        picture.load()
    except FileNotFoundError:
        raise PictureError("is missing") from None
    except Image.UnidentifiedImageError:
        raise PictureError("is not a picture") from None
    except Image.DecompressionBombError:
        raise PictureError(f"has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except MemoryError:
        raise PictureError("is too large for the memory") from None
    except Exception as error:  # Pillow's decoders raise whatever their format's parser does
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise PictureError(f"cannot be decoded ({reason})") from None
    return picture


def to_rgb(picture):
    """A PIL picture of any mode -> mode RGB; what is transparent becomes white, 16 bits become 8."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        values = np.asarray(picture, dtype=np.float64)
        scale = 1 / 257 if values.max() > 255 else 1
        picture = Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def read_picture(path):
    """The picture in a file (a path, or an open binary file), upright (EXIF orientation applied), in mode RGB.

    Raises PictureError.
    """
    picture = decode(path)
    try:
        return to_rgb(ImageOps.exif_transpose(picture))
    except Exception as error:  # broken EXIF, palettes and profiles raise what their parsers do
        raise PictureError(f"cannot be decoded ({' '.join(str(error).split())})") from None


def resize(picture, size, resample=Image.Resampling.BILINEAR):
    """A PIL picture stretched to size x size pixels."""
    return picture.resize((size, size), resample)
