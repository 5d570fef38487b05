"""The command line of train.py: its settings, new or those of the run it resumes."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from augment import AUGMENTS
from checkpoint import load
from data import DATASETS, choose_dataset
from losses import LOSSES, build_loss
from models import MODELS, options_of_network
from models.resnet34_unet import DECODERS
from runtime import add_runtime_flags
from splits import BORDERS, DataOptions, add_split_flags
from training.finetune import adopt_network, load_start
from training.schedule import SCHEDULES
from utils import Parser, UserError, count, fraction, number, positive, rate, seed, side, workers

hours = number(float, lambda x: 0 < x <= 10_000, "a number of hours above 0, at most 10,000")
file_name = number(str, bool, "a name")
DEFAULTS = {  # of flags whose best value depends on the data
    "pets": {"image_size": 256, "start_size": 64, "epochs": 40, "batch_size": 16},
    "folder": {"image_size": 256, "start_size": 0, "epochs": 50, "batch_size": 4},
    "shapes": {"image_size": 64, "start_size": 0, "epochs": 4, "batch_size": 8, "steps": 6},
}
OPTIMIZERS = {  # of flags whose best value depends on the optimizer
    "muon": {"learning_rate": 8e-3, "weight_decay": 5e-2},
    "adamw": {"learning_rate": 4e-3, "weight_decay": 1e-2},
    "adam": {"learning_rate": 1e-3, "weight_decay": 0.0},
    "radam": {"learning_rate": 1e-3, "weight_decay": 0.0},
    "sgd": {"learning_rate": 1e-2, "weight_decay": 0.0},
}
MAY_CHANGE = {  # on --resume
    "epochs", "accumulate", "compile", "data_path", "cache_dir", "device", "precision", "workers", "save_every",
    "name", "save_dir", "train_list", "valid_list", "test_list",
}  # fmt: skip


def get_args_parser(doc):
    parser = Parser(doc)
    add_data_flags(parser.add_argument_group("data").add_argument)
    add_network_flags(parser.add_argument_group("network").add_argument)
    add_recipe_flags(parser.add_argument_group("recipe").add_argument)
    add_run_flags(parser.add_argument_group("run").add_argument)
    add_runtime_flags(parser)
    return parser


def add_data_flags(add):
    add(
        "--dataset",
        choices=DATASETS,
        help="default: what --data_path holds; without it the pets where they are there, else the drawn shapes",
    )
    add(
        "--data_path",
        type=Path,
        help="folder of the pets, or one with images/ and masks/ of your own; default dataset/oxford-iiit-pet",
    )
    add("--cache_dir", type=Path, help="where decoded pictures are kept; default cache/ in --data_path")
    add("--image_size", type=side, help="side of the network's input, in pixels; default 256, shapes 64")
    add(
        "--start_size",
        type=count,
        help="start with pictures of this side and grow to --image_size; 0: no growth; default: pets 64, else 0",
    )
    add(
        "--border",
        choices=BORDERS,
        default="foreground",
        help="what the trimap's border counts as; default %(default)s",
    )
    add(
        "--augment",
        choices=AUGMENTS,
        default="scale_jitter",
        help="how far training pictures are changed (src/augment.py); default %(default)s, which grows over the first "
        "ten passes",
    )
    add(
        "--mean_std",
        choices=("fixed", "train", "unit", "imagenet", "weights"),
        default="fixed",
        help="scale pixels by .5 and .5, by the training pictures' own mean and std, to [0, 1], by ImageNet's mean and "
        "std (for --encoder_weights), or by those of --weights; default %(default)s, with --weights weights",
    )
    add("--limit", type=positive, help="use the first so many pictures of each split, for a quick look")
    add_split_flags(add)
    add("--fold", metavar="K/N", help="cut train and valid into N parts; validate with part K")


def add_network_flags(add):
    add("--model", choices=MODELS, default="unet", help="default %(default)s")
    add("--width", type=positive, help="unet: channels of the first level; default 64")
    add("--depth", type=positive, help="unet: poolings; default 4")
    add("--norm", choices=("batch", "none"), help="unet: default batch")
    add("--dropout", type=fraction, help="unet: share of channels dropped at the bottom; default 0")
    add("--decoder", choices=DECODERS, help="resnet34_unet: default nearest")
    add("--encoder_weights", type=Path, help="resnet34_unet: a file of torchvision's resnet34 weights; default: none")
    add("--weights", type=Path, metavar="FILE", help="start from this checkpoint: its network, its weights")
    add("--in_channels", type=int, choices=(1, 3), default=3, help="1: grey pictures; default %(default)s")
    add("--out_channels", type=int, choices=(1, 2), default=1, help="2: background and foreground; default %(default)s")


def add_recipe_flags(add):
    add("--epochs", "-e", type=positive, help="default: pets 40, folder 50, shapes 4")
    add("--hours", type=hours, help="instead of --epochs: as many as fit into so many hours on this machine")
    add("--steps", type=positive, help="optimizer steps per epoch; default: one pass over the pictures, shapes 6")
    add(
        "--batch_size",
        "-b",
        type=positive,
        help="pictures per step, of all processes; default: pets 16, folder 4, shapes 8",
    )
    add(
        "--accumulate",
        type=positive,
        default=1,
        help="compute each batch in so many parts, which takes less memory; default %(default)s",
    )
    add("--learning_rate", "-lr", type=rate, help="the highest of the schedule; default 0.008 for muon")
    add("--weight_decay", type=rate, help="default 0.05 for muon, 0.01 for adamw, else 0")
    add(
        "--loss",
        type=loss,
        default="bce_dice",
        help=f"one of {', '.join(LOSSES)}, or a sum with weights as in bce:1,dice:.5; default %(default)s",
    )
    add("--optimizer", choices=OPTIMIZERS, default="muon", help="default %(default)s")
    add(
        "--schedule",
        choices=SCHEDULES,
        default="wsd",
        help="default %(default)s",
    )
    add(
        "--ema",
        type=fraction,
        default=0.999,
        help="decay of the weights' running average, per step; 0: none; default %(default)s",
    )


def add_run_flags(add):
    add("--seed", type=seed, default=0, help="default %(default)s")
    add("--compile", action="store_true", help="compile the network; benchmarks/README.md says when that pays")
    add("--deterministic", action="store_true", help="deterministic algorithms only; slower on a GPU")
    add("--workers", type=workers, default=0, help="processes that read data; default %(default)s")
    add(
        "--name", type=file_name, help="of the files written; default: the network's, with a number where that is taken"
    )
    add("--save_dir", type=Path, default=Path("saved_models"), help="default %(default)s")
    add(
        "--save_every",
        type=interval,
        default=(10.0, "minutes"),
        metavar="INTERVAL",
        help="save within long epochs: minutes, or steps as in 500steps; default 10",
    )
    add("--resume", type=Path, metavar="NAME.last.pth", help="continue this run with its own settings")


def loss(text):
    """The text itself, which a checkpoint keeps, if it names a loss."""
    try:
        build_loss(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def interval(text):
    """ "10" is (10.0, "minutes"), "500steps" is (500.0, "steps")."""
    number = text.removesuffix("steps")
    return rate(number), "minutes" if number == text else "steps"


def parse_args(doc, argv=None):
    """The settings (a namespace), and the checkpoint of --resume or --weights, or None. Raises UserError."""
    parser = get_args_parser(doc)
    args = parser.parse_args(argv)
    if args.resume:
        return resumed_settings(parser, args, argv)
    args.dataset, args.data_path = choose_dataset(args.dataset, args.data_path)
    start = None
    if args.weights:
        given = given_flags(parser, args, argv)
        start = load_start(args.weights, given.get("model"))
        adopt_network(args, given, start)
    elif args.mean_std == "weights":
        raise UserError("--mean_std weights needs --weights")
    if args.mean_std == "imagenet" and args.in_channels != 3:
        raise UserError("--mean_std imagenet is of pictures in color; leave out --in_channels")
    if args.hours and args.epochs:
        raise UserError("--hours chooses the number of epochs; leave out --epochs")
    data_options(args)  # flags that exclude each other
    for flag, value in {**DEFAULTS.get(args.dataset, DEFAULTS["folder"]), **OPTIMIZERS[args.optimizer]}.items():
        if getattr(args, flag) is None:
            setattr(args, flag, value)
    return args, start


def resumed_settings(parser, args, argv):
    """The settings of the run in --resume; flags given beside it are applied where they may change, else refused."""
    last = load(args.resume)
    if "training" not in last:
        raise UserError(f"--resume {args.resume} has weights only; name the NAME.last.pth beside it")
    settings = recorded_settings(last, args)
    settings.resume, settings.save_dir = args.resume, args.resume.parent
    settings.name = args.resume.name.removesuffix(".last.pth")
    settings.precision = last.get("precision", settings.precision)  # so that it goes on exactly
    for flag, value in given_flags(parser, args, argv).items():
        old = getattr(settings, flag, None)
        if flag == "resume" or str(value) == str(old):
            continue
        if flag not in MAY_CHANGE:
            raise UserError(f"--{flag} {value} differs from the run's own ({old}), which cannot change; leave it out")
        print(f"--{flag} changes from {old} to {value}")
        setattr(settings, flag, value)
    choose_dataset(settings.dataset, settings.data_path)
    return settings, last


def recorded_settings(last, args):
    """The settings that a checkpoint keeps, with paths as such. Raises UserError where they are of another version."""
    try:
        settings = argparse.Namespace(**last["settings"])
        known = set(vars(settings)) == set(vars(args)) and augments_as_then(last, settings.augment)
    except (KeyError, TypeError):
        raise UserError(f"--resume {args.resume} is damaged; use an earlier copy, or train again") from None
    if not known:
        raise UserError(
            f"--resume {args.resume} is of another version of train.py; check out commit "
            f"{(last.get('git') or {}).get('commit')} to resume it"
        )
    for flag in ("data_path", "cache_dir", "train_list", "valid_list", "test_list"):
        if getattr(settings, flag) is not None:
            setattr(settings, flag, Path(getattr(settings, flag)))
    return settings


def augments_as_then(last, name):
    """Whether --augment means what it did for a checkpoint. Those that do not say are from before augmentation grew."""
    now = AUGMENTS[name]
    return last.get("augmentation", asdict(replace(now, growth=0.0))) == asdict(now)


def given_flags(parser, args, argv):
    """The flags that stand on the command line, with their values."""
    unset = object()
    blank = argparse.Namespace(**dict.fromkeys(vars(args), unset))  # argparse leaves alone what is set already
    return {flag: value for flag, value in vars(parser.parse_args(argv, blank)).items() if value is not unset}


def recorded(settings) -> dict:
    """The settings as a checkpoint keeps them: plain values."""
    return {flag: str(value) if isinstance(value, Path) else value for flag, value in vars(settings).items()}


def data_options(settings) -> DataOptions:
    """What the flags say of the data."""
    return DataOptions(
        dataset=settings.dataset,
        path=settings.data_path,
        image_size=settings.image_size,
        in_channels=settings.in_channels,
        border=settings.border,
        limit=settings.limit,
        cache_dir=settings.cache_dir,
        foreground=tuple(settings.foreground or ()),
        train_list=settings.train_list,
        valid_list=settings.valid_list,
        test_list=settings.test_list,
        fold=settings.fold,
    )


def network_options(settings) -> dict:
    """What build_model takes beside the name, from the flags that were given."""
    names = {option for name in MODELS for option in options_of_network(name)}
    given = {name: value for name in sorted(names) if (value := getattr(settings, name, None)) is not None}
    return {"in_channels": settings.in_channels, "out_channels": settings.out_channels, **given}
