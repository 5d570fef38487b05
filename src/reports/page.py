"""The HTML page of report.py: its sections in words and tables, and the figures between them."""

import base64
import html
import io
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from files import write_whole
from reports import charts, statistics
from reports.statistics import Result
from scoring import THRESHOLDS
from training.schedule import of_largest_size

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:auto;padding:1rem;color:#222}"
    "img{max-width:100%;height:auto}figure{margin:1rem 0}figcaption{color:#444;font-size:.95rem}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}"
    "td,th{padding:.3rem .7rem;border-bottom:1px solid #ccc;text-align:right;white-space:nowrap}"
    "td:first-child,th:first-child{text-align:left}"
)
SIZE_EDGES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 1)
FRAME_EDGES = (0, 0.01, 0.1, 0.2, 0.3, 1)


class Page:
    """Sections of HTML; its figures are embedded, and written as PNG files into the folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.parts: list[str] = []

    def heading(self, text: str):
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str):
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def table(self, header: Sequence, rows: Sequence[Sequence]):
        cells = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in header)
        lines = ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        self.parts.append(f'<div class="wide"><table><tr>{cells}</tr>{body}</table></div>')

    def figure(self, figure: Figure, name: str, caption: str):
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=110)
        charts.close(figure)
        write_whole(self.folder / f"{name}.png", lambda file: file.write(content.getvalue()))
        code = base64.b64encode(content.getvalue()).decode()
        text = html.escape(caption)
        self.parts.append(
            f'<figure><img src="data:image/png;base64,{code}" alt="{text}"><figcaption>{text}</figcaption></figure>'
        )

    def write(self, title: str):
        """Write index.html into the folder. Raises UserError where it cannot be written."""
        text = (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{html.escape(title)}</title><style>{STYLE}</style><h1>{html.escape(title)}</h1>"
            f"{''.join(self.parts)}</html>\n"
        )
        write_whole(self.folder / "index.html", lambda file: file.write(text.encode()))


# ------------------------------------------------------------------------------------- sections


def add_scores(page: Page, results: list[Result], paths: list[Path], split: str, precision: str):
    page.heading("Which is better")
    rows = []
    for result, path in zip(results, paths, strict=True):
        low, high = statistics.bootstrap(result.dice)
        dice, *others = (f"{result.scores[name]:.4f}" for name in statistics.SCORES)
        size = f"{path.stat().st_size / 1e6:.1f}"
        speed = f"{len(result.names) / result.seconds:.1f}"
        rows.append([result.label, dice, f"{low:.4f} – {high:.4f}", *others, f"{result.parameters:,}", size, speed])
    header = ["model", "Dice", "95 % interval", "Jaccard", "accuracy", "precision", "recall", "pooled Dice"]
    page.table([*header, "parameters", "file, MB", "pictures/s"], rows)
    page.text(
        f"Means over the {len(results[0].names):,} pictures of the {split} split, in {precision}, at probability .5; "
        f"pooled Dice counts all pixels together. Intervals come from {statistics.RESAMPLES:,} bootstrap resamples of "
        f"the pictures. Pictures/s include reading and scoring, on this machine."
    )
    if len(results) > 1:
        page.text(verdict(*results[:2]))


def verdict(first: Result, second: Result) -> str:
    """The answer to "which of the two is better?", in words."""
    found = statistics.compare(first, second)
    better, worse = found.better.label, found.worse.label
    if not (first.dice - second.dice).any():
        return f"{better} and {worse} have the same Dice on every picture."
    answer = f"{better} is better than {worse}"
    if not found.significant:
        answer = f"{better} scores higher than {worse}, but the difference is not significant"
    return (
        f"{answer}: {found.mean:.4f} Dice on average (95 % interval {found.low:.4f} to {found.high:.4f}, paired "
        f"sign-flip test p = {found.p:.4f}). It has the higher Dice on {found.wins:,} of {len(first.dice):,} pictures."
    )


def add_seeds(page: Page, results: list[Result], recipes: list[list[int]], seeds: list):
    """Mean and spread of the checkpoints that share a recipe; nothing where no two do.

    recipes: lists of indices into `results`. seeds: of each result.
    """
    repeated = [group for group in recipes if len(group) > 1]
    if not repeated:
        return
    page.heading("Seeds")
    rows = []
    for group in repeated:
        spread = statistics.over_seeds([results[index] for index in group])
        cells = [f"{spread[name].mean:.4f} ± {spread[name].deviation:.4f}" for name in statistics.SCORES]
        label = ", ".join(results[index].label for index in group)
        used = ", ".join(str(seeds[index]) for index in group)
        rows.append([label, used, *cells, f"{spread['dice'].low:.4f} – {spread['dice'].high:.4f}"])
    header = ["checkpoints", "seeds", "Dice", "Jaccard", "accuracy", "precision", "recall", "pooled Dice"]
    page.table([*header, "lowest – highest Dice"], rows)
    page.text(
        "Mean ± standard deviation (n − 1) over runs whose settings differ in the seed alone. A difference between two "
        "recipes that is smaller than this spread may come from the seed."
    )


def add_curves(page: Page, results: list[Result], histories: list[list[dict] | None]):
    page.heading("Training curves")
    for result, history in zip(results, histories, strict=True):
        if not history:
            page.text(f"{result.label} has no history (NAME.csv) beside its checkpoint.")
    known = {index: history for index, history in enumerate(histories) if history}
    if not known:
        return
    best = ", ".join(
        f"{results[index].label} {max(float(row['valid_dice']) for row in of_largest_size(history)):.4f}"
        for index, history in known.items()
    )
    text = f"Valid Dice and losses after each epoch. Best valid Dice: {best}."
    if any(len(of_largest_size(history)) < len(history) for history in known.values()):
        text += (
            " The pictures grew during training, and each value is at its epoch's size, so curves jump where the size "
            "changes; the best is chosen among the epochs at the last size."
        )
    page.figure(charts.curves(results, known), "curves", text)


def add_histogram(page: Page, results: list[Result]):
    page.heading("Distribution over pictures")
    below = ", ".join(f"{result.label} {100 * (result.dice < 0.8).mean():.1f} %" for result in results)
    page.figure(charts.histogram(results), "histogram", f"Pictures with a Dice below .8: {below}.")


def add_groups(page: Page, results: list[Result], described: dict[str, np.ndarray], pets: bool):
    """pets: whether names tell breed and species."""
    page.heading("By breed, size and position" if pets else "By size and position")
    names = results[0].names
    breeds = [statistics.breed(name) for name in names]
    if pets and len(set(breeds)) > 1:
        order = [name.replace("_", " ") for name in statistics.group_means(results[0].dice, breeds)]
        text = f"Hardest for {results[0].label}: {order[0]}; easiest: {order[-1]}. In brackets the number of pictures."
        page.figure(charts.breeds(results, breeds), "breeds", text)
        kinds = [statistics.species(name) for name in names]
        rows = []
        for result in results:
            means = statistics.group_means(result.dice, kinds)
            rows.append([result.label, *(f"{means[kind][0]:.4f} ({means[kind][1]:,})" for kind in sorted(means))])
        page.table(["Dice by species (pictures)", *sorted(set(kinds))], rows)
    sections = (
        ("foreground share", SIZE_EDGES, "size", "Dice by foreground size", "foreground, share of the picture"),
        ("share of the frame touched", FRAME_EDGES, "frame", "Dice by how much of the frame the foreground touches",
         "frame pixels that are foreground"),
    )  # fmt: skip
    for key, edges, name, title, x in sections:
        labels, groups = statistics.in_ranges(described[key], edges)
        labels = [label for label in labels if label in groups]
        lowest, (mean, _) = next(iter(statistics.group_means(results[0].dice, groups).items()))
        text = f"Lowest for {results[0].label}: {lowest}, with a mean Dice of {mean:.3f}."
        page.figure(charts.bars(results, labels, groups, title, x), name, text)


def add_thresholds(page: Page, results: list[Result]):
    page.heading("Thresholds and calibration")
    best = ", ".join(f"{r.label} {THRESHOLDS[int(r.by_threshold.argmax())]:.2f}" for r in results)
    text = f"Everything else on this page is at .5, the grey line. Best threshold on this split: {best}."
    page.figure(charts.thresholds(results), "thresholds", text)
    errors = ", ".join(f"{r.label} {statistics.calibration_error(r.calibration):.4f}" for r in results)
    text = (
        "On the grey line, probabilities match the observed share of foreground; above it the network is "
        f"underconfident, below it overconfident. Expected calibration error: {errors}."
    )
    page.figure(charts.calibration(results), "calibration", text)


def add_examples(page: Page, results: list[Result], chosen: list[tuple[str, int]], shown: list[list[dict]]):
    """chosen: pairs of a group and a picture's index. shown: for each result, its `panel_rows` of these pictures."""
    page.heading("The best, the median and the worst pictures")
    notes = [group for group, _ in chosen]
    text = "By the mean Dice of all checkpoints. Orange: missed foreground; purple: background taken for foreground."
    page.figure(charts.examples(results, notes, shown), "examples", text)


