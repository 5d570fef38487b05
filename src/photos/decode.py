"""Decode image files; every failure is an ImageError. A file is a path or an open binary file."""

import os
import warnings
from contextlib import contextmanager, nullcontext
from functools import cache

from PIL import Image

from photos.colors import to_srgb

# Excluded: EPS, which starts Ghostscript; IPTC, which may contain EPS; formats that need more than Pillow.
FORMATS = frozenset({
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "GIF", "ICNS", "ICO",
    "IM", "IMT", "JPEG", "JPEG2000", "MCIDAS", "MPO", "MSP", "PCD", "PCX", "PIXAR", "PNG", "PPM", "PSD",
    "QOI", "SGI", "SPIDER", "SUN", "TGA", "TIFF", "WEBP", "XBM", "XPM", "XVTHUMB",
})  # fmt: skip
PAGED = ("TIFF", "GIF", "PNG", "WEBP", "AVIF")  # formats whose frames are pages or an animation
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


class ImageError(Exception):
    """A file that cannot be read as an image. The message is the reason; callers add the file name."""


@cache
def formats() -> tuple[str, ...]:
    """Return the FORMATS that the installed Pillow reads, in the order it tries them."""
    Image.init()
    return tuple(name for name in Image.ID if name in FORMATS)


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of images, such as ".jpg"."""
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in formats()}
    return frozenset(known | {".heic", ".heif", ".hif", ".avif", ".mpo"})


def reason_of(error: BaseException) -> str:
    """Describe an exception briefly."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "needs more memory than is free"
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return str(text)[:300] or type(error).__name__


@contextmanager
def image_errors():
    """Turn any exception into an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Exception as error:
        raise ImageError(f"cannot be decoded ({reason_of(error)})") from None


@contextmanager
def open_image(file):
    """Open the image in a file. Raises ImageError, also for errors in the block."""
    is_path = isinstance(file, (str, os.PathLike))
    if is_path and not os.path.isfile(file):
        raise ImageError("is not a regular file" if os.path.exists(file) else "is missing")
    with image_errors(), open(file, "rb") if is_path else nullcontext(file) as stream:
        yield identify(stream)


def identify(stream):
    """Open an image with Pillow, or HEIC with pillow-heif."""
    try:
        return Image.open(stream, formats=formats())
    except Image.UnidentifiedImageError:
        stream.seek(0)
        head = stream.read(16)
    if head[4:8] != b"ftyp" or head[8:12] not in HEIC_BRANDS:
        raise ImageError("is not an image")
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ImageError("is a HEIC image; pip install pillow-heif to read it") from None
    register_heif_opener()
    return Image.open(stream, formats=("HEIF",))


def page_count(image) -> int:
    """Return the number of a TIFF's pages or an animation's frames; 1 for other images."""
    return getattr(image, "n_frames", 1) if image.format in PAGED else 1


def decode(file, page: int = 0) -> Image.Image:
    """Decode a page of a file in its original mode. Raises ImageError."""
    with open_image(file) as image:
        if page:
            image.seek(page)
        image.load()
        return image


def read_image(file, keep_alpha: bool = False, intensity_range=None) -> Image.Image:
    """Read the first page of a file by `to_srgb`, by default on white. Raises ImageError."""
    with open_image(file) as image:
        if page_count(image) > 1:
            name = getattr(image.fp, "name", "image")
            warnings.warn(f"{name}: only the first of {page_count(image)} pages is used", stacklevel=1)
        image.load()
        return to_srgb(image, keep_alpha, intensity_range)
