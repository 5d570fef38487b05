"""Score checkpoints on a split of the data they were trained on.

    python src/evaluate.py --model saved_models/unet.pth                       # the test split
    python src/evaluate.py --model saved_models/*.pth --split valid            # several in one table
    python src/evaluate.py --model saved_models/unet.pth --output scores/unet  # + scores/unet.json, .csv

Scores are means over pictures; a picture's Dice is taken at probability .5, and two empty masks score 1. They are
computed in float32 unless --precision says otherwise, so that they come out the same on every machine.
"""

import json
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from augment import to_float
from checkpoint import load, restore_model
from data import choose_dataset, eval_loader, load_split
from files import write_table, write_whole
from models import MODELS
from oxford_pet import BORDERS, SPLITS
from training.distributed import finish, first_alone, gather, gather_rows, rank, start, world_size
from utils import (
    Parser,
    UserError,
    add_device_flags,
    autocast,
    confusion,
    count,
    dice,
    foreground,
    in_layout_of,
    jaccard,
    pick_device,
    pick_precision,
    positive,
    run,
    scores,
    to_size,
    when_memory_runs_out,
)

THRESHOLDS = [step / 20 for step in range(1, 20)]


@torch.inference_mode()
def evaluate(model, loader, device, precision, mean, std, loss=None, tta=False, title="evaluate", each=None):
    """Predict every picture of `loader` -> confusion counts int64 (N, 4) on the CPU, mean loss or None.

    Of several processes, each predicts its part, and all get the counts and the loss of the whole.
    tta: average the probabilities of the picture and of its mirror image.
    each: called with every batch's probability of foreground, float32 (N, 1, H, W), and its mask, on the device.
    """
    model.eval()
    counts, total = [torch.zeros(0, 4, dtype=torch.int64, device=device)], torch.zeros((), dtype=torch.float64)
    bar = tqdm(loader, title, unit="batch", leave=False, disable=rank() > 0 or not sys.stderr.isatty())
    for batch in bar:
        image = to_float(batch["image"].to(device, non_blocking=True), mean, std)
        mask = batch["mask"].to(device, non_blocking=True)
        with autocast(device, precision):
            logits = predict(model, image, tta)
        counts.append(confusion(foreground(logits) >= 0, mask))
        if each:
            each(foreground(logits).sigmoid(), mask)
        if loss:
            total = total.to(device) + loss(logits, mask).double() * len(mask)
    counts = gather_rows(torch.cat(counts), len(loader.dataset))
    return counts, gather(total).sum().item() / len(counts) if loss else None


class Thresholds:
    """The mean Dice of a split at each of THRESHOLDS, collected as `each` of `evaluate`."""

    def __init__(self):
        self.sums = torch.zeros(len(THRESHOLDS), dtype=torch.float64)

    def __call__(self, probability, mask):
        dices = torch.stack([dice(confusion(probability >= threshold, mask)).sum() for threshold in THRESHOLDS])
        self.sums = self.sums.to(dices.device) + dices

    def best(self):
        """The threshold of the highest mean, over all processes."""
        return THRESHOLDS[int(gather(self.sums).sum(0).argmax())]


class Counts:
    """Confusion counts of a split at several thresholds, collected as `each` of `evaluate`.

    at_own_size: scale each prediction to its picture's own size and compare it with the mask as it came.
    """

    def __init__(self, dataset, thresholds, at_own_size=False):
        self.dataset, self.thresholds, self.at_own_size = dataset, thresholds, at_own_size
        self.indices, self.counts = iter(range(rank(), len(dataset), world_size())), []

    def __call__(self, probability, mask):
        if not self.at_own_size:
            self.count(probability, mask)
            return
        for one in probability[:, 0].cpu():
            mask = self.dataset.original_mask(next(self.indices))
            self.count(to_size(one, mask.shape[:0:-1])[None, None], mask[None])

    def count(self, probability, mask):
        self.counts.append(torch.stack([confusion(probability >= t, mask) for t in self.thresholds], 1))

    def all(self):
        """int64 (N, 4) for each threshold, on the CPU, of all processes."""
        counts = torch.cat(self.counts) if self.counts else torch.zeros(0, len(self.thresholds), 4, dtype=torch.int64)
        return gather_rows(counts, len(self.dataset)).unbind(1)


