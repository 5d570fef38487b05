"""Run STEPS steps of train.py, and print JSON: seconds to the first, seconds of the rest, and peak memory in GiB.

BEGAN=$(date +%s.%N) python benchmarks/first_step.py STEPS TRAIN_FLAGS...      # also with torchrun
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
    steps, times, train_step = int(sys.argv[1]), [], train.train_step

    def timed_step(*arguments):
        results = train_step(*arguments)
        if not times or len(times) == steps - 1:
            results[-1][0].item()  # waits for the device
        times.append(time.time())
        if len(times) < steps:
            return results
        if int(os.environ.get("RANK", 0)) == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            result = {"first": times[0] - float(os.environ["BEGAN"]), "rest": times[-1] - times[0], "peak": peak}
            print(json.dumps(result), flush=True)
        os._exit(0)

    train.train_step = timed_step
    train.main(sys.argv[2:])


if __name__ == "__main__":
    main()
