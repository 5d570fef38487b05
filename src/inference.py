"""Predict masks: of a split of the dataset, or of any pictures.

    python src/inference.py --model saved_models/unet.pth                                  # the test split
    python src/inference.py --model saved_models/unet.pth --input photos --output out      # folders, files, globs
    python src/inference.py --model saved_models/unet.pth --input photos --recursive --save cutout overlay --crop
    python src/inference.py --model saved_models/unet.pth --input - --output - < cat.jpg > mask.png
    torchrun --nproc_per_node 2 src/inference.py --model saved_models/unet.pth --input photos    # share the files

Whatever the network's input size, outputs have the picture's own. A split also gets its scores, and
panels.png: the best, the median and the worst pictures. In Python:

    from inference import load_model, predict
    model = load_model("saved_models/unet.pth")
    probability = predict(model, "cat.jpg")      # float32 (H, W); a list of pictures gives a list
"""

if __name__ == "__main__":
    import startup  # noqa: F401  # before torch is imported

import io
import os
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from data import eval_loader, load_split
from files import CannotWrite, make_folder, printable
from flags import add_data_flags, options_of_data
from leakage import scores_apart
from photos.budget import ends_in_time
from photos.inputs import choose_names, find_pictures, labels, name_outputs
from photos.marks import mark, mark_of, may_write
from photos.outputs import (
    KINDS,
    Style,
    encode,
    keep_largest,
    mask_of,
    read_background,
    render,
    run_lengths,
    save_picture,
)
from photos.pictures import PictureError, read_picture
from photos.pieces import SPECK
from photos.pipeline import Job, Outcome, Pipeline, Task
from photos.prediction import load_model, open_photo, predict, probability_at_own_size
from photos.tables import RUNS_HEADER, check_tables, former_rows, write, write_tables
from predictor import load_predictor, predictions
from reports.plots import example_rows, plot_panels
from reports.table import describe, print_table
from runtime import choose_runtime
from scoring import Tally
from splits import SPLITS
from training.distributed import all_of, finish, first_alone, on_first, rank, start, world_size
from utils import Parser, UserError, dice, foreground, run, side, threshold, to_size, when_memory_runs_out

__all__ = ["load_model", "open_photo", "predict"]  # for notebooks, and the commands


# ------------------------------------------------------------------------------------ a split


def predict_split(model, args):
    """Masks, scores and panels of a split of the dataset."""
    limit = choose_threshold(model, args)
    with first_alone():
        dataset = load_split(options_of_data(model.about, args), args.split)
    files = {name: args.output / f"{name}.png" for name in dataset.names}
    panels = args.output / ("panels.png" if "panels" not in files else "panels-2.png")
    on_first(lambda: check_room_for([*files.values(), panels]))
    loader = eval_loader(dataset, args.batch_size, args.workers, model.runtime.device)
    tally, runs = Tally(dataset, (limit,)), {}
    for batch, logits in predictions(model, loader, args.split):
        tally.add(batch, logits)
        for name, one in zip(batch["name"], foreground(logits).sigmoid()[:, 0].cpu(), strict=True):
            mask = mask_of(to_size(one, dataset.original_size(name)), limit)
            save_picture(mask, files[name], mark(f"{args.split} {name}"))
            runs[name] = run_lengths(mask)
    counts = tally.at(limit)
    for part in all_of(runs):
        runs |= part
    if rank() == 0:
        apart = {"scored_at": limit, **scores_apart(model.about, dataset, dice(counts))}
        print_table([{"model": str(args.model), **describe(model, dataset, args, counts), **apart}])
        rows = example_rows(model, dataset, dice(counts), limit)
        title = f"{args.model.name} on the {args.split} split{at_threshold(args)}"
        plot_panels(rows, title, panels, mark(args.split))
        if args.rle:
            write(args.rle, RUNS_HEADER, [(name, runs[name]) for name in dataset.names])
        print(f"wrote {len(runs):,} masks{at_threshold(args)} and {panels.name} into {args.output}")


def check_room_for(files):
    """Raise UserError where a file would be lost."""
    kept = next((file for file in files if not may_write(file)), None)
    if kept:
        raise UserError(f"{kept} is there, without the mark of inference.py; remove it, or name another --output")


# --------------------------------------------------------------------------------- any pictures


