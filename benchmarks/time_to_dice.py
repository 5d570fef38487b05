"""Seconds of training to a valid Dice, of the default recipe and of report R2's, in turns on one machine.

    python benchmarks/time_to_dice.py --model resnet34_unet --hours 4                             # at 256x256
    python benchmarks/time_to_dice.py --model unet --width 8 --image_size 96 --hours 0.2          # in half an hour

Both train the same kind of network from scratch on the pets and are scored on the valid split at --image_size, from
time to time, also while the pictures of the default recipe still grow; scoring and packing are not counted. R2: no
growth, batches of 16, Adam at 5e-4 (unet) or 1e-4, halved when the valid loss stands still, BCE + Dice, its own decoder
and no norm there (the U-Net: no norm at all). Each takes --hours; the default recipe's epochs are chosen to fit.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
import train
from data import eval_loader, train_loader
from evaluate import evaluate
from losses import LOSSES
from settings import parse_args
from state import State
from utils import Parser, pick_device, pick_precision, positive, rate, run, scores, seed_everything, to_device

GOALS = (0.80, 0.85, 0.88, 0.90, 0.91)
R2 = "--start_size 0 --augment light --loss bce_dice --optimizer adam --weight_decay 1e-5 --schedule plateau --ema 0"
R2_OF = {"unet": "--norm none --learning_rate 5e-4", "resnet34_unet": "--decoder transposed --learning_rate 1e-4"}


class Contender:
    """A recipe that trains for a while when asked, and is scored."""

    def __init__(self, label, flags, args):
        self.label, self.device = label, pick_device(args.device)
        self.args, _ = parse_args(None, [*flags.split(), *self.shared(args)])
        self.precision = pick_precision(args.precision, self.device)
        self.valid = train.load(self.args, "valid", args.image_size)
        self.scaling = train.mean_and_std(self.args, self.valid)
        self.seconds, self.reached, self.best, self.size = 0.0, {}, 0.0, None

    @staticmethod
    def shared(args):
        flags = [
            "--model",
            args.model,
            "--image_size",
            args.image_size,
            "--data_path",
            args.data_path,
            "--name",
            "race",
        ]
        flags += [
            "--save_dir",
            args.cache_dir or args.data_path,
            "--device",
            args.device,
            "--precision",
            args.precision,
        ]
        flags += ["--cache_dir", args.cache_dir] if args.cache_dir else []
        return [str(flag) for flag in [*flags, *(["--width", args.width] if args.width else [])]]

    def begin(self, epochs):
        self.args.epochs = epochs
        seed_everything(self.args.seed)
        model = to_device(train.build(self.args), self.device, self.precision)
        pictures = len(train.load(self.args, "train", self.args.image_size))
        self.state = State(self.args, model, -(-pictures // self.args.batch_size), self.device, self.precision)
        self.reached, self.best, self.size, self.seconds = {}, 0.0, None, 0.0

    def train(self, seconds):
        """Take steps for that long, and stop where the schedule ends. -> whether it goes on."""
        end = self.seconds + seconds
        while self.seconds < end and self.state.step < self.args.epochs * self.state.steps_per_epoch:
            size = train.size_of(self.state.step // self.state.steps_per_epoch, self.args)
            if size != self.size:
                self.size, dataset = size, train.load(self.args, "train", size).to(self.device)
                steps = range(self.state.step, self.args.epochs * self.state.steps_per_epoch)
                self.batches = iter(train_loader(dataset, self.args.batch_size, self.args.seed, steps, 0, self.device))
            start = time.perf_counter()
            self.state.model.train()
            train.train_step(self.state, next(self.batches), self.scaling, self.device, self.precision)
            self.seconds += time.perf_counter() - start
            if self.state.step % self.state.steps_per_epoch == 0:
                self.score()
        return self.state.step < self.args.epochs * self.state.steps_per_epoch

    def score(self):
        """The valid Dice now; at the end of an epoch its loss goes to the schedule."""
        loader = eval_loader(self.valid, self.args.batch_size, 0, self.device)
        loss = LOSSES[self.args.loss]
        counts, loss = evaluate(self.state.weights, loader, self.device, self.precision, *self.scaling, loss)
        found = scores(counts)
        if self.state.step % self.state.steps_per_epoch == 0:
            self.state.end_epoch(found, 0.5, loss, self.size)
        self.best = max(self.best, found["dice"])
        for goal in GOALS:
            if found["dice"] >= goal:
                self.reached.setdefault(goal, self.seconds)
        done = self.state.step / self.state.steps_per_epoch
        print(f"{self.seconds:8.0f} s  {self.label:8} {done:6.1f} epochs  valid Dice {found['dice']:.4f}", flush=True)

    def epochs_in(self, seconds):
        """How many epochs of this recipe, pictures growing, fit: from the time of a few steps at each size."""
        self.begin(100)
        cost = {}
        for size in train.sizes(self.args):
            dataset = train.load(self.args, "train", size).to(self.device)
            batches = iter(train_loader(dataset, self.args.batch_size, 0, range(3), 0, self.device))
            for _ in range(3):
                start = time.perf_counter()
                train.train_step(self.state, next(batches), self.scaling, self.device, self.precision)
                cost[size] = time.perf_counter() - start
        per_epoch = {size: value * self.state.steps_per_epoch for size, value in cost.items()}
        epochs = 1
        while True:
            self.args.epochs = epochs + 1
            if sum(per_epoch[train.size_of(epoch, self.args)] for epoch in range(epochs + 1)) > seconds:
                return epochs
            epochs += 1


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", choices=tuple(R2_OF), default="resnet34_unet", help="default %(default)s")
    add("--width", type=positive, help="unet: channels of the first level; default 64")
    add("--image_size", type=positive, default=256, help="default %(default)s")
    add("--hours", type=rate, default=4.0, help="of training for each recipe; default %(default)s")
    add("--slice", type=positive, default=300, help="seconds of training between scores; default %(default)s")
    add("--data_path", type=Path, default=Path("dataset/oxford-iiit-pet"), help="default %(default)s")
    add("--cache_dir", type=Path, help="where decoded pictures are kept")
    add("--device", default="auto", help="default %(default)s")
    add("--precision", default="auto", help="default %(default)s")
    args = parser.parse_args()
    ours = Contender("default", "", args)
    theirs = Contender("R2", f"{R2} {R2_OF[args.model]}", args)
    epochs = ours.epochs_in(3600 * args.hours)
    ours.begin(epochs)
    theirs.begin(10**4)
    print(f"default recipe: {epochs} epochs in {args.hours:g} hours of training", flush=True)
    going = [ours, theirs]
    while going:
        for contender in list(going):
            goes_on = contender.train(args.slice)
            if contender.state.step % contender.state.steps_per_epoch:
                contender.score()
            if not goes_on or contender.seconds >= 3600 * args.hours:
                going.remove(contender)
    print(f"{'valid Dice':>10}{'default, s':>12}{'R2, s':>12}{'R2 / default':>14}")
    for goal in GOALS:
        a, b = ours.reached.get(goal), theirs.reached.get(goal)
        row = [f"{value:.0f}" if value else "-" for value in (a, b)] + [f"{b / a:.1f}" if a and b else "-"]
        print(f"{goal:10.2f}{row[0]:>12}{row[1]:>12}{row[2]:>14}")
    print(f"best: default {ours.best:.4f} in {ours.seconds:.0f} s, R2 {theirs.best:.4f} in {theirs.seconds:.0f} s")
    return 0


if __name__ == "__main__":
    run(main)
