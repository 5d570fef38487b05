"""Measure a training step on a quiet and on a busy machine, with PyTorch's settings and with those of our commands.

    python benchmarks/busy.py --precision auto float32               # U-Net of width 16 and ResNet34-U-Net, 128x128
    GOMP_SPINCOUNT=5000 python benchmarks/busy.py --model unet       # another spin count

quiet: nothing else runs. busy: another process computes on one thread. two: two training runs at once, of which the
slower one counts. Each cell is the median of the rounds' seconds per step; settings take turns. Nothing else may run.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = ("default", "ours")  # ours: src/startup.py
OTHER = "while True: pass"


def child(flags):
    """Take steps for each number on standard input, and print the seconds per step."""
    from throughput import draw_dataset, our_step, parse_flags

    from cores import main_thread_bound

    with tempfile.TemporaryDirectory() as scratch:
        args = parse_flags(flags)
        args.data_path, args.cache_dir = Path(scratch) / "pets", Path(scratch)
        draw_dataset(args.data_path, 2 * args.batch_size)
        step = our_step(args)
        for _ in range(3):
            step()
        for line in sys.stdin:
            start = time.perf_counter()
            with main_thread_bound():  # as in train.py
                for _ in range(int(line)):
                    step()
            print((time.perf_counter() - start) / int(line), flush=True)


def start(setting, flags):
    """Start a process that takes training steps when asked."""
    command = [sys.executable, __file__, "--child", setting, *flags]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def turn(processes, steps):
    """Take steps in all processes at once, and return the seconds per step of the slowest."""
    for process in processes:
        process.stdin.write(f"{steps}\n")
        process.stdin.flush()
    return max(float(process.stdout.readline()) for process in processes)


def measure(flags, steps, rounds):
    """Return {(setting, situation): median seconds per step}."""
    pairs = {setting: [start(setting, flags) for _ in range(2)] for setting in SETTINGS}
    seconds = {(setting, situation): [] for setting in SETTINGS for situation in ("quiet", "busy", "two")}
    for _ in range(rounds):
        for setting, pair in pairs.items():
            seconds[setting, "quiet"].append(turn(pair[:1], steps))
            with subprocess.Popen([sys.executable, "-c", OTHER]) as other:
                try:
                    seconds[setting, "busy"].append(turn(pair[:1], steps))
                finally:
                    other.kill()
            seconds[setting, "two"].append(turn(pair, steps))
    for pair in pairs.values():
        for process in pair:
            process.stdin.close()
            process.wait()
    return {key: statistics.median(values) for key, values in seconds.items()}


def main():
    from turns import BUSY, busy_cores

    from models import MODELS
    from utils import Parser, note, positive_int

    parser = Parser(__doc__)
    parser.add_argument("--model", choices=MODELS, help="network; default: unet of width 16, then resnet34_unet")
    parser.add_argument("--width", type=positive_int, default=16, help="width of the U-Net; default %(default)s")
    parser.add_argument("--image_size", type=positive_int, default=128, help="image size; default %(default)s")
    parser.add_argument("--batch_size", "-b", type=positive_int, default=16, help="batch size; default %(default)s")
    parser.add_argument("--precision", nargs="+", default=["auto"], help="precisions, as in train.py; default auto")
    parser.add_argument("--steps", type=positive_int, default=3, help="steps per turn; default %(default)s")
    parser.add_argument("--rounds", type=positive_int, default=5, help="number of rounds; default %(default)s")
    args = parser.parse_args()
    if busy_cores() > BUSY:
        note("other processes are running; repeat this on a quiet machine")
    print(f"{'seconds per step':34}" + "".join(f"{name:>10}" for name in ("quiet", "busy", "two")))
    for model in [args.model] if args.model else ["unet", "resnet34_unet"]:
        for precision in args.precision:
            flags = ["--model", model, "--image_size", args.image_size, "-b", args.batch_size, "--precision", precision]
            flags = [str(flag) for flag in flags + (["--width", args.width] if model == "unet" else [])]
            found = measure(flags, args.steps, args.rounds)
            for setting in SETTINGS:
                cells = "".join(f"{found[setting, situation]:10.3f}" for situation in ("quiet", "busy", "two"))
                print(f"{f'{model}, {precision}, {setting}':34}{cells}", flush=True)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
    if sys.argv[1:2] == ["--child"]:
        if sys.argv[2] == "ours":
            import startup  # noqa: F401
        child(sys.argv[3:])
    else:
        from utils import run

        run(main)
