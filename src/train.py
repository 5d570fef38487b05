"""Train a network; keep the weights of the best valid Dice.

    python src/train.py --model unet                                  # the pets if they are in dataset/, else shapes
    python src/train.py --model resnet34_unet --data_path ~/pets/oxford-iiit-pet --name first
    python src/train.py --data_path DIR                               # DIR/images and DIR/masks of your own
    python src/train.py --weights saved_models/unet_pets.pth --data_path DIR     # fine-tune a trained network
    python src/train.py --resume saved_models/first.last.pth          # continue exactly where it stopped

Several processes, each with its share of every batch (the README has several machines, benchmarks/README.md Slurm):

    torchrun --nproc_per_node 8 src/train.py --model resnet34_unet --batch_size 128

Written into --save_dir: NAME.pth (best weights, for evaluate.py and inference.py), NAME.last.pth (for
--resume), NAME.csv (history), NAME.curve.png and NAME.panels.png, each renewed every epoch; and NAME.batch.png,
augmented training pictures with their masks, before the first step and when the pictures grow. "Best" is the highest
valid Dice among the epochs at the largest picture size that the run has reached.
"""

if __name__ == "__main__":
    import startup  # noqa: F401  # before torch is imported

import itertools
import math
import sys
import time
from contextlib import nullcontext

import numpy as np
import torch

from augment import AUGMENTS, augment, random_draws, to_float
from checkpoint import load_encoder
from data import TrainingData, eval_loader, train_loader
from models import build_model
from runtime import choose_runtime, seed_everything
from scoring import Tally, best_threshold, evaluate
from training.averaging import refresh_statistics
from training.clock import Clock, rehearse
from training.distributed import finish, no_sync, on_first, rank, share, start, world_size
from training.finetune import load_weights
from training.forecast import fit_into_hours, forecast
from training.preparation import about, advice, check_batch_size, check_smallest_part, mean_and_std
from training.progress import Monitor
from training.saving import check_room, reserve
from training.schedule import sizes
from training.settings import data_options, network_options, parse_args
from training.state import State, steps_per_epoch
from utils import UserError, confusion, foreground, run, scores, when_memory_runs_out

RECENT = 16  # steps whose images give batch norm its statistics after an epoch
SHOWN = 16  # augmented training pictures in NAME.batch.png


def main(argv=None, on_step=None):
    """Run the command line; on_step(state) is called after each optimizer step. Returns the exit status."""
    begun = time.perf_counter()
    settings, checkpoint = parse_args(__doc__, argv)
    runtime = choose_runtime(settings.device, settings.precision)
    runtime = start(runtime)
    seed_everything(settings.seed, settings.deterministic)
    model = build(settings, checkpoint)
    files = reserve(settings.save_dir, settings.name, settings.model, settings.resume)
    try:
        on_first(lambda: check_room(settings.save_dir, model))
        print(opening(settings, model, runtime), flush=True)
        data = TrainingData(data_options(settings))
        check_batch_size(settings, data)
        scaling = mean_and_std(settings, data.train, checkpoint)
        runtime = runtime.suited_to(model)
        model = runtime.place(model)
        print(*data.describe(), sep="\n", end="\n" * bool(data.describe()), flush=True)
        with when_memory_runs_out(advice(settings)):
            check_smallest_part(settings)
            clock = rehearsed(settings, model, data, scaling, runtime)
            if settings.hours and not settings.resume:
                left = 3600 * settings.hours - (time.perf_counter() - begun)
                fit_into_hours(settings, clock, left, steps_per_epoch(settings, len(data.indices)))
            state = State(settings, model, len(data.indices), scaling, runtime)
            print(plan(state, data), flush=True)
            if settings.resume:
                resume(state, checkpoint, files, data)
                if state.finished:
                    print(f"nothing to train: {len(state.history)} epochs are done; raise --epochs above that")
                    return 0
            print(forecast(state, clock, sys.argv[1:] if argv is None else argv), flush=True)
            former = (checkpoint or {}).get("trained_on", [])  # of --weights, or of the run before it was resumed
            trained_on = list(dict.fromkeys([*former, *data.hashes()]))
            files.about = {
                **about(settings, scaling, runtime),
                "trained_on": trained_on,
                "validated_on": data.valid_set(),
            }
            return fit(state, data, files, clock, on_step)
    finally:
        files.release()
        finish()


