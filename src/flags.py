"""What evaluate.py, inference.py and report.py share: their data flags, and the data a checkpoint is scored on."""

import os
from pathlib import Path

from data import choose_dataset
from models import MODELS
from runtime import add_runtime_flags
from splits import BORDERS, SPLITS, DataOptions, add_split_flags
from utils import positive, side, workers


def options_of_data(about: dict, args) -> DataOptions:
    """The data a checkpoint is scored on: its own dataset and settings, unless the flags say otherwise.

    about: the checkpoint's entries. Raises UserError.
    """
    dataset, path = choose_data(about, args.data_path)
    return DataOptions(
        dataset=dataset,
        path=path,
        image_size=args.image_size or about["image_size"],
        in_channels=about["options"]["in_channels"],
        border=args.border or about["border"],
        limit=args.limit,
        cache_dir=args.cache_dir,
        **split_options(about, args, dataset, path),
    )


def split_options(about: dict, args, dataset: str, path: Path | None) -> dict:
    """Mask values, lists and fold: the flags', else those of the checkpoint's own run where they are of this data."""
    recorded = recorded_settings(about)
    same = dataset == about["dataset"] and (dataset != "folder" or is_same_path(path, recorded.get("data_path")))
    options: dict = {}
    for name in (f"{split}_list" for split in SPLITS):
        listing = recorded.get(name) if same else None
        options[name] = getattr(args, name) or (Path(listing) if isinstance(listing, str) else None)
    values = recorded.get("foreground") if dataset == about["dataset"] == "folder" else None
    options["foreground"] = tuple(args.foreground or (map(str, values) if isinstance(values, list) else ()))
    cut = recorded.get("fold") if same and not (options["train_list"] or options["valid_list"]) else None
    options["fold"] = cut if isinstance(cut, str) else None
    return options


def is_same_path(path: Path | None, recorded) -> bool:
    """Whether a path means the folder or file that a checkpoint recorded."""
    return isinstance(recorded, str) and path is not None and os.path.realpath(path) == os.path.realpath(recorded)


def recorded_settings(about: dict) -> dict:
    """The flags of train.py that a checkpoint was made with; none where it has no record."""
    settings = about.get("settings")
    return settings if isinstance(settings, dict) else {}


def add_data_flags(parser, batch_size=32, precision="float32"):
    parser.add_argument("--model_type", choices=MODELS, help="the network's name, where --model is a plain state_dict")
    parser.add_argument(
        "--data_path",
        type=Path,
        help="folder of the pets, or one with images/ and masks/ of your own; default: the checkpoint's, else "
        "dataset/oxford-iiit-pet",
    )
    parser.add_argument(
        "--cache_dir", type=Path, help="where decoded pictures are kept; default: cache/ in --data_path"
    )
    parser.add_argument(
        "--image_size", type=side, help="side of the network's input, in pixels; default: the checkpoint's"
    )
    parser.add_argument(
        "--border", choices=BORDERS, help="what the trimap's border counts as; default: the checkpoint's"
    )
    parser.add_argument("--limit", type=positive, help="only the first so many pictures")
    add_split_flags(parser.add_argument, "; default: the checkpoint's")
    parser.add_argument(
        "--batch_size", "-b", type=positive, default=batch_size, help="pictures at once; default %(default)s"
    )
    parser.add_argument("--tta", action="store_true", help="average each picture's prediction with its mirror image's")
    parser.add_argument("--workers", type=workers, default=0, help="processes that read data; default %(default)s")
    add_runtime_flags(parser, precision)


def choose_data(about: dict, data_path: Path | None) -> tuple[str, Path | None]:
    """The name and the folder of the data: --data_path, else the checkpoint's own. Raises UserError."""
    recorded = recorded_settings(about).get("data_path")
    if data_path is None and about["dataset"] != "shapes" and isinstance(recorded, str) and Path(recorded).is_dir():
        data_path = Path(recorded)
    same = data_path is None or is_same_path(data_path, recorded)
    return choose_dataset(about["dataset"] if same else None, data_path)
