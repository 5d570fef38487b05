"""Measure seconds of training to a validation Dice, for the default recipe and report 2's, on one machine.

    python benchmarks/time_to_dice.py --model resnet34_unet                                  # 40 epochs, to 256x256
    python benchmarks/time_to_dice.py --model unet --width 16 --image_size 96 --epochs 3 4 10  # in half an hour

Both train the same kind of network from scratch on the pets, in turns, and are scored on the validation split at
--image_size, even while the default recipe still trains on smaller images. Scoring and decoding are not counted. A
short run of the default recipe reaches a low Dice sooner than a long one, whose learning rate falls later, so each
number in --epochs is a separate run.

Report 2's recipe (R2) gets five times the seconds of the longest run. It uses a constant image size, batches of 16,
Adam at 5e-4 (unet) or 1e-4 (resnet34_unet), halved when the validation loss stagnates, BCE + Dice, its own decoder,
and no norm in the decoder (U-Net: no norm at all).
"""

import itertools
import math
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
import train
from data import TrainingData, eval_loader, train_loader
from losses import build_loss
from predictor import Predictor
from runtime import choose_runtime, seed_everything, training_backends
from scoring import DiceMeter, evaluate, scores
from training.args import data_options, parse_args
from training.augmentation import BatchAugmentation
from training.ema import EMA, refresh_batch_norm
from training.optimizers import build_optimizer
from training.preparation import build, mean_and_std
from training.schedule import build_scheduler, image_size_of, position_of, warmup_steps
from training.state import TrainMeter, TrainState
from utils import Parser, positive_int, run

GOALS = (0.80, 0.85, 0.88, 0.89, 0.90, 0.91)
TIMES = 5  # time of report 2's recipe (R2) / time of the longest run
TURN = 20  # seconds of the default recipe's turns
R2 = "--start_size 0 --batch_size 16 --augment light --loss bce_dice --optimizer adam --weight_decay 1e-5"
R2 += " --schedule plateau --ema 0 --epochs 10000"
R2_OF = {"unet": "--norm none --learning_rate 5e-4", "resnet34_unet": "--decoder transposed --learning_rate 1e-4"}


