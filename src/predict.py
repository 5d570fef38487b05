"""Segment photos: write masks, probabilities, overlays and cutouts at original size, or small panels.

    python src/predict.py cat.jpg --model unet.pth --output cat.png
    python src/predict.py photos --model unet.pth --output out --save mask overlay --csv numbers.csv
    python src/predict.py photos --recursive --model unet.pth --save cutout --crop --skip_existing
    python src/predict.py - --model unet.pth < cat.jpg > mask.png

Outputs are NAME.png (overlays and panels: NAME.jpg; --each: NAME/1.png), in a folder per kind if --save has several.
In a notebook:

    from petseg import load_model, predict   # after: pip install -e .
    model = load_model("unet.pth")
    probability = predict(model, "cat.jpg")  # float32 array (H, W); a list of images gives a list
"""

if __name__ == "__main__":
    import startup  # noqa: F401  # before torch is imported

import csv
import os
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

from files import CannotWrite, make_folder
from flags import add_predictor_flags
from photos.components import SMALL
from photos.decode import suffixes
from photos.inputs import Job, describe_unused, find_images, plan, refuse_existing
from photos.matting import edge_depth
from photos.outputs import KINDS, Style, read_background
from photos.pipeline import Pipeline, Result
from predictor import load_predictor
from runtime import choose_runtime
from scoring import add_threshold_flag, resolve_threshold
from splits import first_few
from utils import Parser, UserError, count_of, image_side, run, user_path, when_memory_runs_out

CSV_HEADER = ["name", "width", "height", "foreground", "left", "top", "right", "bottom"]
ENCODING = {"encoding": "utf-8", "errors": "backslashreplace"}  # of CSV files
FOR_CUTOUTS = ("crop", "each", "matting", "background")  # flags that need --save cutout
FOR_FILES = ("each", "csv", "rle", "recursive", "skip_existing")  # flags that cannot be used with -


class Table:
    """A CSV file, written row by row. names: the first cell of each row."""

    def __init__(self, flag, path, header, args):
        make_folder(path.parent, flag)
        mode = "w" if args.overwrite else "a+" if args.skip_existing else "x"
        try:
            self.file = open(path, mode, buffering=1, newline="", **ENCODING)  # noqa: SIM115  # a line at a time
        except OSError as error:
            raise CannotWrite(path, error) from None
        self.names, rows = set(), []
        if args.skip_existing:
            self.file.seek(0)
            rows = [line for line in self.file if line.endswith("\n")]
            self.file.truncate(len("".join(rows).encode(**ENCODING)))  # without a row that a full disk cut off
            csv.field_size_limit(2**31 - 1)  # for run lengths
            self.names = {row[0] for row in csv.reader(rows[1:]) if row}
        if not rows:
            self.write(header)

    def add(self, *row):
        """Add a row, unless there is one with this name."""
        if row[0] not in self.names:
            self.names.add(row[0])
            self.write(row)

    def write(self, row):
        try:
            csv.writer(self.file, lineterminator="\n").writerow(row)
        except OSError as error:
            raise CannotWrite(self.file.name, error) from None


def unfinished(jobs: list[Job], numbers: Table | None, runs: Table | None) -> list[Job]:
    """Return the jobs that lack outputs and, with `files` emptied, those that lack only CSV rows (after a kill)."""
    found = []
    for job in jobs:
        if not all(path.exists() for path in job.files.values()):
            found.append(job)
        elif (numbers and job.name not in numbers.names) or (runs and job.image_id not in runs.names):
            found.append(replace(job, files={}))
    return found


