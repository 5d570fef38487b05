"""One page that says which of several checkpoints is better, where, and why.

    python src/report.py --model saved_models/unet.pth saved_models/resnet34_unet.pth
    python src/report.py --model saved_models/seed*.pth        # one recipe, several seeds: mean and spread

writes report/index.html, which needs no network and no script, and its figures as PNG beside it. Curves come from
NAME.csv beside each checkpoint. The first two checkpoints are compared; pictures where all of them agree with one
another, but not with the mask, are shown in a section of their own.
"""

if __name__ == "__main__":
    import startup  # noqa: F401  # before torch is imported

import csv
from pathlib import Path

import numpy as np
import torch

from checkpoint import load
from data import eval_loader, load_split
from files import make_folder
from flags import add_data_flags, options_of_data
from leakage import scores_apart, warning
from predictor import make_predictor
from reports import page as sections
from reports import statistics
from reports.plots import panel_rows
from reports.statistics import best_median_worst
from runtime import choose_runtime
from splits import SPLITS
from utils import Parser, UserError, run

DOUBTFUL = 8  # pictures shown of those whose mask may be wrong
NOT_RECIPE = {"seed", "name", "save_dir", "save_every", "resume", "data_path", "cache_dir", "workers", "device"}


def main() -> int:
    args = get_args_parser().parse_args()
    runtime = choose_runtime(args.device, args.precision)
    checkpoints = [load(path, args.model_type) for path in args.model]
    predictors = [make_predictor(c, path, runtime, args.tta) for c, path in zip(checkpoints, args.model, strict=True)]
    datasets = [load_split(options_of_data(checkpoint, args), args.split) for checkpoint in checkpoints]
    if any(dataset.identities != datasets[0].identities for dataset in datasets):
        raise UserError(
            "--model names checkpoints of different pictures; give --data_path, or compare those of one set"
        )
    borders = {args.border or checkpoint["border"] for checkpoint in checkpoints}
    if len(borders) > 1:
        raise UserError(
            f"--model names checkpoints of the border rules {', '.join(sorted(borders))}; give --border one"
        )
    make_folder(args.output, "--output")
    side = datasets[0][0]["mask"].shape[-1]

    results = []
    for label, predictor, dataset in zip(labels_of(args.model), predictors, datasets, strict=True):
        loader = eval_loader(dataset, args.batch_size, args.workers, runtime.device)
        results.append(statistics.collect(label, predictor, loader, side))
        print(f"{label}: {args.split} Dice {results[-1].scores['dice']:.4f}, {results[-1].seconds:.0f} s", flush=True)

    page = make_page(args, runtime, checkpoints, predictors, datasets, results)
    page.write(f"{' and '.join(result.label for result in results)} on the {args.split} split")
    print(f"wrote {args.output / 'index.html'} and its figures as PNG")
    return 0


def make_page(args, runtime, checkpoints, predictors, datasets, results) -> sections.Page:
    """Every section in order; one checkpoint, predictor, dataset and result for each path of --model."""

    def rows_of(places):
        pairs = zip(predictors, datasets, strict=True)
        return [panel_rows(predictor, dataset, places) for predictor, dataset in pairs]

    page = sections.Page(args.output)
    mirrored = ", predictions averaged with the mirror image's" if args.tta else ""
    settings = (
        f"{r.label}: {args.image_size or c['image_size']} pixels, border {args.border or c['border']}{mirrored}"
        for r, c in zip(results, checkpoints, strict=True)
    )
    page.text(f"{'; '.join(settings)}.")
    for result, checkpoint, dataset in zip(results, checkpoints, datasets, strict=True):
        apart = scores_apart(checkpoint, dataset, torch.from_numpy(result.dice))
        said = warning({"pictures": len(dataset), **apart})
        if said:
            page.text(f"{result.label}: {said}.")
            print(f"{result.label}: {said}")
    sections.add_scores(page, results, args.model, args.split, runtime.precision)
    seeds = [checkpoint.get("settings", {}).get("seed") for checkpoint in checkpoints]
    sections.add_seeds(page, results, recipes_of(checkpoints), seeds)
    sections.add_curves(page, results, [read_history(path) for path in args.model])
    sections.add_histogram(page, results)
    described = statistics.properties(datasets[0])
    pets = options_of_data(checkpoints[0], args).dataset == "pets"
    sections.add_groups(page, results, described, pets)
    sections.add_thresholds(page, results)
    chosen = best_median_worst(np.mean([result.dice for result in results], axis=0), best=2, median=2, worst=4)
    sections.add_examples(page, results, chosen, rows_of([place for _, place in chosen]))
    sections.add_worst(page, results, described, pets)
    doubtful = statistics.doubtful(results)
    shown = doubtful[:DOUBTFUL]
    sections.add_doubtful(page, results, shown, rows_of(shown) if shown else [], len(doubtful))
    return page


def recipes_of(checkpoints: list[dict]) -> list[list[int]]:
    """Group checkpoints whose settings and pictures differ in nothing but the seed: lists of their indices.

    One without settings is a group of its own, and so is a second one of the same seed.
    """
    groups: dict[str, list[int]] = {}
    seen = set()
    for index, checkpoint in enumerate(checkpoints):
        settings = checkpoint.get("settings") or {}
        flags = sorted((flag, value) for flag, value in settings.items() if flag not in NOT_RECIPE)
        recipe = repr((flags, checkpoint.get("augmentation"), checkpoint.get("trained_on")))
        run_of = (recipe, settings.get("seed"))
        groups.setdefault(recipe if settings and run_of not in seen else f"alone {index}", []).append(index)
        seen.add(run_of)
    return list(groups.values())


def read_history(path: Path) -> list[dict] | None:
    """The rows of NAME.csv beside NAME.pth or NAME.last.pth, or None."""
    file = path.with_name(path.name.removesuffix(".pth").removesuffix(".last") + ".csv")
    if not file.exists():
        return None
    with open(file, newline="") as lines:
        rows = list(csv.DictReader(lines))
    return rows if rows and {"epoch", "valid_dice", "image_size"} <= rows[0].keys() else None


def labels_of(paths: list[Path]) -> list[str]:
    """Short names for checkpoints: the files' own, with the folder where two are alike."""
    stems = [path.stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{path.parent.name}/{stem}"
        for stem, path in zip(stems, paths, strict=True)
    ]


def get_args_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="checkpoints; the first two are compared")
    parser.add_argument("--split", choices=SPLITS, default="valid", help="default %(default)s")
    parser.add_argument("--output", type=Path, default=Path("report"), help="folder to write into; default %(default)s")
    add_data_flags(parser)
    return parser


if __name__ == "__main__":
    run(main)
