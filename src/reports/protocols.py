"""One pass over a split, scored under every published protocol, so that numbers of different papers compare.

Reports on Oxford-IIIT Pet differ in what the trimap's border counts as, in the size at which pixels are compared, in
whether Dice is averaged over pictures or taken of all pixels together, and in the threshold. Each is a row here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from predictor import Predictor, predictions
from reports.boundary import boundary_f, tolerance_of
from splits import BORDERS, SegmentationDataset
from training.distributed import gather_rows
from utils import confusion, dice, foreground, jaccard, ratio, to_size

PUBLISHED_SIZE = 256  # pixels, the side at which the named reports score
# Who reports under a protocol: (border, size, average, Dice of) at threshold .5. R1 to R5 are the reports that this
# repo grew from; R3 is on drawn shapes. segmentation_models.pytorch's example (binary_segmentation_intro.ipynb) takes
# trimap 2 as background, 1 and 3 as foreground, resizes to 256 x 256, and prints per-image and dataset IoU of test.txt.
REPORTED = {
    ("foreground", "network", "picture", "all"): (
        "R1 R2 R4 R5 and this repo (Dice), segmentation_models.pytorch (per-image IoU), 2025 course peer (IoU)"
    ),
    ("foreground", "network", "pooled", "all"): "segmentation_models.pytorch (dataset IoU)",
    ("foreground", "own", "picture", "all"): "this repo --own_size (Dice)",
    ("background", "network", "picture", "all"): "2026 course (Dice; border rule known, size not)",
    ("background", "own", "picture", "all"): "2026 course (Dice; border rule known, size not)",
    ("foreground", "network", "picture", "truth's"): "2025 course peer (Dice; a false positive costs nothing)",
}


@dataclass(frozen=True)
class Row:
    """A split's scores under one protocol.

    border: one of BORDERS. size: "network" or "own", at which pixels are compared. average: "picture", the mean over
    pictures, or "pooled", all pixels together. pixels: "all", or "truth's" where Dice looks at no others.
    boundary: mean boundary F, where it is defined. reported: who publishes such numbers.
    """

    border: str
    size: str
    average: str
    pixels: str
    threshold: float
    dice: float
    iou: float
    boundary: float | None
    reported: str


def truth_under(mask: torch.Tensor, border: str) -> torch.Tensor:
    """A mask of border rule "ignore" (0, 1, and 255 for the border) under another rule. uint8 of any shape to the same.

    The rule "ignore" loses nothing of a trimap, so that one reading of the data serves all three.
    """
    if border == "ignore":
        return mask
    return ((mask != 0) if border == "foreground" else (mask == 1)).view(torch.uint8)


def count_pictures(
    predictor: Predictor, loader: DataLoader, thresholds: Sequence[float], title: str
) -> dict[tuple[str, str, float], torch.Tensor]:
    """Predict every picture once, and count it under each border rule, size and threshold.

    loader: of a dataset with border rule "ignore". Returns, by (border, size, threshold), float64 (N, 5): true
    positives, false positives, false negatives, true negatives, boundary F (NaN for border "ignore").
    Collective: call on all ranks.
    """
    keys = [(border, size, threshold) for size in ("network", "own") for threshold in thresholds for border in BORDERS]
    dataset: SegmentationDataset = loader.dataset  # type: ignore[assignment]
    rows = []
    for batch, logits in predictions(predictor, loader, title):
        logits = foreground(logits)
        own = at_own_size(dataset, batch, logits, thresholds)
        rows.append(torch.cat([at_network_size(batch, logits, thresholds), own], 1))
    table = torch.cat(rows) if rows else torch.zeros(0, len(keys), 5, dtype=torch.float64)
    return dict(zip(keys, gather_rows(table, len(dataset)).unbind(1), strict=True))


def at_network_size(batch: dict, logits: torch.Tensor, thresholds: Sequence[float]) -> torch.Tensor:
    """A batch at the size of the network's input: float64 (N, thresholds * BORDERS, 5), on the CPU."""
    edges = torch.logit(torch.tensor(thresholds, dtype=torch.float64)).tolist()
    return torch.cat([under_each_border(logits >= edge, batch["mask"]) for edge in edges], 1)


