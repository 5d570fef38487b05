"""Seconds of training to a valid Dice, of the default recipe and of report R2's, on one machine, in turns.

    python benchmarks/time_to_dice.py --model resnet34_unet --hours 2                             # at 256x256
    python benchmarks/time_to_dice.py --model unet --width 8 --image_size 96 --hours 0.08         # in half an hour

Both train the same kind of network from scratch on the pets and are scored on the valid split at --image_size, also
while the pictures of the default recipe still grow; scoring and packing are not counted. The default recipe has
--hours, which its epochs are chosen to fill, and R2's five times as much. R2: no growth, batches of 16, Adam at 5e-4
(unet) or 1e-4, halved when the valid loss stands still, BCE + Dice, its own decoder and no norm there (the U-Net: no
norm at all).
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
import train
from data import eval_loader, train_loader, with_foreground
from evaluate import evaluate
from losses import LOSSES
from training.settings import parse_args
from training.state import State
from utils import Parser, pick_device, pick_precision, positive, rate, run, scores, seed_everything, to_device

GOALS = (0.80, 0.85, 0.88, 0.89, 0.90, 0.91)
TIMES = 5  # how much more time R2's recipe gets
R2 = "--start_size 0 --batch_size 16 --augment light --loss bce_dice --optimizer adam --weight_decay 1e-5"
R2 += " --schedule plateau --ema 0"
R2_OF = {"unet": "--norm none --learning_rate 5e-4", "resnet34_unet": "--decoder transposed --learning_rate 1e-4"}


class Contender:
    """A recipe that trains for a while when asked, and is scored."""

    def __init__(self, label, recipe, shared):
        self.label = label
        self.args, _ = parse_args(None, [*recipe.split(), *shared])
        self.device = pick_device(self.args.device)
        self.precision = pick_precision(self.args.precision, self.device)
        self.valid = train.load(self.args, "valid", self.args.image_size)
        self.scaling = train.mean_and_std(self.args, self.valid)

    def begin(self, epochs):
        self.args.epochs = epochs
        seed_everything(self.args.seed)
        model = to_device(train.build(self.args), self.device, self.precision)
        self.indices = with_foreground(train.load(self.args, "train", self.args.image_size))
        steps = -(-len(self.indices) // self.args.batch_size)
        self.state = State(self.args, model, steps, self.device, self.precision)
        self.reached, self.best, self.size, self.seconds = {}, 0.0, None, 0.0

    def done(self):
        return self.state.step >= self.args.epochs * self.state.steps_per_epoch

    def train(self, seconds):
        """Take steps for that long, or to the end of the schedule; scored after each epoch and at the end."""
        until = self.seconds + seconds
        while self.seconds < until and not self.done():
            size = train.size_of(self.state.step // self.state.steps_per_epoch, self.args)
            if size != self.size:
                self.size, dataset = size, train.load(self.args, "train", size).to(self.device)
                steps = range(self.state.step, self.args.epochs * self.state.steps_per_epoch)
                self.batches = iter(
                    train_loader(dataset, self.indices, self.args.batch_size, self.args.seed, steps, 0, self.device)
                )
            start = time.perf_counter()
            self.state.model.train()
            train.train_step(self.state, next(self.batches), self.scaling, self.device, self.precision)
            self.seconds += time.perf_counter() - start
            if self.state.step % self.state.steps_per_epoch == 0:
                self.score()
        if self.state.step % self.state.steps_per_epoch:
            self.score()

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
        epochs = self.state.step / self.state.steps_per_epoch
        print(f"{self.seconds:8.0f} s  {self.label:8} {epochs:6.1f} epochs  valid Dice {found['dice']:.4f}", flush=True)

    def epochs_in(self, seconds):
        """How many epochs of this recipe, pictures growing, fit: from the time of a few steps at each size."""
        self.begin(100)
        cost = {}
        for size in train.sizes(self.args):
            dataset = train.load(self.args, "train", size).to(self.device)
            batches = iter(train_loader(dataset, self.indices, self.args.batch_size, 0, range(3), 0, self.device))
            for batch in batches:
                start = time.perf_counter()
                train.train_step(self.state, batch, self.scaling, self.device, self.precision)
                cost[size] = (time.perf_counter() - start) * self.state.steps_per_epoch
        epochs = 1
        while True:
            self.args.epochs = epochs + 1
            if sum(cost[train.size_of(epoch, self.args)] for epoch in range(epochs + 1)) > seconds:
                return epochs
            epochs += 1


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", choices=tuple(R2_OF), default="resnet34_unet", help="default %(default)s")
    add("--width", type=positive, help="unet: channels of the first level; default 64")
    add("--image_size", type=positive, default=256, help="default %(default)s")
    add("--hours", type=rate, default=2.0, help="of training for the default recipe; default %(default)s")
    add("--slice", type=positive, default=60, help="seconds of a turn of the default recipe; default %(default)s")
    add("--data_path", type=Path, default=Path("dataset/oxford-iiit-pet"), help="default %(default)s")
    add("--cache_dir", type=Path, help="where decoded pictures are kept")
    args = parser.parse_args()
    flags = {"model": args.model, "image_size": args.image_size, "data_path": args.data_path, "name": "time_to_dice"}
    flags |= {"width": args.width, "cache_dir": args.cache_dir}
    shared = [f"--{flag}={value}" for flag, value in flags.items() if value]
    ours, theirs = Contender("default", "", shared), Contender("R2", f"{R2} {R2_OF[args.model]}", shared)
    ours.begin(ours.epochs_in(3600 * args.hours))
    theirs.begin(10**4)
    print(f"default recipe: {ours.args.epochs} epochs in about {args.hours:g} hours of training", flush=True)
    while not ours.done():
        ours.train(args.slice)
        theirs.train(TIMES * ours.seconds - theirs.seconds)
    print(f"{'valid Dice':>10}{'default, s':>12}{'R2, s':>12}{'R2 / default':>14}")
    for goal in GOALS:
        a, b = ours.reached.get(goal), theirs.reached.get(goal)
        row = [f"{value:.0f}" if value else "-" for value in (a, b)] + [f"{b / a:.1f}" if a and b else "-"]
        print(f"{goal:10.2f}{row[0]:>12}{row[1]:>12}{row[2]:>14}")
    print(f"best: default {ours.best:.4f} in {ours.seconds:.0f} s, R2 {theirs.best:.4f} in {theirs.seconds:.0f} s")
    return 0


if __name__ == "__main__":
    run(main)
