"""Arguments of train.py, for a new run or for --resume."""

import argparse
from argparse import Namespace
from dataclasses import asdict, fields
from pathlib import Path

from augment import AUGMENTS
from checkpoint import Checkpoint, load, restore_model
from data import DATASETS, choose_dataset
from losses import LOSSES, build_loss
from models import MODELS, options_of_network
from models.resnet34_unet import DECODERS
from runtime import add_runtime_flags, device_name, pick_device
from splits import BORDERS, DataOptions, add_dataset_flags
from training.distributed import world_size
from training.schedule import SCHEDULES
from utils import Parser, UserError, checked, image_side, note, positive_int, user_path, worker_count

hours = checked(float, lambda x: 0 < x <= 10_000, "a number above 0 and at most 10,000")
non_negative_int = checked(int, lambda n: n >= 0, "a whole number of at least 0")
non_negative_float = checked(float, lambda x: 0 <= x < float("inf"), "a number of at least 0")
fraction = checked(float, lambda x: 0 <= x < 1, "a number of at least 0 and below 1")
seed = checked(int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2^63 - 1")
file_name = checked(str, lambda text: Path(text).name == text != "", "a file name without a folder")
DATASET_DEFAULTS = {
    "pets": {"image_size": 256, "start_size": 64, "epochs": 40, "batch_size": 16},
    "folder": {"image_size": 256, "start_size": 0, "epochs": 50, "batch_size": 4},
    "shapes": {"image_size": 64, "start_size": 0, "epochs": 4, "batch_size": 8, "steps": 6},
}
OPTIMIZERS = {  # default learning rate and weight decay
    "muon": (8e-3, 5e-2),
    "adamw": (4e-3, 1e-2),
    "adam": (1e-3, 0.0),
    "radam": (1e-3, 0.0),
    "sgd": (1e-2, 0.0),
}
NETWORK_FLAGS = ("width", "depth", "norm", "dropout", "decoder")  # options of `build_model`
MAY_CHANGE = {  # on --resume
    "epochs", "hours", "accumulation_steps", "compile", "workers", "name", "save_dir", "save_every", "data_path",
    "cache_dir", "train_list", "valid_list", "test_list", "device", "precision",
}  # fmt: skip


def get_args_parser(doc) -> Parser:
    parser = Parser(doc)
    add = parser.add_argument_group("data").add_argument
    dataset = "dataset; default: detected from --data_path, else pets if present, else shapes"
    add("--dataset", choices=DATASETS, help=dataset)
    add_dataset_flags(add)
    add("--image_size", type=image_side, help="image size in pixels; default 256, or 64 for shapes")
    start = "size of the first images, rounded to a multiple of 32; 0: --image_size; default 64 for pets, else 0"
    add("--start_size", type=non_negative_int, help=start)
    add("--border", choices=BORDERS, default="foreground", help="treatment of trimap borders; default foreground")
    add("--augment", choices=AUGMENTS, default="scale_jitter", help="preset in src/augment.py; default scale_jitter")
    values = "mean/std: fixed (0.5; default), train (measured), unit (0, 1), imagenet, weights (default with --weights)"
    add("--normalize", choices=("fixed", "train", "unit", "imagenet", "weights"), default="fixed", help=values)
    add("--limit", type=positive_int, help="use the first LIMIT images of each split")
    add("--fold", metavar="K/N", help="cross-validation: validate on fold K of N of the images outside the test split")

    add = parser.add_argument_group("network").add_argument
    add("--model", choices=MODELS, default="unet", help="network; default unet")
    add("--width", type=positive_int, help="unet*: channels of the first level; default 64")
    add("--depth", type=positive_int, help="unet, unet_add: number of times the size is halved; default 4")
    add("--norm", choices=("batch", "none"), help="unet*: normalization; default batch")
    add("--dropout", type=fraction, help="unet*: dropout rate at the bottleneck; default 0")
    add("--decoder", choices=DECODERS, help="resnet34_unet: decoder; default nearest")
    add("--encoder_weights", type=user_path, metavar="FILE", help="resnet34_unet: torchvision's resnet34 weights")
    add("--weights", type=user_path, metavar="FILE", help="checkpoint to fine-tune; sets the network")
    add("--in_channels", type=int, choices=(1, 3), default=3, help="3: color, 1: gray; default 3")
    add("--out_channels", type=int, choices=(1, 2), default=1, help="1, or 2 with background; default 1")
    add_training_flags(parser)
    return parser


def add_training_flags(parser):
    add = parser.add_argument_group("recipe").add_argument
    add("--epochs", "-e", type=positive_int, help="epochs; default 40 for pets, 50 for folder, 4 for shapes")
    add("--hours", type=hours, help="time budget in hours, instead of --epochs")
    add("--steps", type=positive_int, help="steps per epoch; default: enough for every image, or 6 for shapes")
    images = "images per step, over all processes; default 16 for pets, 4 for folder, 8 for shapes"
    add("--batch_size", "-b", type=positive_int, help=images)
    add("--accumulation_steps", type=positive_int, default=1, help="micro-batches per step, to save memory; default 1")
    add("--learning_rate", "-lr", type=non_negative_float, help="peak learning rate; default: the optimizer's")
    add("--weight_decay", type=non_negative_float, help="weight decay; default 0.05 for muon, 0.01 for adamw, else 0")
    losses = f"{', '.join(LOSSES)} or a weighted sum, e.g. bce:1,dice:0.5; default bce_dice"
    add("--loss", type=loss, default="bce_dice", help=losses)
    add("--optimizer", choices=OPTIMIZERS, default="muon", help="optimizer; default muon")
    add("--schedule", choices=SCHEDULES, default="wsd", help="learning rate schedule; default wsd")
    add("--ema", type=fraction, default=0.999, help="EMA decay; 0: no averaging; default 0.999")

    run = parser.add_argument_group("run")
    add = run.add_argument
    add("--seed", type=seed, default=0, help="random seed; default 0")
    modes = ("default", "reduce-overhead", "max-autotune")
    add("--compile", nargs="?", const="default", choices=modes, help="use torch.compile, optionally with a mode")
    add("--deterministic", action="store_true", help="use deterministic algorithms; slower on a GPU")
    add("--workers", type=worker_count, default=0, help="data loading processes; default 0")
    add("--name", type=file_name, help="name of the run's files; default: --model, numbered if taken (unet-2)")
    add("--save_dir", type=user_path, default=Path("saved_models"), help="output folder; default saved_models")
    often = "minutes between saves within an epoch, or e.g. 500steps; default 10"
    add("--save_every", type=interval, default=(10.0, "minutes"), metavar="INTERVAL", help=often)
    add("--resume", type=user_path, metavar="NAME.last.pth", help="continue this run, with its arguments")
    add_runtime_flags(run)


def loss(text):
    """Check --loss, and return its text, which checkpoints record."""
    try:
        build_loss(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def interval(text):
    """Parse "10" as (10.0, "minutes") and "500steps" as (500.0, "steps")."""
    number = text.removesuffix("steps")
    return non_negative_float(number), "minutes" if number == text else "steps"


def parse_args(doc: str | None, argv=None) -> tuple[Namespace, Checkpoint | None]:
    """Return the arguments, and the checkpoint of --resume or --weights. Raises UserError."""
    parser = get_args_parser(doc)
    args, start = parser.parse_args(argv), None
    blank = Namespace(**dict.fromkeys(vars(args)))  # argparse keeps values already set
    given = {flag: value for flag, value in vars(parser.parse_args(argv, blank)).items() if value is not None}
    if args.resume:
        return resumed_args(vars(args), given)
    args.dataset, args.data_path = choose_dataset(args.dataset, args.data_path)
    if args.weights:
        start = load(args.weights, given.get("model"), "--weights", "--model")
        restore_model(start, args.weights)  # raises UserError if weights and metadata differ
        vars(args).update(network_flags(given, start, args.weights))
        args.normalize = given.get("normalize", "weights")
    defaults: dict = dict(DATASET_DEFAULTS[args.dataset])
    defaults["learning_rate"], defaults["weight_decay"] = OPTIMIZERS[args.optimizer]
    if args.hours:
        del defaults["epochs"]
    for flag, value in defaults.items():
        if getattr(args, flag) is None:
            setattr(args, flag, value)
    check_args(args)
    return args, start


def network_flags(given: dict, start: Checkpoint, path: Path) -> dict:
    """Return the flags of the network in --weights. Raises UserError if a given flag differs."""
    defaults = {name: option.default for name, option in options_of_network(start.name).items()}
    flags = {"model": start.name, "out_channels": 1, "encoder_weights": None, **start.options}
    for flag in ("model", "in_channels", "width", "depth", "norm", "decoder", "encoder_weights"):
        if flag in given and given[flag] != flags.get(flag, defaults.get(flag)):
            raise UserError(f"--{flag} {given[flag]} differs from the network in --weights {path}; omit --{flag}")
    if flags["out_channels"] > 2:  # another repo's network
        flags["out_channels"] = 1
    return {flag: value for flag, value in flags.items() if flag not in given}


def check_args(args: Namespace):
    """Raise UserError for arguments that cannot be combined."""
    if args.normalize == "weights" and not args.weights:
        raise UserError("--normalize weights needs --weights")
    if args.normalize == "imagenet" and args.in_channels != 3:
        raise UserError("--normalize imagenet only applies to color images; omit --in_channels")
    if args.border != "foreground" and args.dataset != "pets" and not args.resume:
        raise UserError(f"--border {args.border} only applies to the pets; for your own masks use --ignore")
    if args.hours and args.epochs:
        raise UserError("--hours and --epochs cannot be combined; omit one")
    if args.compile in ("reduce-overhead", "max-autotune") and args.accumulation_steps > 1:  # they use CUDA graphs
        raise UserError(f"--compile {args.compile} cannot accumulate gradients; use --compile default")
    if args.hours and args.schedule == "onecycle":
        raise UserError("--schedule onecycle needs --epochs instead of --hours")
    micro_batches = world_size() * args.accumulation_steps
    if args.batch_size < micro_batches:
        raise UserError(f"--batch_size {args.batch_size} is too small for {micro_batches} micro-batches; raise it")
    data_options(args)


def resumed_args(defaults: dict, given: dict) -> tuple[Namespace, Checkpoint]:
    """Return the arguments of the run in --resume, with the given changes. Raises UserError."""
    path = given["resume"]
    checkpoint = load(path, flag="--resume", type_flag="")
    if checkpoint.training is None:
        raise UserError(f"--resume {path} contains only weights; pass the NAME.last.pth next to it")
    augmentation = asdict(AUGMENTS[checkpoint.args.get("augment", "none")])
    if "state" not in checkpoint.training or checkpoint.augmentation != augmentation:
        commit = checkpoint.git.get("commit") or "unknown"
        raise UserError(f"--resume {path} was written by another version (commit: {commit}); check it out to continue")
    values = defaults | checkpoint.args
    for flag, value in values.items():
        if value and flag.endswith(("_path", "_dir", "_list", "weights")):
            values[flag] = Path(value)
    name = path.name.removesuffix(".last.pth")
    device = device_name(pick_device(str(given.get("device", values["device"]))))
    values.update(resume=path, save_dir=path.parent, name=name, precision=checkpoint.precision)
    if device != checkpoint.device and "precision" not in given:
        note(f"the run was on {checkpoint.device} in {checkpoint.precision}; choosing the precision for {device}")
        values["precision"] = "auto"
    for flag, value in given.items():
        if str(value) == str(values[flag]):
            continue
        if flag not in MAY_CHANGE or (flag in ("epochs", "hours") and values[flag] is None):
            former = "not given" if values[flag] is None else values[flag]
            raise UserError(f"--{flag} {value} conflicts with the resumed run ({former}); omit --{flag}")
        note(f"--{flag} changes from {values[flag]} to {value}")
        values[flag] = value
    args = Namespace(**values)
    choose_dataset(args.dataset, args.data_path)
    check_args(args)
    return args, checkpoint


def data_options(args: Namespace) -> DataOptions:
    """Return the dataset's options. Raises UserError."""
    options = {"path": args.data_path}
    for entry in fields(DataOptions):
        value = getattr(args, entry.name, None)
        if value is not None:
            options[entry.name] = tuple(value) if isinstance(value, list) else value
    return DataOptions(**options)


def network_options(args: Namespace) -> dict:
    """Return the options for `build_model`."""
    options = {"in_channels": args.in_channels, "out_channels": args.out_channels}
    flags = {name: getattr(args, name) for name in NETWORK_FLAGS}
    return options | {name: value for name, value in flags.items() if value is not None}
