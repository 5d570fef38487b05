"""One page that says which of several checkpoints is better, where, and why.

    python src/report.py --model saved_models/unet.pth saved_models/resnet34_unet.pth

writes report/index.html, which needs no network and no script, and its figures as PNG beside it. Curves come from
NAME.csv beside each checkpoint.
"""

import base64
import csv
import html
import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from checkpoint import load
from data import eval_loader, load_split
from evaluate import add_data_flags, options_of_data
from files import make_folder, write_whole
from predictor import make_predictor
from reports import statistics
from reports.plots import panel_rows
from reports.statistics import bootstrap, calibration_error, group_means, in_ranges, paired_test
from runtime import choose_runtime
from scoring import THRESHOLDS
from splits import SPLITS
from training.schedule import of_largest_size
from utils import Parser, UserError, run

SIZE_EDGES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 1)
FRAME_EDGES = (0, 0.01, 0.1, 0.2, 0.3, 1)
MISSED, INVENTED = (230, 97, 0), (93, 58, 155)  # apart for every kind of color vision
EXAMPLES = {"best": 2, "median": 2, "worst": 4}


class Page:
    """Sections of HTML, and the figures in them: embedded, and as PNG files in the folder."""

    def __init__(self, folder):
        self.folder, self.parts = folder, []

    def heading(self, text):
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text):
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def table(self, header, rows):
        cells = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in header)
        lines = ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        self.parts.append(f'<div class="wide"><table><tr>{cells}</tr>{body}</table></div>')

    def figure(self, figure, name, caption):
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=110)
        plt.close(figure)
        write_whole(self.folder / f"{name}.png", lambda file: file.write(content.getvalue()))
        code = base64.b64encode(content.getvalue()).decode()
        text = html.escape(caption)
        self.parts.append(
            f'<figure><img src="data:image/png;base64,{code}" alt="{text}"><figcaption>{text}</figcaption></figure>'
        )

    def write(self, title):
        style = (
            "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:auto;padding:1rem;color:#222}"
            "img{max-width:100%;height:auto}figure{margin:1rem 0}figcaption{color:#444;font-size:.95rem}"
            ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}"
            "td,th{padding:.3rem .7rem;border-bottom:1px solid #ccc;text-align:right;white-space:nowrap}"
            "td:first-child,th:first-child{text-align:left}"
        )
        text = (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{html.escape(title)}</title><style>{style}</style><h1>{html.escape(title)}</h1>"
            f"{''.join(self.parts)}</html>\n"
        )
        write_whole(self.folder / "index.html", lambda file: file.write(text.encode()))


def color(index):
    return f"C{index}"


def axes_of(title, x, y, size=(8, 4.2)):
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    axis.set(title=title, xlabel=x, ylabel=y)
    axis.grid(alpha=0.3)
    return figure, axis


# ------------------------------------------------------------------------------------- sections


def add_scores(page, results, paths, split, precision):
    page.heading("Which is better")
    intervals = [bootstrap(result.dice) for result in results]
    rows = []
    for result, path, (low, high) in zip(results, paths, intervals, strict=True):
        named = [f"{result.scores[key]:.4f}" for key in ("dice", "jaccard", "accuracy", "precision", "recall")]
        speed = f"{len(result.names) / result.seconds:.1f}"
        megabytes = f"{path.stat().st_size / 1e6:.1f}"
        rows.append([result.label, named[0], f"{low:.4f} – {high:.4f}", *named[1:]])
        rows[-1] += [f"{result.scores['pooled_dice']:.4f}", f"{result.parameters:,}", megabytes, speed]
    header = ["model", "Dice", "95 % interval", "Jaccard", "accuracy", "precision", "recall", "pooled Dice"]
    page.table([*header, "parameters", "file, MB", "pictures/s"], rows)
    page.text(
        f"Means over the {len(results[0].names):,} pictures of the {split} split, in {precision}, "
        f"at probability .5; intervals from {statistics.RESAMPLES:,} resamples; pictures/s of the whole "
        f"evaluation, on this machine."
    )
    if len(results) > 1:
        page.text(compare(*results[:2]))


