"""A local web page: drop photos, see their cut-outs, overlays or masks, move the threshold, download PNG or ZIP.

    pip install -r requirements-app.txt
    python src/app.py --model saved_models/unet.pth        # then open http://127.0.0.1:7860

The page is served to this machine alone unless --host says otherwise.
"""

if __name__ == "__main__":
    import startup  # noqa: F401  # before torch is imported

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

import oxford_pet
import shapes
from photos.album import Album, open_album
from photos.budget import give_memory_back
from photos.outputs import Style, read_color
from photos.pictures import PictureError, reason_of
from photos.prediction import load_model
from runtime import add_runtime_flags
from utils import Parser, UserError, port, run, when_memory_runs_out

MAX_UPLOAD = 30  # MB, of a photo
KEPT = 1800  # seconds that an upload and its results are kept
NO_PHOTO = f"Drop a photo first; photos are kept for {KEPT // 60} minutes."
DOWNLOAD_ONE = "Download at full size"
ONE_PHOTO = {"concurrency_id": "photo", "concurrency_limit": 1}  # in memory at a time, over all visitors

# Files that are pasted anywhere on the page go the way of those that are dropped: the browser's own bytes.
PASTE = """() => document.addEventListener("paste", (event) => {
    const box = document.querySelector("#photos input[type=file]");
    if (box && event.clipboardData.files.length) {
        box.files = event.clipboardData.files;
        box.dispatchEvent(new Event("change", {bubbles: true}));
        event.preventDefault();
    }
})"""
DOWNLOAD = """(file) => {
    const link = document.createElement("a");
    link.href = file.url;
    link.download = file.orig_name;
    link.click();
}"""


