"""Compare checkpoints on one HTML page: which is better, by how much, and on which images.

    python src/report.py --model unet.pth resnet34_unet.pth
    python src/report.py --model seed*.pth  # mean and standard deviation over seeds

Writes index.html, which works offline, and its figures as PNG files. Curves come from NAME.csv next
to each checkpoint. A significance test over the images compares the first two, unless only their
seeds differ. Masks that contradict a prediction shared by all checkpoints are shown as possible
label errors.
"""

if __name__ == "__main__":
    import startup  # noqa: F401  # before torch is imported

import base64
import csv
from pathlib import Path

import numpy as np
import torch

from checkpoint import Checkpoint, load
from data import eval_loader, load_split
from evaluate import find_checkpoints
from files import make_folder, write_atomically
from flags import add_data_flags, options_of_data
from predictor import make_predictor
from reports import charts, statistics
from reports.plots import panel_rows, save_figure
from reports.statistics import Result
from reports.table import leakage_note, seen_and_new_dice
from runtime import choose_runtime
from splits import SPLIT_NAMES
from training.schedule import at_largest_size
from utils import Parser, UserError, run, user_path, when_memory_runs_out

LABEL_ERRORS = 8  # number shown
SIZE_EDGES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 1)  # fractions of the image
NOT_RECIPE = {"seed", "name", "save_dir", "save_every", "resume", "data_path", "cache_dir", "workers", "device"}
NOT_RECIPE |= {"precision"}  # "auto", or the resolved one after --resume; recipes_of uses Checkpoint.precision


@when_memory_runs_out("use a smaller --batch_size or --image_size")
def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", type=user_path, nargs="+", required=True, help="checkpoints or patterns ('*.pth')")
    add("--output", type=user_path, default="report", help="output folder; default %(default)s")
    add_data_flags(parser, split="valid")
    args = parser.parse_args()
    paths = find_checkpoints(args.model)
    runtime = choose_runtime(args.device, args.precision)
    checkpoints = [load(path, args.model_type) for path in paths]
    options = [options_of_data(checkpoint, args) for checkpoint in checkpoints]
    datasets = [load_split(each, args.split) for each in options]
    if any(dataset.identities != datasets[0].identities for dataset in datasets):
        advice = "pass --split test, or one --data_path or --valid_list for all"
        raise UserError(f"the checkpoints would be scored on different images; {advice}")
    for flag in ("border", "foreground", "ignore"):
        if len({getattr(each, flag) for each in options}) > 1:
            raise UserError(f"the checkpoints were trained with different --{flag}; choose one with --{flag}")
    make_folder(args.output, "--output")
    predictors, results, notes, histories = [], [], [], {}
    stems = [path.stem for path in paths]
    tta = ", --tta" if args.tta else ""
    for path, checkpoint, dataset, option in zip(paths, checkpoints, datasets, options, strict=True):
        label = path.stem if stems.count(path.stem) == 1 else str(path)
        predictor = make_predictor(checkpoint, path, runtime, args.tta)
        loader = eval_loader(dataset, args.batch_size, args.workers, runtime.device)
        result = statistics.collect(label, checkpoint, predictor, loader, options[0].image_size)
        result.megabytes = path.stat().st_size / 1e6
        predictors.append(predictor)
        results.append(result)
        if history := read_history(path):
            histories[label] = history
        dice, size = result.scores["dice"], option.image_size
        print(f"{label}: {SPLIT_NAMES[args.split]} Dice {dice:.4f}, {result.seconds:.0f} s", flush=True)
        notes.append(f"{label}: {size}×{size} pixels, --border {option.border}{tta}.")
        leak = seen_and_new_dice(checkpoint, dataset, torch.from_numpy(result.dice))
        if leak.get("trained_on"):
            notes.append(f"{label}: {leakage_note({'images': len(dataset), **leak})}.")
            print(notes[-1])

    def predict(indices):
        return [panel_rows(*pair, indices) for pair in zip(predictors, datasets, strict=True)]

    comparison = None
    if len(results) > 1 and not recipes_of(checkpoints[:2]):  # else they differ only in the seed
        comparison = statistics.compare(*results[:2])
    pets = results[0].names if options[0].dataset == "pets" else []
    content = {
        "results": results,
        "split": SPLIT_NAMES[args.split],
        "precision": runtime.precision,
        "notes": notes,
        "seed_rows": seed_rows(results, checkpoints),
        "comparison": comparison,
        "histories": histories,
        "breeds": [statistics.breed(name) for name in pets],
        "sizes": statistics.in_ranges(results[0].foreground, SIZE_EDGES),
        "label_errors": statistics.possible_label_errors(results),
    }
    write_page(args.output, draw_figures(content, predict), content)