def predict_files(args):
    """Write the outputs for all images. Raises UserError, listing the failed images."""
    jobs, unused = find_jobs(args)
    if not (args.overwrite or args.skip_existing):
        tables = [path for path in (args.csv, args.rle) if path]
        refuse_existing([*tables, *(path for job in jobs for path in job.files.values())])
    predictor, style = prepare(args)
    numbers = Table("--csv", args.csv, CSV_HEADER, args) if args.csv else None
    runs = Table("--rle", args.rle, ["image_id", "encoded_mask"], args) if args.rle else None
    todo = unfinished(jobs, numbers, runs) if args.skip_existing else jobs
    pipeline = Pipeline(predictor, style, args.batch_size, args.tile, with_runs=bool(args.rle))
    written, empty, problems = 0, [], {}
    bar = tqdm(total=len(todo), unit="image", disable=None)  # None: if stderr is not a terminal
    began = time.perf_counter()

    def add(result: Result):
        nonlocal written
        bar.update()
        if result.problem:
            problems.setdefault(result.problem, []).append(str(result.job.path))
            return
        written += 1
        if not any(result.numbers[3:]):
            empty.append(result.job.name)
        if numbers:
            numbers.add(result.job.name, *result.numbers)
        if runs:
            runs.add(result.job.image_id, result.runs)

    with warnings.catch_warnings(record=True) as notes, bar:
        try:
            pipeline.run(todo, add)
        except BaseException:
            flag = "--overwrite" if args.overwrite else "--skip_existing"
            print(f"stopped after {count_of(written, 'image')}; rerun with {flag}", file=sys.stderr)
            raise
    speed = written / (time.perf_counter() - began)
    print(f"wrote {', '.join(args.save)} for {count_of(written, 'image')} to {args.output}: {speed:.1f} images/s")
    if args.skip_existing:
        print(f"skipped {count_of(len(jobs) - len(todo), 'finished image')}")
    if unused:
        print(describe_unused(unused))
    for text in texts_of(notes):
        print("note:", text)
    if empty:
        advice = "for small pets try --tile 1024 or a lower --threshold"
        print(f"note: no foreground in {count_of(len(empty), 'image')} (e.g. {empty[0]}); {advice}")
    if problems:
        number, reasons = sum(map(len, problems.values())), []
        for reason, paths in problems.items():
            for path in paths[5:]:  # the others are in the error
                print(path, reason, file=sys.stderr)
            reasons.append(f"{first_few(paths)}{':' if len(paths) > 1 else ''} {reason}")
        raise UserError(f"{number:,} of {count_of(len(todo), 'image')} failed: {'; '.join(reasons)}; fix or omit them")


def texts_of(notes) -> list[str]:
    """Return the texts of warnings, each once: outputs may read a photo again."""
    return list(dict.fromkeys(str(note.message) for note in notes))


def find_jobs(args):
    """Return the jobs, and the number of ignored files and subfolders, by kind. Raises UserError."""
    output = args.output
    images, unused = find_images(args.images, args.recursive, output)
    if is_image_name(output):
        if len(images) > 1 or len(args.save) > 1 or args.each:
            raise UserError(f"--output {output} is one file; choose a folder for several outputs")
        [path] = images
        if os.path.realpath(output) == os.path.realpath(path):
            raise UserError(f"--output {output} is the input; choose another file")
        return [Job(path, {args.save[0]: output}, path.name, path.stem)], unused
    for folder in {path.parent.resolve() for path in images}:
        if folder.is_relative_to(output.resolve()):
            raise UserError(f"--output {output} contains the inputs; choose another folder")
    make_folder(output, "--output")
    folders = {kind: output / kind if len(args.save) > 1 else output for kind in args.save}
    return plan(images, folders, KINDS | {"cutout": "/1.png"} if args.each else KINDS), unused


def is_image_name(path: Path):
    return path.suffix.lower() in suffixes() and not path.is_dir()


def prepare(args):
    """Make the predictor and the style from the flags. Raises UserError."""
    if args.matting and not find_spec("pymatting"):
        raise UserError("--matting needs PyMatting; pip install -r requirements-matting.txt")
    background = read_background(args.background) if args.background else None
    runtime = choose_runtime(args.device, args.precision)
    predictor = load_predictor(args.model, runtime, args.model_type, args.tta)
    predictor = replace(predictor, size=args.image_size or predictor.size)
    threshold = resolve_threshold(args.threshold, predictor.checkpoint, args.model)
    edge = edge_depth(predictor.checkpoint)
    return predictor, Style(threshold, args.largest, args.crop, args.matting, background, edge, args.each)