def compare(first, second):
    """The answer to "which of the two is better?", in words."""
    difference = first.dice - second.dice
    low, high = bootstrap(difference)
    p = paired_test(first.dice, second.dice)
    better, worse = (first, second) if difference.mean() > 0 else (second, first)
    wins = int(((better.dice - worse.dice) > 0).sum())
    verdict = (
        f"{better.label} is better than {worse.label}"
        if p < 0.05
        else f"{better.label} is ahead of {worse.label}, but by no more than chance may bring"
    )
    low, high = (
        sorted((abs(low), abs(high))) if low * high > 0 else (-max(abs(low), abs(high)), max(abs(low), abs(high)))
    )
    return (
        f"{verdict}: {abs(difference.mean()):.4f} Dice on average (95 % interval {low:.4f} to {high:.4f}, paired test "
        f"by flipping signs p = {p:.4f}). It has the higher Dice on {wins:,} of {len(difference):,} pictures."
    )


def add_curves(page, results, histories):
    page.heading("How they learned")
    known = [(index, history) for index, history in enumerate(histories) if history]
    for index, history in enumerate(histories):
        if not history:
            page.text(f"{results[index].label} has no history (NAME.csv) beside its checkpoint.")
    if not known:
        return
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for index, history in known:
        epochs = [int(row["epoch"]) for row in history]
        label = results[index].label
        axes[0].plot(epochs, [float(row["valid_dice"]) for row in history], color=color(index), label=label)
        for part, style in (("train", "--"), ("valid", "-")):
            values = [float(row[f"{part}_loss"]) for row in history]
            axes[1].plot(epochs, values, style, color=color(index), label=f"{label}, {part}")
    axes[0].set(title="Dice on the valid split", xlabel="epoch", ylabel="mean Dice (0 to 1)")
    axes[1].set(title="Loss", xlabel="epoch", ylabel="loss")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    best = ", ".join(
        f"{results[i].label} {max(float(row['valid_dice']) for row in of_largest_size(history)):.4f}"
        for i, history in known
    )
    grow = ""
    if any(len(of_largest_size(history)) < len(history) for _, history in known):
        grow = " Pictures grew during training, and each value is at its epoch's size: curves jump where that changed."
        grow += " The best is among the epochs at the last size."
    page.figure(figure, "curves", f"Valid Dice and losses after each epoch; the best valid Dice: {best}.{grow}")


def add_histogram(page, results):
    page.heading("How the pictures spread")
    figure, axis = axes_of("Dice of each picture", "Dice (0 to 1)", "pictures")
    bins = np.linspace(0, 1, 41)
    for index, result in enumerate(results):
        axis.hist(result.dice, bins, histtype="step", linewidth=1.8, color=color(index), label=result.label)
    axis.legend()
    below = ", ".join(f"{result.label} {100 * (result.dice < 0.8).mean():.1f} %" for result in results)
    page.figure(figure, "histogram", f"Most pictures are near 1, a few far below; share under .8: {below}.")


def add_groups(page, results, described):
    names = results[0].names
    page.heading("On what")
    breeds = [statistics.breed(name) for name in names]
    if len(set(breeds)) > 1:
        order = list(group_means(results[0].dice, breeds))
        figure, axis = axes_of("Dice by breed", "mean Dice (0 to 1)", "breed", (8, 1.5 + 0.26 * len(order)))
        for index, result in enumerate(results):
            means = group_means(result.dice, breeds)
            axis.plot(
                [means[name][0] for name in order], range(len(order)), "o", color=color(index), label=result.label
            )
        axis.set_yticks(range(len(order)), [f"{name.replace('_', ' ')} ({breeds.count(name)})" for name in order])
        axis.tick_params(axis="y", labelsize=8)
        axis.legend()
        text = f"Hardest for {results[0].label}: {order[0]}; easiest: {order[-1]}. In brackets the number of pictures."
        page.figure(figure, "breeds", text)
        kinds = [statistics.species(name) for name in names]
        rows = []
        for result in results:
            means = group_means(result.dice, kinds)
            rows.append([result.label, *(f"{means[kind][0]:.4f} ({means[kind][1]:,})" for kind in sorted(set(kinds)))])
        page.table(["Dice by species (pictures)", *sorted(set(kinds))], rows)
    sections = (
        ("foreground share", SIZE_EDGES, "size", "Dice by foreground size", "foreground, share of the picture"),
        ("share of the frame touched", FRAME_EDGES, "frame", "Dice by how much of the frame the foreground touches",
         "frame pixels that are foreground"),
    )  # fmt: skip
    for key, edges, name, title, x in sections:
        labels, groups = in_ranges(described[key], edges)
        labels = [label for label in labels if label in groups]
        figure, axis = axes_of(title, x, "mean Dice (0 to 1)")
        width = 0.8 / len(results)
        for index, result in enumerate(results):
            means = group_means(result.dice, groups)
            places = np.arange(len(labels)) + (index - (len(results) - 1) / 2) * width
            axis.bar(places, [means[label][0] for label in labels], width, color=color(index), label=result.label)
        axis.set_xticks(range(len(labels)), [f"{label}\n{groups.count(label)} pictures" for label in labels])
        lowest = min(value for result in results for value, _ in group_means(result.dice, groups).values())
        axis.set_ylim(max(0, lowest - 0.1), 1)
        axis.legend()
        means = group_means(results[0].dice, groups)
        worst = next(iter(means))
        page.figure(figure, name, f"{results[0].label} is worst at {worst} ({means[worst][0]:.3f}).")


