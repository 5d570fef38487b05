"""Serve a web page: drop photos, compare before and after, and download results at original size.

    pip install -r requirements-app.txt
    python src/app.py --model unet.pth  # then open http://127.0.0.1:7860

Only this machine can open the page, unless --host or --share is set.
"""

if __name__ == "__main__":
    import startup  # noqa: F401  # before torch is imported

import os
import tempfile
from functools import partial
from pathlib import Path
from zipfile import ZipFile

from PIL import ImageColor

from checkpoint import add_model_type_flag
from photos.colors import on_white
from photos.decode import ImageError, read_image
from photos.matting import edge_depth
from photos.outputs import KINDS, Style, render, save_image
from photos.prediction import load_model, probability_of, read_any, to_input
from predictor import to_size
from runtime import add_runtime_flags
from utils import Parser, UserError, positive_int, run, user_path

SHOWN_SIZE = 1536  # longer side of images on the page, in pixels
KEPT = 1800  # minimum seconds to keep uploads and results
ONE_AT_A_TIME = {"concurrency_id": "photo", "concurrency_limit": 1}  # over all visitors


def make(model, path, max_size, kind, threshold, fill, color):
    """Return a photo and its output, reduced to max_size unless it is None."""
    photo = read_any(model, path, keep_alpha=True)
    probability = probability_of(model, [to_input(model, photo)])[0]
    if max_size:
        photo.thumbnail((max_size, max_size))
    background = ImageColor.getrgb(color)[:3] if fill else None
    style = Style(threshold, background=background, edge=edge_depth(model.checkpoint))
    return photo, render(kind, photo, to_size(probability, photo.size), style)


def show(model, path, *settings):
    """Return the photo before and after, reduced for the page."""
    if not path:
        return None
    before, after = make(model, path, SHOWN_SIZE, *settings)
    return before, on_white(after.convert("RGBA"))


def download(model, paths, kind, *settings):
    """Return the path of a ZIP of all photos' outputs at original size, or None without photos."""
    if not paths:
        return None
    folder = Path(tempfile.mkdtemp())
    with ZipFile(folder / f"{kind}s.zip", "w") as archive:  # stored, since images are compressed
        for number, path in enumerate(paths, 1):
            prefix = f"{number}_" if len(paths) > 1 else ""
            file = folder / f"{prefix}{Path(path).stem}{KINDS[kind]}"
            _, output = make(model, path, None, kind, *settings)
            save_image(output, file)
            archive.write(file, file.name)
            file.unlink()
    return archive.filename


def build_page(gr, model):
    """Return the page as a gr.Blocks."""

    def choices(paths):
        """List the readable photos, and warn about the others."""
        good = []
        for path in paths or []:
            try:
                read_image(path)
                good.append(path)
            except ImageError as error:
                gr.Warning(f"{Path(path).name} {error}")
        names = [(f"{number}. {Path(path).name}", path) for number, path in enumerate(good, 1)]
        return gr.Dropdown(names, value=good[0] if good else None, visible=len(good) > 1), good

    with gr.Blocks(title="Pet segmentation", delete_cache=(KEPT, KEPT)) as blocks:
        gr.Markdown("# Pet segmentation\nDrop one or more photos.")
        readable = gr.State([])
        with gr.Row():
            with gr.Column(scale=1):
                upload = gr.File(label="Photos", file_count="multiple", type="filepath", elem_id="photos", height=160)
                photo = gr.Dropdown(label="Photo", visible=False, elem_id="photo")
                kinds = [("Cutout", "cutout"), ("Overlay", "overlay"), ("Mask", "mask")]
                kind = gr.Radio(kinds, value="cutout", label="Show", elem_id="kind")
                threshold = gr.Slider(0.05, 0.95, 0.5, step=0.05, label="Threshold", elem_id="threshold")
                fill = gr.Checkbox(label="Background color for cutouts", elem_id="fill")
                color = gr.ColorPicker("#ffffff", label="Color", elem_id="color")
            with gr.Column(scale=2):
                shown = gr.ImageSlider(label="Before and after", type="pil", interactive=False, elem_id="shown")
                button = gr.Button("Make a ZIP at original size", variant="primary", elem_id="download")
                file = gr.File(label="Download", elem_id="zip")
        settings = [kind, threshold, fill, color]
        upload.change(choices, upload, [photo, readable], **ONE_AT_A_TIME)
        inputs = [photo, *settings]
        changes = [component.change for component in inputs]
        gr.on(changes, partial(show, model), inputs, shown, trigger_mode="always_last", **ONE_AT_A_TIME)
        button.click(partial(download, model), [readable, *settings], file, **ONE_AT_A_TIME)
    return blocks


def import_gradio():
    """Import gradio, which must not use a proxy to reach its own server. Raises UserError."""
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = f"{os.environ.get(name, '')},localhost,127.0.0.1,::1".lstrip(",")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        advice = "pip install -r requirements-app.txt, or unset the proxy variables"
        raise UserError(f"{error}; {advice}") from None
    return gradio


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", type=user_path, required=True, help="checkpoint")
    add_model_type_flag(add)
    add("--host", default="127.0.0.1", help="address; 0.0.0.0 serves the whole network; default %(default)s")
    add("--port", type=positive_int, default=7860, help="port; default %(default)s")
    add("--share", action="store_true", help="make the page public through Gradio, for up to a week")
    add_runtime_flags(parser)
    args = parser.parse_args()
    gradio = import_gradio()
    model = load_model(args.model, args.device, args.precision, args.model_type)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = folder  # no photo outlives the page
        fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # system fonts: no download
        options = {"max_file_size": "30mb", "footer_links": [], "show_error": True}
        options |= {"server_name": args.host, "server_port": args.port, "share": args.share}
        page = build_page(gradio, model)
        try:
            page.launch(theme=gradio.themes.Default(**fonts), **options)
        except OSError as error:
            raise UserError(f"--host {args.host} --port {args.port} cannot be used ({error}); choose another") from None


if __name__ == "__main__":
    run(main)
