"""From picture files to pictures, whatever the file turns out to hold."""

import os
import stat
import warnings
from contextlib import contextmanager, nullcontext
from functools import cache

from PIL import Image

from photos.colors import ORIENTATION, on_white, orientation_of, to_rgb, to_srgb, turn
from photos.warned import library_messages

__all__ = ["PictureError", "decode", "develop", "on_white", "opened", "read_picture", "resize", "suffixes", "to_rgb"]

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice the limit is still an error

# Not among them: EPS, which starts Ghostscript; IPTC, whose content may be EPS; WMF, BUFR, GRIB, HDF5 and MPEG, of
# which Pillow reads the header alone.
FORMATS = frozenset({
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "GIF", "ICNS", "ICO",
    "IM", "IMT", "JPEG", "JPEG2000", "MCIDAS", "MPO", "MSP", "PCD", "PCX", "PIXAR", "PNG", "PPM", "PSD",
    "QOI", "SGI", "SPIDER", "SUN", "TGA", "TIFF", "WEBP", "XBM", "XPM", "XVTHUMB",
})  # fmt: skip
HEIC_SUFFIXES = {".heic", ".heif", ".hif"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}
KINDS_OF_FILE = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class PictureError(Exception):
    """A file that cannot be read as a picture; the message says why, without the file's name."""


@cache
def formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow reads, in the order in which it tries them."""
    Image.init()
    return tuple(name for name in Image.ID if name in FORMATS)


@cache
def suffixes() -> frozenset[str]:
    """The endings of file names, as .jpg, that say picture."""
    readable = formats()
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in readable}
    return frozenset(known | HEIC_SUFFIXES | {".avif", ".mpo"})


def kind_of_file(status: os.stat_result) -> str | None:
    """What a file is that is not a regular one, as "a named pipe"; None for a regular file."""
    kind = stat.S_IFMT(status.st_mode)
    return None if kind == stat.S_IFREG else KINDS_OF_FILE.get(kind, "a special file")


def reason_of(error: BaseException) -> str:
    """An exception in a few words, never none."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "needs more memory than is free"
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return str(text)[:300] or type(error).__name__


@contextmanager
def explained():
    """Turn what Pillow raises of a file into a PictureError."""
    try:
        yield
    except PictureError:
        raise
    except Image.DecompressionBombError:
        raise PictureError(f"has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except MemoryError as error:
        raise PictureError(reason_of(error)) from None
    except Exception as error:  # Pillow's decoders raise whatever their format's parser does
        raise PictureError(f"cannot be decoded ({reason_of(error)})") from None


def open_file(path):
    """A regular file, open for reading; nothing else is opened, and nothing waits. Raises PictureError."""
    try:
        kind = kind_of_file(os.stat(path))  # before it is opened, which a device may answer by doing something
        if not kind:
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            file = os.fdopen(os.open(path, flags), "rb")
            kind = kind_of_file(os.fstat(file.fileno()))  # in case that it was exchanged
            if kind:
                file.close()
    except FileNotFoundError:
        raise PictureError("is missing") from None
    except (OSError, ValueError) as error:
        raise PictureError(f"cannot be opened ({reason_of(error)})") from None
    if kind:
        raise PictureError(f"is {kind}; only regular files are read")
    return file


@contextmanager
def opened(file):
    """The picture in a file (a path, or an open binary file), of which only the header is read.

    Raises PictureError, also for what goes wrong with the picture in the block.
    """
    with open_file(file) if isinstance(file, (str, os.PathLike)) else nullcontext(file) as stream, explained():
        yield identify(stream)


def identify(stream):
    """Pillow's picture of an open binary file. Raises PictureError."""
    try:
        return Image.open(stream, formats=formats())
    except Image.UnidentifiedImageError:
        stream.seek(0)
        head = stream.read(16)
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in AVIF_BRANDS:
        raise PictureError("is AVIF, which this Pillow cannot read; pip install -U Pillow")
    if brand not in HEIC_BRANDS:
        raise PictureError("is not a picture")
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise PictureError("is HEIC; pip install pillow-heif to read it") from None
    register_heif_opener()
    stream.seek(0)
    return Image.open(stream, formats=("HEIF",))


def stored_orientation(picture) -> int:
    """How the pixels of an opened picture lie in its file, 1 to 8. Ask before it is decoded."""
    if picture.format == "TIFF":  # which Pillow turns as it decodes
        orientation = picture.tag_v2.get(ORIENTATION, 1)
        return orientation if orientation in range(1, 9) else 1
    return picture.info.get("original_orientation") or orientation_of(picture)  # HEIC is turned as it is decoded


def decode(file) -> Image.Image:
    """The first frame of a file (a path, or an open binary file) in its own mode. Raises PictureError."""
    with opened(file) as picture:
        load(picture)
        return picture


def load(picture):
    """Decode an opened picture."""
    with library_messages() if picture.format == "TIFF" else nullcontext():
        picture.load()


def develop(picture: Image.Image, keep_alpha: bool = True) -> Image.Image:
    """An opened or decoded picture upright and in sRGB, without metadata: RGBA where it has transparency, else RGB.

    keep_alpha: if false, transparency is put on white and the mode is RGB. Raises PictureError.
    """
    with explained():
        load(picture)
        return to_srgb(picture, turn(picture, orientation_of(picture)), keep_alpha)


def read_picture(file, keep_alpha: bool = False) -> Image.Image:
    """The picture in a file (a path, or an open binary file), as `develop` gives it. Raises PictureError."""
    with opened(file) as picture:
        return develop(picture, keep_alpha)


def resize(picture, size, resample=Image.Resampling.BILINEAR):
    """A PIL picture stretched to size x size pixels."""
    return picture.resize((size, size), resample)