def fit(state, data, files, clock, on_step=None):
    """Train to the last epoch or until asked to stop; validate, save and draw after every epoch.

    Returns the exit status.
    """
    settings, device = state.settings, state.runtime.device
    monitor, size = Monitor(state, files, clock), None
    while not state.finished and not monitor.stop.agreed()[0]:
        state.begin_epoch()
        if size != state.size:
            size = state.size
            train_set, valid_set = (dataset.to(device) for dataset in data.at(size))
            steps = range(state.step, state.total_steps)
            loader = train_loader(
                train_set, data.indices, settings.batch_size, settings.seed, steps, settings.workers, device
            )
            batches = iter(loader)
            files.draw_batch(*next_pictures(state, train_set, data.indices))
        if not train_one_epoch(state, batches, monitor, on_step):
            break
        refresh_statistics(state.weights, recent_images(state, train_set, data.indices), state.runtime)
        loader = eval_loader(valid_set, settings.batch_size, settings.workers, device)
        tally = Tally(valid_set, criterion=state.criterion)
        evaluate(state.predictor(), loader, tally, f"valid {len(state.history) + 1}/{settings.epochs}")
        counts = tally.at(0.5)
        state.end_epoch(scores(counts), best_threshold(tally.counts()), tally.loss())
        if state.is_best():
            files.save_best(state)
        files.save_last(state)
        files.write_history(state)
        files.draw_panels(state, valid_set)
        monitor.report_epoch(counts)
    return monitor.report_end()


def train_one_epoch(state, batches, monitor, on_step=None):
    """Train to the end of the epoch; False where the run is to stop before it."""
    monitor.begin_epoch()
    state.model.train()
    for batch in itertools.islice(batches, state.steps_per_epoch - monitor.done):
        train_step(state, batch)
        if on_step:
            on_step(state)
        monitor.after_step()
        if monitor.stop.signal:
            break
    return monitor.end_epoch()


def train_step(state, batch):
    """Forward, backward and an optimizer step on this rank's share of a batch, in --accumulate parts."""
    settings = state.settings
    chance, strength = draws_of(state, state.step), strength_of(state, state.step)
    torch.manual_seed(seed_of(settings.seed, state.step, 1 + rank()))  # of dropout
    state.optimizer.zero_grad(set_to_none=True)
    for part in range(settings.accumulate):
        rows = share(len(batch["mask"]), part, settings.accumulate)
        image, mask = augmented(state, batch, chance, strength, rows)
        with nullcontext() if part + 1 == settings.accumulate else no_sync(state.forward):
            with state.runtime.autocast():
                logits = state.forward(image)
            loss = state.criterion(logits, mask)
            weight = len(mask) * world_size() / settings.batch_size  # DDP averages gradients; reweight by this share
            state.scaler.scale(loss * weight).backward()
        state.count(loss, confusion(foreground(logits.detach()) >= 0, mask))
    state.end_step()


def augmented(state, batch, chance, strength, rows=slice(None)):
    """The images (N, C, H, W) and masks (N, 1, H, W) of some rows of a batch, on the device, as training sees them."""
    runtime = state.runtime
    image, mask = runtime.move(batch["image"][rows]), runtime.move(batch["mask"][rows])
    drawn = {name: values[rows] for name, values in chance.items()}
    with torch.autocast(runtime.device.type, enabled=False):  # also where batch norm's statistics are made anew
        image, mask = augment(image, mask, strength, drawn)
    return runtime.layout(to_float(image, *state.scaling)), mask


def draws_of(state, step):
    """The random draws of a step's augmentation, for this rank's share of the batch."""
    settings = state.settings
    drawn = random_draws(settings.batch_size, torch.Generator().manual_seed(seed_of(settings.seed, step)))
    mine = share(settings.batch_size, rank(), world_size())
    return {name: values[mine] for name, values in drawn.items()}


def strength_of(state, step):
    """How far a step's augmentation may go."""
    passes = step * state.settings.batch_size / state.pictures
    return AUGMENTS[state.settings.augment].after(passes)


