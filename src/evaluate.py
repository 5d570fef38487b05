"""Score checkpoints on a split of the data they were trained on.

    python src/evaluate.py --model saved_models/unet.pth                       # the test split
    python src/evaluate.py --model saved_models/*.pth --split valid            # several in one table
    python src/evaluate.py --model saved_models/unet.pth --output scores/unet  # + scores/unet.json, .csv
    python src/evaluate.py --model saved_models/unet.pth --protocols           # under every published protocol

Scores are means over pictures; a picture's Dice is taken at probability .5 unless --threshold says otherwise, and two
empty masks score 1. They are computed in float32 unless --precision says otherwise, so that they come out the same on
every machine.
"""

if __name__ == "__main__":
    import startup  # noqa: F401  # before torch is imported

import time
from dataclasses import replace
from pathlib import Path

from checkpoint import load
from data import eval_loader, load_split
from flags import add_data_flags, options_of_data
from leakage import scores_apart
from predictor import make_predictor
from reports import protocols
from reports.table import check_output, describe, print_table, write_files, write_results
from runtime import choose_runtime
from scoring import Tally, add_threshold_flag, describe_threshold, evaluate, resolve_threshold
from splits import SPLITS
from training.distributed import finish, first_alone, rank, start
from utils import Parser, UserError, dice, jaccard, run, when_memory_runs_out


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
    runtime = start(runtime)
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
    if args.output:
        check_output(args.output)
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
    result = {"model": str(path), **describe(predictor, dataset, args, counts), "seconds": round(seconds, 2)}
    result |= {"scored_at": used, **scores_apart(checkpoint, dataset, dice(counts))}
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


if __name__ == "__main__":
    run(main)