def predict(model, image, tta=False):
    """Float images (N, C, H, W) -> logits, float32; with `tta`, those of the mean probability of both mirror images."""
    image = in_layout_of(model, image)
    logits = model(image).float()
    if tta:
        mirrored = model(image.flip(3)).float().flip(3)
        logits = torch.logit((logits.sigmoid() + mirrored.sigmoid()) / 2, eps=1e-7)
    return logits


@torch.inference_mode()
def panel_rows(model, dataset, device, precision, mean, std, indices, tta=False):
    """Predict a few pictures of a dataset, for plot_panels."""
    model.eval()
    batch = dataset[list(indices)]
    with autocast(device, precision):
        logits = predict(model, to_float(batch["image"].to(device), mean, std), tta)
    probability = foreground(logits).sigmoid().cpu()
    dices = dice(confusion(probability >= 0.5, batch["mask"])).tolist()
    return [
        {"name": name, "image": image, "mask": mask[0], "probability": p[0], "dice": d}
        for name, image, mask, p, d in zip(
            batch["name"], batch["image"], batch["mask"], probability, dices, strict=True
        )
    ]


def data_of(checkpoint, args, mode):
    """The split a checkpoint is scored on: its own dataset and settings, unless the flags say otherwise."""
    dataset, data_path = choose_dataset("pets" if args.data_path else checkpoint["dataset"], args.data_path)
    size = args.image_size or checkpoint["image_size"]
    border = args.border or checkpoint["border"]
    channels = checkpoint["options"]["in_channels"]
    return load_split(dataset, data_path, mode, size, channels, border, args.limit, args.cache_dir)


def add_data_flags(parser, batch_size=32, precision="float32"):
    parser.add_argument("--model_type", choices=MODELS, help="the network's name, where --model is a plain state_dict")
    parser.add_argument("--data_path", type=Path, help="folder of the pets; default: dataset/oxford-iiit-pet")
    parser.add_argument(
        "--cache_dir", type=Path, help="where decoded pictures are kept; default: cache/ in --data_path"
    )
    parser.add_argument(
        "--image_size", type=positive, help="side of the network's input, in pixels; default: the checkpoint's"
    )
    parser.add_argument(
        "--border", choices=BORDERS, help="what the trimap's border counts as; default: the checkpoint's"
    )
    parser.add_argument("--limit", type=positive, help="only the first so many pictures")
    parser.add_argument(
        "--batch_size", "-b", type=positive, default=batch_size, help="pictures at once; default %(default)s"
    )
    parser.add_argument("--tta", action="store_true", help="average each picture's prediction with its mirror image's")
    parser.add_argument("--workers", type=count, default=0, help="processes that read data; default %(default)s")
    add_device_flags(parser, precision)


def get_args_parser():
    parser = Parser(__doc__)
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="checkpoints to score")
    parser.add_argument(
        "--provenance", action="store_true", help="say where each checkpoint comes from, not its scores"
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="default %(default)s")
    parser.add_argument(
        "--own_size", action="store_true", help="score at each picture's own size, not at that of the network's input"
    )
    parser.add_argument(
        "--output", type=Path, help="write OUTPUT.json, and OUTPUT.csv with a row per picture and model"
    )
    add_data_flags(parser)
    return parser


def main():
    args = get_args_parser().parse_args()
    device = pick_device(args.device)
    start(device)
    precision = pick_precision(args.precision, device)
    checkpoints = [load(path, args.model_type) for path in args.model]
    if args.provenance:
        for path, checkpoint in zip(args.model, checkpoints, strict=True):
            try:
                print_provenance(path, checkpoint)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise UserError(f"{path} is damaged, or of another version: its record is not whole") from None
        return 0
    results, pictures = [], []
    with when_memory_runs_out(f"take a smaller --batch_size than {args.batch_size}, or a smaller --image_size"):
        for path, checkpoint in zip(args.model, checkpoints, strict=True):
            result, rows = score_checkpoint(path, checkpoint, args, device, precision)
            results.append(result)
            pictures += rows
    print_table(results)
    if args.output and rank() == 0:
        write_results(results, pictures, args.output)
    finish()
    return 0


