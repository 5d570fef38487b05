"""Write a checkpoint in a form that runs without this repo, or takes half the space.

    python src/export.py --model saved_models/unet.pth --format onnx                  # saved_models/unet.onnx
    python src/export.py --model saved_models/unet.pth --format torchscript pt2 --output unet
    python src/export.py --model saved_models/unet.pth --format half                  # saved_models/unet.half.pth

onnx, torchscript and pt2: input `image`, float32 (N, C, H, W), RGB in [0, 1], of any batch, height and width (for
pt2 more than 32 pixels a side); output `probability` of foreground, float32 (N, 1, H, W). The scaling by mean and
std is inside. --format onnx needs more packages: pip install -r requirements-export.txt
half: a checkpoint for the scripts of this repo, with the convolutions' weights in float16.

A file is written only after it gave what the checkpoint gives on random pictures of several sizes.
"""

if __name__ == "__main__":
    import startup  # noqa: F401  # before torch is imported

import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from checkpoint import load, restore_model, save
from files import write_whole
from utils import Parser, UserError, foreground, run

FORMATS = {"onnx": ".onnx", "torchscript": ".ts", "pt2": ".pt2", "half": ".half.pth"}
SIZES = ((1, 64, 64), (2, 97, 75), (3, 128, 33))  # batch, height, width: odd ones too
TOLERANCE = {**dict.fromkeys(FORMATS, 1e-4), "half": 2e-2}  # of probability


class Exported(nn.Module):
    """From pictures in [0, 1] to probability of foreground: a network with its scaling and its sigmoid."""

    def __init__(self, network, mean, std):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, image):
        return foreground(self.network((image - self.mean) / self.std)).sigmoid()


def write_torchscript(model, example, path):
    torch.jit.trace(model, example, check_trace=False).save(str(path))


def read_torchscript(path):
    return torch.jit.load(str(path))


def write_pt2(model, example, path):
    torch.export.save(export_program(model, example), str(path))


def read_pt2(path):
    return torch.export.load(str(path)).module()


def export_program(model, example):
    dynamic = torch.export.Dim.DYNAMIC
    return torch.export.export(model, (example,), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},))


def write_half(checkpoint, path):
    weights = {name: value.half() if value.ndim > 1 else value for name, value in checkpoint["model"].items()}
    save({**{key: value for key, value in checkpoint.items() if key != "training"}, "model": weights}, path)


def read_half(path):
    checkpoint = load(path)
    return Exported(restore_model(checkpoint, path), checkpoint["mean"], checkpoint["std"])


def write_onnx(model, example, path):
    try:
        program = torch.onnx.export(
            export_program(model, example),
            dynamo=True,
            input_names=["image"],
            output_names=["probability"],
            external_data=False,
            verbose=False,
        )
    except ImportError as error:  # torch.onnx imports onnx and onnxscript when it is called
        raise UserError(
            f"--format onnx needs more packages ({error}); pip install -r requirements-export.txt"
        ) from None
    program.save(str(path), external_data=False)


def read_onnx(path):
    """A function of the file by onnxruntime, or None where that is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


WRITERS = {"onnx": write_onnx, "torchscript": write_torchscript, "pt2": write_pt2}
READERS = {"onnx": read_onnx, "torchscript": read_torchscript, "pt2": read_pt2, "half": read_half}


@torch.no_grad()
def export(checkpoint, path, kind, source="the checkpoint"):
    """Write `kind` of a checkpoint to `path`. Returns the largest difference found, or None where nothing could run it.

    Raises UserError, and writes nothing, where the difference is above the tolerance.
    """
    model = Exported(restore_model(checkpoint, source), checkpoint["mean"], checkpoint["std"]).eval()
    channels = checkpoint["options"]["in_channels"]
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.rand(n, channels, height, width, generator=generator) for n, height, width in SIZES]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch's exporters
        made = Path(folder) / f"model{FORMATS[kind]}"
        if kind == "half":
            write_half(checkpoint, made)
        else:
            WRITERS[kind](model, torch.rand(2, channels, 96, 64), made)
        run_exported = READERS[kind](made)
        difference = None
        if run_exported:
            difference = max((run_exported(picture) - model(picture)).abs().max().item() for picture in pictures)
            if not difference <= TOLERANCE[kind]:
                raise UserError(f"{path} was not written: it differs from {source} by {difference:.1e}; tell us")
        write_whole(path, lambda file: file.write(made.read_bytes()))
    return difference


def main():
    parser = Parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint")
    parser.add_argument("--format", nargs="+", choices=FORMATS, required=True, help="one or several")
    parser.add_argument("--output", type=Path, help="folder, or path without its suffix; default: the checkpoint's")
    args = parser.parse_args()
    checkpoint = load(args.model)
    output = args.output or args.model.with_suffix("")
    if args.output and output.is_dir():
        output = output / args.model.stem
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: {output.parent} is not a folder; make it or choose another")
    for kind in args.format:
        path = output.with_name(output.name + FORMATS[kind])
        difference = export(checkpoint, path, kind, args.model)
        sizes = ", ".join("x".join(map(str, size)) for size in SIZES)
        found = f"largest difference {difference:.1e} on pictures of {sizes}"
        if difference is None:
            found = "not checked: onnxruntime is not installed (pip install -r requirements-export.txt)"
        print(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB; {found}")
    return 0


if __name__ == "__main__":
    run(main)
