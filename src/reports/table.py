"""The table of scores that evaluate.py and inference.py print."""

import json
import os

import torch

from data import hash_of_set, hashes
from files import make_folder, write_atomically, write_csv
from flags import options_of_data
from scoring import dice_score, scores
from splits import SPLIT_NAMES
from utils import UserError, count_of


def score_row(predictor, dataset, args, counts) -> dict:
    """Return a row of the table: the data, how it was scored, and the scores."""
    empty = counts[:, 0] + counts[:, 2] == 0
    data = options_of_data(predictor.checkpoint, args)
    return {
        "data": "shapes" if data.dataset == "shapes" else os.path.realpath(data.folder),
        "set": hash_of_set(dataset),
        "split": args.split,
        "images": len(counts),
        "image_size": args.image_size or predictor.size,
        "border": args.border or predictor.checkpoint.border,
        "dtype": predictor.runtime.precision,
        "tta": predictor.tta,
        "original_size": getattr(args, "original_size", False),
        **scores(counts),
        "empty_masks": int(empty.sum()),
        "dice_without_empty": None if empty.all() else dice_score(counts[~empty]).mean().item(),
        **seen_and_new_dice(predictor.checkpoint, dataset, dice_score(counts)),
    }


def seen_and_new_dice(checkpoint, dataset, dices: torch.Tensor) -> dict:
    """Compare the images that the checkpoint was trained on with the others. dices: (N,).

    Images are recognized by a hash of their name (in your own folders, of name and file size). Returns `trained_on`
    (a count), `dice_trained_on` and `dice_new` (None for no images); {} if unknown.
    """
    if checkpoint.trained_on is None:
        return {}
    trained = set(checkpoint.trained_on)
    seen = torch.tensor([key in trained for key in hashes(dataset)], dtype=torch.bool)
    result: dict = {"trained_on": int(seen.sum())}
    for name, chosen in (("dice_trained_on", seen), ("dice_new", ~seen)):
        result[name] = dices[chosen].mean().item() if chosen.any() else None
    return result


def leakage_note(result: dict) -> str:
    """Return a note on how many scored images were used for training, or "" if none."""
    if not result.get("trained_on"):
        return ""
    text = f"{result['trained_on']:,} of {result['images']:,} images were used for training"
    if result["dice_new"] is None:
        return f"{text}, so Dice overestimates performance on new images"
    seen, new = result["dice_trained_on"], result["dice_new"]
    return f"{text}: Dice {seen:.4f} on these, {new:.4f} on the others"


def print_table(rows: list[dict]):
    """Print a line of scores for each row, then notes on them."""
    first = rows[0]
    same = all(row["set"] == first["set"] for row in rows)
    images = count_of(first["images"], "image") if same else "different images"
    tta = ", with mirror images (--tta)" if first["tta"] else ""
    original = ", at original size" if first["original_size"] else ""
    print(f"{SPLIT_NAMES[first['split']]} split, {images}, in {first['dtype']}{tta}{original}")
    width = max(len(row["model"]) for row in rows)
    names = list(scores(torch.zeros(1, 4)))
    print(f"{'model':{width}}  size  {'border':10}", *(f" {name:>11}" for name in names))
    for row in rows:
        cells = (f" {row[name]:11.4f}" for name in names)
        print(f"{row['model']:{width}}  {row['image_size']:4}  {row['border']:10}", *cells)
    for row in rows:
        notes = [leakage_note(row)]
        if not same:
            notes.append(f"evaluated on {count_of(row['images'], 'image')} from {row['data']}")
        if row["dice_without_empty"] is None:
            notes.append("all masks are empty")
        elif row["empty_masks"]:
            empty = count_of(row["empty_masks"], "image")
            notes.append(f"Dice {row['dice_without_empty']:.4f} excluding {empty} with empty masks")
        if row["scored_at"] != 0.5:
            notes.append(f"scored at threshold {row['scored_at']:.4g}")
        elif "threshold" in row:
            at = f"at threshold {row['threshold']:.4g}, chosen on the validation split"
            notes.append(f"Dice {row['dice_at_threshold']:.4f} {at}")
        for note in filter(None, notes):
            print(f"{row['model']}  {note}")


def check_output(output):
    """Create the folder of OUTPUT. Raises UserError, also if OUTPUT.csv is a run's history."""
    make_folder(output.parent, "--output")
    for suffix in (".pth", ".last.pth"):
        checkpoint = output.with_name(output.name + suffix)
        if checkpoint.exists():
            raise UserError(f"--output {output}.csv belongs to {checkpoint}; choose another name")


def write_results(records: list[dict], header: list[str], rows: list, output):
    """Write records to OUTPUT.json, and a table to OUTPUT.csv. Raises UserError."""
    text = json.dumps(records, indent=2) + "\n"
    write_atomically(output.with_name(output.name + ".json"), lambda file: file.write(text.encode()))
    write_csv(output.with_name(output.name + ".csv"), header, rows)
    print(f"wrote {output}.json and {output}.csv")
