"""Train a network; keep the weights of the best valid Dice.

    python src/train.py --model unet                                  # the pets if they are in dataset/, else shapes
    python src/train.py --model resnet34_unet --data_path ~/pets/oxford-iiit-pet --name first
    python src/train.py --resume saved_models/first.last.pth          # go on exactly where it stopped

Several processes, each with its share of every batch (the README has several machines, and Slurm):

    torchrun --nproc_per_node 8 src/train.py --model resnet34_unet --batch_size 128

Written into --save_dir: NAME.pth (best weights, for evaluate.py and inference.py), NAME.last.pth (for
--resume), NAME.csv (history), NAME.curve.png and NAME.panels.png, each renewed every epoch.
"""

import itertools
import math
import shutil
import signal
import sys
import time
from contextlib import nullcontext

import numpy as np
import torch
from tqdm import tqdm

from augment import AUGMENTS, augment, draw, to_float
from checkpoint import load_encoder, provenance, save
from data import eval_loader, load_split, train_loader, with_foreground
from evaluate import Thresholds, evaluate, panel_rows
from files import write_table
from losses import LOSSES
from models import build_model
from reports.plots import plot_history, plot_panels
from training.distributed import agree, finish, first_alone, no_sync, rank, share, start, world_size
from training.settings import network_options, parse_args, recorded
from training.state import State
from utils import (
    UserError,
    autocast,
    confusion,
    dice,
    foreground,
    in_layout_of,
    pick_device,
    pick_precision,
    run,
    scores,
    seed_everything,
    to_device,
    when_memory_runs_out,
)

PANELS = 4  # fixed valid pictures shown every epoch
MEAN_STD = {"fixed": (0.5, 0.5), "unit": (0.0, 1.0)}
EXPLODED = 1e4  # a loss above it; that of a network which knows nothing is near 1


def main(argv=None):
    args, last = parse_args(__doc__, argv)
    device = pick_device(args.device)
    start(device)
    precision = pick_precision(args.precision, device)
    seed_everything(args.seed, args.deterministic)
    model = build(args)
    check_save_dir(args, model)
    source = args.data_path if args.dataset == "pets" else "drawn shapes (python src/oxford_pet.py downloads the pets)"
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{args.model}, {parameters:,} parameters, on {device} in {str(precision)[6:]}; data: {source}", flush=True)

    with first_alone():
        full_size = load_sets(args, args.image_size)
    train_set, valid_set = full_size
    indices = with_foreground(train_set) if args.dataset == "pets" else list(range(len(train_set)))
    if not indices:
        raise UserError(f"no training picture in {args.data_path} has any foreground; look at its trimaps")
    args.batch_size = min(args.batch_size, len(indices))
    parts = world_size() * args.accumulate
    if args.batch_size < parts:
        raise UserError(f"a batch of {args.batch_size} pictures has too few for {parts} parts; raise --batch_size")
    steps_per_epoch = args.steps or math.ceil(len(indices) / args.batch_size)
    scaling = mean_and_std(args, train_set)
    print(
        f"{len(indices):,} pictures to train{without(train_set, indices)}, {len(valid_set):,} to validate, "
        f"{growth(args)}; "
        f"{args.epochs} epochs of {steps_per_epoch} steps of {args.batch_size} pictures"
        + (f" on {world_size()} processes" if world_size() > 1 else ""),
        flush=True,
    )
    state = State(args, to_device(model, device, precision), steps_per_epoch, device, precision)
    if last:
        state.load_state(last["training"])
        print(f"going on after step {state.step} of {args.epochs * steps_per_epoch}, best valid Dice {state.best:.4f}")
        before = last.get("precision", str(precision)[6:])
        if before != str(precision)[6:]:
            print(f"computing in {str(precision)[6:]} from here, in {before} before")

    about = {
        "name": args.model,
        "options": network_options(args),
        "dataset": args.dataset,
        "mean": scaling[0],
        "std": scaling[1],
        "border": args.border,
        "precision": str(precision)[6:],
        "settings": recorded(args),
        **provenance(device),
    }
    try:
        with when_memory_runs_out(
            f"take --accumulate {2 * args.accumulate} (the same batch of {args.batch_size}, in parts of "
            f"{math.ceil(args.batch_size / parts / 2)} pictures) or a smaller --image_size"
        ):
            return fit(state, full_size, indices, scaling, about, device, precision)
    finally:
        finish()