def recent_images(state, dataset, indices):
    """The training images of the last RECENT steps, again."""
    steps = range(max(0, state.step - RECENT), state.step)
    return (image for image, _ in pictures_of(state, dataset, indices, steps))


def next_pictures(state, dataset, indices):
    """The next SHOWN training pictures, on the CPU: images (N, C, H, W) of about 0 to 1, masks (N, 1, H, W).

    Augmented as far as it may go, also where that is still to grow.
    """
    steps = range(state.step, state.step + math.ceil(SHOWN * world_size() / state.settings.batch_size))
    images, masks = zip(*pictures_of(state, dataset, indices, steps, AUGMENTS[state.settings.augment]), strict=True)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in state.scaling)
    return torch.cat(images)[:SHOWN].cpu() * std + mean, torch.cat(masks)[:SHOWN].cpu()


def pictures_of(state, dataset, indices, steps, strength=None):
    """Yield the augmented images and masks of each of a range of steps, as this rank trains on them.

    strength: instead of each step's own.
    """
    settings, device = state.settings, state.runtime.device
    loader = train_loader(dataset, indices, settings.batch_size, settings.seed, steps, device=device)
    for step, batch in zip(steps, loader, strict=True):
        yield augmented(state, batch, draws_of(state, step), strength or strength_of(state, step))


def seed_of(*numbers):
    """A seed of its own for each step of each run, so that a run can be resumed from any step."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


# ---------------------------------------------------------------------------------- preparation


def build(settings, checkpoint=None):
    """The network of the flags, with the weights of --encoder_weights or --weights, whose checkpoint is given."""
    try:
        model = build_model(settings.model, **network_options(settings))
    except ValueError as error:
        raise UserError(f"--model {settings.model}: {error}") from None
    if settings.encoder_weights and not settings.resume:
        load_encoder(model, settings.encoder_weights)
    if settings.weights and not settings.resume:
        load_weights(model, checkpoint, settings.weights)
    return model


def opening(settings, model, runtime):
    """The first line of a run: network, device, precision, data."""
    source = settings.data_path or "drawn shapes (python src/oxford_pet.py downloads the pets)"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"{settings.model}, {parameters:,} parameters, on {runtime.describe()}; data: {source}"


def plan(state, data):
    """The second line: pictures, sizes, epochs, steps."""
    settings = state.settings
    left_out = len(data.train) - len(data.indices)
    without = f" ({left_out} without foreground left out)" if left_out else ""
    growth = " then ".join(f"{size}x{size}" for size in sizes(settings.start_size, settings.image_size))
    return (
        f"{len(data.indices):,} pictures to train{without}, {len(data.valid):,} to validate, {growth}; "
        f"{settings.epochs} epochs of {state.steps_per_epoch} steps of {settings.batch_size} pictures"
        + (f" on {world_size()} processes" if world_size() > 1 else "")
    )


def rehearsed(settings, model, data, scaling, runtime):
    """A clock with the run's pace at each picture size. Collective: call on all ranks."""
    steps = steps_per_epoch(settings, len(data.indices))
    passes = math.ceil(len(data.valid) / settings.batch_size) + min(RECENT, steps)
    return Clock(rehearse(settings, model, scaling, runtime, train_step, passes))


def resume(state, last, files, data):
    """Continue from the checkpoint `last`, and say from where."""
    state.load_state(last["training"])
    found = on_first(lambda: files.adopt_best(state.settings.resume))
    if state.history and not found:
        state.forget_best()
        print(f"note: the best weights so far are not beside {state.settings.resume}; the best from here on are kept")
    elif last.get("validated_on", data.valid_set()) != data.valid_set():
        state.forget_best()
        print("note: the valid split has other pictures than before; the best from here on are kept")
    if state.history:
        on_first(lambda: files.complete_history(state))
    print(f"resuming after step {state.step} of {state.total_steps}, best valid Dice {state.best:.4f}")
    before, after = state.learning_rate, state.optimizer.param_groups[0]["lr"]
    if not math.isclose(before, after, rel_tol=0.5) and not state.finished:
        print(f"the learning rate goes from {before:.1e} to {after:.1e}")
    precision = last.get("precision", state.runtime.precision)
    if precision != state.runtime.precision:
        print(f"computing in {state.runtime.precision} from here, in {precision} before")


if __name__ == "__main__":
    run(main)
