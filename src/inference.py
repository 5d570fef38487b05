"""Predict masks: of a split of the dataset, or of any pictures.

    python src/inference.py --model saved_models/unet.pth                                  # the test split
    python src/inference.py --model saved_models/unet.pth --input photos --output out      # folders, files, globs
    python src/inference.py --model saved_models/unet.pth --input photos --recursive --save cutout overlay --crop
    python src/inference.py --model saved_models/unet.pth --input - --output - < cat.jpg > mask.png

Whatever the network's input size, outputs have the picture's own. A split also gets its scores, and
panels.png: the best, the median and the worst pictures. In Python:

    from inference import load_model, predict
    model = load_model("saved_models/unet.pth")
    probability = predict(model, "cat.jpg")      # float32 (H, W); a list of pictures gives a list
"""

import python_version  # noqa: F401, I001  # before what an older Python cannot read

import io
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from data import eval_loader, load_split
from evaluate import add_data_flags, describe, options_of_data, print_table
from files import make_folder, write_table
from oxford_pet import read_trimap, truth_of
from photos.inputs import choose_names, find_pictures, name_outputs
from photos.outputs import (
    KINDS,
    LARGE,
    MANY_PIXELS,
    box,
    encode,
    foreground_share,
    mask_of,
    render,
    run_lengths,
    save_picture,
)
from photos.pictures import PictureError, read_picture, resize, to_rgb
from predictor import Predictor, load_predictor, predictions
from reports.plots import panel_rows, plot_panels
from runtime import choose_runtime
from scoring import Tally
from splits import SPLITS
from utils import Parser, UserError, confusion, dice, foreground, positive, run, to_size, when_memory_runs_out

# ------------------------------------------------------------------------------- for a notebook


def load_model(path, device="auto", precision="auto", model_type=None) -> Predictor:
    """Open a checkpoint of train.py, or a state_dict of the network `model_type`, for `predict`. Raises UserError."""
    return load_predictor(path, choose_runtime(device, precision), model_type)


def predict(model, pictures, image_size=None, tile=None, tta=False):
    """The probability of foreground for each pixel of each picture.

    pictures: a path, a PIL picture, an array (H, W, 3) or (H, W) of uint8, or a list of these, of any sizes.
    image_size: side of the network's input, by default the checkpoint's. tile: see `tile_probability`.
    -> float32 array (H, W) in [0, 1]; for a list, a list of them. Raises PictureError for a file that cannot be read.
    """
    if not isinstance(pictures, (list, tuple)):
        return predict(model, [pictures], image_size, tile, tta)[0]
    probabilities = []
    for picture in pictures:
        photo = open_photo(picture)
        if tile:
            probability = tile_probability(model, photo, tile, image_size, tta)
        else:
            probability = probability_of(model, [to_input(model, photo, image_size)], tta)[0]
        probabilities.append(to_size(probability, photo.size).numpy())
    return probabilities


def open_photo(picture):
    """A path, PIL picture or uint8 array -> PIL picture in mode RGB."""
    if isinstance(picture, Image.Image):
        return to_rgb(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,), (4,)):
            raise ValueError(
                f"an array must be uint8 (H, W), (H, W, 3) or (H, W, 4), not {picture.dtype} {picture.shape}"
            )
        return to_rgb(Image.fromarray(picture))
    return read_picture(picture)


def to_input(model, photo, image_size=None):
    """A PIL picture as uint8 (C, S, S): what the network takes."""
    size = image_size or model.size
    pixels = np.array(resize(photo.convert("L") if model.channels == 1 else photo, size))
    return torch.from_numpy(pixels.reshape(size, size, -1)).permute(2, 0, 1)


def probability_of(model, images, tta=False):
    """A list of uint8 (C, S, S) as probability float32 (N, S, S) on the CPU."""
    return replace(model, tta=tta).probability(torch.stack(images))[:, 0].cpu()


def tile_probability(model, photo, tile, image_size=None, tta=False):
    """Predict a big photo in squares of `tile` x `tile` of its own pixels, half overlapping, and blend them."""
    width, height = photo.size
    total, weight = torch.zeros(height, width), torch.zeros(height, width)
    ramp = 1 - (torch.arange(tile) + 0.5 - tile / 2).abs() / (tile / 2)  # highest in the middle of a tile
    window = ramp[:, None] * ramp[None, :]
    for top in starts(height, tile):
        for left in starts(width, tile):
            part = photo.crop((left, top, min(left + tile, width), min(top + tile, height)))
            probability = to_size(probability_of(model, [to_input(model, part, image_size)], tta)[0], part.size)
            here = window[: part.height, : part.width]
            total[top : top + part.height, left : left + part.width] += probability * here
            weight[top : top + part.height, left : left + part.width] += here
    return total / weight


