"""Flags of commands that predict, and the data that checkpoints are scored on."""

import os
from pathlib import Path

from checkpoint import Checkpoint, add_model_type_flag
from data import choose_dataset
from runtime import add_runtime_flags
from splits import BORDERS, MASK_FLAGS, SPLITS, DataOptions, add_dataset_flags
from utils import UserError, image_side, note_once, positive_int, worker_count

LIST_FLAGS = ("train_list", "valid_list", "test_list")


def options_of_data(checkpoint: Checkpoint, args) -> DataOptions:
    """Return the options for a checkpoint's data; flags take precedence. Raises UserError."""
    recorded = checkpoint.args
    trained_path, path = recorded.get("data_path"), args.data_path
    if path is None and trained_path and Path(trained_path).is_dir():
        path = Path(trained_path)
    if path is None and checkpoint.dataset == "folder":
        raise UserError(f"the training data {trained_path} was not found; pass its new path with --data_path")
    same_path = trained_path and path and os.path.realpath(path) == os.path.realpath(trained_path)
    # a missing training folder is assumed to have moved to --data_path
    moved = checkpoint.dataset == "folder" and trained_path and not Path(trained_path).is_dir()
    dataset = checkpoint.dataset if same_path or path is None else None  # None: detected from the folder
    dataset, path = choose_dataset(dataset, path)
    same_data = dataset == checkpoint.dataset and (same_path or moved or dataset != "folder")
    options: dict = {"border": checkpoint.border}
    if moved and any(recorded.get(flag) for flag in ("fold", *LIST_FLAGS)):
        note_once(f"assuming that {path} is {trained_path} from training, moved")
    if same_data:
        for flag in LIST_FLAGS:
            if recorded.get(flag) and (same_path or Path(recorded[flag]).is_file()):
                options[flag] = Path(recorded[flag])
            elif recorded.get(flag) and not getattr(args, flag):
                note_once(f"the checkpoint's --{flag} {recorded[flag]} was not found; pass --{flag} for the same split")
    if dataset == checkpoint.dataset == "folder":
        for flag in MASK_FLAGS:
            options[flag] = recorded.get(flag)
        options["intensity_range"] = checkpoint.intensity_range
    for flag in ("border", "limit", "cache_dir", *MASK_FLAGS, *LIST_FLAGS):
        options[flag] = getattr(args, flag) or options.get(flag)
    if same_data and not (options["train_list"] or options["valid_list"]):
        options["fold"] = recorded.get("fold")
    options = {flag: tuple(value) if isinstance(value, list) else value for flag, value in options.items() if value}
    size = args.image_size or checkpoint.image_size
    return DataOptions(dataset, path, size, in_channels=checkpoint.options["in_channels"], **options)


def add_data_flags(parser, split: str = "test", batch_size: int = 32, precision: str = "float32"):
    add = parser.add_argument
    add("--split", choices=SPLITS, default=split, help="split of the dataset; default %(default)s")
    add_dataset_flags(add, "the checkpoint's")
    add("--border", choices=BORDERS, help="treatment of trimap borders; default: the checkpoint's")
    add("--limit", type=positive_int, help="use the first LIMIT images")
    add("--workers", type=worker_count, default=0, help="data loading processes; default %(default)s")
    add_predictor_flags(parser, batch_size, precision)


def add_predictor_flags(parser, batch_size: int = 8, precision: str = "auto"):
    add = parser.add_argument
    add("--image_size", type=image_side, help="input size in pixels; default: the checkpoint's")
    add("--batch_size", "-b", type=positive_int, default=batch_size, help="images per batch; default %(default)s")
    add("--tta", action="store_true", help="average the predictions for the image and its mirror image")
    add_model_type_flag(add)
    add_runtime_flags(parser, precision)
