"""Train a network and keep the checkpoint with the highest validation Dice.

    python src/train.py --model unet  # the pets if in dataset/, else synthetic shapes
    python src/train.py --model resnet34_unet --data_path ~/pets
    python src/train.py --data_path DIR  # your own DIR/images and DIR/masks
    python src/train.py --weights saved_models/unet_pets.pth --data_path DIR  # fine-tune
    python src/train.py --resume saved_models/unet.last.pth  # continue a run
    torchrun --nproc_per_node 8 src/train.py --model resnet34_unet --batch_size 128

On the pets, the default is 40 epochs with batch size 16. Images grow from 64 to 256 pixels, and all
augmentation except flips ramps up over ten epochs. Muon's learning rate rises to 8e-3 in 200 steps
and falls to 0 over the last third of the run. The weights are averaged.
Writes NAME.batch.png (augmented images), NAME.pth (highest validation Dice at the largest size),
NAME.last.pth (for --resume), NAME.csv, NAME.curve.png and NAME.panels.png to --save_dir.
"""

if __name__ == "__main__":
    import startup  # noqa: F401  # before torch is imported

import itertools
import math
import multiprocessing
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch

from cores import main_thread_bound
from data import TrainingData, eval_loader, hash_of_set, train_loader
from losses import build_loss
from predictor import Predictor, foreground
from runtime import Runtime, choose_runtime, seed_everything, training_backends
from scoring import DiceMeter, best_threshold, confusion, evaluate, scores
from training.args import data_options, parse_args
from training.augmentation import BatchAugmentation, seed_of
from training.distributed import (
    destroy_processes,
    images_per_pass,
    init_processes,
    micro_batches,
    rank,
    world_size,
    wrap_ddp,
)
from training.ema import EMA, refresh_batch_norm
from training.optimizers import build_optimizer
from training.preparation import build, checkpoint_template, describe_model, describe_run, mean_and_std, resume_run
from training.progress import Progress, explain_failures, report_end, stop_on_signals
from training.run_files import RunFiles, note_failures, reserve_name
from training.schedule import build_scheduler, image_size_of, position_of, warmup_steps
from training.state import TrainMeter, TrainState
from utils import note, run

BATCH_NORM_STEPS = 16  # steps whose images `refresh_batch_norm` uses
AUGMENTED_IMAGES = 16  # augmented training images in NAME.batch.png


@dataclass
class Learner:
    """The network and the objects that train it.

    train_model: `model`, or a wrapper that compiles it or averages gradients over processes.
    scaler: for float16. ema: averaged weights, or None.
    """

    model: torch.nn.Module
    train_model: Any
    criterion: Callable
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: EMA | None
    runtime: Runtime
    scheduler: Any = None  # built after loading the optimizer's state

    @property
    def eval_model(self) -> torch.nn.Module:
        """The network to evaluate and save."""
        return self.ema.module if self.ema else self.model

    def state_dict(self) -> dict:
        parts = {name: getattr(self, name) for name in ("model", "ema", "optimizer", "scheduler", "scaler")}
        kept = {name: part.state_dict() for name, part in parts.items() if part is not None}
        kept["scheduler"].pop("lr_lambdas", None)  # rebuilt from the arguments
        return kept

    def load_state_dict(self, kept: dict):
        """Load all but the scheduler's state."""
        self.model.load_state_dict(kept["model"])
        if self.ema:
            self.ema.load_state_dict(kept["ema"])
        self.optimizer.load_state_dict(kept["optimizer"])
        for parameter, state in self.optimizer.state.items():  # fused steps need the parameter's memory layout
            for name, value in state.items():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
        if kept["scaler"]:  # empty if the run was not in float16
            self.scaler.load_state_dict(kept["scaler"])


def main(argv=None) -> int:
    """Train, and return the exit status."""
    args, checkpoint = parse_args(__doc__, argv)
    runtime = init_processes(choose_runtime(args.device, args.precision))
    seed_everything(args.seed)
    model = build(args, checkpoint)
    try:
        with (
            reserve_name(args) as name,
            training_backends(args.deterministic),
            explain_failures(args, args.save_dir / f"{name}.last.pth"),
        ):
            if args.dataset == "shapes":
                note("training on synthetic shapes; run python src/oxford_pet.py to download the pets")
            print(describe_model(args, model, runtime), flush=True)
            data = TrainingData(data_options(args))  # at --image_size; train() loads smaller sizes
            steps_per_epoch = args.steps or math.ceil(len(data.indices) / args.batch_size)
            print(*data.describe(), describe_run(args, data, steps_per_epoch), sep="\n", flush=True)
            normalization = mean_and_std(args, data.train, checkpoint)
            files = RunFiles(args.save_dir, name, checkpoint_template(args, data, normalization, runtime, checkpoint))

            runtime = runtime.suited_to(model)
            model = runtime.to_device(model)
            ema = EMA(model, args.ema) if args.ema else None
            train_model = wrap_ddp(model, runtime.device, images_per_pass(args))
            if args.compile:
                train_model = torch.compile(train_model, mode=args.compile)  # type: ignore[assignment]
            optimizer = build_optimizer(args.optimizer, model, args.learning_rate, args.weight_decay)
            scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
            learner = Learner(model, train_model, build_loss(args.loss), optimizer, scaler, ema, runtime)
            state, meter = TrainState(warmup=warmup_steps(args, steps_per_epoch)), TrainMeter()
            former = resume_run(checkpoint, args, files, data, learner, state, meter) if args.resume else None
            position = position_of(args, state, steps_per_epoch)
            learner.scheduler = build_scheduler(args.schedule, optimizer, position, state.warmup, former)

            augmentation = BatchAugmentation(args, len(data.indices), normalization, runtime)
            with stop_on_signals() as stop:
                progress = Progress(args, state, steps_per_epoch, stop)
                train(learner, data, augmentation, args, state, meter, progress, files)
            status = report_end(args, state, files, progress.finished(), stop.signal)
    finally:
        for worker in multiprocessing.active_children():  # they ignore the SIGTERM that Python sends at exit
            worker.kill()
    destroy_processes()  # not after an error, since it waits for the other processes
    return status


