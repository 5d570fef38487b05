"""The photos that a visitor of the page dropped: looked at on a screen, and saved at their own size.

Between two clicks an album is paths, and probabilities at the network's size. A photo is read again when it is chosen
and when it is saved, so memory is that of one. However often it is shown, the album's folder holds the chosen photo
and what is made of it, both reduced to the screen; thumbnails of several photos; and the last file that was saved.
"""

import secrets
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from zipfile import ZipFile

import numpy as np
import torch
from PIL import Image

from photos.inputs import Source, beside, name_outputs
from photos.matting import WORK_SIDE
from photos.outputs import KINDS, encode, foreground_share, mask_of, render, save_output
from photos.pictures import PictureError, reason_of
from photos.prediction import open_photo, probability_of, to_input
from utils import UserError, to_size

SHOWN_SIZE = 2 * WORK_SIDE  # pixels, the longer side of what is shown; its edges are then solved as for the download
THUMBNAIL_SIZE = 240  # pixels
SQUARES = 40  # of a checkerboard, along the longer side


@dataclass(frozen=True)
class Opened:
    """A photo's file, its (width, height), and its probability, float32 (S, S)."""

    path: Path
    size: tuple[int, int]
    probability: torch.Tensor


@dataclass
class Album:
    """problems: a line for each file that cannot be used. chosen: the index of the photo that is shown."""

    folder: Path
    photos: list[Opened] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    thumbnails: list[str] = field(default_factory=list)
    chosen: int = 0

    def add(self, model, path):
        """Predict a photo, and draw its thumbnail."""
        photo = open_photo(path, keep_alpha=True)
        probability = probability_of(model, [to_input(model, photo)])[0]
        self.photos.append(Opened(path, photo.size, probability))
        photo.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        self.thumbnails.append(self.put(f"thumbnail_{len(self.photos)}", photo))

    def show(self, kind, style):
        """Files of the chosen photo and of one of KINDS, and a sentence. A transparent cut-out is on a checkerboard."""
        index = self.chosen  # which a click may change meanwhile
        opened = self.photos[index]
        before, photo = self.reduced(index)
        probability = to_size(opened.probability, photo.size)
        style = replace(style, crop=False)  # before and after lie over each other
        if style.background is None:
            style = replace(style, background=checkerboard(*photo.size))
        after = self.put("after", render(kind, photo, probability, style))
        share = foreground_share(mask_of(probability, style.threshold))
        width, height = opened.size
        return before, after, f"{opened.path.name}: {width}×{height} pixels, {100 * share:.1f} % foreground."

    def reduced(self, index):
        """The file of a photo reduced to the screen, and the photo in it."""
        name = f"before_{index}"
        for file in self.folder.glob(f"{name}-*"):
            return str(file), open_photo(file, keep_alpha=True)
        photo = self.read(self.photos[index])
        photo.thumbnail((SHOWN_SIZE, SHOWN_SIZE))
        for former in self.folder.glob("before_*"):
            former.unlink()
        return self.put(name, photo), photo

    def put(self, name, picture):
        """Write a picture to be shown in place of the former one of this name, under a name that no browser knows."""
        for former in self.folder.glob(f"{name}-*"):
            former.unlink()
        file = self.folder / f"{name}-{secrets.token_hex(4)}.png"
        with open(file, "wb") as stream:
            encode(picture, stream)
        return str(file)

    def read(self, opened):
        """The photo at its own size. Raises UserError where its file is gone."""
        try:
            return open_photo(opened.path, keep_alpha=True)
        except PictureError as error:
            raise UserError(f"{opened.path.name} {error}; drop it again") from None

    def save(self, kind, style):
        """The file of one of KINDS at the photo's own size; of several photos, a ZIP."""
        folder = self.folder / "saved"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        paths = [opened.path for opened in self.photos]
        sources = [Source(path, PurePath(f"{path.stem}_{kind}{path.suffix}")) for path in paths]
        named = [files[kind] for files in name_outputs(sources, {kind: folder}, KINDS)]
        if len(named) == 1:
            return str(self.save_one(self.photos[0], kind, style, named[0]))
        with ZipFile(folder / f"{kind}s.zip", "w") as archive:  # not compressed: pictures are
            for opened, file in zip(self.photos, named, strict=True):
                written = self.save_one(opened, kind, style, file)
                archive.write(written, written.name)
                written.unlink()
        return str(folder / f"{kind}s.zip")

    def save_one(self, opened, kind, style, file):
        """Write one of KINDS as inference.py does. Returns where."""
        photo = self.read(opened)
        save_output(kind, photo, to_size(opened.probability, photo.size), style, file)
        return file if file.exists() else beside(file)

    def forget(self):
        """Remove all that the folder holds."""
        shutil.rmtree(self.folder, ignore_errors=True)


def open_album(model, paths, folder):
    """Open photos, with a new folder in `folder`; one that cannot be used becomes one of the album's problems."""
    album = Album(Path(tempfile.mkdtemp(dir=folder)))
    for path in map(Path, paths):
        try:
            album.add(model, path)
        except PictureError as error:
            album.problems.append(f"{path.name} {error}")
        except Exception as error:  # memory, or whatever a stranger's file makes a library raise
            album.problems.append(f"{path.name} cannot be used ({reason_of(error)})")
    return album


def checkerboard(width, height):
    """Grey squares, which say transparent."""
    side = max(1, max(width, height) // SQUARES)
    odd = np.add.outer(np.arange(height) // side, np.arange(width) // side) % 2
    return Image.fromarray(np.where(odd, 255, 216).astype(np.uint8))