def predict_files(model, args):
    """The outputs of every picture that can be read; what cannot is named at the end. Returns the exit status."""
    began = time.perf_counter()
    found, jobs, former = on_first(lambda: plan(args))
    border = (args.border or model.about["border"]) if args.csv else None
    task = Task(choose_style(model, args), args.tile, border, bool(args.rle))
    pipeline = Pipeline(model, task, args.batch_size, args.output)
    outcome = Outcome(rows=dict(former))
    try:
        pipeline.run([job for job in jobs if job.index not in former])
    except BaseException:  # a signal, or no memory for the network
        outcome.add(pipeline.outcome)
        if rank() == 0:
            for line in write_tables(jobs, outcome.rows, args.csv, args.rle):
                print(f"note: {line}", file=sys.stderr)
        raise
    for part in all_of(pipeline.outcome):
        outcome.add(part)
    if rank() == 0:
        lost = write_tables(jobs, outcome.rows, args.csv, args.rle)
        report(found, outcome, args, len(outcome.rows) - len(former), time.perf_counter() - began, lost)
    return 0


def plan(args):
    """What was found, a job for each picture, and with --skip_existing the rows of those that are done."""
    folders = {kind: args.output / kind if len(args.save) > 1 else args.output for kind in args.save}
    found = find_pictures(args.input, args.recursive, {args.output, *folders.values()})
    sources = choose_names(found.sources, args.names) if args.names else found.sources
    sources = sources[: args.limit]
    tables = [path for path in (args.csv, args.rle) if path]
    clash = {os.path.realpath(path) for path in tables} & {os.path.realpath(source.path) for source in sources}
    if clash:
        raise UserError(f"{clash.pop()} is one of the pictures; name another file for the table")
    endings = {**KINDS, "cutout": "/1.png"} if args.each else KINDS
    named = zip(sources, name_outputs(sources, folders, endings, tables), labels(sources), strict=True)
    jobs = [
        Job(index, source, files, mark_of(source.path), *map(printable, names))
        for index, (source, files, names) in enumerate(named)
    ]
    if not args.skip_existing:
        return found, jobs, {}
    return found, jobs, former_rows([job for job in jobs if job.is_done()], args.csv, args.rle)


def report(found, outcome, args, written, seconds, lost):
    """Say what was done. lost: of the tables, why they were not written. Raises UserError where something was not."""
    share = outcome.network_seconds / world_size() / seconds
    kinds = f"{', '.join(args.save)}{at_threshold(args)}"
    print(
        f"wrote {kinds} of {written:,} pictures into {args.output}: {written / seconds:.1f} pictures/s, "
        f"{100 * share:.0f} % of the time in the network"
    )
    if args.skip_existing:
        print(f"skipped {len(outcome.rows) - written:,} pictures whose outputs exist")
    if found.describe_others():
        print(found.describe_others())
    if outcome.warnings:
        print(f"note: {len(outcome.warnings):,} were read with warnings: {'; '.join(in_order(outcome.warnings))}")
    problems = [*found.left_out, *in_order(outcome.problems)]
    left_out = f"{len(problems)} of {written + len(problems)} were left out: {'; '.join(problems)}" if problems else ""
    stopped = [outcome.stopped, "--skip_existing resumes the run"] if outcome.stopped else []
    if stopped or left_out or lost:
        raise UserError("; ".join(filter(None, [*stopped, left_out, *lost])))


def in_order(lines):
    return [lines[index] for index in sorted(lines)]


def choose_threshold(model, args):
    """The probability from which a pixel is foreground. Raises UserError."""
    if args.threshold != "chosen":
        return args.threshold
    if not model.about.get("threshold"):
        raise UserError(f"--threshold chosen: {args.model} records no threshold; give a number")
    args.threshold = model.about["threshold"]
    return args.threshold


def choose_style(model, args):
    """How outputs are drawn. Raises UserError."""
    if args.matting and not find_spec("pymatting"):
        raise UserError("--matting needs PyMatting; pip install -r requirements-matting.txt")
    method = "closed_form" if args.matting else "guided"
    background = read_background(args.background) if args.background else None
    return Style(choose_threshold(model, args), args.largest, args.crop, method, background, args.each)


def at_threshold(args):
    return "" if args.threshold == 0.5 else f" at threshold {args.threshold:.3g}"


def predict_pipe(model, args):
    """Turn a picture on standard input into the one kind of output on standard output."""
    if not (sys.stdin and sys.stdout):
        raise UserError("--input - and --output - need a standard input and output; name a picture and a folder")
    try:
        photo = read_picture(io.BytesIO(sys.stdin.buffer.read()), keep_alpha=True)
    except PictureError as error:
        raise UserError(f"--input -: what came {error}; send one picture") from None
    probability = probability_at_own_size(model, photo, args.tile)
    style = choose_style(model, args)
    if style.largest:
        probability = keep_largest(probability, style.threshold)
    made = io.BytesIO()
    encode(render(args.save[0], photo, probability, style), made, KINDS[args.save[0]])
    try:
        sys.stdout.buffer.write(made.getvalue())
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotWrite("--output -", error) from None


