"""Export a checkpoint to a format that runs without this repo or takes half the space.

    python src/export.py --model unet.pth --format onnx      # unet.onnx
    python src/export.py --model unet.pth --format pt2 half  # unet.pt2, unet.half.pth

onnx (pip install -r requirements-export.txt) and pt2 (torch.export) map `image`, float32 (N, C, H, W),
RGB or gray in [0, 1], of any size (pt2: above 32 pixels a side), to `probability` of foreground, float32
(N, 1, H, W). For the network's usual accuracy, stretch photos to its training size first; it is printed.
half is a checkpoint for this repo, with the convolutions' weights in float16. A file whose output differs
too much from the checkpoint's is not written (onnx: unchecked without onnxruntime).
"""

if __name__ == "__main__":
    import startup  # noqa: F401  # before torch is imported

import logging
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from textwrap import shorten

import torch
from torch import nn

from checkpoint import add_model_type_flag, load, restore_model, save
from files import write_atomically
from predictor import foreground
from utils import Parser, UserError, run, user_path

FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "half": ".half.pth"}
SIZES = ((1, 64, 64), (2, 97, 75), (3, 128, 33))  # batch, height, width
TOLERANCE = {"onnx": 1e-4, "pt2": 1e-4, "half": 2e-2}  # largest difference in probability


class Exported(nn.Module):
    """A network with its normalization and sigmoid."""

    def __init__(self, checkpoint, source):
        super().__init__()
        self.network = restore_model(checkpoint, source)
        self.register_buffer("mean", torch.tensor(checkpoint.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(checkpoint.std).view(1, -1, 1, 1))

    def forward(self, image):
        return foreground(self.network((image - self.mean) / self.std)).sigmoid()


def write_onnx(program, path):
    names = {"input_names": ["image"], "output_names": ["probability"]}
    try:
        torch.onnx.export(program, f=path, dynamo=True, external_data=False, verbose=False, **names)
    except ImportError as error:  # torch.onnx imports onnx and onnxscript lazily
        raise UserError(f"--format onnx: {error}; pip install -r requirements-export.txt") from None


def read_onnx(path):
    """Return the file as a function of images, or None without onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


WRITERS = {"onnx": write_onnx, "pt2": torch.export.save}
READERS = {
    "onnx": read_onnx,
    "pt2": lambda path: torch.export.load(path).module(),
    "half": lambda path: Exported(load(path), path),
}


@torch.no_grad()
def export(checkpoint, path, kind, source="the checkpoint"):
    """Export a checkpoint. Returns the largest difference, or None if unchecked. Raises UserError."""
    model = Exported(checkpoint, source).eval()
    channels = checkpoint.options["in_channels"]
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(n, channels, height, width, generator=generator) for n, height, width in SIZES]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in torch's exporters
        made = Path(folder) / f"model{FORMATS[kind]}"
        if kind == "half":
            weights = {name: value.half() if value.ndim > 1 else value for name, value in checkpoint.model.items()}
            save(replace(checkpoint, model=weights, training=None), made)
        else:
            logging.getLogger("torch._subclasses").setLevel(logging.CRITICAL)  # it logs errors that are reported below
            dynamic = torch.export.Dim.DYNAMIC
            shapes = ({0: dynamic, 2: dynamic, 3: dynamic},)
            try:
                program = torch.export.export(model, (torch.rand(2, channels, 96, 64),), dynamic_shapes=shapes)
            except Exception as error:  # e.g. the network accepts only one input size
                reason = f"{source} cannot be exported for all sizes ({shorten(str(error), 200)})"
                raise UserError(f"--format {kind}: {reason}; use --format half") from None
            WRITERS[kind](program, made)
        run_exported = READERS[kind](made)
        difference = None
        if run_exported:
            difference = max((run_exported(image) - model(image)).abs().max().item() for image in images)
            if not difference <= TOLERANCE[kind]:
                reason = f"its output differs from the checkpoint's by {difference:.1e}"
                raise UserError(f"{path} was not written: {reason}; omit --format {kind}")
        write_atomically(path, lambda file: file.write(made.read_bytes()))
    return difference


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", type=user_path, required=True, help="checkpoint")
    add_model_type_flag(add)
    add("--format", nargs="+", choices=FORMATS, required=True, help="output formats")
    add("--output", type=user_path, help="folder, or path without suffix; default: next to --model")
    args = parser.parse_args()
    checkpoint = load(args.model, args.model_type)
    output = args.output or args.model.with_suffix("")
    if args.output and output.is_dir():
        output = output / args.model.stem
    for kind in args.format:
        path = output.with_name(output.name + FORMATS[kind])
        difference = export(checkpoint, path, kind, args.model)
        result = "not checked: onnxruntime is missing (requirements-export.txt)"
        if difference is not None:
            result = f"largest difference {difference:.1e} on images of several sizes"
        print(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB; {result}")
    if {"onnx", "pt2"} & set(args.format) and not args.model_type:
        print(f"trained at {checkpoint.image_size}x{checkpoint.image_size} pixels; stretch images to this size first")


if __name__ == "__main__":
    run(main)
