"""Compare checkpoints on one HTML page: which is better, by how much, and on which images.

    python src/report.py --model saved_models/unet.pth saved_models/resnet34_unet.pth
    python src/report.py --model saved_models/seed*.pth        # one recipe, several seeds: mean and deviation

Writes report/index.html, a static page that works offline, and its figures as PNG files next to it. Curves come from
NAME.csv next to each checkpoint. The page compares the first two checkpoints; with two or more it also shows
images whose mask may be wrong, because all checkpoints agree with one another but not with the mask.
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
from leakage import scores_apart, warning
from predictor import make_predictor
from reports import charts, statistics
from reports.plots import panel_rows, save_figure
from reports.statistics import Result
from runtime import choose_runtime
from scoring import THRESHOLDS
from splits import SPLITS
from training.schedule import at_largest_size
from utils import Parser, UserError, run, user_path, when_memory_runs_out

LABEL_ERRORS = 8  # possible label errors shown
SIZE_EDGES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 1)  # fractions of the image
NOT_RECIPE = {"seed", "name", "save_dir", "save_every", "resume", "data_path", "cache_dir", "workers", "device"}


@when_memory_runs_out("use a smaller --batch_size or --image_size")
def main() -> int:
    args = get_args_parser().parse_args()
    paths = find_checkpoints(args.model)
    runtime = choose_runtime(args.device, args.precision)
    checkpoints = [load(path, args.model_type) for path in paths]
    predictors = [make_predictor(c, path, runtime, args.tta) for c, path in zip(checkpoints, paths, strict=True)]
    datasets = [load_split(options_of_data(checkpoint, args), args.split) for checkpoint in checkpoints]
    if any(dataset.identities != datasets[0].identities for dataset in datasets):
        raise UserError("the checkpoints were trained on different datasets; choose one with --data_path")
    if len({args.border or checkpoint.border for checkpoint in checkpoints}) > 1:
        raise UserError("the checkpoints were trained with different border rules; choose one with --border")
    make_folder(args.output, "--output")

    results, notes = [], []
    for path, checkpoint, predictor, dataset in zip(paths, checkpoints, predictors, datasets, strict=True):
        label = path.stem if [other.stem for other in paths].count(path.stem) == 1 else str(path)
        loader = eval_loader(dataset, args.batch_size, args.workers, runtime.device)
        result = statistics.collect(label, checkpoint, predictor, loader, datasets[0][0]["mask"].shape[-1])
        results.append(result)
        size, border = args.image_size or checkpoint.image_size, args.border or checkpoint.border
        notes.append(f"{label}: {size}×{size} pixels, border {border}{', with --tta' * args.tta}.")
        print(f"{label}: {args.split} Dice {result.scores['dice']:.4f}, {result.seconds:.0f} s", flush=True)
        leak = warning({"images": len(dataset), **scores_apart(checkpoint, dataset, torch.from_numpy(result.dice))})
        if leak:
            notes.append(f"{label}: {leak}.")
            print(notes[-1])

    def predict(indices):
        return [panel_rows(*pair, indices) for pair in zip(predictors, datasets, strict=True)]

    histories = {result.label: read_history(path) for result, path in zip(results, paths, strict=True)}
    pets = options_of_data(checkpoints[0], args).dataset == "pets"
    content = {
        "title": f"{' and '.join(result.label for result in results)} on the {args.split} split",
        "scored_on": f"{len(results[0].names):,} images of the {args.split} split, in {runtime.precision}",
        "notes": notes,
        "audit": {"agreed": statistics.AGREED, "contradicted": statistics.CONTRADICTED},
        "score_rows": score_rows(results, paths),
        "seed_rows": seed_rows(results, checkpoints),
        "without_history": [label for label, rows in histories.items() if not rows],
        "comparison": statistics.compare(*results[:2]) if len(results) > 1 else None,
    }
    figures = draw_figures(results, {label: rows for label, rows in histories.items() if rows}, pets, predict)
    write_page(args.output, figures, content)
    return 0


def draw_figures(results: list[Result], histories: dict[str, list[dict]], pets: bool, predict) -> dict:
    """Draw every figure of the page. Returns {name: (figure, caption)}.

    histories: the rows of NAME.csv by label. pets: whether names contain breed and species. predict: a function that
    returns each checkpoint's `panel_rows` of the images at some indices.
    """
    labels, names = [result.label for result in results], results[0].names

    def listing(values, style="{:.4f}"):
        return ", ".join(f"{label} {style.format(value)}" for label, value in zip(labels, values, strict=True))

    figures = {}
    if histories:
        best = [f"{k} {max(float(row['valid_dice']) for row in at_largest_size(h)):.4f}" for k, h in histories.items()]
        caption = f"Best validation Dice: {', '.join(best)}. Only epochs at the largest image size are considered."
        figures["curves"] = (charts.curves(results, histories), caption)
    low = listing([100 * (result.dice < 0.8).mean() for result in results], "{:.1f}%")
    figures["histogram"] = (charts.histogram(results), f"Images with Dice below 0.8: {low}.")
    groups = [statistics.breed(name) for name in names]
    if pets and len(set(groups)) > 1:
        order = list(statistics.group_means(results[0].dice, groups))
        caption = f"Hardest for {labels[0]}: {order[0]}; easiest: {order[-1]}."
        for kind in {statistics.species(name): None for name in names}:
            of_kind = np.array([statistics.species(name) == kind for name in names])
            caption += f" Mean Dice of {of_kind.sum()} {kind}: {listing([r.dice[of_kind].mean() for r in results])}."
        figures["breeds"] = (charts.breeds(results, groups), caption)
    groups = statistics.in_ranges(results[0].foreground, SIZE_EDGES)
    hardest, (mean, _) = next(iter(statistics.group_means(results[0].dice, groups).items()))
    caption = f"Lowest for {labels[0]}: {hardest} of the image, with a mean Dice of {mean:.3f}."
    figures["sizes"] = (charts.sizes(results, groups), caption)
    best = listing([THRESHOLDS[int(result.by_threshold.argmax())] for result in results], "{:.2f}")
    caption = f"All other scores on this page use threshold 0.5 (gray line). Best threshold on this split: {best}."
    figures["thresholds"] = (charts.thresholds(results), caption)
    chosen = statistics.best_median_worst(np.mean([r.dice for r in results], axis=0), best=2, median=2, worst=4)
    shown = predict([index for _, index in chosen])
    caption = "By mean Dice of all checkpoints. Orange: false negatives; purple: false positives."
    figures["examples"] = (charts.examples(results, [group for group, _ in chosen], shown), caption)
    found = statistics.possible_label_errors(results)
    if found:
        between, first = statistics.agreement(results), found[:LABEL_ERRORS]
        notes = [f"{rank}. agreement {between[index]:.3f}" for rank, index in enumerate(first, 1)]
        caption = f"{len(first)} of {len(found)} images, sorted by decreasing gap."
        figures["label_errors"] = (charts.examples(results, notes, predict(first)), caption)
    return figures


def score_rows(results: list[Result], paths: list[Path]) -> list[list[str]]:
    """Return the rows of the table of scores."""
    rows = []
    for result, path in zip(results, paths, strict=True):
        low, high = statistics.confidence_interval(result.dice)
        dice, *others = (f"{value:.4f}" for value in result.scores.values())
        size, speed = f"{path.stat().st_size / 1e6:.1f}", f"{len(result.names) / result.seconds:.1f}"
        rows.append([result.label, dice, f"{low:.4f}–{high:.4f}", *others, f"{result.parameters:,}", size, speed])
    return rows


def seed_rows(results: list[Result], checkpoints: list[Checkpoint]) -> list[list[str]]:
    """Return the rows of the table of seeds: mean and deviation of each group of runs that share a recipe."""
    rows = []
    for group in recipes_of(checkpoints):
        values = np.array([list(results[index].scores.values()) for index in group.values()])
        cells = [f"{m:.4f} ± {s:.4f}" for m, s in zip(values.mean(0), values.std(0, ddof=1), strict=True)]
        labels = ", ".join(results[index].label for index in group.values())
        rows.append([labels, ", ".join(map(str, group)), *cells])
    return rows


def recipes_of(checkpoints: list[Checkpoint]) -> list[dict]:
    """Group checkpoints whose flags and training images differ only in the seed.

    Returns groups of two or more: {seed: index}, with the first checkpoint of each seed.
    """
    groups: dict[str, dict] = {}
    for index, checkpoint in enumerate(checkpoints):
        flags = checkpoint.args
        recipe = sorted((flag, value) for flag, value in flags.items() if flag not in NOT_RECIPE)
        key = repr((recipe, checkpoint.augmentation, checkpoint.trained_on))
        if flags:
            groups.setdefault(key, {}).setdefault(flags.get("seed"), index)
    return [group for group in groups.values() if len(group) > 1]


def write_page(folder: Path, figures: dict, content: dict):
    """Write each figure as a PNG file, and index.html with the same figures embedded. Raises UserError."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    images = {}
    for name, (figure, caption) in figures.items():
        png = save_figure(figure, folder / f"{name}.png")
        images[name] = (base64.b64encode(png).decode(), caption)
    loader = FileSystemLoader(Path(__file__).parent / "reports")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=StrictUndefined)
    page = environment.get_template("page.html").render(images=images, **content)
    write_atomically(folder / "index.html", lambda file: file.write(page.encode(errors="backslashreplace")))
    print(f"wrote {folder / 'index.html'} and its figures as PNG")


def read_history(path: Path) -> list[dict] | None:
    """Read NAME.csv next to NAME.pth or NAME.last.pth; None if there is no history."""
    file = path.with_name(path.name.removesuffix(".pth").removesuffix(".last") + ".csv")
    if not file.exists():
        return None
    with open(file, newline="") as lines:
        rows = list(csv.DictReader(lines))
    return rows if rows and {"epoch", "valid_dice", "image_size"} <= rows[0].keys() else None


def get_args_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--model", type=user_path, nargs="+", required=True, help="checkpoints to compare")
    parser.add_argument("--split", choices=SPLITS, default="valid", help="split to score; default %(default)s")
    parser.add_argument("--output", type=user_path, default=Path("report"), help="output folder; default %(default)s")
    add_data_flags(parser)
    return parser


if __name__ == "__main__":
    run(main)