def score_checkpoint(path, checkpoint, args, device, precision):
    """-> a row of the table, and a row of OUTPUT.csv for each picture."""
    model = restore_model(checkpoint, path, device, precision, folded=True)
    with first_alone():
        dataset = data_of(checkpoint, args, args.split)
    loader = eval_loader(dataset, args.batch_size, args.workers, device)
    collected = Counts(dataset, (0.5, checkpoint.get("threshold", 0.5)), args.own_size)
    began = time.perf_counter()
    evaluate(model, loader, device, precision, checkpoint["mean"], checkpoint["std"], tta=args.tta, each=collected)
    seconds, (counts, at_chosen) = time.perf_counter() - began, collected.all()
    result = describe(path, checkpoint, args, precision, counts, args.own_size) | {"seconds": round(seconds, 2)}
    if "threshold" in checkpoint:
        result |= {"threshold": checkpoint["threshold"], "dice_at_threshold": dice(at_chosen).mean().item()}
    per_picture = zip(dataset.names, counts.tolist(), dice(counts).tolist(), jaccard(counts).tolist(), strict=True)
    return result, [[str(path), name, f"{d:.6f}", f"{j:.6f}", *pixels] for name, pixels, d, j in per_picture]


def print_provenance(path, checkpoint):
    """What made a checkpoint, as the checkpoint itself records it."""
    if "command" not in checkpoint:
        print(f"{path}: weights alone, with no record of where they come from")
        return
    git, versions, size = checkpoint["git"], checkpoint["versions"], checkpoint["image_size"]
    state = {True: "clean tree", False: "changed tree", None: "unknown tree"}[git["clean"]]
    settings = {flag: value for flag, value in checkpoint["settings"].items() if value not in (None, False)}
    settings.pop("save_every")  # changes no weight
    print(
        f"{path}\n"
        f"  command   {checkpoint['command']}\n"
        f"  settings  {', '.join(f'{flag} {value}' for flag, value in settings.items())}\n"
        f"  git       {git['commit']}, {state}\n"
        f"  versions  {', '.join(f'{name} {version}' for name, version in versions.items())}\n"
        f"  device    {checkpoint['device']}\n"
        f"  training  {checkpoint['epoch']} epochs, {checkpoint['seconds']:.0f} s, pictures of {size}x{size}"
    )
    for split, values in checkpoint["scores"].items():
        print(f"  {split:8}  " + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))


def describe(path, checkpoint, args, precision, counts, own_size=False):
    """What was scored and how, and the scores: one row of the table."""
    empty = counts[:, 0] + counts[:, 2] == 0
    return {
        "model": str(path),
        "split": args.split,
        "pictures": len(counts),
        "image_size": args.image_size or checkpoint["image_size"],
        "border": args.border or checkpoint["border"],
        "dtype": str(precision)[6:],
        "tta": args.tta,
        "own_size": own_size,
        **scores(counts),
        "empty_masks": int(empty.sum()),
        "dice_without_empty": dice(counts[~empty]).mean().item(),
    }


def print_table(results):
    first = results[0]
    mirrored = ", with mirror images (--tta)" if first["tta"] else ""
    own = ", at their own sizes (--own_size)" if first["own_size"] else ""
    print(f"{first['split']} split, {first['pictures']:,} pictures, in {first['dtype']}{mirrored}{own}")
    width = max(len(result["model"]) for result in results)
    names = ("dice", "jaccard", "accuracy", "precision", "recall", "pooled_dice")
    print(f"{'model':{width}}  {'size':>4}  {'border':10}" + "".join(f"  {name:>11}" for name in names))
    for result in results:
        line = f"{result['model']:{width}}  {result['image_size']:4}  {result['border']:10}"
        print(line + "".join(f"  {result[name]:11.4f}" for name in names))
    for result in results:
        if result["empty_masks"]:
            without = f"{result['dice_without_empty']:.4f}"
            print(f"{result['model']}  Dice {without} without its {result['empty_masks']} empty masks")
        if "threshold" in result:
            found = f"{result['dice_at_threshold']:.4f}"
            print(f"{result['model']}  Dice {found} at its threshold, {result['threshold']:.2f}, chosen on valid")


def write_results(results, pictures, output):
    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=2) + "\n"
    write_whole(output.with_name(output.name + ".json"), lambda file: file.write(text.encode()))
    header = ["model", "name", "dice", "jaccard", "tp", "fp", "fn", "tn"]
    write_table(output.with_name(output.name + ".csv"), header, pictures)
    print(f"wrote {output}.json and {output}.csv")


if __name__ == "__main__":
    run(main)
