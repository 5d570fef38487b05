"""The cache of decoded images: concurrent and killed writers, full disks, other users' files, and size."""

import errno
import os
import time

import numpy as np
from conftest import load_pets

import cache
from files import write_atomically


def test_unfinished_files_are_never_used_and_are_removed_after_a_day(pets, monkeypatch):
    """Of a killed writer, and of one that writes at the same time."""
    expected = np.array(load_pets(pets, "train", 32, cache_dir=pets / "other").packed)
    left, fill, found = pets / "cache/unfinished-1-2", cache.fill, []
    left.parent.mkdir()
    left.write_bytes(b"half")
    os.utime(left, (0, 0))

    def fill_after_another(packed, *arguments):
        monkeypatch.setattr(cache, "fill", fill)
        found.append(load_pets(pets, "train", 32).packed)
        fill(packed, *arguments)

    monkeypatch.setattr(cache, "fill", fill_after_another)
    found.append(load_pets(pets, "train", 32).packed)
    assert [type(packed) for packed in found] == [np.memmap] * 2
    assert all(np.array_equal(packed, expected) for packed in found)
    assert [path.name[:6] for path in pets.glob("cache/*")] == ["train-"]


def test_files_have_the_permissions_of_the_umask(pets):
    before = os.umask(0o027)
    try:
        load_pets(pets, "train", 32)
        write_atomically(pets / "cache/a.json", lambda file: file.write(b"{}"))
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in pets.glob("cache/*")] == [0o640, 0o640]


def test_a_full_disk_or_a_blocked_folder_is_found_before_anything_is_written(pets, monkeypatch, capsys):
    expected = np.array(load_pets(pets, "train", 32, cache_dir=pets / "other").packed)
    sizes = []

    def full(handle, start, size):
        sizes.append((os.fstat(handle).st_size, size))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    dataset = load_pets(pets, "train", 32)
    assert np.array_equal(dataset.packed, expected) and not list(pets.glob("cache/*"))
    assert sizes == [(128 + expected.nbytes, 128 + expected.nbytes)]  # the whole file, header included
    [note] = capsys.readouterr().err.splitlines()
    assert "No space left" in note and "--cache_dir" in note
    (pets / "file").write_text("no folder")
    assert np.array_equal(load_pets(pets, "train", 32, cache_dir=pets / "file").packed, expected)
    assert capsys.readouterr().err.count("\n") == 1


def test_the_least_recently_used_arrays_are_removed_beyond_the_size_limit(pets, monkeypatch):
    monkeypatch.setattr(cache, "KEPT_BYTES", 250_000)
    mine = pets / "cache" / "my own.npy"
    for hours, fold in enumerate(range(1, 7)):
        load_pets(pets, "train", 64, fold=f"{fold}/6")  # 17 images of 16 kB
        load_pets(pets, "valid", 16, fold=f"{fold}/6")
        mine.write_bytes(b"x" * 1_000_000)
        for path in pets.glob("cache/*.npy"):
            os.utime(path, (time.time() - 7200 + 60 * hours,) * 2)
    kept = sum(path.stat().st_size for path in pets.glob("cache/*-*.npy"))
    assert 270_000 < kept < 4 * 290_000 and mine.exists()
    before = set(pets.glob("cache/*-*.npy"))
    for path in before:
        os.utime(path)  # as if other runs were using them
    load_pets(pets, "train", 96)
    assert before < set(pets.glob("cache/*-*.npy"))


def test_decoding_a_photo_takes_its_pixels_from_the_budget(pets, pixels_taken):
    load_pets(pets, "train", 32)
    assert len(pixels_taken) == 18
    assert set(pixels_taken) == {(pixels, cache.PIXELS_IN_FLIGHT) for pixels in (60 * 44, 40 * 53)}