def draw_figures(content: dict, predict) -> dict:
    """Draw the page's figures. predict(indices): each checkpoint's `panel_rows` of the images."""
    results = content["results"]
    mean_dice = np.mean([result.dice for result in results], axis=0)
    examples = statistics.best_median_worst(mean_dice, best=2, median=2, worst=4)
    groups, chosen = zip(*examples, strict=True)
    figures = {
        "histogram": charts.histogram(results),
        "sizes": charts.sizes(results, content["sizes"]),
        "thresholds": charts.thresholds(results),
        "examples": charts.examples(results, groups, predict(chosen)),
    }
    if content["histories"]:
        figures["curves"] = charts.curves(results, content["histories"])
    if len(set(content["breeds"])) > 1:
        figures["breeds"] = charts.breeds(results, content["breeds"])
    if content["label_errors"]:
        shown = content["label_errors"][:LABEL_ERRORS]
        agreement = statistics.agreement(results)
        ranks = [f"{rank}. agreement {agreement[index]:.3f}" for rank, index in enumerate(shown, 1)]
        figures["label_errors"] = charts.examples(results, ranks, predict(shown))
    return figures


def seed_rows(results: list[Result], checkpoints: list[Checkpoint]) -> list[list[str]]:
    """Return a row per group of `recipes_of`: the mean and standard deviation of each score."""
    rows = []
    for group in recipes_of(checkpoints):
        runs = [results[index] for index in group.values()]
        values = np.array([list(run.scores.values()) for run in runs])
        means, deviations = values.mean(0), values.std(0, ddof=1)
        cells = [f"{mean:.4f} ± {spread:.4f}" for mean, spread in zip(means, deviations, strict=True)]
        rows.append([", ".join(run.label for run in runs), ", ".join(map(str, group)), *cells])
    return rows


def recipes_of(checkpoints: list[Checkpoint]) -> list[dict]:
    """Group checkpoints that differ only in the seed: one {seed: index of its first checkpoint} per group."""
    groups: dict[str, dict] = {}
    for index, checkpoint in enumerate(checkpoints):
        flags = checkpoint.args
        recipe = sorted((flag, value) for flag, value in flags.items() if flag not in NOT_RECIPE)
        key = repr((recipe, checkpoint.precision, checkpoint.augmentation, checkpoint.trained_on))
        if flags:
            groups.setdefault(key, {}).setdefault(flags.get("seed"), index)
    return [group for group in groups.values() if len(group) > 1]


def write_page(folder: Path, figures: dict, content: dict):
    """Write index.html, and its figures as PNG files. Raises UserError."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    images = {}
    for name, figure in figures.items():
        images[name] = base64.b64encode(save_figure(figure, folder / f"{name}.png")).decode()
    loader = FileSystemLoader(Path(__file__).parent / "reports")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=StrictUndefined)
    environment.globals.update(statistics=statistics, at_largest_size=at_largest_size)
    environment.filters["species"] = statistics.species
    page = environment.get_template("page.html").render(images=images, **content)
    write_atomically(folder / "index.html", lambda file: file.write(page.encode(errors="backslashreplace")))
    print(f"wrote {folder / 'index.html'} and its figures as PNG")


def read_history(path: Path) -> list[dict]:
    """Return the rows of NAME.csv next to NAME.pth or NAME.last.pth; [] without a history."""
    file = path.with_name(path.name.removesuffix(".pth").removesuffix(".last") + ".csv")
    if not file.exists():
        return []
    with open(file, newline="") as lines:
        rows = list(csv.DictReader(lines))
    return rows if rows and {"epoch", "valid_dice", "image_size"} <= rows[0].keys() else []


if __name__ == "__main__":
    run(main)
