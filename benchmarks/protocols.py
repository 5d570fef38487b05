"""Score checkpoints on the pets under the common protocols, to compare numbers from different papers.

    python benchmarks/protocols.py --model saved_models/unet_pets.pth                      # prints a table
    python benchmarks/protocols.py --model saved_models/*.pth --output scores/protocols    # + .json and .csv

Papers on Oxford-IIIT Pet differ in what the trimap's border counts as, in the size at which pixels are compared, in
whether Dice is averaged over images or computed over all pixels, and in the threshold. Each protocol is a row here.
All rows come from one pass over the split.

The last column is the boundary F-measure: Csurka, Larlus, Perronnin, "What is a good evaluation measure for semantic
segmentation?", BMVC 2013, section 3.2, in the form of Perazzi et al., "A Benchmark Dataset and Evaluation Methodology
for Video Object Segmentation" (DAVIS), CVPR 2016. A contour pixel is matched if the other contour has a pixel within
the tolerance.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
from checkpoint import load
from data import SegmentationDataset, eval_loader, load_split
from evaluate import find_checkpoints
from flags import add_data_flags, options_of_data
from predictor import Predictor, foreground, make_predictor, predictions, to_size
from reports.table import check_output, write_results
from runtime import choose_runtime
from scoring import add_threshold_flag, confusion, dice_score, jaccard_score, ratio, resolve_threshold
from splits import BORDERS
from utils import Parser, UserError, run, user_path, when_memory_runs_out

TOLERANCE = 0.008  # fraction of the image's diagonal, as in DAVIS
PUBLISHED_SIZE = 256  # image size of the published scores, in pixels
# Who reports under a protocol, (border, size, average, pixels), at threshold 0.5. Reports 1 to 5: see
# benchmarks/README.md; report 3 uses synthetic shapes. segmentation_models.pytorch's example
# (binary_segmentation_intro.ipynb) takes trimap 2 as background, 1 and 3 as foreground, resizes to 256x256, and
# prints per-image and dataset IoU of test.txt. The course and the other project: see saved_models/README.md.
REPORTED = {
    ("foreground", "network", "image", "all"): (
        "reports 2, 4 and this repo (Dice), segmentation_models.pytorch (per-image IoU), another project (IoU)"
    ),
    ("foreground", "network", "pooled", "all"): "segmentation_models.pytorch (dataset IoU)",
    ("foreground", "original", "image", "all"): "this repo --original_size (Dice)",
    ("background", "network", "image", "all"): "the reports' course, 2026 (Dice; size unknown)",
    ("background", "original", "image", "all"): "the reports' course, 2026 (Dice; size unknown)",
    ("foreground", "network", "image", "target's"): "another project (Dice; false positives cost nothing)",
}


@dataclass(frozen=True)
class Row:
    """A split's scores under one protocol.

    border: one of BORDERS. size: "network" or "original", the size at which pixels are compared. average: "image",
    the mean over images, or "pooled", all pixels together. pixels: "all", or "target's" if Dice considers no others.
    boundary: mean boundary F, if it is defined. reported: who publishes such numbers.
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


def main() -> int:
    args = get_args_parser().parse_args()
    if args.border:
        raise UserError("--border does not apply to this script, which scores under every border rule; omit it")
    if args.output:
        check_output(args.output)
    runtime = choose_runtime(args.device, args.precision)
    records: list[dict] = []
    with when_memory_runs_out(f"use a smaller --batch_size than {args.batch_size}, or a smaller --image_size"):
        for path in find_checkpoints(args.model):
            records += score_checkpoint(path, args, runtime)
    if args.output:
        write_results(records, list(records[0]), [list(record.values()) for record in records], args.output)
    return 0


