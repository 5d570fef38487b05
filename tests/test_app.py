"""The page, driven in a real browser as a person drives it; skipped where the optional packages are missing."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT, make_checkpoint
from PIL import Image

pytest.importorskip("gradio", reason="needs requirements-app.txt")
playwright = pytest.importorskip("playwright.sync_api", reason="needs requirements-app.txt")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not BROWSER, reason="needs chromium")


@pytest.fixture
def address(tmp_path):
    make_checkpoint(tmp_path / "a.pth")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, ROOT / "src/app.py", "--model", "a.pth", "--port", str(port)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    url = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(url, timeout=5).read()
            break
        except OSError:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.5)
    yield url
    process.terminate()
    process.wait(20)


def test_a_person_drops_a_photo_moves_the_threshold_and_downloads(address, tmp_path):
    Image.effect_noise((321, 123), 90).convert("RGB").save(tmp_path / "my cat.jpg")
    (tmp_path / "broken.jpg").write_text("no picture")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        foreign = []
        page.on("request", lambda request: foreign.append(request.url) if address not in request.url else None)
        page.goto(address)
        page.set_input_files("#photo input[type=file]", tmp_path / "my cat.jpg")
        said = page.locator("#said")
        playwright.expect(said).to_contain_text("321×123 pixels", timeout=60_000)
        for kind in ("overlay", "mask", "cutout"):
            playwright.expect(page.locator(f"#{kind} img")).to_be_visible(timeout=20_000)
        before = said.inner_text()
        slider = page.locator("#threshold input[type=range]")
        slider.focus()
        for _ in range(9):
            page.keyboard.press("ArrowLeft")
        slider.dispatch_event("pointerup")
        playwright.expect(said).not_to_have_text(before, timeout=20_000)
        with page.expect_download() as download:
            page.locator("#download a").first.click()
        saved = Image.open(download.value.path())
        assert saved.mode == "RGBA" and saved.size == (321, 123)
        page.screenshot(path=tmp_path / "page.png", full_page=True)

        page.locator("#photo button[aria-label*='lear'], #photo button[aria-label*='emove']").first.click()
        page.set_input_files("#photo input[type=file]", tmp_path / "broken.jpg")
        playwright.expect(said).to_contain_text("broken.jpg is not a picture", timeout=20_000)
        page.get_by_text("drawn_1").first.or_(page.locator(".gallery-item, .table tr.tr-body").first).first.click()
        playwright.expect(said).to_contain_text("256×192 pixels", timeout=30_000)
        browser.close()
        assert not [url for url in foreign if not url.startswith(("data:", "blob:"))], foreign


def test_two_hundred_moves_of_the_slider_leave_one_file_and_a_small_state(tmp_path):
    import app
    from photos.prediction import load_model

    make_checkpoint(tmp_path / "a.pth")
    Image.effect_noise((640, 480), 90).convert("RGB").save(tmp_path / "cat.jpg")
    page = app.Page(load_model(tmp_path / "a.pth"), tmp_path)
    state, *shown = page.open(str(tmp_path / "cat.jpg"), 0.5, False)
    for move in range(200):
        shown = page.show(state, 0.4 + move / 1000, True)
    assert [path.name for path in tmp_path.glob("*/*")] == ["cat_cutout.png"] and Path(shown[3]).exists()
    assert state[1].nbytes <= 4 * 32 * 32  # the probability at the network's size, whatever the photo's
    page.forget(state)
    assert not list(tmp_path.glob("*/*"))
