"""The web page: its functions, and one visit in a real browser. Skipped if optional packages are missing."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from conftest import ROOT, draw_folder, make_checkpoint, with_orientation
from PIL import Image

import app
from photos.outputs import Style, cut_out
from photos.prediction import load_model, predict

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
SETTINGS = (0.5, False, "#ffffff")  # threshold, whether to fill the background, its color


def draw(path, width, height, **options):
    Image.fromarray(draw_folder(1, width, height)[0]).save(path, **options)
    return str(path)


def test_the_page_shows_reduced_photos_and_zips_full_size_ones(tmp_path):
    model = load_model(make_checkpoint(tmp_path / "a.pth"), precision="float32")
    paths = [draw(tmp_path / "cat.jpg", 2000, 60), draw(tmp_path / "cat.png", 60, 90)]
    for kind in ("cutout", "overlay", "mask"):
        before, after = app.show(model, paths[0], kind, *SETTINGS)
        assert before.size == after.size == (app.SHOWN_SIZE, 46) and after.mode == "RGB"
    with ZipFile(app.download(model, paths, "cutout", *SETTINGS)) as archive:
        images = {name: Image.open(archive.open(name)) for name in archive.namelist()}
        assert {name: image.size for name, image in images.items()} == {"1_cat.png": (2000, 60), "2_cat.png": (60, 90)}
        expected = cut_out(Image.open(paths[1]), torch.from_numpy(predict(model, paths[1])), Style())
        assert np.abs(np.asarray(images["2_cat.png"]).astype(int) - np.asarray(expected)).max() <= 1
    assert app.download(model, [], "cutout", *SETTINGS) is None
    with ZipFile(app.download(model, paths[1:], "cutout", 0.5, True, "#00ff00")) as archive:
        assert Image.open(archive.open("cat.png")).mode == "RGB"


@pytest.fixture
def address(tmp_path):
    """Start the page, with a proxy that does not answer in its environment, and yield its address."""
    pytest.importorskip("gradio", reason="needs requirements-app.txt")
    make_checkpoint(tmp_path / "a.pth")
    (tmp_path / "temporary").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, ROOT / "src/app.py", "--model", "a.pth", "--precision", "float32", "--port", str(port)]
    proxy = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **proxy, "TMPDIR": str(tmp_path / "temporary")}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    url = f"http://127.0.0.1:{port}"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(240):
        try:
            direct.open(url, timeout=5).read()
            break
        except OSError:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.5)
    yield url
    process.terminate()
    output = process.communicate(timeout=20)[0]
    assert "Traceback" not in output, output
    assert not [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]  # no photo is left behind


@pytest.mark.integration
@pytest.mark.skipif(not BROWSER, reason="needs chromium")
def test_photos_are_uploaded_shown_and_downloaded_in_a_browser(address, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs requirements-dev.txt")
    rotated = with_orientation(6)
    paths = [draw(tmp_path / "my cat.jpg", 320, 120, exif=rotated), draw(tmp_path / "dog.png", 70, 70)]
    (tmp_path / "broken.jpg").write_text("no image")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        page.set_input_files("#photos input[type=file]", [*paths, tmp_path / "broken.jpg"])
        after = page.locator("#shown img").nth(1)
        playwright.expect(after).to_be_visible(timeout=60_000)
        playwright.expect(page.get_by_text("broken.jpg")).to_be_visible(timeout=20_000)
        shown = after.get_attribute("src")
        page.locator("#kind").get_by_text("Mask").click()
        playwright.expect(after).not_to_have_attribute("src", shown, timeout=20_000)
        page.locator("#download").click()
        link = page.locator("#zip a").first
        playwright.expect(link).to_be_visible(timeout=60_000)
        with page.expect_download() as download:
            link.click()
        with ZipFile(download.value.path()) as archive:
            sizes = {name: Image.open(archive.open(name)).size for name in archive.namelist()}
        assert sizes == {"1_my cat.png": (120, 320), "2_dog.png": (70, 70)}
        browser.close()