def add_doubtful(page: Page, results: list[Result], chosen: list[int], shown: list[list[dict]], total: int):
    """Pictures whose mask may be wrong. chosen: their indices; shown: as in `add_examples`; total: how many there are.

    Nothing for a single result, which has nothing to agree with.
    """
    if len(results) < 2:
        return
    page.heading("Perhaps the truth is wrong")
    if not chosen:
        page.text("No picture: nowhere do the checkpoints agree with one another against the mask.")
        return
    together = statistics.agreement(results)
    notes = [f"{number}, agreement {together[index]:.3f}" for number, index in zip(count(1), chosen, strict=False)]
    text = (
        f"Pictures on which any two checkpoints agree (Dice of at least {statistics.AGREED}) and none agrees with the "
        f"mask (Dice of at most {statistics.DENIED}): {len(chosen)} of {total}, the widest gap first. Either all "
        f"networks make the same mistake, or the mask is wrong. Orange: foreground by the mask alone; purple: "
        f"foreground by the network alone."
    )
    page.figure(charts.examples(results, notes, shown), "doubtful", text)


def add_worst(page: Page, results: list[Result], described: dict[str, np.ndarray], pets: bool):
    """pets: whether names tell the species."""
    page.heading("What the worst pictures have in common")
    mean = np.mean([result.dice for result in results], axis=0)
    cats = np.array([statistics.species(name) == "cats" for name in results[0].names], dtype=float)
    described = {**described, "is a cat": cats} if pets and 0 < cats.mean() < 1 else described
    rows = statistics.what_the_worst_share(mean, described)
    if not rows:
        page.text("There are too few pictures to compare.")
        return
    table = [[name, f"{bad:.3f}", f"{rest:.3f}", f"{gap:+.2f}"] for name, bad, rest, gap in rows]
    page.table(["mean of", "the worst tenth", "the rest", "gap, in standard deviations"], table)
    name, bad, rest, _ = rows[0]
    page.text(
        f"The worst tenth differs most in {name}: {bad:.3f} against {rest:.3f}. Contrast is the difference in mean "
        f"brightness between foreground and background; every property runs from 0 to 1."
    )