def score_checkpoint(path: Path, args, runtime) -> list[dict]:
    """Print the table of a checkpoint. Returns its rows as dicts."""
    checkpoint = load(path, args.model_type)
    predictor = make_predictor(checkpoint, path, runtime, args.tta)
    options = replace(options_of_data(checkpoint, args), border="ignore")
    if options.dataset != "pets":
        raise UserError(f"{path} is for {options.dataset}, but only the pets' masks have a border; choose another")
    dataset = load_split(options, args.split)
    loader = eval_loader(dataset, args.batch_size, args.workers, runtime.device)
    wanted = resolve_threshold(args.threshold, checkpoint, path)
    second = (checkpoint.threshold or 0.5) if wanted == 0.5 else wanted
    counted = count_images(predictor, loader, list(dict.fromkeys([0.5, second])), f"{args.split} {path.stem}")
    rows = table_of(counted, options.image_size)
    chosen = f", thresholds 0.5 and {second:.4g}" if second != 0.5 else ""
    print(f"{path}: {args.split} split, {len(dataset):,} images, in {predictor.runtime.precision}{chosen}")
    print_protocols(rows, options.image_size)
    return [{"model": str(path), "split": args.split, "images": len(dataset), **vars(row)} for row in rows]


# ---------------------------------------------------------------------------------- protocols


def target_under(mask: torch.Tensor, border: str) -> torch.Tensor:
    """Convert a mask of border rule "ignore" (0, 1, and 255 for the border) to another rule, uint8 of any shape.

    A mask under the rule "ignore" has all information of its trimap, so the data is read only once.
    """
    if border == "ignore":
        return mask
    return ((mask != 0) if border == "foreground" else (mask == 1)).view(torch.uint8)


def count_images(
    predictor: Predictor, loader: DataLoader, thresholds: Sequence[float], title: str
) -> dict[tuple[str, str, float], torch.Tensor]:
    """Predict every image once, and count its pixels for each border rule, size and threshold.

    loader: for a dataset with border rule "ignore". Returns, by (border, size, threshold), float64 (N, 5): true
    positives, false positives, false negatives, true negatives, boundary F (NaN for border "ignore").
    """
    keys = [(border, size, value) for size in ("network", "original") for value in thresholds for border in BORDERS]
    dataset: SegmentationDataset = loader.dataset  # type: ignore[assignment]
    edges = torch.logit(torch.tensor(thresholds, dtype=torch.float64)).tolist()
    rows = []
    for batch, logits in predictions(predictor, loader, title):
        logits = foreground(logits)
        network = torch.cat([under_each_border(logits >= edge, batch["mask"]) for edge in edges], 1)
        original = []
        for name, probability in zip(batch["name"], logits.sigmoid()[:, 0].cpu(), strict=True):
            mask = dataset.original_mask(name)[None]
            scaled = to_size(probability, mask.shape[:1:-1])[None, None]
            original.append(torch.cat([under_each_border(scaled >= value, mask) for value in thresholds], 1))
        rows.append(torch.cat([network, torch.cat(original)], 1))
    return dict(zip(keys, torch.cat(rows).unbind(1), strict=True))