def fit(state, full_size, indices, scaling, about, device, precision):
    """Train to the last epoch or until asked to stop; validate, save and draw after every epoch. -> exit status.

    full_size: the sets to train and to validate on, at --image_size; those of smaller sizes are loaded in turn.
    indices: of the pictures to train on.
    """
    args, files, size = state.args, state.args.save_dir / state.args.name, None

    def save_weights(path, **more):
        scored = {"epoch": len(state.history), "scores": state.scores, "threshold": state.threshold}
        scored |= {"image_size": size, "seconds": state.seconds}
        if rank() == 0:
            save({**about, **scored, "model": state.weights.state_dict(), **more}, path)

    def save_last():
        save_weights(f"{files}.last.pth", training=state.state_dict())

    stop = Stop()
    while len(state.history) < args.epochs and not stop.agreed():
        epoch, before = len(state.history), state.seconds
        if size != size_of(epoch, args):
            size = size_of(epoch, args)
            with first_alone():
                sets = full_size if size == args.image_size else load_sets(args, size)
            train_set, valid_set = (dataset.to(device) for dataset in sets)
            steps = range(state.step, args.epochs * state.steps_per_epoch)
            batches = iter(train_loader(train_set, indices, args.batch_size, args.seed, steps, args.workers, device))
        if not train_one_epoch(state, batches, scaling, device, precision, save_last, stop):
            break
        state.share_running_means()
        loader = eval_loader(valid_set, args.batch_size, args.workers, device)
        loss, title, thresholds = LOSSES[args.loss], f"valid {epoch + 1}/{args.epochs}", Thresholds()
        counts, valid_loss = evaluate(
            state.weights, loader, device, precision, *scaling, loss, title=title, each=thresholds
        )
        row = state.end_epoch(scores(counts), thresholds.best(), valid_loss, size)
        if state.is_best():
            save_weights(f"{files}.pth")
        save_last()
        if rank() == 0:
            write_table(f"{files}.csv", list(row), [list(row.values()) for row in state.history])
            plot_history(state.history, args.name, f"{files}.curve.png")
            shown = [index * len(valid_set) // PANELS for index in range(min(PANELS, len(valid_set)))]
            rows = panel_rows(state.weights, valid_set, device, precision, *scaling, shown)
            plot_panels(rows, f"{args.name}, epoch {epoch + 1}, valid split", f"{files}.panels.png")
            check_progress(state.history)
        print(
            f"epoch {epoch + 1:3}/{args.epochs}  size {size}"
            f"  train loss {row['train_loss']:.4f} Dice {row['train_dice']:.4f}"
            f"  valid loss {row['valid_loss']:.4f} Dice {row['valid_dice']:.4f}{'*' if state.is_best() else ' '}"
            f"  lr {row['learning_rate']:.1e}  {state.seconds - before:.0f} s{memory(device)}",
            flush=True,
        )
    if len(state.history) < args.epochs:
        print(f"stopped after step {state.step}; go on with: {launcher()} src/train.py --resume {files}.last.pth")
        return 128 + stop.signal
    print(
        f"best valid Dice {state.best:.4f} after {state.seconds:.0f} s of training; "
        f"wrote {files}.pth, .csv, .curve.png and .panels.png\n"
        f"now: python src/evaluate.py --model {files}.pth"
    )
    return 0


def train_one_epoch(state, batches, scaling, device, precision, save_last, stop):
    """Go on to the end of the epoch, or until `stop`; -> whether the end was reached."""
    args = state.args
    epoch, done = divmod(state.step, state.steps_per_epoch)
    title, terminal = f"epoch {epoch + 1}/{args.epochs}", rank() == 0 and sys.stderr.isatty()
    bar = tqdm(total=state.steps_per_epoch, initial=done, desc=title, unit="step", leave=False, disable=not terminal)
    saved_step, saved = state.step, time.perf_counter()
    spoken = started = saved
    state.model.train()
    for batch in itertools.islice(batches, state.steps_per_epoch - done):
        train_step(state, batch, scaling, device, precision)
        done += 1
        now = time.perf_counter()
        interval, unit = args.save_every
        due = state.step - saved_step >= interval if unit == "steps" else now - saved > 60 * interval
        speak = now - spoken > (0.5 if terminal else 60)
        first = rank() == 0  # whose clock counts
        stop.signal, due, speak = agree(stop.asked, due and first, speak and first)
        save_now = due or stop.signal
        if speak or save_now or done == state.steps_per_epoch:  # the only places that wait for a GPU
            loss, dice_mean = state.means()
            check_loss(state, loss, epoch)
            bar.n, spoken = done, now
            bar.set_postfix_str(f"loss {loss:.4f}, Dice {dice_mean:.4f}{memory(device)}")
            if speak and not terminal:
                print(f"{title}  step {done}/{state.steps_per_epoch}  loss {loss:.4f} Dice {dice_mean:.4f}", flush=True)
        if save_now and done < state.steps_per_epoch:
            state.seconds += now - started
            save_last()
            saved_step, saved = state.step, time.perf_counter()
            started = saved
        if stop.signal:
            break
    bar.close()
    state.seconds += time.perf_counter() - started
    return done == state.steps_per_epoch


def train_step(state, batch, scaling, device, precision):
    """Forward, backward and an optimizer step on this process's share of a batch, in --accumulate parts."""
    args, criterion = state.args, LOSSES[state.args.loss]
    chance = draw(args.batch_size, torch.Generator().manual_seed(seed_of(args.seed, state.step)))
    mine = share(args.batch_size, rank(), world_size())
    torch.manual_seed(seed_of(args.seed, state.step, 1 + rank()))  # of dropout
    state.optimizer.zero_grad(set_to_none=True)
    for part in range(args.accumulate):
        rows = share(mine.stop - mine.start, part, args.accumulate)
        image = batch["image"][rows].to(device, non_blocking=True)
        mask = batch["mask"][rows].to(device, non_blocking=True)
        drawn = {name: values[mine][rows] for name, values in chance.items()}
        image, mask = augment(image, mask, AUGMENTS[args.augment], drawn)
        image = in_layout_of(state.model, to_float(image, *scaling))
        with nullcontext() if part + 1 == args.accumulate else no_sync(state.forward):
            with autocast(device, precision):
                logits = state.forward(image)
            loss = criterion(logits, mask)
            weight = len(mask) * world_size() / args.batch_size  # of the mean that the processes take of gradients
            state.scaler.scale(loss * weight).backward()
        with torch.no_grad():
            state.count(loss, dice(confusion(foreground(logits) >= 0, mask)))
    state.end_step()


def seed_of(*numbers):
    """A seed of its own for each step of each run, so that a run can go on from any step."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def sizes(args):
    """Sides of the training pictures: multiples of 32, from start_size to image_size, each about sqrt(2) x the last."""
    if not 0 < args.start_size < args.image_size:
        return [args.image_size]
    factors = range(round(2 * math.log2(args.image_size / args.start_size)))
    growing = {max(32, 32 * round(args.start_size * 2 ** (factor / 2) / 32)) for factor in factors}
    return sorted({size for size in growing if size < args.image_size} | {args.image_size})


def size_of(epoch, args):
    """Side of the training pictures in an epoch; each side's share of the epochs is as 1 / sqrt(side)."""
    shares = np.cumsum([size**-0.5 for size in sizes(args)])
    reached = (epoch + 1) / args.epochs * shares[-1]
    return sizes(args)[int(np.searchsorted(shares, reached - 1e-9))]


def without(dataset, indices):
    """How many pictures are left out, in words, or nothing."""
    left_out = len(dataset) - len(indices)
    return f" ({left_out} without foreground left out)" if left_out else ""


def growth(args):
    """The sides of the pictures, in words."""
    return " then ".join(f"{size}x{size}" for size in sizes(args))


def check_loss(state, loss, epoch):
    """Stop a run whose loss has left all measure, and say which way it went."""
    highest = state.highest.item()
    exploded = not highest < EXPLODED
    if math.isfinite(loss) and not exploded:
        return
    kept = f"{state.args.save_dir / state.args.name}.pth keeps the best weights so far"
    kept = kept if state.history else "nothing was saved yet"
    where = f"in epoch {epoch + 1}, by step {state.step}"
    if exploded:
        raise UserError(f"the loss exploded {where}: it reached {highest:.3g}; lower --learning_rate; {kept}")
    raise UserError(
        f"the loss is not a number {where}, though it was never above {highest:.3g}; use --precision float32 or a "
        f"lower --learning_rate, and look for a division or a logarithm of zero in what you changed; {kept}"
    )


def check_progress(history):
    """Say so when the training loss stands still, or grows."""
    first, last = history[0]["train_loss"], history[-1]["train_loss"]
    if len(history) == 2 and abs(first - last) < 1e-3 * abs(first):
        print(
            f"note: the training loss has not moved from {first:.4f}; raise --learning_rate, or look at the masks in "
            f"the panels",
            file=sys.stderr,
        )
    elif last > 2 * min(row["train_loss"] for row in history):
        print(f"note: the training loss has grown to {last:.4f}; lower --learning_rate", file=sys.stderr)


def launcher():
    """How this run was started, for the command that goes on with it."""
    return f"torchrun --nproc_per_node {world_size()}" if world_size() > 1 else "python"


class Stop:
    """SIGINT and SIGTERM ask the loop to stop after its step; a second one ends the process at once.

    asked: the signal that this process got, at any moment. signal: the one that all processes stop for; 0: none.
    """

    def __init__(self):
        self.asked = self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.ask)

    def agreed(self):
        (self.signal,) = agree(self.asked)
        return self.signal

    def ask(self, number, frame):
        self.asked = number
        if rank() == 0:
            print("\nstopping after this step; once more to leave at once", file=sys.stderr)
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_DFL)


