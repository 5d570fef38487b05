"""Score checkpoints on a split of the dataset they were trained on, or of --data_path.

    python src/evaluate.py --model unet.pth                       # the test split
    python src/evaluate.py --model *.pth --split valid            # several in one table
    python src/evaluate.py --model unet.pth --output scores/unet  # writes scores/unet.json and .csv

Scores are means over images; pooled_dice counts all pixels together. An empty prediction for an
empty mask scores 1; precision is 1 for any empty prediction, and recall is 1 for any empty mask. The
default is float32, so that scores are comparable across machines.
"""

if __name__ == "__main__":
    import startup  # noqa: F401  # before torch is imported

import glob
import time
from pathlib import Path

from checkpoint import load
from data import eval_loader, load_split
from flags import add_data_flags, options_of_data
from predictor import make_predictor
from reports.table import check_output, print_table, score_row, write_results
from runtime import choose_runtime
from scoring import DiceMeter, add_threshold_flag, dice_score, evaluate, jaccard_score, resolve_threshold
from training.distributed import destroy_processes, init_processes, rank, rank_zero_first
from utils import Parser, UserError, count_of, note, run, user_path, when_memory_runs_out

PROVENANCE = ("command", "earlier", "args", "git", "versions", "device", "epoch", "seconds")  # in OUTPUT.json


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", type=user_path, nargs="+", required=True, help="checkpoints or patterns ('*.pth')")
    add("--original_size", action="store_true", help="score at each image's original size")
    add_threshold_flag(parser)
    add("--output", type=user_path, help="write OUTPUT.json, and OUTPUT.csv with a row per model and image")
    add_data_flags(parser)
    args = parser.parse_args()
    paths = find_checkpoints(args.model)
    checkpoints = [load(path, args.model_type) for path in paths]
    if args.output:
        check_output(args.output)
    runtime = init_processes(choose_runtime(args.device, args.precision))
    results, images = [], []
    with when_memory_runs_out("use a smaller --batch_size or --image_size"):
        with rank_zero_first():  # load all splits before scoring, so that missing data is reported at once
            options = [options_of_data(checkpoint, args) for checkpoint in checkpoints]
            loaded = {each: load_split(each, args.split) for each in dict.fromkeys(options)}
        thresholds = [resolve_threshold(args.threshold, *pair) for pair in zip(checkpoints, paths, strict=True)]
        for path, checkpoint, option, threshold in zip(paths, checkpoints, options, thresholds, strict=True):
            result, rows = score_checkpoint(path, checkpoint, loaded[option], threshold, args, runtime)
            results.append(result)
            images += rows
    print_table(results)
    if args.output and rank() == 0:
        header = ["model", "name", "dice", "jaccard", "tp", "fp", "fn", "tn"]
        write_results(results, header, images, args.output)
    destroy_processes()


def find_checkpoints(paths: list[Path]) -> list[Path]:
    """Expand patterns (Windows shells do not); drop repeats, and NAME.last.pth before NAME.pth. Raises UserError."""
    found: list[Path] = []
    for path in paths:
        is_pattern = glob.has_magic(str(path)) and not path.exists()
        names = sorted(glob.glob(str(path))) if is_pattern else [str(path)]
        if not names:
            raise UserError(f"--model {path} matches no file; correct the pattern")
        found += map(Path, names)
    kept: list[Path] = []
    for index, path in enumerate(found):
        best = path.with_name(path.name.removesuffix(".last.pth") + ".pth")
        if path not in kept and best not in found[index + 1 :]:
            kept.append(path)
    if len(kept) < len(found):
        left_out = count_of(len(found) - len(kept), "file")
        note(f"--model: left out {left_out} (repeated, or the NAME.last.pth of a NAME.pth that is also listed)")
    return kept


def score_checkpoint(path, checkpoint, dataset, used, args, runtime):
    """Return a checkpoint's row of the table at threshold `used`, and its images' rows of OUTPUT.csv."""
    predictor, chosen = make_predictor(checkpoint, path, runtime, args.tta), checkpoint.threshold
    loader = eval_loader(dataset, args.batch_size, args.workers, runtime.device)
    meter = DiceMeter(dataset, sorted({used, chosen or used}), original_size=args.original_size)
    began = time.perf_counter()
    evaluate(predictor, loader, meter, f"{args.split} {path.stem}")
    counts, seconds = meter.at(used), time.perf_counter() - began
    dices, jaccards = dice_score(counts), jaccard_score(counts)
    result = {
        "model": str(path),
        **score_row(predictor, dataset, args, counts),
        "seconds": round(seconds, 2),
        "provenance": {name: getattr(checkpoint, name) for name in PROVENANCE},
        "scored_at": used,
    }
    if chosen:
        result["threshold"] = chosen
        result["dice_at_threshold"] = dice_score(meter.at(chosen)).mean().item()
    rows = []
    for name, dice, jaccard, pixels in zip(dataset.names, dices, jaccards, counts.tolist(), strict=True):
        rows.append([str(path), name, f"{dice:.6f}", f"{jaccard:.6f}", *pixels])
    return result, rows


if __name__ == "__main__":
    run(main)