def predict_stream(args):
    """Predict the image on standard input, and write to standard output."""
    predictor, style = prepare(args)
    kind, results = args.save[0], []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as notes:
        source, output = Path(folder, "input"), Path(folder, f"output{KINDS[kind]}")
        source.write_bytes(sys.stdin.buffer.read())
        Pipeline(predictor, style, tile=args.tile).run([Job(source, {kind: output})], results.append)
        if results[0].problem:
            raise UserError(f"standard input {results[0].problem}; pass one image")
        sys.stdout.buffer.write(output.read_bytes())
        sys.stdout.buffer.flush()
    for text in texts_of(notes):
        print("note:", text.replace(str(source), "standard input"), file=sys.stderr)


def check_flags(args):
    """Raise UserError for flags that cannot be combined."""
    wrong = [f"--{flag}" for flag in FOR_CUTOUTS if getattr(args, flag)]
    if wrong and "cutout" not in args.save:
        raise UserError(f"{', '.join(wrong)} cannot be used without cutouts; add cutout to --save")
    wrong = [f"--{flag}" for flag in FOR_FILES if getattr(args, flag)]
    if "-" in args.images and (wrong or len(args.images) > 1 or len(args.save) > 1):
        rest = f"; omit {', '.join(wrong)}" if wrong else ""
        raise UserError(f"- (stdin and stdout) takes one image and one kind of --save{rest}")
    for flag, path in (("--csv", args.csv), ("--rle", args.rle)):
        if path and is_image_name(path):
            raise UserError(f"{flag} {path} is not a CSV file; choose a .csv file")
    is_photo = KINDS[args.save[0]] == ".jpg" or args.background
    endings = [".jpeg", ".jpg", ".png"] if is_photo else [".png"]
    if is_image_name(args.output) and args.output.suffix.lower() not in endings:
        raise UserError(f"--output {args.output} must end in {' or '.join(endings)} for --save {args.save[0]}")


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="files, folders or globs; - reads from stdin and writes to stdout")
    add("--model", type=user_path, required=True, help="checkpoint")
    add("--output", type=user_path, default="predictions", help="folder, or file for one image; default %(default)s")
    panel = "outputs; panel: photo, probability and overlay side by side; default mask"
    add("--save", nargs="+", choices=KINDS, default=["mask"], help=panel)
    add("--recursive", action="store_true", help="search subfolders too, and mirror them in --output")
    existing = parser.add_mutually_exclusive_group().add_argument
    existing("--overwrite", action="store_true", help="replace existing outputs and CSV files")
    existing("--skip_existing", action="store_true", help="skip images with outputs and CSV rows; append to CSV files")
    add_threshold_flag(parser)
    add("--largest", action="store_true", help="keep only the largest connected component")
    add("--crop", action="store_true", help="crop cutouts to the foreground")
    each = f"cut out each component of at least {100 * SMALL:g}%% of the image, and the largest; a folder per image"
    add("--each", action="store_true", help=each)
    add("--background", metavar="COLOR|FILE", help="color or image behind cutouts")
    add("--matting", action="store_true", help="closed-form matting (slower); see requirements-matting.txt")
    add("--tile", type=image_side, help="predict photos larger than TILE pixels in tiles of this size")
    add("--csv", type=user_path, help="CSV file for image sizes, foreground fractions and bounding boxes")
    add("--rle", type=user_path, help="CSV file for image_id,encoded_mask (column-major, 1-based RLE pairs)")
    add_predictor_flags(parser)
    args = parser.parse_args()
    check_flags(args)
    with when_memory_runs_out("use a smaller --batch_size, --image_size or --tile"):
        predict_stream(args) if args.images == ["-"] else predict_files(args)


if __name__ == "__main__":
    run(main)