def make_examples(folder, model):
    """A few pictures to pick: of the dataset where it is there, else drawn."""
    if model.about["dataset"] == "pets" and (oxford_pet.DATA_PATH / "annotations").is_dir():
        names = oxford_pet.split_names(oxford_pet.DATA_PATH, "valid")
        return [
            str(oxford_pet.picture_path(oxford_pet.DATA_PATH, name)) for name in names[:: max(1, len(names) // 3)][:3]
        ]
    paths = []
    for index in range(3):
        picture, _ = shapes.draw(np.random.default_rng([9, index]), 192, 256)
        paths.append(str(folder / f"drawn_{index + 1}.png"))
        Image.fromarray(picture).save(paths[-1])
    return paths


def style_of(threshold, matting, background, color, crop):
    """The page's settings as a Style. Raises UserError."""
    try:
        under = read_color(color) if background == "color" else None
    except ValueError:
        raise UserError(f"{color} is not a color, as white or #00ff00") from None
    return Style(threshold, crop=crop, method="guided" if matting else "plain", background=under)


@contextmanager
def one_sentence(error_type):
    """What a visitor or their files cause in the block becomes one sentence on the page."""
    try:
        with when_memory_runs_out("choose a smaller photo"):
            yield
    except (UserError, PictureError, OSError) as error:
        raise error_type(f"{reason_of(error)}.", print_exception=False) from None
    finally:
        give_memory_back()


class Page:
    """What happens at each event. settings: a kind of output, then `style_of`'s arguments."""

    def __init__(self, gradio, model, folder):
        self.gr, self.model, self.folder = gradio, model, folder

    def open(self, paths, former: Album | None):
        """A new album: the visitor's state, an empty upload box, thumbnails, problems, the download button."""
        if former:
            former.forget()
        with one_sentence(self.gr.Error):
            album = open_album(self.model, paths or [], self.folder)
        number = len(album.photos)
        problems = "".join(f"**{problem}.**\n\n" for problem in album.problems)
        label = f"Download all {number} at full size (ZIP)" if number > 1 else DOWNLOAD_ONE
        gallery = self.gr.Gallery(album.thumbnails, visible=number > 1, height=180 if number < 3 else 335)
        return album, None, gallery, problems, self.gr.Button(label, interactive=number > 0)

    def show(self, album: Album | None, kind, *settings):
        """Before and after, and a sentence."""
        if not album or not album.photos:
            return None, NO_PHOTO
        with one_sentence(self.gr.Error):
            before, after, sentence = album.show(kind, style_of(*settings))
        return (before, after), sentence

    def save(self, album: Album | None, kind, *settings):
        """The file to download."""
        if not album or not album.photos:
            raise self.gr.Error(NO_PHOTO, print_exception=False)
        with one_sentence(self.gr.Error):
            return album.save(kind, style_of(*settings))


def build_page(model, folder):
    """The page as a gradio Blocks; `folder` takes its examples and what it shows."""
    import gradio as gr

    folder.mkdir(parents=True)
    gr.set_static_paths(folder)  # served from there: gradio would keep a copy of all that was ever shown
    examples = make_examples(folder, model)
    events = Page(gr, model, folder)
    with gr.Blocks(title="Pet segmentation", delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown(f"# Pet segmentation\nDrop photos of up to {MAX_UPLOAD} MB, paste one, or pick an example.")
        album = gr.State(time_to_live=KEPT, delete_callback=lambda album: album and album.forget())
        with gr.Row():
            with gr.Column(scale=1):
                upload = gr.File(label="Photos", file_count="multiple", type="filepath", elem_id="photos", height=160)
                samples = [[path] for path in examples]
                picked = gr.Dataset(components=["image"], samples=samples, type="index", label="Examples")
                problems = gr.Markdown(elem_id="problems")
                gallery = gr.Gallery(
                    elem_id="gallery", visible=False, columns=2, allow_preview=False, show_label=False, buttons=[]
                )
            with gr.Column(scale=2):
                shown = gr.ImageSlider(label="Before and after", elem_id="shown", interactive=False, buttons=[])
                said = gr.Markdown(elem_id="said")
                settings = lay_out_settings(gr)
                download = gr.Button(DOWNLOAD_ONE, variant="primary", elem_id="download", interactive=False)
                file = gr.File(visible=False)
        look = {"fn": events.show, "inputs": [album, *settings], "outputs": [shown, said], **ONE_PHOTO}
        opened = [album, upload, gallery, problems, download]
        upload.upload(events.open, [upload, album], opened, **ONE_PHOTO).success(**look)
        picked.click(
            lambda index, album: events.open([examples[index]], album), [picked, album], opened, **ONE_PHOTO
        ).success(**look)
        gr.on([setting.change for setting in settings[:-1]], trigger_mode="always_last", **look)

        def choose(album, event: gr.SelectData):
            if album:
                album.chosen = event.index

        gallery.select(choose, album).success(**look)
        download.click(events.save, [album, *settings], file, show_progress_on=shown, **ONE_PHOTO).success(
            None, file, js=DOWNLOAD
        )
        page.load(js=PASTE)
    return page


def lay_out_settings(gr):
    """The settings, in the order that `Page` takes them; the last changes nothing that is shown."""
    kinds = [("Cut-out", "cutout"), ("Overlay", "overlay"), ("Mask", "mask")]
    grounds = [("Transparent", "transparent"), ("Color", "color")]
    with gr.Row():
        kind = gr.Radio(kinds, value="cutout", label="Show", elem_id="kind", min_width=340)
        background = gr.Radio(grounds, value="transparent", label="Background", elem_id="background", min_width=210)
        color = gr.ColorPicker("#ffffff", label="Color", visible=False, elem_id="color", min_width=100)
    threshold = gr.Slider(0.05, 0.95, 0.5, step=0.05, label="Threshold of probability", elem_id="threshold")
    with gr.Row():
        matting = gr.Checkbox(
            True, label="Matting", info="Edges and colors estimated from the photo", elem_id="matting"
        )
        crop = gr.Checkbox(label="Crop", info="To the pet, in the download only", elem_id="crop")
    background.change(lambda choice: gr.ColorPicker(visible=choice == "color"), background, color)
    return kind, threshold, matting, background, color, crop


def main():
    parser = Parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve; 0.0.0.0 for the whole network; default %(default)s"
    )
    parser.add_argument("--port", type=port, default=7860, help="default %(default)s")
    add_runtime_flags(parser)
    args = parser.parse_args()
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
    try:
        import gradio
    except ImportError:
        raise UserError("src/app.py needs gradio; pip install -r requirements-app.txt") from None
    model = load_model(args.model, args.device, args.precision)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")  # which else outlive the page
        page = build_page(model, Path(folder) / "shown")
        theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # none is fetched
        try:
            page.launch(
                server_name=args.host,
                server_port=args.port,
                max_file_size=f"{MAX_UPLOAD}mb",
                theme=theme,
                share=False,
                footer_links=[],
            )
        except OSError as error:
            raise UserError(f"--host {args.host} --port {args.port} cannot be used ({error}); choose another") from None
    return 0


if __name__ == "__main__":
    run(main)