# ---------------------------------------------------------------------------------- preparation


def build(args):
    """The network of the flags, before any training."""
    try:
        model = build_model(args.model, **network_options(args))
    except ValueError as error:
        raise UserError(f"--model {args.model}: {error}") from None
    if args.encoder_weights:
        load_encoder(model, args.encoder_weights)
    return model


def load_sets(args, size):
    """The pictures to train and to validate on, at one size."""
    return [load(args, mode, size) for mode in ("train", "valid")]


def load(args, mode, size):
    channels = args.in_channels
    return load_split(args.dataset, args.data_path, mode, size, channels, args.border, args.limit, args.cache_dir)


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
        for left in args.save_dir.glob(f".{args.name}.*"):  # of a save that was killed, too
            left.unlink()
    except OSError as error:
        raise UserError(f"--save_dir {args.save_dir} cannot be written ({error.strerror}); choose another") from None
    needed = 9 * sum(value.nbytes for value in model.parameters())  # NAME.last.pth old and new, and NAME.pth
    free = shutil.disk_usage(args.save_dir).free
    if free < needed:
        raise UserError(
            f"--save_dir {args.save_dir} has {free / 1e6:.0f} MB free, checkpoints need about {needed / 1e6:.0f} MB; "
            f"free some or choose another"
        )


def memory(device):
    if device.type != "cuda":
        return ""
    return f", GPU {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"


if __name__ == "__main__":
    run(main)
