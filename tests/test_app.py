"""The page, driven in a real browser as a person drives it; skipped where the optional packages are missing."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from zipfile import ZipFile

import numpy as np
import pytest
from conftest import ROOT, make_checkpoint
from PIL import Image

import shapes
from photos.outputs import Style, cut_out
from photos.prediction import load_model, open_photo, probability_at_own_size

pytest.importorskip("gradio", reason="needs requirements-app.txt")
playwright = pytest.importorskip("playwright.sync_api", reason="needs requirements-app.txt")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not BROWSER, reason="needs chromium")


@pytest.fixture
def address(tmp_path):
    make_checkpoint(tmp_path / "a.pth")
    (tmp_path / "temporary").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, ROOT / "src/app.py", "--model", "a.pth", "--precision", "float32", "--port", str(port)]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
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
    output = process.communicate(timeout=20)[0]
    assert "Traceback" not in output, output
    assert not files_in(tmp_path / "temporary")  # no photo outlives the page


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def draw(path, width, height, **options):
    picture, _ = shapes.draw(np.random.default_rng([8, 1]), height, width, count=4)
    Image.fromarray(picture).save(path, **options)
    return path


class Person:
    """What a person does on the page, each step waited for by what it changes there."""

    def __init__(self, page):
        self.page, self.said = page, page.locator("#said")

    def drop(self, paths, expected):
        self.page.set_input_files("#photos input[type=file]", paths)
        self.sees(expected)

    def sees(self, expected):
        playwright.expect(self.said).to_contain_text(expected, timeout=60_000)
        playwright.expect(self.after).to_be_visible(timeout=20_000)

    @property
    def after(self):
        return self.page.locator("#shown img").nth(1)

    @contextmanager
    def changes(self):
        """The block changes what is shown: its file has a new name then."""
        before = self.after.get_attribute("src")
        yield
        playwright.expect(self.after).not_to_have_attribute("src", before, timeout=20_000)

    def types_color(self, text):
        self.page.locator("#color .dialog-button").click()
        self.page.locator("#color input").fill(text)
        self.page.locator("#color input").press("Enter")

    def download(self):
        with self.page.expect_download() as download:
            self.page.locator("#download").click()
        return download.value


def same(picture, expected):
    """Whether two pictures differ by no more than rounding."""
    assert (picture.mode, picture.size) == (expected.mode, expected.size)
    return np.abs(np.asarray(picture).astype(int) - np.asarray(expected)).mean() < 0.1


def one_photo(person, tmp_path):
    """Settings, and the download, which is what inference.py makes of the photo."""
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    path = draw(tmp_path / "my cat.jpg", 321, 123, exif=exif)
    model = load_model(tmp_path / "a.pth", precision="float32")
    photo = open_photo(path)
    probability = probability_at_own_size(model, photo)
    expected = {
        name: cut_out(photo, probability, style)
        for name, style in {
            "matting": Style(0.7),
            "plain": Style(0.7, method="plain"),
            "green": Style(0.7, method="plain", background=(0, 255, 0)),
        }.items()
    }
    assert not same(expected["matting"], expected["plain"])
    page = person.page
    person.drop(path, "my cat.jpg: 123×321 pixels")
    before = person.said.inner_text()
    slider = page.locator("#threshold input[type=number]")
    slider.fill("0.7")
    slider.press("Enter")
    playwright.expect(person.said).not_to_have_text(before, timeout=20_000)
    download = person.download()
    assert download.suggested_filename == "my cat_cutout.png" and same(Image.open(download.path()), expected["matting"])
    with person.changes():
        page.locator("#matting input").uncheck()
    assert same(Image.open(person.download().path()), expected["plain"])
    with person.changes():
        page.locator("#background").get_by_text("Color").click()
    with person.changes():
        person.types_color("#00ff00")
    assert same(Image.open(person.download().path()), expected["green"])
    person.types_color("greenish")
    playwright.expect(page.get_by_text("greenish is not a color")).to_be_visible(timeout=20_000)
    with person.changes():
        page.locator("#background").get_by_text("Transparent").click()
    with person.changes():
        page.locator("#kind").get_by_text("Mask").click()
    mask = Image.open(person.download().path())
    assert same(mask, Image.fromarray(((probability >= 0.7).numpy() * 255).astype(np.uint8)))


def several_photos(person, tmp_path):
    (tmp_path / "broken.jpg").write_text("no picture")
    paths = [draw(tmp_path / name, *size) for name, size in {"cat.jpg": (80, 60), "cat.png": (60, 90)}.items()]
    person.drop([*paths, tmp_path / "broken.jpg", draw(tmp_path / "dog.png", 70, 70)], "cat.jpg: 80×60 pixels")
    playwright.expect(person.page.locator("#problems")).to_have_text("broken.jpg is not a picture.")
    person.page.locator("#kind").get_by_text("Cut-out").click()
    person.page.locator("#gallery button img").nth(1).click()
    person.sees("cat.png: 60×90 pixels")
    with ZipFile(person.download().path()) as archive:
        sizes = {name: Image.open(archive.open(name)).size for name in archive.namelist()}
    assert sizes == {"cat_cutout.png": (80, 60), "cat_cutout.png.png": (60, 90), "dog_cutout.png": (70, 70)}


def paste(person):
    person.page.evaluate("""async () => {
        const canvas = Object.assign(document.createElement("canvas"), {width: 50, height: 40});
        canvas.getContext("2d").fillRect(0, 0, 50, 40);
        const png = await new Promise((done) => canvas.toBlob(done, "image/png"));
        await navigator.clipboard.write([new ClipboardItem({"image/png": png})]);
    }""")
    person.page.locator("h1").click()
    person.page.keyboard.press("Control+V")
    person.sees("50×40 pixels")


def test_a_person_drops_photos_changes_the_settings_and_downloads(address, tmp_path):
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": 1200, "height": 1000})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        foreign = []
        page.on("request", lambda request: foreign.append(request.url) if address not in request.url else None)
        page.goto(address)
        person = Person(page)
        one_photo(person, tmp_path)
        several_photos(person, tmp_path)
        page.set_viewport_size({"width": 390, "height": 844})
        widths = [page.locator(box).evaluate("box => box.scrollWidth") for box in ("html", ".gradio-container")]
        assert max(widths) <= 390, widths  # the container hides what reaches beyond it
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        paste(person)
        page.get_by_role("button", name="drawn_1").or_(page.locator(".gallery-item")).first.click()
        person.sees("drawn_1.png: 256×192 pixels")
        browser.close()
    assert not [url for url in foreign if not url.startswith(("data:", "blob:"))], foreign
    names = sorted(path.name.split("-")[0] for path in files_in(tmp_path / "temporary") if "uploads" not in path.parts)
    assert names == ["after", "before_0", "drawn_1.png", "drawn_2.png", "drawn_3.png", "thumbnail_1"]
    uploads = {
        path.name for path in files_in(tmp_path / "temporary") if path.stat().st_size and "uploads" in path.parts
    }
    assert uploads == {"my cat.jpg", "cat.jpg", "cat.png", "dog.png", "broken.jpg", "image.png"}
