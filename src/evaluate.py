"""Score checkpoints on a split of the data they were trained on.

    python src/evaluate.py --model saved_models/unet.pth                       # the test split
    python src/evaluate.py --model saved_models/*.pth --split valid            # several in one table
    python src/evaluate.py --model saved_models/unet.pth --output scores/unet  # + scores/unet.json, .csv
    python src/evaluate.py --model saved_models/unet.pth --protocols           # under every published protocol

Scores are means over pictures; a picture's Dice is taken at probability .5 unless --threshold says otherwise, and two
empty masks score 1. They are computed in float32 unless --precision says otherwise, so that they come out the same on
every machine.
"""

import python_version  # noqa: F401, I001  # before what an older Python cannot read

import json
import time
from dataclasses import replace
from pathlib import Path

from checkpoint import load
from data import choose_dataset, eval_loader, load_split
from files import write_table, write_whole
from leakage import scores_apart, warning
from models import MODELS
from predictor import make_predictor
from reports import protocols
from runtime import add_runtime_flags, choose_runtime
from scoring import Tally, add_threshold_flag, describe_threshold, evaluate, resolve_threshold
from splits import BORDERS, SPLITS, DataOptions, add_split_flags
from training.distributed import finish, first_alone, rank, start
from utils import Parser, UserError, count, dice, jaccard, positive, run, scores, side, when_memory_runs_out


def options_of_data(about: dict, args) -> DataOptions:
    """The data a checkpoint is scored on: its own dataset and settings, unless the flags say otherwise.

    about: the checkpoint's entries. Raises UserError.
    """
    dataset, path = choose_data(about, args.data_path)
    return DataOptions(
        dataset=dataset,
        path=path,
        image_size=args.image_size or about["image_size"],
        in_channels=about["options"]["in_channels"],
        border=args.border or about["border"],
        limit=args.limit,
        cache_dir=args.cache_dir,
        **split_options(about, args, dataset, path),
    )


def choose_data(about: dict, data_path: Path | None) -> tuple[str, Path | None]:
    """The name and the folder of the data: --data_path, else the checkpoint's own. Raises UserError."""
    recorded = recorded_settings(about).get("data_path")
    if data_path is None and about["dataset"] != "shapes" and isinstance(recorded, str) and Path(recorded).is_dir():
        data_path = Path(recorded)
    same = data_path is None or str(data_path) == recorded
    return choose_dataset(about["dataset"] if same else None, data_path)


def split_options(about: dict, args, dataset: str, path: Path | None) -> dict:
    """Mask values, lists and fold: the flags', else those of the checkpoint's own run where they are of this data."""
    recorded = recorded_settings(about)
    same = dataset == about["dataset"] and (dataset != "folder" or str(path) == recorded.get("data_path"))
    options: dict = {}
    for name in (f"{split}_list" for split in SPLITS):
        listing = recorded.get(name) if same else None
        options[name] = getattr(args, name) or (Path(listing) if isinstance(listing, str) else None)
    values = recorded.get("foreground") if dataset == about["dataset"] == "folder" else None
    options["foreground"] = tuple(args.foreground or (map(str, values) if isinstance(values, list) else ()))
    cut = recorded.get("fold") if same and not (options["train_list"] or options["valid_list"]) else None
    options["fold"] = cut if isinstance(cut, str) else None
    return options


def recorded_settings(about: dict) -> dict:
    """The flags of train.py that a checkpoint was made with; none where it has no record."""
    settings = about.get("settings")
    return settings if isinstance(settings, dict) else {}


def add_data_flags(parser, batch_size=32, precision="float32"):
    parser.add_argument("--model_type", choices=MODELS, help="the network's name, where --model is a plain state_dict")
    parser.add_argument(
        "--data_path",
        type=Path,
        help="folder of the pets, or one with images/ and masks/ of your own; default: the checkpoint's, else "
        "dataset/oxford-iiit-pet",
    )
    parser.add_argument(
        "--cache_dir", type=Path, help="where decoded pictures are kept; default: cache/ in --data_path"
    )
    parser.add_argument(
        "--image_size", type=side, help="side of the network's input, in pixels; default: the checkpoint's"
    )
    parser.add_argument(
        "--border", choices=BORDERS, help="what the trimap's border counts as; default: the checkpoint's"
    )
    parser.add_argument("--limit", type=positive, help="only the first so many pictures")
    add_split_flags(parser.add_argument, "; default: the checkpoint's")
    parser.add_argument(
        "--batch_size", "-b", type=positive, default=batch_size, help="pictures at once; default %(default)s"
    )
    parser.add_argument("--tta", action="store_true", help="average each picture's prediction with its mirror image's")
    parser.add_argument("--workers", type=count, default=0, help="processes that read data; default %(default)s")
    add_runtime_flags(parser, precision)