def at_own_size(
    dataset: SegmentationDataset, batch: dict, logits: torch.Tensor, thresholds: Sequence[float]
) -> torch.Tensor:
    """A batch at its pictures' own sizes, against the masks as they came: the same shape."""
    rows = []
    for name, probability in zip(batch["name"], logits.sigmoid()[:, 0].cpu(), strict=True):
        mask = dataset.original_mask(name)[None]
        scaled = to_size(probability, mask.shape[:1:-1])[None, None]
        rows.append(torch.cat([under_each_border(scaled >= threshold, mask) for threshold in thresholds], 1))
    return torch.cat(rows)


def under_each_border(prediction: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Counts and boundary F of predictions under the three rules: boolean (N, 1, H, W) to float64 (N, BORDERS, 5).

    Boundary F is NaN where the border is ignored: the true contour lies in the very pixels that are left out.
    """
    columns = []
    for border in BORDERS:
        truth = truth_under(mask, border)
        contours = torch.full((len(mask),), torch.nan, dtype=torch.float64)
        if border != "ignore":
            contours = boundary_f(prediction, truth == 1)
        counts = confusion(prediction, truth).cpu().double()
        columns.append(torch.cat([counts, contours[:, None]], 1))
    return torch.stack(columns, 1)


def dice_of_truth(counts: torch.Tensor) -> torch.Tensor:
    """Dice of the truth's own pixels: 2 TP / (2 TP + FN), (N, 4) to (N,). False positives cost nothing."""
    tp, _, fn, _ = counts.double().unbind(1)
    return ratio(2 * tp, 2 * tp + fn)


def table_of(counted: dict[tuple[str, str, float], torch.Tensor], image_size: int) -> list[Row]:
    """A row per protocol, from what `count_pictures` returns; image_size: the side of the network's input, in pixels.

    A row is someone's only at threshold .5, and at the size they report at.
    """
    rows = []
    for (border, size, threshold), table in counted.items():
        counts, boundary = table[:, :4], None if border == "ignore" else table[:, 4].mean().item()
        comparable = threshold == 0.5 and (size == "own" or image_size == PUBLISHED_SIZE)
        for average, part in (("picture", counts), ("pooled", counts.sum(0, keepdim=True))):
            variants = {"all": dice(part)}
            if (border, size, average) == ("foreground", "network", "picture"):
                variants["truth's"] = dice_of_truth(part)
            for pixels, values in variants.items():
                reported = REPORTED.get((border, size, average, pixels), "") if comparable else ""
                scores = (values.mean().item(), jaccard(part).mean().item())
                contour = boundary if average == "picture" and pixels == "all" else None
                rows.append(Row(border, size, average, pixels, threshold, *scores, contour, reported))
    return sorted(rows, key=lambda row: (row.threshold != 0.5, row.size != "network", BORDERS.index(row.border)))


def print_protocols(rows: Sequence[Row], title: str, image_size: int):
    """One table; image_size: the side of the network's input, in pixels."""
    print(title)
    header = f"{'border':10}  {'size':7}  {'average':7}  {'pixels':7}  {'threshold':>9}  {'Dice':>6}  {'IoU':>6}"
    print(f"{header}  {'boundary F':>10}  reported by")
    for row in rows:
        size = f"{image_size}x{image_size}" if row.size == "network" else "own"
        boundary = "-" if row.boundary is None else f"{row.boundary:.4f}"
        line = f"{row.border:10}  {size:7}  {row.average:7}  {row.pixels:7}  {row.threshold:9.2f}"
        print(f"{line}  {row.dice:6.4f}  {row.iou:6.4f}  {boundary:>10}  {row.reported}".rstrip())
    pixels = tolerance_of(image_size, image_size)
    print(
        f"Boundary F (DAVIS, CVPR 2016): tolerance .8 % of the diagonal, {pixels} px at {image_size}x{image_size}; "
        "not defined where the border is ignored. R3 scores drawn shapes, which have no border."
    )
