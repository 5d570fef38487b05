"""Run a checkpoint on a split of its dataset: write masks and panels.png, and print scores.

    python src/inference.py --model unet.pth
    python src/inference.py --model unet.pth --split valid --output masks --rle submission.csv
    torchrun --nproc_per_node 2 src/inference.py --model unet.pth

Masks are PNGs with values 0 and 255 at original size; scores are at the input size. panels.png
shows the images with the best, median and worst Dice. For your own photos, use predict.py.
"""

if __name__ == "__main__":
    import startup  # noqa: F401  # before torch is imported

from data import eval_loader, load_split
from files import make_folder, write_csv
from flags import add_data_flags, options_of_data
from photos.outputs import mask_of, run_lengths, save_image
from predictor import foreground, load_predictor, predictions, to_size
from reports.plots import panel_rows, plot_panels
from reports.statistics import best_median_worst
from reports.table import print_table, score_row
from runtime import choose_runtime
from scoring import DiceMeter, add_threshold_flag, dice_score, resolve_threshold
from splits import SPLIT_NAMES
from training.distributed import all_gather_object, destroy_processes, init_processes, rank, rank_zero_first
from utils import Parser, UserError, count_of, run, user_path, when_memory_runs_out


def predict_split(predictor, args):
    """Write masks and panels of a split, and print its scores."""
    threshold = resolve_threshold(args.threshold, predictor.checkpoint, args.model)
    options = options_of_data(predictor.checkpoint, args)
    if options.path and args.output.resolve().is_relative_to(options.path.resolve()):
        raise UserError(f"--output {args.output} is in the dataset's folder; choose another")
    make_folder(args.output, "--output")
    if args.rle:
        make_folder(args.rle.parent, "--rle")
    with rank_zero_first():
        dataset = load_split(options, args.split)
    loader = eval_loader(dataset, args.batch_size, args.workers, predictor.runtime.device)
    meter, runs = DiceMeter(dataset, (threshold,)), {}
    for batch, logits in predictions(predictor, loader, args.split):
        meter.add(batch, logits)
        probabilities = foreground(logits).sigmoid()[:, 0].cpu()
        for name, probability in zip(batch["name"], probabilities, strict=True):
            mask = mask_of(to_size(probability, dataset.original_size(name)), threshold)
            save_image(mask, args.output / f"{name}.png")
            if args.rle:
                runs[name] = run_lengths(mask)
    counts = meter.at(threshold)
    for part in all_gather_object(runs):
        runs |= part
    if rank() > 0:
        return
    dice = dice_score(counts)
    row = score_row(predictor, dataset, args, counts)
    print_table([{"model": str(args.model), "scored_at": threshold, **row}])
    at_threshold = "" if threshold == 0.5 else f" at threshold {threshold:.3g}"
    title = f"{args.model.name} on the {SPLIT_NAMES[args.split]} split{at_threshold}"
    notes, indices = zip(*best_median_worst(dice), strict=True)
    rows = panel_rows(predictor, dataset, indices, threshold)
    rows = [{**row, "note": note} for row, note in zip(rows, notes, strict=True)]
    plot_panels(rows, title, args.output / "panels.png")
    if args.rle:
        write_csv(args.rle, ["image_id", "encoded_mask"], [(name, runs[name]) for name in dataset.names])
    print(f"wrote {count_of(len(dataset), 'mask')}{at_threshold} and panels.png to {args.output}")


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", type=user_path, required=True, help="checkpoint")
    add("--output", type=user_path, default="predictions", help="output folder; default %(default)s")
    add_threshold_flag(parser)
    add("--rle", type=user_path, help="CSV file for image_id,encoded_mask (column-major, 1-based RLE pairs)")
    add_data_flags(parser, batch_size=8, precision="auto")
    args = parser.parse_args()
    runtime = init_processes(choose_runtime(args.device, args.precision))
    predictor = load_predictor(args.model, runtime, args.model_type, args.tta)
    with when_memory_runs_out("use a smaller --batch_size or --image_size"):
        predict_split(predictor, args)
    destroy_processes()


if __name__ == "__main__":
    run(main)