def starts(length, tile):
    """Where tiles begin along a side: half a tile apart, the last one ending at the edge."""
    last = max(0, length - tile)
    return [*range(0, last, max(1, tile // 2)), last]


# ------------------------------------------------------------------------------------ a split


def predict_split(model, args):
    """Masks, scores and panels of a split of the dataset."""
    model = replace(model, tta=args.tta)
    dataset = load_split(options_of_data(model.about, args), args.split)
    loader = eval_loader(dataset, args.batch_size, args.workers, model.runtime.device)
    tally, runs = Tally(dataset, (0.5,)), []
    for batch, logits in predictions(model, loader, args.split):
        tally.add(batch, logits)
        for name, one in zip(batch["name"], foreground(logits).sigmoid()[:, 0].cpu(), strict=True):
            mask = mask_of(to_size(one, dataset.original_size(name)))
            save_picture(mask, args.output / f"{name}.png")
            runs.append((name, run_lengths(mask)))
    counts = tally.at(0.5)
    print_table([{"model": str(args.model), **describe(model, args, counts)}])
    worst_first = dice(counts).argsort().tolist()
    n = min(3, len(worst_first))
    middle = (len(worst_first) - n) // 2
    groups = {"best": worst_first[::-1][:n], "median": worst_first[middle : middle + n], "worst": worst_first[:n]}
    rows = [
        {**row, "note": f"{group}: "} for group, places in groups.items() for row in panel_rows(model, dataset, places)
    ]
    plot_panels(rows, f"{args.model.name} on the {args.split} split", args.output / "panels.png")
    if args.rle:
        write_rows(args.rle, ["image_id", "encoded_mask"], runs)
    print(f"wrote {len(runs):,} masks and panels.png into {args.output}")
    return 0


# --------------------------------------------------------------------------------- any pictures


def predict_files(model, args):
    """The outputs of every picture that can be read; what cannot is named at the end. -> exit status.

    Threads read ahead and write behind, so that the network waits for neither.
    """
    sources, problems = find_pictures(args.input, args.recursive)
    if args.names:
        sources = choose_names(sources, args.names)
    folders = {kind: args.output / kind if len(args.save) > 1 else args.output for kind in args.save}
    jobs = list(zip(sources, name_outputs(sources, folders, KINDS), strict=True))
    total, rows, in_network, began = len(jobs) + len(problems), {}, 0.0, time.perf_counter()
    bar = tqdm(total=len(jobs), unit="picture", disable=not sys.stderr.isatty())
    with ThreadPoolExecutor() as readers, ThreadPoolExecutor() as writers:
        writing = deque()

        def finish_writing(allowed):
            while len(writing) > allowed:
                source, future = writing.popleft()
                try:
                    rows[source] = future.result()
                except (PictureError, MemoryError) as error:
                    problems.append(f"{source.path} {error or 'is too large for the memory'}")
                bar.update()

        def run_network(batch):
            nonlocal in_network
            if not batch:
                return
            start = time.perf_counter()
            probabilities = probability_of(model, [image for _, _, _, image in batch], args.tta)
            in_network += time.perf_counter() - start
            for (source, files, size, _), probability in zip(batch, probabilities, strict=True):
                writing.append((source, writers.submit(write_outputs, model, args, source, files, size, probability)))
            finish_writing(2 * args.batch_size)

        batch = []
        for (source, files), read in read_ahead(readers, model, args, jobs):
            if isinstance(read, PictureError):
                problems.append(f"{source.path} {read}")
                bar.update()
                continue
            batch.append((source, files, *read))
            if len(batch) == args.batch_size:
                run_network(batch)
                batch = []
        run_network(batch)
        finish_writing(0)
    bar.close()
    seconds = time.perf_counter() - began
    if args.csv:
        header = ["name", "width", "height", "foreground", "left", "top", "right", "bottom", "dice"]
        write_rows(args.csv, header, [rows[source]["numbers"] for source in sources if source in rows])
    if args.rle:
        runs = [(source.path.stem, rows[source]["runs"]) for source in sources if source in rows]
        write_rows(args.rle, ["image_id", "encoded_mask"], runs)
    speed = f"{len(rows) / seconds:.1f} pictures/s, {100 * in_network / seconds:.0f} % of the time in the network"
    print(f"wrote {', '.join(args.save)} of {len(rows):,} pictures into {args.output}: {speed}")
    if problems:
        raise UserError(f"{len(problems)} of {total} were left out: {'; '.join(problems)}")
    return 0


def read_ahead(pool, model, args, jobs):
    """-> each job with what `read_input` made of it, in order, read by the pool two batches ahead."""
    waiting = deque()
    for job in jobs:
        waiting.append((job, pool.submit(read_input, model, args, job[0].path)))
        if len(waiting) > 2 * args.batch_size:
            job, future = waiting.popleft()
            yield job, future.result()
    for job, future in waiting:
        yield job, future.result()


def read_input(model, args, path):
    """-> the picture's (width, height) and the network's input, or the PictureError that it raised.

    The photo itself is let go, and read again where an output shows it: many large ones do not fit in memory.
    """
    try:
        photo = read_picture(path)
        return photo.size, to_input(model, photo, args.image_size)
    except PictureError as error:
        return error
    except MemoryError:
        return PictureError("is too large for the memory")


def write_outputs(model, args, source, files, size, probability):
    """Write the asked kinds of one picture. -> its row of numbers, and its run lengths."""
    with LARGE if size[0] * size[1] > MANY_PIXELS else nullcontext():
        shown = args.tile or not {"mask", "probability"}.issuperset(files)
        photo = read_picture(source.path) if shown else None
        if args.tile and max(size) > args.tile:
            probability = tile_probability(model, photo, args.tile, args.image_size, args.tta)
        probability = to_size(probability, size)
        for kind, path in files.items():
            save_picture(render(kind, photo, probability, crop=args.crop), path)
        mask = mask_of(probability)
        share = foreground_share(mask)
        scored = dice_beside(source.path, mask, args.border or model.about["border"]) if args.csv else ""
        numbers = [str(source.place), *size, f"{share:.6f}", *box(mask), scored]
        return {"numbers": numbers, "runs": run_lengths(mask) if args.rle else ""}


def dice_beside(path, mask, border):
    """Dice against the trimap in a folder trimaps or annotations/trimaps beside the picture's, or "" without one."""
    for folder in (path.parent.parent / "trimaps", path.parent.parent / "annotations" / "trimaps"):
        if (folder / f"{path.stem}.png").exists():
            try:
                trimap = read_trimap(folder / f"{path.stem}.png")
            except PictureError as error:
                raise PictureError(f"has a trimap that {error}") from None
            if trimap.size != mask.size:
                raise PictureError(f"has a trimap of another size, {trimap.size[0]}x{trimap.size[1]}")
            truth = truth_of(torch.from_numpy(np.array(trimap)), border)[None, None]
            prediction = torch.from_numpy(np.array(mask))[None, None] > 0
            return f"{dice(confusion(prediction, truth)).item():.6f}"
    return ""


def write_rows(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, header, rows, end="\n")


def predict_pipe(model, args):
    """A picture on standard input -> the one kind of output on standard output."""
    try:
        photo = read_picture(io.BytesIO(sys.stdin.buffer.read()))
    except PictureError as error:
        raise UserError(f"--input -: what came {error}; send one picture") from None
    probability = torch.from_numpy(predict(model, photo, args.image_size, args.tile, args.tta))
    encode(render(args.save[0], photo, probability, crop=args.crop), sys.stdout.buffer, KINDS[args.save[0]])
    return 0


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
    parser.add_argument("--crop", action="store_true", help="crop cut-outs to the foreground")
    parser.add_argument("--tile", type=positive, help="predict big photos in squares of this many of their own pixels")
    parser.add_argument("--csv", type=Path, help="with --input: write size, foreground share, box and Dice of each")
    parser.add_argument("--rle", type=Path, help="write image_id,encoded_mask: run lengths by column, counted from 1")
    add_data_flags(parser, batch_size=8, precision="auto")
    return parser


def main():
    args = get_args_parser().parse_args()
    args.save = list(dict.fromkeys(args.save))
    piped = args.input == ["-"]
    if piped != (args.output == "-") or (piped and len(args.save) > 1):
        raise UserError("--input - goes with --output - and one kind of --save; or name files and a folder")
    if not args.input and (args.save != ["mask"] or args.csv or args.names or args.recursive or args.tile or args.crop):
        raise UserError("--save, --csv, --names, --recursive, --tile and --crop are for --input; name pictures with it")
    model = load_model(args.model, args.device, args.precision, args.model_type)
    if piped:
        return predict_pipe(model, args)
    args.output = Path(args.output)
    make_folder(args.output, "--output")
    with when_memory_runs_out(f"use a smaller --batch_size than {args.batch_size}, --image_size or --tile"):
        return predict_files(model, args) if args.input else predict_split(model, args)


if __name__ == "__main__":
    run(main)
