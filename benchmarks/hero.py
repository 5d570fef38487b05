"""Draw the README's figure: photo, probability, mask and cutout side by side.

    python benchmarks/hero.py                                       # Chelsea the cat, into benchmarks/hero.png
    python benchmarks/hero.py --photo dog.jpg --model saved_models/unet_pets.pth --output dog.png

benchmarks/chelsea.png is scikit-image's data.chelsea(), dedicated to the public domain (CC0) by its photographer,
Stefan van der Walt.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from files import write_atomically
from photos.decode import ImageError, read_image
from photos.outputs import render
from photos.prediction import load_model, predict
from utils import Parser, UserError, run

ROOT = Path(__file__).resolve().parents[1]
COLUMNS, WIDTH, GAP, LABEL_HEIGHT, MARGIN = 4, 296, 12, 34, 4  # pixels
SQUARE = 9  # side of a checkerboard square, in pixels
COLORMAP = "viridis"


def checkerboard(size: tuple[int, int]) -> Image.Image:
    """Return a checkerboard, which shows transparency, in mode RGBA. size: (width, height)."""
    x, y = np.arange(size[0]) // SQUARE, np.arange(size[1]) // SQUARE
    squares = np.where(np.add.outer(y, x) % 2, 255, 214).astype(np.uint8)
    return Image.fromarray(squares).convert("RGBA")


def make_panels(photo: Image.Image, probability: np.ndarray) -> dict[str, Image.Image]:
    """Return the figure's images by label, WIDTH pixels wide, in mode RGB."""
    size = WIDTH, round(WIDTH * photo.height / photo.width)
    foreground = torch.from_numpy(probability)
    colors = matplotlib.colormaps[COLORMAP](probability, bytes=True)[..., :3]
    cutout = render("cutout", photo, foreground).convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    panels = {
        "photo": photo,
        "probability": Image.fromarray(np.ascontiguousarray(colors)),
        "mask": render("mask", photo, foreground),
        "cutout": Image.alpha_composite(checkerboard(size), cutout),
    }
    return {label: panel.convert("RGB").resize(size, Image.Resampling.LANCZOS) for label, panel in panels.items()}


def draw(panels: dict[str, Image.Image]) -> Image.Image:
    """Put the panels in a row, each below its label."""
    height = next(iter(panels.values())).height
    width = 2 * MARGIN + COLUMNS * WIDTH + (COLUMNS - 1) * GAP
    figure = Image.new("RGB", (width, LABEL_HEIGHT + height + MARGIN), "white")
    pen, font = ImageDraw.Draw(figure), ImageFont.load_default(size=20)
    for column, (label, panel) in enumerate(panels.items()):
        left = MARGIN + column * (WIDTH + GAP)
        pen.text((left + WIDTH / 2, LABEL_HEIGHT / 2), label, fill=(40, 40, 40), font=font, anchor="mm")
        figure.paste(panel, (left, LABEL_HEIGHT))
        pen.rectangle((left, LABEL_HEIGHT, left + WIDTH - 1, LABEL_HEIGHT + height - 1), outline=(200, 200, 200))
    return figure


def main() -> int:
    args = get_args_parser().parse_args()
    model = load_model(args.model, args.device, precision="float32")
    try:
        photo = read_image(args.photo)
    except ImageError as error:
        raise UserError(f"--photo {args.photo} {error}; choose an image") from None
    figure = draw(make_panels(photo, predict(model, photo)))
    write_atomically(args.output, lambda file: figure.save(file, format="png", optimize=True))
    print(f"wrote {args.output}: {figure.width}x{figure.height} pixels")
    return 0


def get_args_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--photo", type=Path, default=ROOT / "benchmarks/chelsea.png", help="photo; default benchmarks/chelsea.png")
    model = ROOT / "saved_models/resnet34_unet_pets.pth"
    add("--model", type=Path, default=model, help="checkpoint; default saved_models/resnet34_unet_pets.pth")
    add("--output", type=Path, default=ROOT / "benchmarks/hero.png", help="output file; default benchmarks/hero.png")
    add("--device", default="auto", help="device; default %(default)s")
    return parser


if __name__ == "__main__":
    run(main)
