"""Measure what training costs as the dataset, the image size and the number of processes grow.

    python benchmarks/scaling.py                      # all three, with a small U-Net
    python benchmarks/scaling.py --only processes --model resnet34_unet --image_size 128

Each row is a separate run of train.py on synthetic images, decoded beforehand: seconds from its start to the end of its
first step, images per second of the later steps, and the peak resident memory of its first process. Rows of a table
take turns for --rounds rounds, and the table shows medians.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
from throughput import draw_dataset

from utils import Parser, UserError, checked, positive_int, run

at_least_two = checked(int, lambda n: n >= 2, "a whole number of at least 2")  # the first step is timed separately


def measure(args, folder, image_size, processes=1):
    """Run train.py for a few steps. Returns seconds to the end of the first step, images per second, GiB."""
    flags = ["--model", args.model, "--data_path", folder, "--image_size", image_size, "--start_size", 0]
    flags += ["--batch_size", args.batch_size, "--save_dir", folder / "runs", "--epochs", 1000]
    flags += ["--device", args.device]
    flags += ["--width", args.width] if args.model != "resnet34_unet" else []
    command = [sys.executable, str(Path(__file__).with_name("first_step.py")), str(args.steps), *map(str, flags)]
    if processes > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment = {**os.environ, "BEGAN": str(time.time()), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    result = json.loads(lines[0])
    return result["first"], args.batch_size * (args.steps - 1) / result["rest"], result["peak"]


def table(title, rows, args):
    """Measure rows in turns, `--rounds` times, and print medians. rows: (label, arguments of `measure`)."""
    for _, arguments in rows:
        measure(args, *arguments)  # decodes images that are not in the cache
    measured = {label: [] for label, _ in rows}
    for _ in range(args.rounds):
        for label, arguments in rows:
            measured[label].append(measure(args, *arguments))
    print(f"{title:24}{'to first step, s':>18}{'images/s':>12}{'peak GiB':>10}")
    for label, values in measured.items():
        first, speed, peak = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{label:24}{first:18.2f}{speed:12.2f}{peak:10.2f}", flush=True)


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--only", choices=("dataset", "size", "processes"), help="measure only this table; default: all three")
    add("--model", default="unet", help="network; default %(default)s")
    add("--width", type=positive_int, default=8, help="width of the U-Net; default %(default)s")
    add(
        "--image_size",
        type=positive_int,
        default=128,
        help="image size in pixels; the table of sizes doubles it twice; default %(default)s",
    )
    add("--images", type=positive_int, default=250, help="images in the smallest dataset; default %(default)s")
    add("--batch_size", "-b", type=positive_int, default=16, help="images per step; default %(default)s")
    add("--steps", type=at_least_two, default=9, help="steps per row; default %(default)s")
    add("--rounds", type=positive_int, default=3, help="number of rounds; default %(default)s")
    add(
        "--device",
        default="auto",
        help="device; two processes on a machine with one GPU need cpu; default %(default)s",
    )
    args = parser.parse_args()
    print(
        f"{args.model}{f' --width {args.width}' if args.model != 'resnet34_unet' else ''}, batches of {args.batch_size}"
    )
    size = args.image_size
    with tempfile.TemporaryDirectory() as scratch:
        folders = {}
        for times in (1, 4, 16) if args.only in (None, "dataset") else (1,):
            folders[times] = Path(scratch) / str(times)
            draw_dataset(folders[times], times * args.images, 250, 188)
        if args.only in (None, "dataset"):
            rows = [(f"{times * args.images:,} images", (folder, size)) for times, folder in folders.items()]
            table(f"dataset, {size}x{size}", rows, args)
        if args.only in (None, "size"):
            sizes = [factor * size for factor in (1, 2, 4)]
            table("image size", [(f"{size}x{size}", (folders[1], size)) for size in sizes], args)
        if args.only in (None, "processes"):
            table(f"processes, {size}x{size}", [(str(n), (folders[1], size, n)) for n in (1, 2)], args)
    return 0


if __name__ == "__main__":
    run(main)
