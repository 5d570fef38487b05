"""The cache of decoded images: killed and concurrent writers, full disks, other users' files, size and memory."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, load_pets, make_pets
from PIL import Image
from processes import FORKS, finish

import cache
import oxford_pet
from files import write_atomically


def pack_slowly(folder, started):
    read = oxford_pet.read_pair

    def slow(*args, **options):
        started.set()
        time.sleep(0.02)
        return read(*args, **options)

    oxford_pet.read_pair = slow
    load_pets(folder, "train", 32)


@pytest.mark.integration
def test_files_of_a_killed_writer_are_never_used(tmp_path):
    pets = make_pets(tmp_path / "oxford-iiit-pet", 40, 2)
    expected = load_pets(pets, "train", 32, cache_dir=tmp_path / "other")
    for delay in (0.0, 0.1):
        started = FORKS.Event()
        process = FORKS.Process(target=pack_slowly, args=(pets, started))
        process.start()
        started.wait(60)
        time.sleep(delay)
        process.kill()
        process.join()
        assert not list(pets.glob("cache/train-*.npy"))
    [left, *_] = pets.glob("cache/unfinished-*")
    os.utime(left, (0, 0))
    dataset = load_pets(pets, "train", 32)
    assert np.array_equal(dataset.packed, expected.packed)
    assert not left.exists()  # it was older than a day


@pytest.mark.integration
def test_two_simultaneous_writers_leave_one_correct_file(tmp_path):
    pets = make_pets(tmp_path / "oxford-iiit-pet", 40, 2)
    expected = load_pets(pets, "train", 32, cache_dir=tmp_path / "other")
    started = FORKS.Event()
    starters = [FORKS.Process(target=pack_slowly, args=(pets, started)) for _ in range(2)]
    for process in starters:
        process.start()
    finish(*starters)
    [packed] = pets.glob("cache/*")
    assert np.array_equal(np.load(packed), expected.packed)


def test_a_damaged_file_is_decoded_again(pets, capsys):
    expected = np.array(load_pets(pets, "train", 32).packed)
    [packed] = pets.glob("cache/*")
    for damaged in (b"", packed.read_bytes()[:-100], b"\x93NUMPY rubbish"):
        packed.write_bytes(damaged)
        assert np.array_equal(load_pets(pets, "train", 32).packed, expected)
        assert str(packed) in capsys.readouterr().err


def test_files_have_the_permissions_of_the_umask(pets):
    before = os.umask(0o027)
    try:
        load_pets(pets, "train", 32)
        write_atomically(pets / "cache/a.json", lambda file: file.write(b"{}"))
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in pets.glob("cache/*")] == [0o640, 0o640]


def test_a_full_disk_is_found_before_anything_is_written(pets, monkeypatch, capsys):
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


MEMORY = """
import resource, sys
sys.path.insert(0, "src")
import startup, cache, folder
from splits import DataOptions
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
cache.available_cores = lambda: 16
folder.load_dataset(DataOptions("folder", sys.argv[1], 64), "train")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.integration
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="ru_maxrss is in kilobytes on Linux")
def test_large_photos_are_decoded_in_bounded_memory(tmp_path):
    """30 photos of 12 megapixels, decoded on 16 cores."""
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    Image.effect_noise((500, 375), 60).convert("RGB").resize((4000, 3000)).save(tmp_path / "a.jpg", quality=80)
    Image.new("L", (4000, 3000), 255).save(tmp_path / "a.png")
    for index in range(30):
        (tmp_path / f"data/images/{index}.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
        (tmp_path / f"data/masks/{index}.png").write_bytes((tmp_path / "a.png").read_bytes())
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "data")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 800, done.stdout  # megabytes
