"""Count each network's parameters and multiply-adds for one image.

    python benchmarks/model_size.py --image_size 256

Only convolutions and transposed convolutions count; multiply-adds are half of the FLOPs in torch's FlopCounterMode.
"""

import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
from models import build_model
from models.resnet34_unet import DECODERS
from utils import Parser, positive_int, run


def main():
    parser = Parser(__doc__)
    parser.add_argument("--image_size", type=positive_int, default=256, help="size of the image; default %(default)s")
    size = parser.parse_args().image_size
    rows = [("unet", {"width": width}) for width in (64, 32, 16)] + [("unet", {"width": 16, "depth": 5})]
    rows += [("unet_shallow", {}), ("unet_add", {})]
    rows += [("resnet34_unet", {"decoder": decoder}) for decoder in reversed(DECODERS)]
    print(f"{'network':38}{'parameters':>12}{f'G multiply-adds at {size}x{size}':>32}")
    for name, options in rows:
        with torch.device("meta"):
            model, image = build_model(name, **options).eval(), torch.empty(1, 3, size, size)
        with FlopCounterMode(display=False) as counter:
            model(image)
        label = " ".join([name, *(f"--{option} {value}" for option, value in options.items())])
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{label:38}{parameters:12,}{counter.get_total_flops() / 2e9:32.2f}")


if __name__ == "__main__":
    run(main)