def get_args_parser():
    parser = Parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint")
    parser.add_argument("--input", nargs="+", help="pictures: files, folders, globs, or - for stdin; default: a split")
    parser.add_argument("--recursive", action="store_true", help="with --input: sub-folders too, kept in the output")
    parser.add_argument("--names", type=Path, help="with --input: a text file that names the pictures to use, in order")
    parser.add_argument("--split", choices=SPLITS, default="test", help="without --input; default %(default)s")
    parser.add_argument("--output", default="predictions", help="folder, or - for stdout; default %(default)s")
    parser.add_argument(
        "--save",
        nargs="+",
        choices=KINDS,
        default=["mask"],
        help="with --input; several kinds get a folder each; default mask. mask: PNG of 0 and 255; probability: 16-bit "
        "PNG; overlay: mask and outline over the photo; cutout: transparent PNG; panel: photo, probability, overlay",
    )
    parser.add_argument(
        "--threshold",
        type=threshold,
        default=0.5,
        help="probability from which a pixel is foreground; `chosen`: the checkpoint's own; default %(default)s",
    )
    parser.add_argument("--crop", action="store_true", help="crop cut-outs to the foreground")
    parser.add_argument("--largest", action="store_true", help="keep the largest connected piece of foreground alone")
    parser.add_argument(
        "--each",
        action="store_true",
        help=f"a folder of cut-outs for each picture: one for each piece of {100 * SPECK:g} %% of the picture or more",
    )
    parser.add_argument(
        "--matting",
        action="store_true",
        help="cut-outs by closed-form matting: slower, needs PyMatting; pip install -r requirements-matting.txt",
    )
    parser.add_argument("--background", metavar="COLOR|FILE", help="put cut-outs on a colour or a picture")
    parser.add_argument("--tile", type=side, help="predict big photos in squares of this many of their own pixels")
    parser.add_argument("--csv", type=Path, help="with --input: write size, foreground share, box and Dice of each")
    parser.add_argument("--rle", type=Path, help="write image_id,encoded_mask: run lengths by column, counted from 1")
    parser.add_argument(
        "--skip_existing",
        action="store_true",
        help="with --input: resume a stopped run: skip pictures whose outputs exist and are in --csv and --rle",
    )
    add_data_flags(parser, batch_size=8, precision="auto")
    return parser


FOR_CUTOUTS = ("crop", "each", "matting", "background")  # flags that go with --save cutout only
FOR_FILES = ("each", "csv", "rle", "names", "recursive", "skip_existing", "limit")  # not for standard input
FOR_INPUT = ("csv", "names", "recursive", "tile", "largest", "skip_existing", *FOR_CUTOUTS)


def check_flags(args):
    """Raises UserError for flags that do not go together."""
    piped = args.input == ["-"]
    if piped != (args.output == "-") or (piped and len(args.save) > 1):
        raise UserError("--input - goes with --output - and one kind of --save; or name files and a folder")
    wrong = [f"--{flag}" for flag in FOR_INPUT if getattr(args, flag)]
    wrong += ["--save"] if args.save != ["mask"] else []
    if wrong and not args.input:
        raise UserError(f"{', '.join(wrong)} are for --input; name pictures with it")
    wrong = [f"--{flag}" for flag in FOR_CUTOUTS if getattr(args, flag)]
    if wrong and "cutout" not in args.save:
        raise UserError(f"{', '.join(wrong)} are for cut-outs; add cutout to --save")
    wrong = [f"--{flag}" for flag in FOR_FILES if getattr(args, flag)]
    if wrong and piped:
        raise UserError(f"{', '.join(wrong)} are for files; name them with --input, and a folder with --output")


def main():
    args = get_args_parser().parse_args()
    args.save = list(dict.fromkeys(args.save))
    check_flags(args)
    runtime = choose_runtime(args.device, args.precision)
    runtime = start(runtime)
    model = load_predictor(args.model, runtime, args.model_type, args.tta)
    piped = args.input == ["-"]
    if not piped:
        args.output = Path(args.output)
        make_folder(args.output, "--output")
        on_first(lambda: check_tables(args.csv, args.rle))
    with (
        ends_in_time(),
        when_memory_runs_out(f"use a smaller --batch_size than {args.batch_size}, --image_size or --tile"),
    ):
        if piped:
            predict_pipe(replace(model, size=args.image_size or model.size), args)
        elif args.input:
            predict_files(replace(model, size=args.image_size or model.size), args)
        else:
            predict_split(model, args)
    finish()
    return 0


if __name__ == "__main__":
    run(main)
