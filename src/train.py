"""Train a network; keep the weights of the best valid Dice.

    python src/train.py --model unet                                  # the pets if they are in dataset/, else shapes
    python src/train.py --model resnet34_unet --data_path ~/pets/oxford-iiit-pet --name first
    python src/train.py --resume saved_models/first.last.pth          # go on exactly where it stopped

Written into --save_dir: NAME.pth (best weights, for evaluate.py and inference.py), NAME.last.pth (for
--resume), NAME.csv (history), NAME.curve.png and NAME.panels.png, each renewed every epoch.
"""

import argparse
import csv
import io
import itertools
import math
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from augment import AUGMENTS, augment, shrink, to_float
from checkpoint import load, provenance, save, write_whole
from data import choose_dataset, eval_loader, load_split, train_loader
from evaluate import evaluate, panel_rows
from losses import LOSSES
from models import MODELS, build_model
from models.resnet34_unet import DECODERS
from oxford_pet import BORDERS
from plots import plot_history, plot_panels
from utils import (
    Parser,
    UserError,
    add_device_flags,
    autocast,
    confusion,
    dice,
    foreground,
    pick_device,
    pick_precision,
    positive,
    run,
    scores,
    seed_everything,
)

DEFAULTS = {  # of flags whose best value depends on the data
    "pets": {"image_size": 256, "epochs": 40, "batch_size": 32},
    "shapes": {"image_size": 64, "epochs": 5, "batch_size": 8, "steps": 20},
}
WEIGHT_DECAY = {"sgd": 0.0, "adam": 0.0, "adamw": 1e-2, "radam": 0.0}
MEAN_STD = {"fixed": (0.5, 0.5), "unit": (0.0, 1.0)}
PANELS = 4  # fixed valid pictures shown every epoch
MAY_CHANGE = {"epochs", "data_path", "cache_dir", "device", "precision", "workers", "save_every"}  # on --resume


def get_args_parser():
    parser = Parser(__doc__)
    add = parser.add_argument_group("data").add_argument
    add(
        "--data_path", type=Path, help="folder of the pets; default dataset/oxford-iiit-pet if there, else drawn shapes"
    )
    add("--cache_dir", type=Path, help="where decoded pictures are kept; default cache/ in --data_path")
    add("--image_size", type=positive, help="side of the network's input, in pixels; default 256, shapes 64")
    add(
        "--start_size",
        type=positive,
        help="begin with pictures of this side and grow to --image_size; default: no growth",
    )
    add(
        "--border",
        choices=BORDERS,
        default="foreground",
        help="what the trimap's border counts as; default %(default)s",
    )
    add("--augment", choices=AUGMENTS, default="light", help="default %(default)s")
    add("--mean_std", choices=("fixed", "train", "unit"), default="fixed",
        help="pixels in [0, 1] are scaled by .5 and .5, by the training pictures' own mean and std, or not at all")  # fmt: skip
    add("--limit", type=positive, help="use the first so many pictures of each split, for a quick look")
    add = parser.add_argument_group("network").add_argument
    add("--model", choices=MODELS, default="unet", help="default %(default)s")
    add("--width", type=positive, help="unet: channels of the first level; default 64")
    add("--depth", type=positive, help="unet: poolings; default 4")
    add("--norm", choices=("batch", "none"), help="unet: default batch")
    add("--dropout", type=float, help="unet: share of channels dropped at the bottom; default 0")
    add("--decoder", choices=DECODERS, help="resnet34_unet: default nearest")
    add("--encoder_weights", type=Path, help="resnet34_unet: a file of torchvision's resnet34 weights; default: none")
    add("--in_channels", type=int, choices=(1, 3), default=3, help="1: grey pictures; default %(default)s")
    add("--out_channels", type=int, choices=(1, 2), default=1, help="2: background and foreground; default %(default)s")
    add = parser.add_argument_group("recipe").add_argument
    add("--epochs", "-e", type=positive, help="default 40, shapes 5")
    add("--steps", type=positive, help="optimizer steps per epoch; default: one pass over the pictures, shapes 20")
    add("--batch_size", "-b", type=positive, help="pictures per step; default 32, shapes 8")
    add("--learning_rate", "-lr", type=float, default=2e-3, help="the highest of the schedule; default %(default)s")
    add("--weight_decay", type=float, help="default 0.01 for adamw, else 0")
    add("--loss", choices=LOSSES, default="bce_dice", help="default %(default)s")
    add("--optimizer", choices=WEIGHT_DECAY, default="adamw", help="default %(default)s")
    add("--schedule", choices=("none", "plateau", "cosine", "onecycle"), default="onecycle", help="default %(default)s")
    add(
        "--ema",
        type=float,
        default=0.99,
        help="decay of the weights' running average, per step; 0: none; default %(default)s",
    )
    add = parser.add_argument_group("run").add_argument
    add("--seed", type=int, default=0, help="default %(default)s")
    add("--deterministic", action="store_true", help="deterministic algorithms only; slower on a GPU")
    add("--workers", type=int, default=0, help="processes that read data; default %(default)s")
    add("--name", help="of the files written; default: the network's, with a number where that is taken")
    add("--save_dir", type=Path, default=Path("saved_models"), help="default %(default)s")
    add("--save_every", type=float, default=10, metavar="MINUTES", help="save within long epochs; default %(default)s")
    add("--resume", type=Path, metavar="NAME.last.pth", help="go on with this run; its settings come with it")
    add_device_flags(parser)
    return parser