def add_thresholds(page, results):
    page.heading("How sure they are")
    figure, axis = axes_of("Dice against threshold", "threshold of probability (0 to 1)", "mean Dice (0 to 1)")
    for index, result in enumerate(results):
        axis.plot(THRESHOLDS, result.by_threshold, "o-", color=color(index), label=result.label, markersize=3)
    axis.axvline(0.5, color="gray", linewidth=0.8)
    axis.legend()
    best = ", ".join(f"{r.label} {THRESHOLDS[int(r.by_threshold.argmax())]:.2f}" for r in results)
    page.figure(
        figure, "thresholds", f"Scores elsewhere are at .5, the grey line; on this split the best would be: {best}."
    )

    figure, axis = axes_of(
        "Calibration", "mean probability of the pixels in a tenth", "share that is foreground", (6, 5)
    )
    axis.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
    for index, result in enumerate(results):
        p, truth, pixels = result.calibration[result.calibration[:, 2] > 0].T
        axis.plot(p / pixels, truth / pixels, "o-", color=color(index), label=result.label, markersize=4)
    axis.legend()
    errors = ", ".join(f"{r.label} {calibration_error(r.calibration):.4f}" for r in results)
    text = f"On the grey line a probability means what it says; above it the network is too shy. Mean gap: {errors}."
    page.figure(figure, "calibration", text)


def error_map(row):
    """Grey picture with missed foreground and invented foreground in color: uint8 (H, W, 3)."""
    image, mask = np.asarray(row["image"]), np.asarray(row["mask"])
    predicted = np.asarray(row["probability"]) >= 0.5
    shown = np.repeat(image.mean(0, keepdims=True), 3, 0).transpose(1, 2, 0) * 0.6 + 90
    shown[(mask == 1) & ~predicted] = MISSED
    shown[(mask == 0) & predicted] = INVENTED
    return shown.clip(0, 255).astype(np.uint8)


