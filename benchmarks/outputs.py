"""Measure images per second of predict.py for each kind of output, and the network's fraction of the time.

    python benchmarks/outputs.py --input photos                       # at original size
    python benchmarks/outputs.py --input photos --megapixels 12       # enlarged to a phone's 12 megapixels
    python benchmarks/outputs.py --input dataset/oxford-iiit-pet/images --limit 200 --save mask overlay

Each row times predict.py's pipeline, from image files to output files. fraction: the time of the network by itself,
on the same images in the same batches, decoded and resized beforehand, divided by the pipeline's time. The pipeline
reads and writes files in threads while the network runs, so 100% means that predict.py is as fast as its network.
Rows take turns; fraction is the median over the rounds, followed by its range.
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

from photos.decode import open_image, read_image
from photos.inputs import Job, find_images
from photos.outputs import KINDS
from photos.pipeline import Pipeline
from photos.prediction import probability_of, to_input
from predictor import load_predictor
from runtime import add_runtime_flags, choose_runtime
from utils import Parser, UserError, checked, positive_int, run

RELEASED = Path(__file__).parents[1] / "saved_models" / "resnet34_unet_pets.pth"


def enlarged(paths, megapixels, folder):
    """Write copies of images as JPEGs of `megapixels`, and return their paths."""
    for index, path in enumerate(paths):
        photo = read_image(path)
        scale = (megapixels * 1e6 / (photo.width * photo.height)) ** 0.5
        size = (round(photo.width * scale), round(photo.height * scale))
        photo.resize(size, Image.Resampling.BICUBIC).save(folder / f"{index}.jpg", quality=92)
    return list(find_images([folder])[0])


def pixels_of(path):
    with open_image(path) as image:
        return image.width * image.height


def seconds_of_network(predictor, batches):
    """Return the seconds that the network takes for batches of its input."""
    start = time.perf_counter()
    for batch in batches:
        probability_of(predictor, batch)
    return time.perf_counter() - start


def seconds_of_pipeline(predictor, paths, kind, args, folder):
    """Return the seconds from image files to output files of one kind."""
    jobs = [Job(path, {kind: folder / f"{index}{KINDS[kind]}"}) for index, path in enumerate(paths)]
    pipeline, results = Pipeline(predictor, batch_size=args.batch_size), []
    start = time.perf_counter()
    pipeline.run(jobs, results.append)
    seconds = time.perf_counter() - start
    problems = [f"{result.job.path} {result.problem}" for result in results if result.problem]
    if problems:
        raise UserError("; ".join(problems))
    return seconds


def report(predictor, paths, args, folder):
    """Print a row for the network by itself and one for each kind of output."""
    inputs = [to_input(predictor, read_image(path)) for path in paths]
    batches = [inputs[first : first + args.batch_size] for first in range(0, len(inputs), args.batch_size)]
    turns = {"network": lambda: seconds_of_network(predictor, batches)}
    for kind in args.save:
        turns[kind] = lambda kind=kind: seconds_of_pipeline(predictor, paths, kind, args, folder)
    seconds_of_network(predictor, batches[:1])  # warm-up
    seconds = in_turns(turns, args.rounds)
    fractions = ratios_to("network", seconds)
    print(f"{'':14}{'images/s':>12}{'fraction':>10}{'range':>16}")
    for name, values in seconds.items():
        speed, fraction = len(paths) / statistics.median(values), statistics.median(fractions[name])
        spread = f"{min(fractions[name]):.0%} to {max(fractions[name]):.0%}"
        print(f"{name:14}{speed:12.1f}{fraction:10.0%}{spread:>16}")
    refuse_noise({name: (min(values), max(values)) for name, values in fractions.items()})


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", type=Path, default=RELEASED, help="checkpoint; default saved_models/resnet34_unet_pets.pth")
    add("--input", nargs="+", required=True, help="image files, folders or globs")
    add("--limit", type=positive_int, help="use the first LIMIT images; default: all")
    size = checked(float, lambda x: 0 < x <= 1000, "a number above 0, at most 1,000")
    add("--megapixels", type=size, help="enlarge copies of the images to this size")
    add("--save", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of output, one row each; default: all")
    add("--batch_size", "-b", type=positive_int, default=8, help="images per batch; default %(default)s")
    add("--rounds", type=positive_int, default=3, help="number of rounds; default %(default)s")
    add_runtime_flags(parser)
    args = parser.parse_args()
    predictor = load_predictor(args.model, choose_runtime(args.device, args.precision))
    paths = list(find_images(args.input)[0])[: args.limit]
    with tempfile.TemporaryDirectory() as scratch:
        if args.megapixels:
            (Path(scratch) / "in").mkdir()
            paths = enlarged(paths, args.megapixels, Path(scratch) / "in")
        pixels = statistics.median(pixels_of(path) for path in paths)
        runtime = predictor.runtime
        print(
            f"{args.model.stem}, {len(paths)} images, median {pixels / 1e6:.2f} megapixels, batches of "
            f"{args.batch_size}; {runtime.device.type}, {torch.get_num_threads()} threads, {runtime.precision}, "
            f"torch {torch.__version__}"
        )
        (Path(scratch) / "out").mkdir()
        report(predictor, paths, args, Path(scratch) / "out")
    return 0


if __name__ == "__main__":
    run(main)