# --------------------------------------------------------------------------------- settings


def parse_args(argv=None):
    """-> settings (a namespace) and the state to go on from (a checkpoint), or None."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.resume:
        return resumed_settings(parser, args, argv)
    args.dataset, args.data_path = choose_dataset(args.data_path)
    for flag, value in DEFAULTS[args.dataset].items():
        if getattr(args, flag) is None:
            setattr(args, flag, value)
    if args.weight_decay is None:
        args.weight_decay = WEIGHT_DECAY[args.optimizer]
    if args.name is None:
        args.name = free_name(args.save_dir, args.model)
    elif (args.save_dir / f"{args.name}.last.pth").exists() or (args.save_dir / f"{args.name}.pth").exists():
        raise UserError(
            f"{args.save_dir / args.name}.pth is there already; go on with it by --resume "
            f"{args.save_dir / args.name}.last.pth, or choose another --name"
        )
    return args, None


def free_name(folder, name):
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(n for n in names if not (folder / f"{n}.last.pth").exists() and not (folder / f"{n}.pth").exists())


def resumed_settings(parser, args, argv):
    """The settings of the run in --resume; flags given beside it are applied where they may change, else refused."""
    last = load(args.resume)
    if "training" not in last:
        raise UserError(f"--resume {args.resume} has weights only; name the NAME.last.pth beside it")
    unset = object()
    blank = argparse.Namespace(**dict.fromkeys(vars(args), unset))  # argparse leaves alone what is set already
    given = {flag: value for flag, value in vars(parser.parse_args(argv, blank)).items() if value is not unset}
    settings = argparse.Namespace(**last["training"]["args"])
    for flag, value in given.items():
        old = getattr(settings, flag, None)
        if flag == "resume" or str(value) == str(old):
            continue
        if flag not in MAY_CHANGE:
            raise UserError(f"--{flag} {value} differs from the run's own ({old}), which cannot change; leave it out")
        print(f"--{flag} changes from {old} to {value}")
        setattr(settings, flag, value)
    for flag in ("data_path", "cache_dir"):
        if getattr(settings, flag) is not None:
            setattr(settings, flag, Path(getattr(settings, flag)))
    if settings.data_path is not None:
        choose_dataset(settings.data_path)
    settings.save_dir, settings.name = args.resume.parent, args.resume.name.removesuffix(".last.pth")
    return settings, last


def network_options(args):
    """What build_model takes beside the name, from the flags that were given."""
    flags = {name: getattr(args, name) for name in ("width", "depth", "norm", "dropout", "decoder")}
    options = {name: value for name, value in flags.items() if value is not None}
    return {"in_channels": args.in_channels, "out_channels": args.out_channels, **options}


def build(args):
    """The network of the flags, before any training."""
    try:
        model = build_model(args.model, **network_options(args))
    except ValueError as error:
        raise UserError(f"--model {args.model}: {error}") from None
    if args.encoder_weights:
        load_encoder(model, args.encoder_weights)
    return model


def load_encoder(model, path):
    """Load torchvision's resnet34 weights, with `fc` or without, into the encoder."""
    if not hasattr(model, "encoder"):
        raise UserError("--encoder_weights is for --model resnet34_unet")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        weights = {name: value for name, value in weights.items() if not name.startswith("fc.")}
        model.encoder.load_state_dict(weights)
    except FileNotFoundError:
        raise UserError(f"--encoder_weights {path} is not there") from None
    except Exception as error:  # not a weights file, or another network's
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--encoder_weights {path} is not a resnet34 state_dict ({reason})") from None


def build_optimizer(args, parameters):
    kwargs = {"lr": args.learning_rate, "weight_decay": args.weight_decay}
    if args.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=0.9, fused=True, **kwargs)
    if args.optimizer == "radam":
        return torch.optim.RAdam(parameters, **kwargs)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[args.optimizer](parameters, fused=True, **kwargs)


