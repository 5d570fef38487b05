"""What training costs as the dataset grows, as pictures grow, and as processes grow.

    python benchmarks/scaling.py                      # all three, with a small U-Net
    python benchmarks/scaling.py --only processes --model resnet34_unet --image_size 128

Each row is a process of its own that runs train.py on drawn pictures that were packed before: seconds from its start to
the end of its first step, pictures per second of the steps after it, and its peak resident memory. Rows of a table
take turns, `--rounds` of them; medians are printed.
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

from utils import Parser, UserError, number, positive, run

at_least_two = number(int, lambda n: n >= 2, "a whole number of at least 2")  # the first step is timed apart


def measure(args, folder, image_size, processes=1):
    """Run train.py for a few steps: seconds to the end of the first step, pictures per second, GiB."""
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
    told = json.loads(lines[0])
    return told["first"], args.batch_size * (args.steps - 1) / told["rest"], told["peak"]


def table(title, rows, args):
    """rows: (label, arguments of `measure`); measured in turns, `rounds` times."""
    for _, where in rows:
        measure(args, *where)  # packs what is not packed
    told = {label: [] for label, _ in rows}
    for _ in range(args.rounds):
        for label, where in rows:
            told[label].append(measure(args, *where))
    print(f"{title:24}{'to first step, s':>18}{'pictures/s':>12}{'peak GiB':>10}")
    for label, values in told.items():
        first, speed, peak = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{label:24}{first:18.2f}{speed:12.2f}{peak:10.2f}", flush=True)


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--only", choices=("dataset", "pictures", "processes"), help="one table; default: all")
    add("--model", default="unet", help="default %(default)s")
    add("--width", type=positive, default=8, help="of the unet; default %(default)s")
    add("--image_size", type=positive, default=128, help="of the first and the last table; default %(default)s")
    add("--pictures", type=positive, default=250, help="of the smallest dataset; default %(default)s")
    add("--batch_size", "-b", type=positive, default=16, help="default %(default)s")
    add("--steps", type=at_least_two, default=9, help="of a row; default %(default)s")
    add("--rounds", type=positive, default=3, help="default %(default)s")
    add("--device", default="auto", help="cpu for the table of processes where there is one GPU; default %(default)s")
    args = parser.parse_args()
    print(
        f"{args.model}{f' --width {args.width}' if args.model != 'resnet34_unet' else ''}, batches of {args.batch_size}"
    )
    size = args.image_size
    with tempfile.TemporaryDirectory() as scratch:
        folders = {}
        for times in (1, 4, 16) if args.only in (None, "dataset") else (1,):
            folders[times] = Path(scratch) / str(times)
            draw_dataset(folders[times], times * args.pictures, 250, 188)
        if args.only in (None, "dataset"):
            rows = [(f"{times * args.pictures:,} pictures", (folder, size)) for times, folder in folders.items()]
            table(f"dataset, {size}x{size}", rows, args)
        if args.only in (None, "pictures"):
            table("pictures", [(f"{side}x{side}", (folders[1], side)) for side in (128, 256, 512)], args)
        if args.only in (None, "processes"):
            table(f"processes, {size}x{size}", [(str(n), (folders[1], size, n)) for n in (1, 2)], args)
    return 0


if __name__ == "__main__":
    run(main)