class Contender:
    """Run of a recipe that trains for some seconds at a time, and is scored after each epoch."""

    def __init__(self, label, recipe, shared):
        self.label = label
        self.args, _ = args, _ = parse_args(None, [*recipe.split(), *shared])
        self.data = TrainingData(data_options(args))
        self.steps_per_epoch = args.steps or math.ceil(len(self.data.indices) / args.batch_size)
        seed_everything(args.seed)
        model = build(args, None)
        runtime = self.runtime = choose_runtime(args.device, args.precision).suited_to(model)
        model = runtime.to_device(model)
        optimizer = build_optimizer(args.optimizer, model, args.learning_rate, args.weight_decay)
        scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
        state = self.state = TrainState(warmup=warmup_steps(args, self.steps_per_epoch))
        position = position_of(args, state, self.steps_per_epoch)
        scheduler = build_scheduler(args.schedule, optimizer, position, state.warmup, None)
        ema = EMA(model, args.ema) if args.ema else None
        loss = build_loss(args.loss)
        self.learner = train.Learner(model, model, loss, optimizer, scaler, ema, runtime, scheduler)
        normalization = mean_and_std(args, self.data.train, None)
        self.augmentation = BatchAugmentation(args, len(self.data.indices), normalization, runtime)
        self.meter = TrainMeter()
        self.reached, self.best, self.size, self.seconds, self.scored = {}, 0.0, None, 0.0, 0.0

    def done(self):
        return len(self.state.history) >= self.args.epochs

    def train(self, seconds):
        """Take steps for some seconds, or to the end of the last epoch."""
        args, state, until = self.args, self.state, self.seconds + seconds
        while self.seconds < until and not self.done():
            if self.size != image_size_of(args, state):
                self.size = state.max_size = image_size_of(args, state)
                self.dataset = self.data.at(self.size)[0].to(self.runtime.device)
                steps = itertools.count(state.step)
                self.batches = iter(train_loader(self.dataset, self.data.indices, args, steps, self.runtime.device))
            start = time.perf_counter()
            self.learner.model.train()
            batch = next(self.batches)
            for loss, counts in train.train_step(batch, self.learner, self.augmentation, args, state.step):
                self.meter.add(loss, counts)
            state.step += 1
            self.seconds += time.perf_counter() - start
            if state.step % self.steps_per_epoch == 0:
                self.score()

    def score(self):
        """Score the validation split at --image_size after an epoch."""
        args, state, network = self.args, self.state, self.learner.eval_model
        start = time.perf_counter()
        self.meter.flush()  # waits for the device
        recent = range(max(0, state.step - train.BATCH_NORM_STEPS), state.step)
        images = (image for image, _ in self.augmentation.batches(self.dataset, self.data.indices, recent))
        refresh_batch_norm(network, images, self.runtime)
        self.seconds += time.perf_counter() - start
        mean, std = self.augmentation.mean, self.augmentation.std
        predictor = Predictor(network.eval(), mean, std, args.image_size, self.runtime)
        loader = eval_loader(self.data.valid, args.batch_size, device=self.runtime.device)
        meter = evaluate(predictor, loader, DiceMeter(self.data.valid, (0.5,), self.learner.criterion), self.label)
        found = scores(meter.at(0.5))
        state.end_epoch(self.size, self.meter.means(), found, 0.5, meter.loss())
        self.meter.reset()
        if args.schedule == "plateau":
            self.learner.scheduler.step(state.history[-1]["valid_loss"])
        self.best, self.scored = max(self.best, found["dice"]), self.seconds
        for goal in GOALS:
            if found["dice"] >= goal:
                self.reached.setdefault(goal, self.seconds)
        epoch = f"epoch {len(state.history):3}  validation Dice {found['dice']:.4f}"
        print(f"{self.seconds:8.0f} s  {self.label:18} {epoch}", flush=True)


def table(contenders):
    """Yield lines: seconds to each Dice, and the ratio of the last contender's time to the fastest other's."""
    theirs = contenders[-1]
    yield "Dice      " + "".join(f"{one.label:>22}" for one in contenders) + f"{'R2 / fastest':>16}"
    for goal in GOALS:
        times = [one.reached.get(goal, math.inf) for one in contenders]
        fastest = min(times[:-1])
        ratio = ""
        if fastest < math.inf:
            ratio = f"{times[-1] / fastest:.1f}"
            if goal not in theirs.reached:
                ratio = f"over {math.floor(10 * theirs.scored / fastest) / 10}"
        line = [f"{at:.0f} s" if at < math.inf else "" for at in times]
        yield f"{goal:10.2f}" + "".join(f"{cell:>22}" for cell in line) + f"{ratio:>16}"
    yield f"{'best':>10}" + "".join(f"{f'{one.best:.4f} in {one.scored:.0f} s':>22}" for one in contenders)


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", choices=tuple(R2_OF), default="resnet34_unet", help="network; default %(default)s")
    add("--width", type=positive_int, help="only for U-Nets: channels of the first level; default 64")
    add("--image_size", type=positive_int, default=256, help="image size; default %(default)s")
    add(
        "--epochs",
        type=positive_int,
        nargs="+",
        default=[40],
        help="epochs of the default recipe, one run for each number; default 40",
    )
    add("--data_path", type=Path, default=Path("dataset/oxford-iiit-pet"), help="folder of pets; default %(default)s")
    add("--cache_dir", type=Path, help="folder for decoded images; default: cache/ in --data_path")
    add("--limit", type=positive_int, help="use only the first LIMIT images of each split (for quick tests)")
    args = parser.parse_args()
    flags = {"model": args.model, "image_size": args.image_size, "data_path": args.data_path, "name": "time_to_dice"}
    flags |= {"width": args.width, "cache_dir": args.cache_dir, "limit": args.limit}
    shared = [f"--{flag}={value}" for flag, value in flags.items() if value]
    with training_backends():
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
