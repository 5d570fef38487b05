"""A local web page: drop a photo, see its mask, overlay and cut-out, move the threshold, download the PNG.

    pip install -r requirements-app.txt
    python src/app.py --model saved_models/unet.pth        # then open http://127.0.0.1:7860

The page is served to this machine alone unless --host says otherwise.
"""

import python_version  # noqa: F401, I001  # before what an older Python cannot read

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import oxford_pet
import shapes
from photos.prediction import load_model, open_photo, probability_of, to_input
from photos.outputs import cutout, foreground_share, mask_of, overlay
from photos.pictures import PictureError
from runtime import add_runtime_flags
from utils import Parser, UserError, port, run, to_size

MAX_UPLOAD = "30mb"
KEPT = 1800  # seconds that an upload and its results are kept
SHOWN_SIZE = 1600  # longer side of what the page shows, in pixels; downloads have the photo's own size


def make_examples(folder, model):
    """A few pictures to pick: of the dataset where it is there, else drawn."""
    if model.about["dataset"] == "pets" and (oxford_pet.DATA_PATH / "annotations").is_dir():
        names = oxford_pet.split_names(oxford_pet.DATA_PATH, "valid")
        return [
            str(oxford_pet.picture_path(oxford_pet.DATA_PATH, name)) for name in names[:: max(1, len(names) // 4)][:4]
        ]
    paths = []
    for index in range(4):
        picture, _ = shapes.draw(np.random.default_rng([9, index]), 192, 256)
        paths.append(str(Path(folder) / f"drawn_{index + 1}.png"))
        Image.fromarray(picture).save(paths[-1])
    return paths


class Page:
    """What the page computes. A visitor's state is small, and one file holds the cut-out, however often it is drawn.

    Between two clicks a session keeps the upload's path and the probability at the network's size: photo and results
    are made when they are shown, one visitor's at a time (Gradio's default), so memory is that of one photo.
    """

    def __init__(self, model, folder):
        self.model, self.folder = model, Path(folder)

    def open(self, path, threshold, crop):
        """The state of an upload, and what `show` makes of it."""
        if path is None:
            return None, None, None, None, None, ""
        try:
            photo = open_photo(path)
            small = probability_of(self.model, [to_input(self.model, photo)])[0]
            state = (path, small.numpy(), tempfile.mkdtemp(dir=self.folder))
        except (PictureError, MemoryError) as error:
            reason = str(error) or "is too large for the memory"
            return None, None, None, None, None, f"**{Path(path).name} {reason}.** Try another photo."
        return (state, *self.show(state, threshold, crop))

    def show(self, state, threshold, crop):
        """Overlay, mask, cut-out, the cut-out's file, and a sentence."""
        if state is None:
            return None, None, None, None, ""
        path, small, folder = state
        photo = open_photo(path)
        probability = to_size(torch.from_numpy(small), photo.size)
        mask, cut = mask_of(probability, threshold), cutout(photo, probability, threshold, crop)
        file = Path(folder) / f"{Path(path).stem}_cutout.png"
        cut.save(file)
        share = foreground_share(mask)
        pictures = [overlay(photo, probability, threshold), mask, cut]
        for picture in pictures:
            picture.thumbnail((SHOWN_SIZE, SHOWN_SIZE))
        return (*pictures, str(file), f"{photo.width}×{photo.height} pixels, {100 * share:.1f} % foreground.")

    @staticmethod
    def forget(state):
        """Remove what a visitor who left had in the folder."""
        if state:
            shutil.rmtree(state[2], ignore_errors=True)


def build_page(model, folder):
    """The page as a gradio Blocks, and its theme; `folder` takes its examples and downloads."""
    import gradio as gr

    compute = Page(model, folder)

    def picture(label, name):
        buttons = ["download", "fullscreen"]
        return gr.Image(label=label, format="png", elem_id=name, interactive=False, buttons=buttons)

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # nothing from elsewhere
    with gr.Blocks(title="Pet segmentation", delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown("# Pet segmentation\nDrop a photo, or pick an example below.")
        state = gr.State(time_to_live=KEPT, delete_callback=compute.forget)
        with gr.Row():
            with gr.Column(scale=1):
                upload = gr.File(label="Photo", type="filepath", elem_id="photo")
                threshold = gr.Slider(0.05, 0.95, 0.5, step=0.05, label="Threshold of probability", elem_id="threshold")
                crop = gr.Checkbox(label="Crop the cut-out to the pet")
                said = gr.Markdown(elem_id="said")
                gr.Examples(make_examples(folder, model), upload)
            with gr.Column(scale=2):
                drawn = picture("Overlay", "overlay")
                with gr.Row():
                    mask = picture("Mask", "mask")
                    cut = picture("Cut-out", "cutout")
                file = gr.File(label="Download the cut-out (PNG, the photo's own size)", elem_id="download")
        shown = [drawn, mask, cut, file, said]
        upload.change(compute.open, [upload, threshold, crop], [state, *shown])
        threshold.release(compute.show, [state, threshold, crop], shown)
        crop.change(compute.show, [state, threshold, crop], shown)
    return page, theme


def main():
    parser = Parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve; 0.0.0.0 for the whole network; default %(default)s"
    )
    parser.add_argument("--port", type=port, default=7860, help="default %(default)s")
    add_runtime_flags(parser)
    args = parser.parse_args()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise UserError("src/app.py needs gradio; pip install -r requirements-app.txt") from None
    model = load_model(args.model, args.device, args.precision)
    with tempfile.TemporaryDirectory() as folder:
        page, theme = build_page(model, folder)
        allowed = [folder, str(oxford_pet.DATA_PATH)]
        try:
            page.launch(
                server_name=args.host,
                server_port=args.port,
                max_file_size=MAX_UPLOAD,
                allowed_paths=allowed,
                theme=theme,
                share=False,
            )
        except OSError as error:
            raise UserError(f"--port {args.port} cannot be used ({error}); choose another") from None
    return 0


if __name__ == "__main__":
    run(main)