def train(
    learner: Learner,
    data: TrainingData,
    augmentation: BatchAugmentation,
    args: Namespace,
    state: TrainState,
    meter: TrainMeter,
    progress: Progress,
    files: RunFiles,
):
    """Train until the end or a signal; after each epoch validate, save and draw figures."""
    size, device = 0, learner.runtime.device
    images_hash = hash_of_set(data.train, data.indices)

    def save():
        training = learner.state_dict()
        training.update(state=asdict(state), meter=meter.state_dict(), images=images_hash)
        files.save(".last.pth", learner.eval_model.state_dict(), state, training)

    while not progress.finished() and not progress.stop_requested():
        if size != image_size_of(args, state):
            size = image_size_of(args, state)
            if size > state.max_size and args.schedule == "plateau":  # its best loss was at another size
                learner.scheduler.best, learner.scheduler.num_bad_epochs = math.inf, 0
            state.max_size = size
            train_set, valid_set = (dataset.to(device) for dataset in data.at(size))
            steps = itertools.count(state.step)  # endless: `progress` ends epochs
            batches = iter(train_loader(train_set, data.indices, args, steps, device))
            files.draw_batch(*augmentation.sample(train_set, data.indices, state.step, AUGMENTED_IMAGES))
        if not train_one_epoch(batches, learner, augmentation, args, state, meter, progress, save):
            break
        model = learner.eval_model
        recent = range(max(0, state.step - BATCH_NORM_STEPS), state.step)
        images = augmentation.batches(train_set, data.indices, recent)
        parts = (image[rows] for image, _ in images for rows in micro_batches(len(image), args.accumulation_steps))
        refresh_batch_norm(model, parts, learner.runtime)

        predictor = Predictor(model.eval(), augmentation.mean, augmentation.std, size, learner.runtime)
        valid = DiceMeter(valid_set, criterion=learner.criterion)
        evaluate(predictor, eval_loader(valid_set, images_per_pass(args), args.workers, device), valid, "validation")
        by_threshold = valid.counts()
        counts = by_threshold[valid.thresholds.index(0.5)]
        state.end_epoch(size, meter.means(), scores(counts), best_threshold(by_threshold), valid.loss())
        meter.reset()
        if args.schedule == "plateau":
            learner.scheduler.step(state.history[-1]["valid_loss"])
        if state.is_best():
            files.save(".pth", model.state_dict(), state)
        save()
        with note_failures():
            files.write_history(state.history)
            files.draw_epoch(state, predictor, valid_set, last=progress.finished() or progress.stop.signal > 0)
        progress.log_epoch(counts, files.path(".batch.png"))


def train_one_epoch(
    batches: Iterator[dict],
    learner: Learner,
    augmentation: BatchAugmentation,
    args: Namespace,
    state: TrainState,
    meter: TrainMeter,
    progress: Progress,
    save: Callable[[], None],
) -> bool:
    """Train to the end of the epoch. Return False if a signal stops it."""
    learner.train_model.train()
    progress.begin_epoch()
    on_cpu = learner.runtime.device.type == "cpu"
    with main_thread_bound() if on_cpu else nullcontext():
        for batch in batches:
            state.learning_rate = learner.optimizer.param_groups[0]["lr"]
            for loss, counts in train_step(batch, learner, augmentation, args, state.step):
                meter.add(loss, counts)
            state.step += 1
            ended, due, stop = progress.after_step(meter)
            if ended:
                break
            if due or stop:
                save()
            if stop:
                return False
    return True


def train_step(batch, learner: Learner, augmentation: BatchAugmentation, args: Namespace, step: int) -> list[tuple]:
    """Take one optimizer step on this rank's shard of a batch, in --accumulation_steps micro-batches.

    batch: uint8 "image" (n, C, H, W) and "mask" (n, 1, H, W) of 0, 1 and 255 (ignored).
    Returns each micro-batch's mean loss and pixel counts (images, 4), on the device.
    """
    torch.manual_seed(seed_of(args.seed, step, 1 + rank()))  # for dropout; augmentation uses seed_of(seed, step)
    learner.optimizer.zero_grad()
    results = []
    parts = micro_batches(len(batch["mask"]), args.accumulation_steps)
    for rows in parts:
        image, mask = augmentation(batch, step, rows)
        accumulate = rows != parts[-1] and world_size() > 1
        with learner.train_model.no_sync() if accumulate else nullcontext():
            with learner.runtime.autocast():
                logits = learner.train_model(image)
            loss = learner.criterion(logits.float(), mask)
            weight = len(mask) * world_size() / args.batch_size  # so that DDP's average is the batch's mean
            learner.scaler.scale(loss * weight).backward()
        results.append((loss.detach(), confusion(foreground(logits.detach()) >= 0, mask)))
    scale = learner.scaler.get_scale()
    learner.scaler.step(learner.optimizer)  # optimizer.step(), unless float16 gradients overflow
    learner.scaler.update()
    overflowed = learner.scaler.get_scale() < scale
    if args.schedule != "plateau" and not overflowed:
        learner.scheduler.step()
    if learner.ema:
        learner.ema.update()
    return results


if __name__ == "__main__":
    run(main)