def get_args_parser():
    parser = Parser(__doc__)
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="checkpoints to score")
    parser.add_argument(
        "--provenance", action="store_true", help="say where each checkpoint comes from, not its scores"
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="default %(default)s")
    parser.add_argument(
        "--own_size", action="store_true", help="score at each picture's own size, not at that of the network's input"
    )
    parser.add_argument(
        "--protocols",
        action="store_true",
        help="one table of the scores under every published protocol: the trimap's border as foreground, background or "
        "ignored; at the network's size and the pictures' own; averaged over pictures or pooled",
    )
    add_threshold_flag(parser)
    parser.add_argument(
        "--output", type=Path, help="write OUTPUT.json, and OUTPUT.csv with a row per picture and model"
    )
    add_data_flags(parser)
    return parser


def main():
    args = get_args_parser().parse_args()
    runtime = choose_runtime(args.device, args.precision)
    start(runtime.device)
    checkpoints = [load(path, args.model_type) for path in args.model]
    if args.provenance:
        for path, checkpoint in zip(args.model, checkpoints, strict=True):
            try:
                print_provenance(path, checkpoint)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise UserError(f"{path} is damaged, or of another version: its record is not whole") from None
        return 0
    if args.protocols and (args.own_size or args.border):
        raise UserError("--protocols covers every size and border rule; leave out --own_size and --border")
    results, pictures = [], []
    with when_memory_runs_out(f"use a smaller --batch_size than {args.batch_size}, or a smaller --image_size"):
        if args.protocols:
            compare_protocols(checkpoints, args, runtime)
            finish()
            return 0
        for path, checkpoint in zip(args.model, checkpoints, strict=True):
            result, rows = score_checkpoint(path, checkpoint, args, runtime)
            results.append(result)
            pictures += rows
    print_table(results)
    if args.output and rank() == 0:
        write_results(results, pictures, args.output)
    finish()
    return 0


def score_checkpoint(path, checkpoint, args, runtime):
    """A row of the table, and a row of OUTPUT.csv for each picture."""
    predictor = make_predictor(checkpoint, path, runtime, args.tta)
    with first_alone():
        dataset = load_split(options_of_data(checkpoint, args), args.split)
    loader = eval_loader(dataset, args.batch_size, args.workers, runtime.device)
    began = time.perf_counter()
    chosen = checkpoint.get("threshold")
    used = resolve_threshold(args.threshold, checkpoint, path)
    thresholds = sorted({used, chosen or used})
    tally = evaluate(predictor, loader, Tally(dataset, thresholds, own_size=args.own_size), f"{args.split} {path.stem}")
    counts, seconds = tally.at(used), time.perf_counter() - began
    result = {"model": str(path), **describe(predictor, args, counts), "seconds": round(seconds, 2)}
    result |= {"scored_at": used, **scores_apart(checkpoint, dataset, counts)}
    if chosen:
        result |= {"threshold": chosen, "dice_at_threshold": dice(tally.at(chosen)).mean().item()}
    per_picture = zip(dataset.names, counts.tolist(), dice(counts).tolist(), jaccard(counts).tolist(), strict=True)
    return result, [[str(path), name, f"{d:.6f}", f"{j:.6f}", *pixels] for name, pixels, d, j in per_picture]


def compare_protocols(checkpoints, args, runtime):
    """Print a table of every protocol for each checkpoint, and write them to OUTPUT.json and OUTPUT.csv if asked."""
    records = []
    for path, checkpoint in zip(args.model, checkpoints, strict=True):
        predictor = make_predictor(checkpoint, path, runtime, args.tta)
        options = replace(options_of_data(checkpoint, args), border="ignore")
        if options.dataset != "pets":
            raise UserError(f"--protocols is for the pets, whose trimaps have a border; {path} is of {options.dataset}")
        with first_alone():
            dataset = load_split(options, args.split)
        loader = eval_loader(dataset, args.batch_size, args.workers, runtime.device)
        wanted = resolve_threshold(args.threshold, checkpoint, path)
        second = checkpoint.get("threshold", 0.5) if wanted == 0.5 else wanted
        thresholds = sorted({0.5, second}, key=lambda threshold: threshold != 0.5)
        counted = protocols.count_pictures(predictor, loader, thresholds, f"{args.split} {path.stem}")
        rows = protocols.table_of(counted, options.image_size)
        if rank() == 0:
            chosen = f", thresholds .5 and {describe_threshold(second, checkpoint)}" if second != 0.5 else ""
            title = f"{path}: {args.split} split, {len(dataset):,} pictures, in {predictor.runtime.precision}{chosen}"
            protocols.print_protocols(rows, title, options.image_size)
        records += [
            {"model": str(path), "split": args.split, "pictures": len(dataset), **row} for row in map(vars, rows)
        ]
    if args.output and rank() == 0:
        write_files(records, list(records[0]), [list(record.values()) for record in records], args.output)


