"""Pictures per second of inference.py for each kind of output, and the network's share of the time.

    python benchmarks/outputs.py --input photos                       # as they are
    python benchmarks/outputs.py --input photos --megapixels 12       # enlarged to the size of a phone's
    python benchmarks/outputs.py --input dataset/oxford-iiit-pet/images --limit 200 --save mask overlay

A row is the pipeline that inference.py runs, from files to files. share: seconds of the network alone on the same
pictures, decoded and reduced before and in the same batches, over the pipeline's. Files are read and written in threads
while the network runs, so the rest of the time is what they do not hide, and what the network loses by sharing its
cores with them: at 100 % inference.py would be as fast as its network. inference.py itself prints another share, of
the time in the network as it runs beside the threads, which is larger. Rows take turns; share is the median of the
turns', with their range.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
from turns import in_turns, ratios_to, refuse_noise

from photos.inputs import find_pictures
from photos.outputs import KINDS
from photos.pictures import opened, read_picture
from photos.pipeline import Job, Pipeline, Task
from photos.prediction import probability_of, to_input
from predictor import load_predictor
from runtime import add_runtime_flags, choose_runtime
from utils import Parser, UserError, number, positive, run

RELEASED = Path(__file__).parents[1] / "saved_models" / "resnet34_unet_pets.pth"


def enlarged(sources, megapixels, folder):
    """Copies of pictures as JPEGs of so many megapixels."""
    for index, source in enumerate(sources):
        photo = read_picture(source.path)
        scale = (megapixels * 1e6 / (photo.width * photo.height)) ** 0.5
        size = (round(photo.width * scale), round(photo.height * scale))
        photo.resize(size, Image.Resampling.BICUBIC).save(folder / f"{index}.jpg", quality=92)
    return find_pictures([folder]).sources


def pixels_of(path):
    with opened(path) as picture:
        return picture.width * picture.height


def seconds_of_network(predictor, batches):
    """Seconds of the network alone on batches of what it takes."""
    start = time.perf_counter()
    for batch in batches:
        probability_of(predictor, batch)
    return time.perf_counter() - start


def seconds_of_pipeline(predictor, sources, kind, args, folder):
    """Seconds from picture files to files of one kind."""
    jobs = [Job(index, source, {kind: folder / f"{index}{KINDS[kind]}"}) for index, source in enumerate(sources)]
    pipeline = Pipeline(predictor, Task(), args.batch_size, folder)
    start = time.perf_counter()
    pipeline.run(jobs)
    seconds = time.perf_counter() - start
    if pipeline.outcome.stopped or pipeline.outcome.problems:
        raise UserError(pipeline.outcome.stopped or "; ".join(pipeline.outcome.problems.values()))
    return seconds


def report(predictor, sources, args, folder):
    """Print a row for the network alone and one for each kind of output."""
    inputs = [to_input(predictor, read_picture(source.path)) for source in sources]
    batches = [inputs[first : first + args.batch_size] for first in range(0, len(inputs), args.batch_size)]
    turns = {"network": lambda: seconds_of_network(predictor, batches)}
    for kind in args.save:
        turns[kind] = lambda kind=kind: seconds_of_pipeline(predictor, sources, kind, args, folder)
    seconds_of_network(predictor, batches[:1])  # warm
    seconds = in_turns(turns, args.rounds)
    shares = ratios_to("network", seconds)
    print(f"{'':14}{'pictures/s':>12}{'share':>10}{'range':>16}")
    for name, values in seconds.items():
        speed, share = len(sources) / statistics.median(values), statistics.median(shares[name])
        spread = f"{min(shares[name]):.0%} to {max(shares[name]):.0%}"
        print(f"{name:14}{speed:12.1f}{share:10.0%}{spread:>16}")
    refuse_noise({name: (min(values), max(values)) for name, values in shares.items()})


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", type=Path, default=RELEASED, help="checkpoint; default saved_models/resnet34_unet_pets.pth")
    add("--input", nargs="+", required=True, help="pictures: files, folders, globs")
    add("--limit", type=positive, help="pictures; default: all")
    size = number(float, lambda x: 0 < x <= 1000, "a number above 0, at most 1,000")
    add("--megapixels", type=size, help="enlarge copies of the pictures to this size")
    add("--save", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of output; default: all, a row each")
    add("--batch_size", "-b", type=positive, default=8, help="default %(default)s")
    add("--rounds", type=positive, default=3, help="turns of each; default %(default)s")
    add_runtime_flags(parser)
    args = parser.parse_args()
    predictor = load_predictor(args.model, choose_runtime(args.device, args.precision))
    sources = find_pictures(args.input).sources[: args.limit]
    with tempfile.TemporaryDirectory() as scratch:
        if args.megapixels:
            (Path(scratch) / "in").mkdir()
            sources = enlarged(sources, args.megapixels, Path(scratch) / "in")
        pixels = statistics.median(pixels_of(source.path) for source in sources)
        runtime = predictor.runtime
        print(
            f"{args.model.stem}, {len(sources)} pictures, median {pixels / 1e6:.2f} megapixels, batches of "
            f"{args.batch_size}; {runtime.device.type}, {torch.get_num_threads()} threads, {runtime.precision}, "
            f"torch {torch.__version__}"
        )
        (Path(scratch) / "out").mkdir()
        report(predictor, sources, args, Path(scratch) / "out")
    return 0


if __name__ == "__main__":
    run(main)
