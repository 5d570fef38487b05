"""The download of the pets from a local server that serves, truncates or replaces the archives."""

import hashlib
import http.server
import tarfile
import threading

import pytest
from conftest import load_pets, make_pets
from torchvision.datasets import OxfordIIITPet

import oxford_pet
from utils import UserError


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.respond(send_body=False)

    def do_GET(self):
        self.respond(send_body=True)

    def respond(self, send_body):
        content = self.server.files.get(self.path)
        self.server.requests.append(self.path)
        if content is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if send_body:
            self.wfile.write(content[: len(content) // 2] if self.server.truncates else content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve two small archives in the official layout; torchvision expects their addresses and checksums."""
    made = make_pets(tmp_path / "made")
    archives = {}
    for part in ("images", "annotations"):
        with tarfile.open(tmp_path / f"{part}.tar.gz", "w:gz") as archive:
            archive.add(made / part, part)
        archives[f"/{part}.tar.gz"] = (tmp_path / f"{part}.tar.gz").read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.truncates = archives, [], False

    address = f"http://127.0.0.1:{server.server_port}"
    checksums = [(address + path, hashlib.md5(content).hexdigest()) for path, content in archives.items()]
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", checksums)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_download_can_be_repeated_and_repairs_files_without_the_network(server, tmp_path):
    target = tmp_path / "dataset" / "oxford-iiit-pet"
    oxford_pet.download(target)
    assert len(load_pets(target, "train", 32)) == 18
    server.requests.clear()
    (target / "images" / "Drawn_1.jpg").write_bytes(b"half unpacked")
    oxford_pet.download(target)
    assert not server.requests and len(load_pets(target, "train", 40)) == 18


def test_the_same_command_recovers_from_a_lost_connection(server, tmp_path):
    server.truncates = True
    with pytest.raises(UserError, match="images.tar.gz"):
        oxford_pet.download(tmp_path / "pets")
    assert not (tmp_path / "pets" / "images").exists()
    server.truncates = False
    oxford_pet.download(tmp_path / "pets")
    assert len(load_pets(tmp_path / "pets", "test", 32)) == 6


def test_an_archive_with_another_checksum_is_not_unpacked(server, tmp_path):
    server.files["/images.tar.gz"] = server.files["/annotations.tar.gz"]
    with pytest.raises(UserError, match="images.tar.gz"):
        oxford_pet.download(tmp_path / "pets")
    assert not (tmp_path / "pets" / "annotations").exists()


def test_without_network_the_error_names_both_archives(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="images.tar.gz.*annotations.tar.gz"):
        oxford_pet.download(tmp_path / "pets")