def build_schedule(args, optimizer, steps):
    """A schedule over that many optimizer steps; `plateau` steps by epoch, on the valid loss."""
    schedules = torch.optim.lr_scheduler
    if args.schedule == "plateau":
        return schedules.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    if args.schedule == "onecycle":
        return schedules.OneCycleLR(optimizer, args.learning_rate, steps)
    if args.schedule == "cosine":
        return schedules.LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * min(step / steps, 1))) / 2)
    return schedules.LambdaLR(optimizer, lambda step: 1.0)


def size_of(epoch, args):
    """Side of the training pictures in an epoch: from start_size by steps of 32, image_size for the last 30 %."""
    if not args.start_size or epoch >= 0.7 * args.epochs:
        return args.image_size
    steps = math.ceil((args.image_size - args.start_size) / 32)
    return min(args.image_size, args.start_size + 32 * int(steps * epoch / (0.7 * args.epochs)))


# ------------------------------------------------------------------------------------ the loop


class Run:
    """All that changes while a run goes on: what NAME.last.pth holds and --resume brings back."""

    def __init__(self, args, model, steps_per_epoch, device, precision):
        self.args, self.model, self.steps_per_epoch = args, model, steps_per_epoch
        self.optimizer = build_optimizer(args, model.parameters())
        self.schedule = build_schedule(args, self.optimizer, args.epochs * steps_per_epoch)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        self.average = None
        if args.ema:
            self.average = AveragedModel(model, multi_avg_fn=self.average_fn, use_buffers=True)
        self.step = 0  # optimizer steps done since the run began
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # of this epoch: loss, Dice, pictures
        self.history = []  # a row per epoch, as in NAME.csv
        self.scores = {}  # of the last epoch, on the valid split
        self.seconds = 0.0  # of training, evaluation not counted

    def average_fn(self, averages, values, count):
        """Exponential average whose decay starts low, so that a short run is not held back by its first weights."""
        decay = min(self.args.ema, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(decay)(averages, values, count)

    @property
    def weights(self):
        """The network to evaluate and keep."""
        return self.average.module if self.average else self.model

    @property
    def best(self):
        """The highest valid Dice so far."""
        return max((row["valid_dice"] for row in self.history), default=0.0)

    def is_best(self):
        return all(row["valid_dice"] < self.history[-1]["valid_dice"] for row in self.history[:-1])

    def end_epoch(self, valid_scores, valid_loss, size):
        """Write the epoch into the history, and begin the next."""
        loss, scored, pictures = self.sums.tolist()
        self.scores = {"valid": valid_scores}
        row = {"epoch": len(self.history) + 1, "step": self.step, "image_size": size}
        row |= {"train_loss": loss / pictures, "train_dice": scored / pictures}
        row |= {"valid_loss": valid_loss, "valid_dice": valid_scores["dice"], "valid_jaccard": valid_scores["jaccard"]}
        row |= {"learning_rate": self.optimizer.param_groups[0]["lr"]}
        self.history.append(row)
        self.sums.zero_()
        if self.args.schedule == "plateau":
            self.schedule.step(valid_loss)

    def state(self):
        numpy_state = np.random.get_state()
        return {
            "args": {name: str(value) if isinstance(value, Path) else value for name, value in vars(self.args).items()},
            "weights": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": {k: v for k, v in self.schedule.state_dict().items() if k != "lr_lambdas"},
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "sums": self.sums,
            "history": self.history,
            "scores": self.scores,
            "seconds": self.seconds,
            "random": {
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "numpy": (numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]),
                "python": random.getstate(),
            },
        }

    def load_state(self, state):
        self.model.load_state_dict(state["weights"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        schedule = state["schedule"]
        if self.args.schedule != "plateau":  # the rest follows from the settings, which may have more epochs now
            schedule = {name: schedule[name] for name in ("last_epoch", "_step_count", "_last_lr")}
        self.schedule.load_state_dict({**self.schedule.state_dict(), **schedule})
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.history, self.scores = state["step"], state["history"], state["scores"]
        self.sums.copy_(state["sums"])
        self.seconds = state["seconds"]
        kept = state["random"]
        torch.set_rng_state(kept["torch"])
        if kept["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(kept["cuda"])
        np.random.set_state(kept["numpy"])
        random.setstate(kept["python"])


class Stop:
    """SIGINT and SIGTERM ask the loop to stop after its step; a second one ends the process at once."""

    def __init__(self):
        self.signal = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.ask)

    def ask(self, number, frame):
        self.signal = number
        print("\nstopping after this step; once more to leave at once", file=sys.stderr)
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_DFL)


def train_one_epoch(state, batches, device, precision, mean, std, size, save_last, stop):
    """Go on to the end of the epoch, or until `stop`; -> whether the end was reached."""
    args, model = state.args, state.model
    criterion, strength = LOSSES[args.loss], AUGMENTS[args.augment]
    model.train()
    done = state.step % state.steps_per_epoch
    epoch = state.step // state.steps_per_epoch
    title = f"epoch {epoch + 1}/{args.epochs}"
    terminal = sys.stderr.isatty()
    bar = tqdm(total=state.steps_per_epoch, initial=done, desc=title, unit="step", leave=False, disable=not terminal)
    saved = spoken = started = time.perf_counter()
    for batch in itertools.islice(batches, state.steps_per_epoch - done):
        generator = torch.Generator().manual_seed(step_seed(args.seed, state.step))
        image = batch["image"].to(device, non_blocking=True)
        mask = batch["mask"].to(device, non_blocking=True)
        image, mask = augment(*shrink(image, mask, size), strength, generator)
        image = to_float(image, mean, std).contiguous(memory_format=torch.channels_last)

        with autocast(device, precision):
            logits = model(image)
        loss = criterion(logits, mask)
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if args.schedule != "plateau":
            state.schedule.step()
        if state.average:
            state.average.update_parameters(model)
        state.step += 1
        with torch.no_grad():
            scored = dice(confusion(foreground(logits) >= 0, mask))
            state.sums += torch.stack([loss.double() * len(mask), scored.sum(), scored.new_tensor(len(mask))])

        done += 1
        now = time.perf_counter()
        speak = now - spoken > (0.5 if terminal else 60)
        save_now = now - saved > 60 * args.save_every
        if speak or save_now or stop.signal or done == state.steps_per_epoch:
            check_finite(state, epoch)
            spoken = now
            loss_mean, dice_mean = (state.sums[:2] / state.sums[2]).tolist()
            bar.n = done
            bar.set_postfix_str(f"loss {loss_mean:.4f}, Dice {dice_mean:.4f}{memory(device)}")
            if speak and not terminal:
                print(
                    f"{title}  step {done}/{state.steps_per_epoch}  loss {loss_mean:.4f}  Dice {dice_mean:.4f}",
                    flush=True,
                )
        if (save_now or stop.signal) and done < state.steps_per_epoch:
            state.seconds += now - started
            save_last()
            saved = started = time.perf_counter()
        if stop.signal:
            break
    bar.close()
    state.seconds += time.perf_counter() - started
    return done == state.steps_per_epoch


def step_seed(seed, step):
    """A seed of its own for each step of each run."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def memory(device):
    if device.type != "cuda":
        return ""
    return f", GPU {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"


def check_finite(state, epoch):
    if not torch.isfinite(state.sums).all():
        best = (
            f"{state.args.save_dir / state.args.name}.pth keeps the best weights so far"
            if state.history
            else "nothing was saved"
        )
        raise UserError(
            f"the loss is not a finite number in epoch {epoch + 1}, by step {state.step}; "
            f"lower --learning_rate or use --precision float32; {best}"
        )


def write_history(history, path):
    text = io.StringIO()
    writer = csv.DictWriter(text, history[0])
    writer.writeheader()
    writer.writerows(history)
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def mean_and_std(args, dataset):
    """What pixels in [0, 1] are scaled by: two lists, a number per channel."""
    if args.mean_std != "train":
        return tuple([value] * args.in_channels for value in MEAN_STD[args.mean_std])
    total, squares, count = 0, 0, 0
    for first in range(0, len(dataset), 64):
        pixels = dataset[list(range(first, min(first + 64, len(dataset))))]["image"].double() / 255
        total, squares = total + pixels.sum((0, 2, 3)), squares + (pixels**2).sum((0, 2, 3))
        count += pixels.numel() // pixels.shape[1]
    mean = total / count
    return mean.tolist(), (squares / count - mean**2).sqrt().tolist()


def check_save_dir(args, model):
    """Find out now, not after an epoch, that checkpoints cannot be written."""
    try:
        args.save_dir.mkdir(parents=True, exist_ok=True)
        (args.save_dir / f".{args.name}.probe").touch()
        (args.save_dir / f".{args.name}.probe").unlink()
    except OSError as error:
        raise UserError(f"--save_dir {args.save_dir} cannot be written ({error.strerror}); choose another") from None
    needed = 7 * sum(value.nbytes for value in model.parameters())  # weights, average, two moments; old and new file
    free = shutil.disk_usage(args.save_dir).free
    if free < needed:
        raise UserError(
            f"--save_dir {args.save_dir} has {free / 1e6:.0f} MB free, the checkpoints need about {needed / 1e6:.0f} MB; "
            f"free some or choose another"
        )


def main(argv=None):
    args, last = parse_args(argv)
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    seed_everything(args.seed, args.deterministic)
    model = build(args)
    check_save_dir(args, model)
    parameters = sum(p.numel() for p in model.parameters())
    source = args.data_path if args.dataset == "pets" else "drawn shapes (python src/oxford_pet.py downloads the pets)"
    print(
        f"{args.model}, {parameters:,} parameters, on {device} in {str(precision).removeprefix('torch.')}; data: {source}"
    )

    def load_mode(mode):
        channels = args.in_channels
        return load_split(
            args.dataset, args.data_path, mode, args.image_size, channels, args.border, args.limit, args.cache_dir
        )

    train_set, valid_set = load_mode("train"), load_mode("valid")
    args.batch_size = min(args.batch_size, len(train_set))
    steps_per_epoch = args.steps or math.ceil(len(train_set) / args.batch_size)
    mean, std = mean_and_std(args, train_set)
    print(
        f"{len(train_set):,} pictures to train, {len(valid_set):,} to validate, {args.image_size}x{args.image_size}; "
        f"{args.epochs} epochs of {steps_per_epoch} steps of {args.batch_size} pictures"
    )

    model = model.to(device, memory_format=torch.channels_last)
    state = Run(args, model, steps_per_epoch, device, precision)
    if last:
        state.load_state(last["training"])
        print(f"going on after step {state.step} of {args.epochs * steps_per_epoch}, best valid Dice {state.best:.4f}")
    about = {
        "name": args.model,
        "options": network_options(args),
        "dataset": args.dataset,
        "image_size": args.image_size,
        "mean": mean,
        "std": std,
        "border": args.border,
        **provenance(device),
    }

    def save_to(path, **more):
        epoch, weights = len(state.history), state.weights.state_dict()
        save(
            {**about, "epoch": epoch, "seconds": state.seconds, "scores": state.scores, "model": weights, **more}, path
        )

    files = args.save_dir / args.name
    save_last = lambda: save_to(f"{files}.last.pth", training=state.state())  # noqa: E731
    stop = Stop()
    batches = train_loader(
        train_set, args.batch_size, args.seed, range(state.step, args.epochs * steps_per_epoch), args.workers, device
    )
    batches = iter(batches)
    while (epoch := len(state.history)) < args.epochs:
        size, began = size_of(epoch, args), state.seconds
        finished = train_one_epoch(state, batches, device, precision, mean, std, size, save_last, stop)
        if not finished:
            break
        loader = eval_loader(valid_set, args.batch_size, args.workers, device)
        title, criterion = f"valid {epoch + 1}/{args.epochs}", LOSSES[args.loss]
        counts, valid_loss = evaluate(state.weights, loader, device, precision, mean, std, criterion, title=title)
        state.end_epoch(scores(counts), valid_loss, size)
        row, is_best = state.history[-1], state.is_best()
        if is_best:
            save_to(f"{files}.pth")
        save_last()
        write_history(state.history, f"{files}.csv")
        plot_history(state.history, args.name, f"{files}.curve.png")
        chosen = [index * len(valid_set) // PANELS for index in range(min(PANELS, len(valid_set)))]
        rows = panel_rows(state.weights, valid_set, device, precision, mean, std, chosen)
        plot_panels(rows, f"{args.name}, epoch {epoch + 1}, valid split", f"{files}.panels.png")
        print(
            f"epoch {row['epoch']:3}/{args.epochs}  size {size}  train loss {row['train_loss']:.4f} Dice {row['train_dice']:.4f}"
            f"  valid loss {row['valid_loss']:.4f} Dice {row['valid_dice']:.4f}{'*' if is_best else ' '}"
            f"  lr {row['learning_rate']:.1e}  {state.seconds - began:.0f} s{memory(device)}",
            flush=True,
        )
        if stop.signal:
            break
    if stop.signal and len(state.history) < args.epochs:
        print(f"stopped after step {state.step}; go on with: python src/train.py --resume {files}.last.pth")
        return 128 + stop.signal
    print(
        f"best valid Dice {state.best:.4f} after {state.seconds:.0f} s of training; wrote {files}.pth, .csv, .curve.png, .panels.png"
    )
    print(f"now: python src/evaluate.py --model {files}.pth")
    return 0


if __name__ == "__main__":
    run(main)