def under_each_border(prediction: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Count pixels and compute boundary F under the three rules: boolean (N, 1, H, W) to float64 (N, BORDERS, 5).

    Boundary F is NaN if the border is ignored, since the true contour lies in the pixels that are left out.
    """
    columns = []
    for border in BORDERS:
        target = target_under(mask, border)
        contours = torch.full((len(mask),), torch.nan, dtype=torch.float64)
        if border != "ignore":
            contours = boundary_f(prediction, target == 1)
        counts = confusion(prediction, target).cpu().double()
        columns.append(torch.cat([counts, contours[:, None]], 1))
    return torch.stack(columns, 1)


def dice_of_target(counts: torch.Tensor) -> torch.Tensor:
    """Return Dice over only the target's pixels, 2 TP / (2 TP + FN), (N, 4) to (N,): false positives cost nothing."""
    tp, _, fn, _ = counts.double().unbind(1)
    return ratio(2 * tp, 2 * tp + fn)


def table_of(counted: dict[tuple[str, str, float], torch.Tensor], image_size: int) -> list[Row]:
    """Return a row per protocol. counted: from `count_images`. image_size: the network's input size, in pixels.

    Rows name who reports such numbers only at threshold 0.5, and at original size or at PUBLISHED_SIZE.
    """
    rows = []
    for (border, size, threshold), table in counted.items():
        counts, boundary = table[:, :4], None if border == "ignore" else table[:, 4].mean().item()
        comparable = threshold == 0.5 and (size == "original" or image_size == PUBLISHED_SIZE)
        for average, part in (("image", counts), ("pooled", counts.sum(0, keepdim=True))):
            variants = {"all": dice_score(part)}
            if (border, size, average) == ("foreground", "network", "image"):
                variants["target's"] = dice_of_target(part)
            for pixels, values in variants.items():
                reported = REPORTED.get((border, size, average, pixels), "") if comparable else ""
                scores = (values.mean().item(), jaccard_score(part).mean().item())
                contour = boundary if average == "image" and pixels == "all" else None
                rows.append(Row(border, size, average, pixels, threshold, *scores, contour, reported))
    return sorted(rows, key=lambda row: (row.threshold != 0.5, row.size != "network", BORDERS.index(row.border)))


def print_protocols(rows: Sequence[Row], image_size: int):
    """Print a table. image_size: the network's input size, in pixels."""
    header = f"{'border':10}  {'size':8}  {'average':7}  {'pixels':8}  {'threshold':>9}  {'Dice':>6}  {'IoU':>6}"
    print(f"{header}  {'boundary F':>10}  reported by")
    for row in rows:
        size = f"{image_size}x{image_size}" if row.size == "network" else row.size
        boundary = "-" if row.boundary is None else f"{row.boundary:.4f}"
        line = f"{row.border:10}  {size:8}  {row.average:7}  {row.pixels:8}  {row.threshold:9.2f}"
        print(f"{line}  {row.dice:6.4f}  {row.iou:6.4f}  {boundary:>10}  {row.reported}".rstrip())
    pixels = tolerance_of(image_size, image_size)
    print(
        f"Boundary F (DAVIS, CVPR 2016): tolerance 0.8% of the diagonal, {pixels} px at {image_size}x{image_size}; "
        "not defined if the border is ignored. Report 3 uses synthetic shapes, which have no border."
    )


# --------------------------------------------------------------------------------- boundary F


def tolerance_of(height: int, width: int) -> int:
    """Return the tolerance for an image in whole pixels: 3 at 256x256."""
    return math.ceil(TOLERANCE * math.hypot(height, width))


def contour(mask: torch.Tensor) -> torch.Tensor:
    """Find the pixels that differ from their right, lower or lower right neighbor. Boolean (N, 1, H, W) to the same."""
    padded = F.pad(mask.float(), (0, 1, 0, 1), mode="replicate") > 0
    right, below, diagonal = padded[..., :-1, 1:], padded[..., 1:, :-1], padded[..., 1:, 1:]
    return (mask ^ right) | (mask ^ below) | (mask ^ diagonal)


def near(contours: torch.Tensor, tolerance: int) -> torch.Tensor:
    """Find the pixels within `tolerance` pixels (Euclidean) of a contour. Boolean (N, 1, H, W) to the same."""
    offset = torch.arange(-tolerance, tolerance + 1, device=contours.device)
    disk = (offset[:, None] ** 2 + offset[None, :] ** 2 <= tolerance**2).float()[None, None]
    return F.conv2d(contours.float(), disk, padding=tolerance) > 0.5


def boundary_f(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the harmonic mean of the matched fractions of both contours, by image.

    prediction, target: boolean (N, 1, H, W). Returns float64 (N,), on the CPU. Two masks without a contour score 1. If
    only one mask has a contour, or no pixel is matched, the score is 0.
    """
    tolerance = tolerance_of(*target.shape[-2:])
    predicted, true = contour(prediction), contour(target)
    matches = (predicted & near(true, tolerance), true & near(predicted, tolerance), predicted, true)
    matched, found, of_predicted, of_true = (part.flatten(1).sum(1).cpu().double() for part in matches)
    precision, recall = matched / of_predicted.clamp(min=1), found / of_true.clamp(min=1)
    f = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return torch.where(of_predicted + of_true > 0, f, 1.0)


def get_args_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--model", type=user_path, nargs="+", required=True, help="checkpoints")
    parser.add_argument("--output", type=user_path, help="write OUTPUT.json and OUTPUT.csv, with a row per protocol")
    add_threshold_flag(parser)
    add_data_flags(parser)
    return parser


if __name__ == "__main__":
    run(main)
