"""Draw truth and prediction of the best, the median and the worst pictures of a split as silhouettes, into one PNG.

    python benchmarks/silhouettes.py --model saved_models/resnet34_unet_pets.pth --output benchmarks/silhouettes.png

No pixel of a photo is in it, so that it may be published whatever the photos' licence. Pictures keep their own shape;
their Dice is evaluate.py's, at the network's size. Pictures with an empty truth are left out: there is nothing to draw.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from checkpoint import load
from data import eval_loader, load_split
from files import write_whole
from flags import add_data_flags, options_of_data
from predictor import Predictor, make_predictor
from reports.statistics import best_median_worst
from runtime import choose_runtime
from scoring import Tally, evaluate
from splits import SPLITS
from utils import Parser, dice, run, to_size

GROUND, RIGHT, MISSED, INVENTED = (232, 236, 240), (52, 73, 94), (230, 97, 0), (93, 58, 155)
EACH = 2  # pictures of a group
SIZE = (12, 4.9)  # inches, at 100 pixels an inch


def silhouette(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Prediction and truth, boolean (H, W), as one drawing, uint8 (H, W, 3): right, missed and invented pixels."""
    drawn = np.full((*truth.shape, 3), GROUND, dtype=np.uint8)
    drawn[truth & prediction] = RIGHT
    drawn[truth & ~prediction] = MISSED
    drawn[~truth & prediction] = INVENTED
    return drawn


def masks_of(predictor: Predictor, dataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction of a picture at its own size, boolean (H, W)."""
    item = dataset[[index]]
    truth = dataset.original_mask(item["name"][0])[0]
    probability = predictor.probability(item["image"])[0, 0].cpu()
    return truth.numpy() == 1, to_size(probability, truth.shape[::-1]).numpy() >= 0.5


def squared(drawn: np.ndarray) -> np.ndarray:
    """A drawing in the middle of a white square, so that all panels line up: uint8 (H, W, 3) to (S, S, 3)."""
    height, width, _ = drawn.shape
    side = max(height, width)
    square = np.full((side, side, 3), 255, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = drawn
    return square


def draw(rows: list[tuple[str, float, np.ndarray, np.ndarray]], title: str) -> Figure:
    """A figure of two rows, truth above prediction. rows: a group, a Dice, truth and prediction of each picture."""
    figure, axes = plt.subplots(2, len(rows), figsize=SIZE, squeeze=False)
    figure.subplots_adjust(left=0.03, right=0.995, top=0.86, bottom=0.07, wspace=0.04, hspace=0.04)
    for column, (group, score, truth, prediction) in zip(axes.T, rows, strict=True):
        column[0].imshow(squared(silhouette(truth, truth)))
        column[1].imshow(squared(silhouette(truth, prediction)))
        column[0].set_title(f"{group}, Dice {score:.3f}", fontsize=13)
        for axis in column:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    axes[0, 0].set_ylabel("truth", fontsize=13)
    axes[1, 0].set_ylabel("prediction", fontsize=13)
    figure.suptitle(title, fontsize=13, y=0.985)
    legend = (("right", RIGHT), ("missed", MISSED), ("background taken for the pet", INVENTED))
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
    counts = evaluate(predictor, loader, Tally(dataset, (0.5,)), args.split).at(0.5)
    seen = (counts[:, 0] + counts[:, 2] > 0).nonzero()[:, 0].tolist()
    dices = dice(counts)[seen]
    rows = []
    for group, place in best_median_worst(dices, EACH, EACH, EACH):
        rows.append((group, dices[place].item(), *masks_of(predictor, dataset, seen[place])))
    title = (
        f"{args.model.stem}: {len(dataset):,} pictures of the {args.split} split, mean Dice {dice(counts).mean():.4f}"
    )
    figure = draw(rows, title)
    write_whole(args.output, lambda file: figure.savefig(file, format="png", dpi=100))
    print(f"wrote {args.output}: {title}")
    return 0


def get_args_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint")
    parser.add_argument("--split", choices=SPLITS, default="test", help="default %(default)s")
    parser.add_argument("--output", type=Path, default=Path("silhouettes.png"), help="default %(default)s")
    add_data_flags(parser)
    return parser


if __name__ == "__main__":
    run(main)
