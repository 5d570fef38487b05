"""Data flags of evaluate.py, inference.py and report.py, and the data that a checkpoint is scored on."""

import os
from pathlib import Path

from checkpoint import Checkpoint
from data import choose_dataset
from models import MODELS
from runtime import add_runtime_flags
from splits import BORDERS, SPLITS, DataOptions, add_dataset_flags
from utils import image_side, positive_int, worker_count


def options_of_data(checkpoint: Checkpoint, args) -> DataOptions:
    """Return the options of a checkpoint's own data, unless flags override them. Raises UserError."""
    recorded = checkpoint.args.get("data_path")
    path = args.data_path
    if path is None and checkpoint.dataset != "shapes" and recorded and Path(recorded).is_dir():
        path = Path(recorded)
    same_path = path is not None and recorded is not None and os.path.realpath(path) == os.path.realpath(recorded)
    dataset, path = choose_dataset(checkpoint.dataset if same_path or path is None else None, path)
    same = dataset == checkpoint.dataset and (same_path or dataset != "folder")
    options: dict = {"border": args.border or checkpoint.border, "limit": args.limit, "cache_dir": args.cache_dir}
    for split in SPLITS:
        listing = checkpoint.args.get(f"{split}_list") if same else None
        options[f"{split}_list"] = getattr(args, f"{split}_list") or (Path(listing) if listing else None)
    if dataset == checkpoint.dataset == "folder":
        options |= {flag: checkpoint.args.get(flag) for flag in ("foreground", "ignore", "mask_pattern")}
        options["intensity_range"] = checkpoint.intensity_range
    options |= {flag: value for flag in ("foreground", "ignore", "mask_pattern") if (value := getattr(args, flag))}
    if same and not (options["train_list"] or options["valid_list"]):
        options["fold"] = checkpoint.args.get("fold")
    options = {flag: tuple(value) if isinstance(value, list) else value for flag, value in options.items() if value}
    size = args.image_size or checkpoint.image_size
    return DataOptions(dataset, path, size, in_channels=checkpoint.options["in_channels"], **options)


def add_data_flags(parser, batch_size: int = 32, precision: str = "float32"):
    add = parser.add_argument
    add("--model_type", choices=MODELS, help="name of the network, if --model is a plain state_dict")
    add_dataset_flags(add, "the checkpoint's")
    add("--image_size", type=image_side, help="size of the network's input in pixels; default: the checkpoint's")
    add("--border", choices=BORDERS, help="class of the trimaps' border; default: the checkpoint's")
    add("--limit", type=positive_int, help="use only the first LIMIT images")
    add("--batch_size", "-b", type=positive_int, default=batch_size, help="images per batch; default %(default)s")
    add("--tta", action="store_true", help="average the predictions for the image and its mirror image")
    add("--workers", type=worker_count, default=0, help="number of data loading processes; default %(default)s")
    add_runtime_flags(parser, precision)
