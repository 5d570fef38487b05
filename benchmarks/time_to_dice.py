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
from data import TrainingData, eval_loader, train_loader
from runtime import choose_runtime, seed_everything
from scoring import Tally, evaluate
from training.averaging import refresh_statistics
from training.schedule import size_of, sizes
from training.settings import data_options, parse_args
from training.state import State
from utils import Parser, positive, rate, run, scores

GOALS = (0.80, 0.85, 0.88, 0.89, 0.90, 0.91)
TIMES = 5  # how much more time R2's recipe gets
R2 = "--start_size 0 --batch_size 16 --augment light --loss bce_dice --optimizer adam --weight_decay 1e-5"
R2 += " --schedule plateau --ema 0"
R2_OF = {"unet": "--norm none --learning_rate 5e-4", "resnet34_unet": "--decoder transposed --learning_rate 1e-4"}


class Contender:
    """A recipe that trains for a while when asked, and is scored."""

    def __init__(self, label, recipe, shared):
        self.label = label
        self.settings, _ = parse_args(None, [*recipe.split(), *shared])
        self.runtime = choose_runtime(self.settings.device, self.settings.precision)
        self.data = TrainingData(data_options(self.settings))
        self.scaling = train.mean_and_std(self.settings, self.data.train)

    def begin(self, epochs):
        self.settings.epochs = epochs
        seed_everything(self.settings.seed)
        model = train.build(self.settings)
        self.runtime = self.runtime.suited_to(model)
        pictures = len(self.data.indices)
        self.state = State(self.settings, self.runtime.place(model), pictures, self.scaling, self.runtime)
        self.reached, self.best, self.size, self.seconds = {}, 0.0, None, 0.0

    def done(self):
        return self.state.step >= self.state.total_steps

    def batches(self, size, steps):
        """Batches of pictures of size x size for a range of steps, and their set."""
        settings, device = self.settings, self.runtime.device
        dataset = self.data.at(size)[0].to(device)
        indices = self.data.indices
        return dataset, train_loader(dataset, indices, settings.batch_size, settings.seed, steps, device=device)

    def train(self, seconds):
        """Take steps for that long, or to the end of the schedule; scored after each epoch and at the end."""
        state, until = self.state, self.seconds + seconds
        while self.seconds < until and not self.done():
            if state.step % state.steps_per_epoch == 0:
                state.begin_epoch()
            if state.size != self.size:
                self.size = state.size
                self.dataset, loader = self.batches(self.size, range(state.step, state.total_steps))
                self.stream = iter(loader)
            start = time.perf_counter()
            state.model.train()
            train.train_step(state, next(self.stream))
            self.seconds += time.perf_counter() - start
            if state.step % state.steps_per_epoch == 0:
                self.score()
        if state.step % state.steps_per_epoch:
            self.score()

    def score(self):
        """The valid Dice now, at --image_size; at the end of an epoch its loss goes to the schedule."""
        settings, state = self.settings, self.state
        start = time.perf_counter()
        state.sum_up()  # waits for the device
        refresh_statistics(state.weights, train.recent_images(state, self.dataset, self.data.indices), self.runtime)
        self.seconds += time.perf_counter() - start
        loader = eval_loader(self.data.valid, settings.batch_size, device=self.runtime.device)
        tally = evaluate(state.predictor(), loader, Tally(self.data.valid, (0.5,), state.criterion), self.label)
        found = scores(tally.at(0.5))
        if state.step % state.steps_per_epoch == 0:
            state.end_epoch(found, 0.5, tally.loss())
        self.best = max(self.best, found["dice"])
        for goal in GOALS:
            if found["dice"] >= goal:
                self.reached.setdefault(goal, self.seconds)
        epochs = state.step / state.steps_per_epoch
        print(f"{self.seconds:8.0f} s  {self.label:8} {epochs:6.1f} epochs  valid Dice {found['dice']:.4f}", flush=True)

    def epochs_in(self, seconds):
        """How many epochs of this recipe, pictures growing, fit: from the time of a few steps at each size."""
        self.begin(100)
        settings, cost = self.settings, {}
        for size in sizes(settings.start_size, settings.image_size):
            for batch in self.batches(size, range(3))[1]:
                start = time.perf_counter()
                train.train_step(self.state, batch)
                self.state.sum_up()  # waits for the device
                cost[size] = (time.perf_counter() - start) * self.state.steps_per_epoch
        epochs, ends = 1, (settings.start_size, settings.image_size)
        while sum(cost[size_of(epoch, epochs + 1, *ends)] for epoch in range(epochs + 1)) <= seconds:
            epochs += 1
        return epochs


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
    print(f"default recipe: {ours.settings.epochs} epochs in about {args.hours:g} hours of training", flush=True)
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
