"""The downloader, against a server on this machine that serves, cuts off, or falsifies the archives."""

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
        self.server.asked.append(self.path)
        if content is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if send_body:
            self.wfile.write(content[: len(content) // 2] if self.server.cut else content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of two small archives in the official layout, known to torchvision by their address and sum."""
    made = make_pets(tmp_path / "made")
    archives = {}
    for part in ("images", "annotations"):
        with tarfile.open(tmp_path / f"{part}.tar.gz", "w:gz") as archive:
            archive.add(made / part, part)
        archives[f"/{part}.tar.gz"] = (tmp_path / f"{part}.tar.gz").read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.asked, server.cut = archives, [], False

    def publish():
        """Make torchvision expect what the server has now."""
        address = f"http://127.0.0.1:{server.server_port}"
        sums = [(address + path, hashlib.md5(content).hexdigest()) for path, content in archives.items()]
        monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", sums)

    server.publish = publish
    publish()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_download_unpacks_the_official_layout_and_may_be_repeated(server, tmp_path):
    target = tmp_path / "dataset" / "oxford-iiit-pet"
    oxford_pet.download(target)
    assert len(load_pets(target, "train", 32)) == 18
    server.asked.clear()
    (target / "images" / "Drawn_1.jpg").write_bytes(b"half unpacked")
    oxford_pet.download(target)
    assert not server.asked and len(load_pets(target, "train", 40)) == 18


def test_a_connection_that_is_cut_is_said_and_mended_by_the_same_command(server, tmp_path):
    server.cut = True
    with pytest.raises(UserError, match="images.tar.gz failed .* run the command again"):
        oxford_pet.download(tmp_path / "pets")
    assert not (tmp_path / "pets" / "images").exists()
    server.cut = False
    oxford_pet.download(tmp_path / "pets")
    assert len(load_pets(tmp_path / "pets", "test", 32)) == 6


def test_an_archive_of_another_sum_is_not_unpacked(server, tmp_path):
    server.files["/images.tar.gz"] = server.files["/annotations.tar.gz"]
    with pytest.raises(UserError, match="images.tar.gz failed"):
        oxford_pet.download(tmp_path / "pets")
    assert not (tmp_path / "pets" / "annotations").exists()


def test_no_network_says_what_to_do(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="images.tar.gz and annotations.tar.gz into"):
        oxford_pet.download(tmp_path / "pets")