def add_examples(page, results, rows_of):
    page.heading("The best, the median and the worst pictures")
    mean = np.mean([result.dice for result in results], axis=0)
    worst_first = np.argsort(mean, kind="stable").tolist()
    middle = max(0, len(worst_first) // 2 - 1)
    chosen = []
    for group, number in EXAMPLES.items():
        places = {"best": worst_first[::-1], "median": worst_first[middle:], "worst": worst_first}[group][:number]
        chosen += [(group, place) for place in places]
    shown = [rows_of(index, [place for _, place in chosen]) for index in range(len(results))]
    columns = 2 + len(results)
    figure, axes = plt.subplots(
        len(chosen), columns, figsize=(2.3 * columns, 2.5 * len(chosen)), layout="constrained", squeeze=False
    )
    for line, (group, _), rows in zip(axes, chosen, zip(*shown, strict=True), strict=True):
        image = np.asarray(rows[0]["image"]).transpose(1, 2, 0)
        line[0].imshow(image.squeeze(), cmap="gray")
        line[0].set_title(f"{group}: {rows[0]['name']}", fontsize=8)
        mask = np.asarray(rows[0]["mask"])
        line[1].imshow(np.where(mask == 255, 0.5, mask), cmap="gray", vmin=0, vmax=1)
        line[1].set_title("truth", fontsize=8)
        for axis, row, result in zip(line[2:], rows, results, strict=True):
            axis.imshow(error_map(row))
            axis.set_title(f"{result.label}, Dice {row['dice']:.3f}", fontsize=8)
        for axis in line:
            axis.set_axis_off()
    figure.suptitle("By the mean Dice of all models", fontsize=11)
    text = "Orange: foreground that was missed; purple: background taken for foreground; everything else was right."
    page.figure(figure, "examples", text)


def add_worst(page, results, described):
    page.heading("What the worst have in common")
    mean = np.mean([result.dice for result in results], axis=0)
    cats = np.array([statistics.species(name) == "cats" for name in results[0].names], dtype=float)
    described = {**described, "is a cat": cats} if 0 < cats.mean() < 1 else described
    rows = statistics.what_the_worst_share(mean, described)
    if not rows:
        page.text("There are too few pictures to compare.")
        return
    table = [[name, f"{bad:.3f}", f"{rest:.3f}", f"{gap:+.2f}"] for name, bad, rest, gap in rows]
    page.table(["mean of", "the worst tenth", "the rest", "gap, in standard deviations"], table)
    name, bad, rest, gap = rows[0]
    page.text(
        f"What sets the worst tenth apart most is {name}: {bad:.3f} against {rest:.3f}. "
        f"Contrast is the difference in mean brightness between foreground and background; all run from 0 to 1."
    )


# ----------------------------------------------------------------------------------- the script


def read_history(path):
    """The rows of NAME.csv beside NAME.pth or NAME.last.pth, or None."""
    file = path.with_name(path.name.removesuffix(".pth").removesuffix(".last") + ".csv")
    if not file.exists():
        return None
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def labels_of(paths):
    """Short names for checkpoints: the files' own, with the folder where two are alike."""
    stems = [path.stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{path.parent.name}/{stem}"
        for stem, path in zip(stems, paths, strict=True)
    ]


def get_args_parser():
    parser = Parser(__doc__)
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="checkpoints; the first two are compared")
    parser.add_argument("--split", choices=SPLITS, default="valid", help="default %(default)s")
    parser.add_argument("--output", type=Path, default=Path("report"), help="folder to write into; default %(default)s")
    add_data_flags(parser)
    return parser


def main():
    args = get_args_parser().parse_args()
    runtime = choose_runtime(args.device, args.precision)
    checkpoints = [load(path, args.model_type) for path in args.model]
    predictors = [make_predictor(c, path, runtime, args.tta) for c, path in zip(checkpoints, args.model, strict=True)]
    datasets = [load_split(options_of_data(checkpoint, args), args.split) for checkpoint in checkpoints]
    if any(dataset.names != datasets[0].names for dataset in datasets):
        raise UserError("--model names checkpoints of different datasets; compare those of one at a time")
    make_folder(args.output, "--output")

    results = []
    for label, predictor, dataset in zip(labels_of(args.model), predictors, datasets, strict=True):
        loader = eval_loader(dataset, args.batch_size, args.workers, runtime.device)
        results.append(statistics.collect(label, predictor, loader))
        print(f"{label}: {args.split} Dice {results[-1].scores['dice']:.4f}, {results[-1].seconds:.0f} s", flush=True)

    def rows_of(index, places):
        return panel_rows(predictors[index], datasets[index], places)

    described = statistics.properties(datasets[0])
    page = Page(args.output)
    settings = (
        f"{r.label}: {c['image_size']} pixels, border {c['border']}" for r, c in zip(results, checkpoints, strict=True)
    )
    page.text(f"Each network at its own input size and mask rule. {'; '.join(settings)}.")
    add_scores(page, results, args.model, args.split, runtime.precision)
    add_curves(page, results, [read_history(path) for path in args.model])
    add_histogram(page, results)
    add_groups(page, results, described)
    add_thresholds(page, results)
    add_examples(page, results, rows_of)
    add_worst(page, results, described)
    page.write(f"{' and '.join(result.label for result in results)} on the {args.split} split")
    print(f"wrote {args.output / 'index.html'} and its figures as PNG")
    return 0


if __name__ == "__main__":
    run(main)
