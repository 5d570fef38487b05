"""Run train.py for a few steps, and print as JSON when they were done and the process's peak memory.

BEGAN=$(date +%s.%N) python benchmarks/first_step.py STEPS FLAGS-OF-TRAIN      # also under torchrun
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
import train


def main():
    steps, times = int(sys.argv[1]), []

    def on_step(state):
        if not times or len(times) == steps - 1:
            state.sum_up()  # waits for the device
        times.append(time.time())
        if len(times) < steps:
            return
        if int(os.environ.get("RANK", 0)) == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            told = {"first": times[0] - float(os.environ["BEGAN"]), "rest": times[-1] - times[0], "peak": peak}
            print(json.dumps(told), flush=True)
        os._exit(0)

    train.main(sys.argv[2:], on_step)


if __name__ == "__main__":
    main()
