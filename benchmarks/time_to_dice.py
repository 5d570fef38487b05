"""Seconds of training to a valid Dice, of the default recipe and of report R2's, on one machine, in turns.

    python benchmarks/time_to_dice.py --model resnet34_unet                                  # 40 epochs, to 256x256
    python benchmarks/time_to_dice.py --model unet --width 16 --image_size 96 --epochs 3 4 10  # in half an hour

Both train the same kind of network from scratch on the pets and are scored on the valid split at --image_size, also
while the pictures of the default recipe still grow; scoring and packing are not counted. A short run of the default
recipe comes to a low Dice sooner than a long one, whose learning rate falls later: several --epochs are as many runs.
R2's recipe has five times the seconds of the longest: no growth, batches of 16, Adam at 5e-4 (unet) or 1e-4, halved
when the valid loss stands still, BCE + Dice, its own decoder and no norm there (the U-Net: no norm at all).
"""

import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
import train
from data import TrainingData, eval_loader, train_loader
from runtime import choose_runtime, seed_everything
from scoring import Tally, evaluate
from training.averaging import refresh_statistics
from training.settings import data_options, parse_args
from training.state import State
from utils import Parser, positive, run, scores

GOALS = (0.80, 0.85, 0.88, 0.89, 0.90, 0.91)
TIMES = 5  # how much more time R2's recipe gets
TURN = 20  # seconds of the default recipe's turns
R2 = "--start_size 0 --batch_size 16 --augment light --loss bce_dice --optimizer adam --weight_decay 1e-5"
R2 += " --schedule plateau --ema 0 --epochs 10000"
R2_OF = {"unet": "--norm none --learning_rate 5e-4", "resnet34_unet": "--decoder transposed --learning_rate 1e-4"}


class Contender:
    """A recipe that trains for a while when asked, and is scored."""

    def __init__(self, label, recipe, shared):
        self.label = label
        self.settings, _ = parse_args(None, [*recipe.split(), *shared])
        runtime = choose_runtime(self.settings.device, self.settings.precision)
        self.data = TrainingData(data_options(self.settings))
        seed_everything(self.settings.seed)
        model = train.build(self.settings)
        self.runtime = runtime.suited_to(model)
        scaling = train.mean_and_std(self.settings, self.data.train)
        pictures = len(self.data.indices)
        self.state = State(self.settings, self.runtime.place(model), pictures, scaling, self.runtime)
        self.reached, self.best, self.size, self.seconds, self.scored = {}, 0.0, None, 0.0, 0.0

    def done(self):
        return self.state.step >= self.state.total_steps

    def train(self, seconds):
        """Take steps for that long, or to the end of the schedule; scored after each epoch."""
        settings, state, until = self.settings, self.state, self.seconds + seconds
        device, indices = self.runtime.device, self.data.indices
        while self.seconds < until and not self.done():
            if state.step % state.steps_per_epoch == 0:
                state.begin_epoch()
            if state.size != self.size:
                self.size = state.size
                self.dataset = self.data.at(self.size)[0].to(device)
                steps = range(state.step, state.total_steps)
                loader = train_loader(self.dataset, indices, settings.batch_size, settings.seed, steps, device=device)
                self.stream = iter(loader)
            start = time.perf_counter()
            state.model.train()
            train.train_step(state, next(self.stream))
            self.seconds += time.perf_counter() - start
            if state.step % state.steps_per_epoch == 0:
                self.score()

    def score(self):
        """The valid Dice at --image_size after an epoch; its loss goes to the schedule."""
        settings, state = self.settings, self.state
        start = time.perf_counter()
        state.sum_up()  # waits for the device
        refresh_statistics(state.weights, train.recent_images(state, self.dataset, self.data.indices), self.runtime)
        self.seconds += time.perf_counter() - start
        loader = eval_loader(self.data.valid, settings.batch_size, device=self.runtime.device)
        tally = evaluate(state.predictor(), loader, Tally(self.data.valid, (0.5,), state.criterion), self.label)
        found = scores(tally.at(0.5))
        state.end_epoch(found, 0.5, tally.loss())
        self.best, self.scored = max(self.best, found["dice"]), self.seconds
        for goal in GOALS:
            if found["dice"] >= goal:
                self.reached.setdefault(goal, self.seconds)
        print(
            f"{self.seconds:8.0f} s  {self.label:18} epoch {len(state.history):3}  valid Dice {found['dice']:.4f}",
            flush=True,
        )


def table(contenders):
    """Lines of seconds to each Dice, and of the last contender's seconds over the quickest other's."""
    theirs = contenders[-1]
    yield "valid Dice" + "".join(f"{one.label:>22}" for one in contenders) + f"{'R2 / quickest':>16}"
    for goal in GOALS:
        times = [one.reached.get(goal, math.inf) for one in contenders]
        quickest = min(times[:-1])
        over = "" if goal in theirs.reached else "over "
        ratio = f"{over}{min(times[-1], theirs.scored) / quickest:.1f}" if quickest < math.inf else ""
        line = [f"{at:.0f} s" if at < math.inf else "" for at in times]
        yield f"{goal:10.2f}" + "".join(f"{cell:>22}" for cell in line) + f"{ratio:>16}"
    yield f"{'best':>10}" + "".join(f"{f'{one.best:.4f} in {one.scored:.0f} s':>22}" for one in contenders)


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", choices=tuple(R2_OF), default="resnet34_unet", help="default %(default)s")
    add("--width", type=positive, help="unet: channels of the first level; default 64")
    add("--image_size", type=positive, default=256, help="default %(default)s")
    add("--epochs", type=positive, nargs="+", default=[40], help="of the default recipe, a run each; default 40")
    add("--data_path", type=Path, default=Path("dataset/oxford-iiit-pet"), help="default %(default)s")
    add("--cache_dir", type=Path, help="where decoded pictures are kept")
    args = parser.parse_args()
    flags = {"model": args.model, "image_size": args.image_size, "data_path": args.data_path, "name": "time_to_dice"}
    flags |= {"width": args.width, "cache_dir": args.cache_dir}
    shared = [f"--{flag}={value}" for flag, value in flags.items() if value]
    ours = [Contender(f"default, {epochs} epochs", f"--epochs {epochs}", shared) for epochs in args.epochs]
    theirs = Contender("R2", f"{R2} {R2_OF[args.model]}", shared)
    while not all(one.done() for one in ours):
        for one in ours:
            one.train(TURN)
        theirs.train(TIMES * max(one.seconds for one in ours) - theirs.seconds)
    for line in table([*ours, theirs]):
        print(line)
    return 0


if __name__ == "__main__":
    run(main)
