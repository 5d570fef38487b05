"""The download of the pets from a local server."""

import hashlib
import http.server
import os
import shutil
import threading
from functools import partial

import pytest
from conftest import load_pets, make_pets
from torchvision.datasets import OxfordIIITPet

import oxford_pet
from utils import UserError


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve two small archives in the official layout; torchvision expects their addresses and checksums."""
    made, resources = make_pets(tmp_path / "made"), []
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    for part in ("images", "annotations"):
        shutil.make_archive(str(tmp_path / part), "gztar", made, part)
        md5 = hashlib.md5((tmp_path / f"{part}.tar.gz").read_bytes()).hexdigest()
        resources.append((f"http://127.0.0.1:{server.server_port}/{part}.tar.gz", md5))
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", resources)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_download_is_repaired_without_the_network_and_else_the_error_names_both_archives(server, tmp_path):
    target = tmp_path / "dataset" / "oxford-iiit-pet"
    oxford_pet.download(target)
    assert len(load_pets(target, "train", 32)) == 18
    server.shutdown()
    server.server_close()
    (target / "images" / "Drawn_1.jpg").write_bytes(b"half unpacked")
    oxford_pet.download(target)
    assert len(load_pets(target, "train", 40)) == 18
    with pytest.raises(UserError, match="images.tar.gz.*annotations.tar.gz"):
        oxford_pet.download(tmp_path / "other")


def test_the_same_command_recovers_from_a_truncated_archive(server, tmp_path):
    shutil.copy(tmp_path / "images.tar.gz", tmp_path / "whole")
    os.truncate(tmp_path / "images.tar.gz", 1000)
    with pytest.raises(UserError, match="images.tar.gz"):
        oxford_pet.download(tmp_path / "pets")
    assert not (tmp_path / "pets" / "images").exists()
    (tmp_path / "whole").rename(tmp_path / "images.tar.gz")
    oxford_pet.download(tmp_path / "pets")
    assert len(load_pets(tmp_path / "pets", "test", 32)) == 6
