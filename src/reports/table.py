"""The table of evaluate.py: what was scored and how, and the scores."""

import json
import os

from files import write_table, write_whole
from flags import options_of_data
from leakage import hash_of_set, warning
from scoring import describe_threshold
from utils import UserError, dice, scores


def describe(predictor, dataset, args, counts):
    """What was scored and how, and the scores: a row of the table without its model."""
    empty = counts[:, 0] + counts[:, 2] == 0
    data = options_of_data(predictor.about, args)
    return {
        "data": "shapes" if data.dataset == "shapes" else os.path.realpath(data.folder),
        "set": hash_of_set(dataset),
        "split": args.split,
        "pictures": len(counts),
        "image_size": args.image_size or predictor.size,
        "border": args.border or predictor.about["border"],
        "dtype": predictor.runtime.precision,
        "tta": predictor.tta,
        "own_size": getattr(args, "own_size", False),
        **scores(counts),
        "empty_masks": int(empty.sum()),
        "dice_without_empty": None if empty.all() else dice(counts[~empty]).mean().item(),
    }


def check_output(output):
    """Raise UserError where OUTPUT.csv would be written over the history of a run."""
    for ending in (".pth", ".last.pth"):
        checkpoint = output.with_name(output.name + ending)
        if checkpoint.exists():
            raise UserError(f"--output {output}: {output}.csv is the history of {checkpoint}; name another file")


def print_table(results):
    first = results[0]
    alike = all(result["set"] == first["set"] for result in results)
    mirrored = ", with mirror images (--tta)" if first["tta"] else ""
    own = ", at their own sizes (--own_size)" if first["own_size"] else ""
    pictures = f"{first['pictures']:,} pictures" if alike else "of several sets of pictures"
    print(f"{first['split']} split, {pictures}, in {first['dtype']}{mirrored}{own}")
    width = max(len(result["model"]) for result in results)
    names = ("dice", "jaccard", "accuracy", "precision", "recall", "pooled_dice")
    print(f"{'model':{width}}  {'size':>4}  {'border':10}" + "".join(f"  {name:>11}" for name in names))
    for result in results:
        line = f"{result['model']:{width}}  {result['image_size']:4}  {result['border']:10}"
        print(line + "".join(f"  {result[name]:11.4f}" for name in names))
    for result in results:
        if not alike:
            print(f"{result['model']}  scored on {result['pictures']:,} pictures of {result['data']}")
        if warning(result):
            print(f"{result['model']}  {warning(result)}")
        if result["empty_masks"]:
            without = result["dice_without_empty"]
            rest = "nothing" if without is None else f"Dice {without:.4f}"
            print(f"{result['model']}  {rest} without its {result['empty_masks']} empty masks")
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