def print_provenance(path, checkpoint):
    """What made a checkpoint, as the checkpoint itself records it."""
    if "command" not in checkpoint:
        print(f"{path}: weights alone, with no record of where they come from")
        return
    git, versions, size = checkpoint["git"], checkpoint["versions"], checkpoint["image_size"]
    state = {True: "clean tree", False: "changed tree", None: "unknown tree"}[git["clean"]]
    settings = {flag: value for flag, value in checkpoint["settings"].items() if value not in (None, False)}
    settings.pop("save_every")  # changes no weight
    print(
        f"{path}\n"
        f"  command   {checkpoint['command']}\n"
        f"  settings  {', '.join(f'{flag} {value}' for flag, value in settings.items())}\n"
        f"  git       {git['commit']}, {state}\n"
        f"  versions  {', '.join(f'{name} {version}' for name, version in versions.items())}\n"
        f"  device    {checkpoint['device']}\n"
        f"  training  {checkpoint['epoch']} epochs, {checkpoint['seconds']:.0f} s, pictures of {size}x{size}"
    )
    for split, values in checkpoint["scores"].items():
        print(f"  {split:8}  " + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))


def describe(predictor, args, counts):
    """What was scored and how, and the scores: a row of the table without its model."""
    empty = counts[:, 0] + counts[:, 2] == 0
    return {
        "split": args.split,
        "pictures": len(counts),
        "image_size": args.image_size or predictor.size,
        "border": args.border or predictor.about["border"],
        "dtype": predictor.runtime.precision,
        "tta": predictor.tta,
        "own_size": getattr(args, "own_size", False),
        **scores(counts),
        "empty_masks": int(empty.sum()),
        "dice_without_empty": dice(counts[~empty]).mean().item(),
    }


def print_table(results):
    first = results[0]
    mirrored = ", with mirror images (--tta)" if first["tta"] else ""
    own = ", at their own sizes (--own_size)" if first["own_size"] else ""
    print(f"{first['split']} split, {first['pictures']:,} pictures, in {first['dtype']}{mirrored}{own}")
    width = max(len(result["model"]) for result in results)
    names = ("dice", "jaccard", "accuracy", "precision", "recall", "pooled_dice")
    print(f"{'model':{width}}  {'size':>4}  {'border':10}" + "".join(f"  {name:>11}" for name in names))
    for result in results:
        line = f"{result['model']:{width}}  {result['image_size']:4}  {result['border']:10}"
        print(line + "".join(f"  {result[name]:11.4f}" for name in names))
    for result in results:
        if warning(result):
            print(f"{result['model']}  {warning(result)}")
        if result["empty_masks"]:
            without = f"{result['dice_without_empty']:.4f}"
            print(f"{result['model']}  Dice {without} without its {result['empty_masks']} empty masks")
        if result.get("scored_at", 0.5) != 0.5:
            print(f"{result['model']}  scored at threshold {describe_threshold(result['scored_at'], result)}")
        elif "threshold" in result:
            found = f"{result['dice_at_threshold']:.4f}"
            print(f"{result['model']}  Dice {found} at its threshold, {result['threshold']:.2f}, chosen on valid")


def write_results(results, pictures, output):
    write_files(results, ["model", "name", "dice", "jaccard", "tp", "fp", "fn", "tn"], pictures, output)


def write_files(records, header, rows, output):
    """Write records to OUTPUT.json and a table to OUTPUT.csv. Raises UserError where they cannot be written."""
    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(records, indent=2) + "\n"
    write_whole(output.with_name(output.name + ".json"), lambda file: file.write(text.encode()))
    write_table(output.with_name(output.name + ".csv"), header, rows)
    print(f"wrote {output}.json and {output}.csv")


if __name__ == "__main__":
    run(main)
