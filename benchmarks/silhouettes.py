"""Draw ground truth and prediction of the best, the median and the worst images of a split as silhouettes, in one PNG.

    python benchmarks/silhouettes.py --model saved_models/resnet34_unet_pets.pth --output benchmarks/silhouettes.png

The figure contains no pixels of photos, so it may be published whatever the photos' license. Images keep their original
shape. Dice is computed as in evaluate.py, at the size of the network's input. Images with an empty mask are not drawn.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from checkpoint import load
from data import eval_loader, load_split
from flags import add_data_flags, options_of_data
from predictor import Predictor, make_predictor, to_size
from reports.charts import FALSE_NEGATIVE, FALSE_POSITIVE
from reports.plots import save_figure, show
from reports.statistics import best_median_worst
from runtime import choose_runtime
from scoring import DiceMeter, dice_score, evaluate
from utils import Parser, run

BACKGROUND, CORRECT = (232, 236, 240), (52, 73, 94)
EACH = 2  # images per group: best, median, worst
SIZE = (12, 4.9)  # inches, at 100 pixels per inch


def silhouette(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Color correct foreground, false negatives and false positives: boolean (H, W) masks to uint8 (H, W, 3)."""
    drawn = np.full((*target.shape, 3), BACKGROUND, dtype=np.uint8)
    drawn[target & prediction] = CORRECT
    drawn[target & ~prediction] = FALSE_NEGATIVE
    drawn[~target & prediction] = FALSE_POSITIVE
    return drawn


def masks_of(predictor: Predictor, dataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ground truth and prediction of an image at its original size, boolean (H, W)."""
    item = dataset[[index]]
    target = dataset.original_mask(item["name"][0])[0]
    probability = predictor.probability(item["image"])[0, 0].cpu()
    return target.numpy() == 1, to_size(probability, target.shape[::-1]).numpy() >= 0.5


def squared(drawn: np.ndarray) -> np.ndarray:
    """Center a drawing in a white square, so that all panels line up: uint8 (H, W, 3) to (S, S, 3)."""
    height, width, _ = drawn.shape
    size = max(height, width)
    square = np.full((size, size, 3), 255, dtype=np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = drawn
    return square


def draw(rows: list[tuple[str, float, np.ndarray, np.ndarray]], title: str):
    """Draw ground truths above predictions. rows: each image's group, Dice, ground truth and prediction."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=SIZE)
    axes = figure.subplots(2, len(rows), squeeze=False)
    figure.subplots_adjust(left=0.03, right=0.995, top=0.86, bottom=0.07, wspace=0.04, hspace=0.04)
    for column, (group, score, target, prediction) in zip(axes.T, rows, strict=True):
        show(column[0], squared(silhouette(target, target)))
        show(column[1], squared(silhouette(target, prediction)))
        column[0].set_title(f"{group}, Dice {score:.3f}", fontsize=13)
    axes[0, 0].set_ylabel("ground truth", fontsize=13)
    axes[1, 0].set_ylabel("prediction", fontsize=13)
    figure.suptitle(title, fontsize=13, y=0.985)
    legend = (("correct", CORRECT), ("false negative", FALSE_NEGATIVE), ("false positive", FALSE_POSITIVE))
    patches = [Rectangle((0, 0), 1, 1, color=np.array(color) / 255, label=label) for label, color in legend]
    figure.legend(handles=patches, loc="lower center", ncols=3, frameon=False, fontsize=13, bbox_to_anchor=(0.5, -0.01))
    return figure


def main() -> int:
    args = get_args_parser().parse_args()
    runtime = choose_runtime(args.device, args.precision)
    checkpoint = load(args.model, args.model_type)
    predictor = make_predictor(checkpoint, args.model, runtime, args.tta)
    dataset = load_split(options_of_data(checkpoint, args), args.split)
    loader = eval_loader(dataset, args.batch_size, args.workers, runtime.device)
    counts = evaluate(predictor, loader, DiceMeter(dataset, (0.5,)), args.split).at(0.5)
    present = (counts[:, 0] + counts[:, 2] > 0).nonzero()[:, 0].tolist()
    dices = dice_score(counts)[present]
    rows = []
    for group, index in best_median_worst(dices, EACH, EACH, EACH):
        rows.append((group, dices[index].item(), *masks_of(predictor, dataset, present[index])))
    mean = dice_score(counts).mean().item()
    title = f"{args.model.stem}: {len(dataset):,} images of the {args.split} split, mean Dice {mean:.4f}"
    save_figure(draw(rows, title), args.output)
    print(f"wrote {args.output}: {title}")
    return 0


def get_args_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint")
    parser.add_argument("--output", type=Path, default=Path("silhouettes.png"), help="output file; default %(default)s")
    add_data_flags(parser)
    return parser


if __name__ == "__main__":
    run(main)
