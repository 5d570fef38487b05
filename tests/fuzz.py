"""Feed mutated images, checkpoints, packed arrays and split files to their readers.

Each must be read correctly or refused in one line. Any exception but UserError and ImageError counts as a traceback,
an input that takes longer than HANG seconds as a hang, and an accepted one that breaks its reader's promise as wrong.
"""

import random
import signal
import traceback
from pathlib import Path

import numpy as np
import torch
from conftest import (
    draw_folder,
    draw_pet,
    encoded,
    load_folder,
    load_pets,
    make_checkpoint,
    make_folder,
    make_pets,
    with_orientation,
)
from PIL import Image

import cache
from checkpoint import load, restore_model
from oxford_pet import read_trimap, split_names
from photos.decode import ImageError, read_image
from photos.prediction import load_model, predict
from training.args import parse_args
from utils import UserError

HANG = 20  # seconds


def mutate(content, rng):
    """Flip, delete, insert or overwrite bytes of a file."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if not content:
            break
        kind, at = rng.randrange(7), rng.randrange(len(content))
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del content[at:]
        elif kind == 2:
            del content[at : at + rng.randrange(1, 64)]
        elif kind == 3:
            content[at:at] = rng.randbytes(rng.randrange(1, 64))
        elif kind == 4:
            content[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
        elif kind == 5:
            content[at : at + 32] = content[: rng.randrange(1, 64)]
        else:
            head = rng.randrange(min(64, len(content)))  # headers matter most
            content[head] = rng.randrange(256)
    return bytes(content)


def image_files(rng):
    """Return an image file of each common kind."""
    pixels = np.random.default_rng(rng.randrange(2**32))
    rgb = Image.fromarray(pixels.integers(0, 255, (24, 31, 3), dtype=np.uint8))
    deep = Image.fromarray(pixels.integers(0, 65535, (12, 9), dtype=np.uint16))
    return [
        encoded(rgb, "JPEG", exif=with_orientation(6)),
        encoded(rgb.convert("CMYK"), "JPEG"),
        encoded(rgb, "PNG"),
        encoded(deep, "PNG"),
        encoded(rgb.convert("RGBA"), "PNG"),
        encoded(rgb.quantize(), "PNG", transparency=0),
        encoded(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)]),
        encoded(rgb, "BMP"),
        encoded(rgb, "TIFF"),
        encoded(rgb, "WEBP"),
        encoded(rgb, "PPM"),
    ]


class Targets:
    """One method per kind of input: write a mutated file, read it as the commands do, check what is accepted."""

    def __init__(self, folder, rng):
        self.folder, self.rng = folder, rng
        self.pets = make_pets(folder / "pets", 6, 3)
        self.own = make_folder(folder / "own", 6)
        make_checkpoint(folder / "good.pth")
        self.predictor = load_model(folder / "good.pth", device="cpu", precision="float32")
        self.checkpoints = [(folder / "good.pth").read_bytes()]
        make_checkpoint(folder / "shallow.pth", name="unet_shallow", in_channels=1)
        self.checkpoints.append((folder / "shallow.pth").read_bytes())
        torch.save(load(folder / "good.pth").to_dict(), folder / "old.pth", _use_new_zipfile_serialization=False)
        self.checkpoints.append((folder / "old.pth").read_bytes())
        self.plain = folder / "plain.pth"
        torch.save(load(folder / "good.pth").model, self.plain)

    def write(self, name, content):
        path = self.folder / name
        path.write_bytes(content)
        return path

    def image(self):
        path = self.write("image", mutate(self.rng.choice(image_files(self.rng)), self.rng))
        image = read_image(path)
        assert image.mode == "RGB" and min(image.size) >= 1
        probability = predict(self.predictor, path)
        assert probability.shape == image.size[::-1] and probability.dtype == np.float32
        assert np.isfinite(probability).all() and probability.min() >= 0 and probability.max() <= 1

    def trimap(self):
        name = "Drawn_1"
        draw_pet(self.pets, name, 1)
        path = self.pets / "annotations/trimaps" / f"{name}.png"
        path.write_bytes(mutate(path.read_bytes(), self.rng))
        try:
            assert set(np.unique(np.asarray(read_trimap(path)))) <= {1, 2, 3}
            dataset = load_pets(self.pets, "train", 16)
            assert set(np.unique(dataset[0]["mask"].numpy())) <= {0, 1}
        finally:
            draw_pet(self.pets, name, 1)

    def mask(self):
        """A user's mask of any mode, and a list of names."""
        draw_folder(0, folder=self.own, name="0")
        path = self.own / "masks/0.png"
        mask = Image.open(path).convert(self.rng.choice(["L", "1", "P", "RGB", "RGBA", "LA", "I", "I;16", "F"]))
        content = encoded(mask, "TIFF" if mask.mode in ("F", "I") else self.rng.choice(["PNG", "TIFF"]))
        path.write_bytes(mutate(content, self.rng) if self.rng.random() < 0.8 else content)
        listing = b"1\n2.png\n# 3\n"
        (self.own / "test.txt").write_bytes(mutate(listing, self.rng) if self.rng.random() < 0.3 else listing)
        cache.remembered.clear()
        for split in ("train", "test"):
            dataset = load_folder(self.own, split, 16, foreground=self.rng.choice([(), ("1-255",)]))
            assert set(np.unique(dataset[list(range(len(dataset)))]["mask"].numpy())) <= {0, 1, 255}

    def checkpoint(self):
        path = self.write("mutated.pth", mutate(self.rng.choice(self.checkpoints), self.rng))
        checkpoint = load(path)
        network = restore_model(checkpoint, path)
        with torch.inference_mode():
            logits = network(torch.zeros(1, checkpoint.options["in_channels"], 16, 16))
        assert logits.shape[-2:] == (16, 16) and logits.isfinite().all()

    def description(self):
        """Metadata that torch loads, but that a checkpoint must not have."""
        checkpoint = load(self.folder / "good.pth").to_dict()
        wrong = [None, -1, 0, 10**12, 1.5, torch.nan, "x", [], [0.5], {}, {"width": 10**9}, torch.zeros(2), "unet_add"]
        key = self.rng.choice(list(checkpoint))
        if self.rng.random() < 0.5:
            checkpoint[key] = self.rng.choice(wrong)
        elif self.rng.random() < 0.5:
            del checkpoint[key]
        else:
            option = self.rng.choice(["width", "depth", "norm", "in_channels", "out_channels", "dropout", "x"])
            checkpoint["options"] = {**checkpoint["options"], option: self.rng.choice(wrong)}
        path = self.folder / "described.pth"
        torch.save(checkpoint, path)
        predictor = load_model(path, device="cpu", precision="float32")
        predict(predictor, Image.new("RGB", (20, 10)), image_size=16)

    def state_dict(self):
        """A plain state_dict with one tensor missing, renamed, reshaped, not finite, or unchanged."""
        weights = dict(torch.load(self.plain, weights_only=True))
        key = self.rng.choice(list(weights))
        kind = self.rng.randrange(5)
        if kind == 0:
            del weights[key]
        elif kind == 1:
            weights["module." + key] = weights.pop(key)
        elif kind == 2:
            weights[key] = weights[key][..., None]
        elif kind == 3 and weights[key].is_floating_point():
            weights[key] = torch.full_like(weights[key], float("nan"))
        path = self.folder / "weights.pth"
        torch.save(weights, path)
        restore_model(load(path, self.rng.choice(["unet", "unet_shallow", "unet_add", "resnet34_unet"])), path)
        assert kind == 4 or key not in weights or not weights[key].is_floating_point()
        assert key in weights or key.endswith("num_batches_tracked")

    def resume(self):
        path = self.write("mutated.last.pth", mutate(self.rng.choice(self.checkpoints), self.rng))
        parse_args(None, ["--resume", str(path)])
        raise AssertionError("a checkpoint without training state was resumed")

    def split(self):
        path = self.pets / "annotations/test.txt"
        good = path.read_bytes()
        lines = good.splitlines(keepends=True)
        extra = [b"../../x 1 1 1\n", b"\r\n", b"# comment\n", lines[0], b"nowhere 1 1 1\n", b"\0\n", b"/etc/passwd\n"]
        extra.append(b"\xff\n")
        lines.insert(self.rng.randrange(len(lines) + 1), self.rng.choice(extra))
        content = b"".join(lines)
        path.write_bytes(mutate(content, self.rng) if self.rng.random() < 0.7 else content)
        try:
            names = split_names(self.pets, "test")
            assert names and len(set(names)) == len(names)
            assert all(Path(name).name == name for name in names)
            assert len(load_pets(self.pets, "test", 16)) == len(names)
        finally:
            path.write_bytes(good)
            for packed in self.pets.glob("cache/*"):
                packed.unlink()

    def cache(self):
        """A packed array whose header is damaged is created again."""
        expected = np.array(load_pets(self.pets, "valid", 16).packed)
        [path] = self.pets.glob("cache/valid-16-*")
        content = path.read_bytes()
        path.write_bytes(mutate(content[:128], self.rng) + content[128:])
        assert load_pets(self.pets, "valid", 16).packed.shape == expected.shape
        path.unlink()


FREQUENCIES = {"image": 9, "trimap": 2, "checkpoint": 6, "description": 3, "state_dict": 2, "resume": 1, "split": 3}
FREQUENCIES |= {"cache": 1, "mask": 2}


def fuzz(inputs, folder, seed=0):
    """Return how many inputs were tried, were accepted, gave a traceback, hung, or gave a wrong result."""
    rng = random.Random(seed)
    targets = Targets(folder, rng)
    counts = dict.fromkeys(("tried", "accepted", "tracebacks", "hangs", "wrong"), 0)

    def late(number, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    for _ in range(inputs):
        [name] = rng.choices(list(FREQUENCIES), list(FREQUENCIES.values()))
        counts["tried"] += 1
        signal.alarm(HANG)
        try:
            getattr(targets, name)()
            counts["accepted"] += 1
        except (UserError, ImageError) as error:
            counts["wrong"] += "\n" in str(error)
        except TimeoutError:
            counts["hangs"] += 1
            print(name, traceback.format_exc())
        except AssertionError:
            counts["wrong"] += 1
            print(name, traceback.format_exc())
        except BaseException:
            counts["tracebacks"] += 1
            print(name, traceback.format_exc())
        signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    return counts
