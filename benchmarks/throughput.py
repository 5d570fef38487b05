"""Measure images per second and peak memory of our training step and of a plain loop; time the parts of our step.

    python benchmarks/throughput.py --model resnet34_unet --image_size 256
    python benchmarks/throughput.py --model unet --width 32 --image_size 128 --also="--optimizer adamw" --also=--compile
    pip install segmentation-models-pytorch      # for a third row: its Unet("resnet34"), in the plain loop

ours:  the step of src/train.py, from packed images.
plain: the loop of the five reports and of milesial/Pytorch-UNet with the same network: each image decoded and resized
       by Pillow in a DataLoader with a worker per core, float32, default layout, Adam, loss.item().

Each contender is a separate process; they take turns, so that a machine whose speed drifts slows all of them. On a busy
machine no ratio is printed. Without --data_path and dataset/oxford-iiit-pet, images are synthetic, 500x375 pixels.
"""

import contextlib
import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
if multiprocessing.current_process().name.startswith("ours"):  # the plain loop runs without our commands' settings
    import startup  # noqa: F401
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from turns import BUSY, busy_cores, in_turns, ratios_to, refuse_noise

import losses
import oxford_pet
import shapes
from cores import available_cores, main_thread_bound
from data import TrainingData, train_loader
from losses import build_loss
from models import build_model
from predictor import foreground
from runtime import choose_runtime, pick_device, seed_everything, training_backends
from scoring import confusion
from train import Learner, train_step
from training.args import data_options, network_options, parse_args
from training.augmentation import BatchAugmentation
from training.ema import EMA
from training.optimizers import build_optimizer
from training.preparation import build, mean_and_std
from training.schedule import build_scheduler
from training.state import TrainMeter
from utils import Parser, UserError, positive_int, run


def draw_dataset(folder, images, width=500, height=375):
    """Draw images in the layout of the pets, and a tenth as many for the test split."""
    for part in ("images", "annotations/trimaps"):
        (folder / part).mkdir(parents=True)
    names = [f"Drawn_{index}" for index in range(images + images // 10 + 1)]
    for index, name in enumerate(names):
        image, mask = shapes.draw(np.random.default_rng(index), height, width, count=6)
        Image.fromarray(image).save(folder / "images" / f"{name}.jpg", quality=90)
        Image.fromarray(2 - mask).save(folder / "annotations/trimaps" / f"{name}.png")
    for split, part in (("trainval", names[:images]), ("test", names[images:])):
        (folder / "annotations" / f"{split}.txt").write_text("".join(f"{name} 1 1 1\n" for name in part))


# ---------------------------------------------------------------------------------- contenders


def our_run(options, more=()):
    """Set up a run of train.py up to its first step. Returns what `train_step` takes, and endless batches."""
    args, _ = parse_args(None, [*train_flags(options), *more])
    runtime = choose_runtime(options.device, options.precision)
    seed_everything(0)
    data = TrainingData(data_options(args))
    model = build(args, None)
    runtime = runtime.suited_to(model)
    model = runtime.to_device(model)
    optimizer = build_optimizer(args.optimizer, model, args.learning_rate, args.weight_decay)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
    scheduler = build_scheduler(args.schedule, optimizer, lambda step: (step, 10**6), 200, None)
    train_model = torch.compile(model, mode=args.compile) if args.compile else model
    ema = EMA(model, args.ema) if args.ema else None
    learner = Learner(model, train_model, build_loss(args.loss), optimizer, scaler, ema, runtime, scheduler)
    normalization = mean_and_std(args, data.train, None)
    augmentation = BatchAugmentation(args, len(data.indices), normalization, runtime)
    model.train()
    batches = train_loader(data.train.to(runtime.device), data.indices, args, range(10**6), runtime.device)
    return (learner, augmentation, args), iter(batches)


def our_step(options, more=()):
    """Return a function that takes one training step and adds up its scores, as train.py does."""
    (learner, augmentation, args), batches = our_run(options, more)
    meter, steps = TrainMeter(), itertools.count()

    def step():
        for loss, counts in train_step(next(batches), learner, augmentation, args, next(steps)):
            meter.add(loss, counts)

    return step


def train_flags(args):
    flags = ["--model", args.model, "--data_path", args.data_path, "--cache_dir", args.cache_dir, "--start_size", 0]
    flags += ["--image_size", args.image_size, "--batch_size", args.batch_size, "--device", args.device]
    flags += ["--precision", args.precision, "--save_dir", args.cache_dir, "--name", "benchmark"]
    return [str(flag) for flag in [*flags, *(("--width", args.width) if args.width else ())]]


class PlainPets(Dataset):
    """Images and masks, decoded and resized at each access."""

    def __init__(self, data_path, size):
        self.data_path, self.size, self.names = data_path, size, oxford_pet.split_names(data_path, "train")

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        photo = Image.open(self.data_path / "images" / f"{self.names[index]}.jpg").convert("RGB")
        trimap = Image.open(self.data_path / "annotations/trimaps" / f"{self.names[index]}.png")
        photo = photo.resize((self.size, self.size), Image.Resampling.BILINEAR)
        trimap = trimap.resize((self.size, self.size), Image.Resampling.NEAREST)
        image = torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255
        return (image - 0.5) / 0.5, torch.from_numpy(np.array(trimap) != 2).float()[None]


def plain_step(args, model):
    """Return a function that takes one training step of the plain loop."""
    device = pick_device(args.device)
    torch.manual_seed(0)
    model = model.to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    dataset = PlainPets(args.data_path, args.image_size)
    sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**6)
    loader = DataLoader(
        dataset, args.batch_size, sampler=sampler, num_workers=available_cores(), pin_memory=device.type == "cuda"
    )
    batches, total = iter(loader), 0.0

    def step():
        nonlocal total
        image, mask = (value.to(device) for value in next(batches))
        logits = model(image)
        loss = losses.bce_dice(logits, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()

    return step


def contender(name, args):
    if name == "plain":
        settings, _ = parse_args(None, train_flags(args))
        return plain_step(args, build_model(settings.model, **network_options(settings)))
    if name == "smp":
        import segmentation_models_pytorch

        return plain_step(args, segmentation_models_pytorch.Unet("resnet34", encoder_weights=None))
    return our_step(args, name.split()[1:])


def serve(name, args, pipe):
    """Run a contender's process; ours uses the backend settings of train.py."""
    with contextlib.nullcontext() if name in ("plain", "smp") else training_backends():
        take_turns(name, args, pipe)


def take_turns(name, args, pipe):
    """Take the requested steps, and send back the seconds."""
    try:
        step, device = contender(name, args), pick_device(args.device)
        for steps in iter(pipe.recv, None):
            start = time.perf_counter()
            with main_thread_bound() if device.type == "cpu" else contextlib.nullcontext():  # as in train.py
                for _ in range(steps):
                    step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            pipe.send(time.perf_counter() - start)
        pipe.send(peak_memory(device))
    except (UserError, RuntimeError, SystemExit) as error:
        pipe.send(str(error))
    except (EOFError, KeyboardInterrupt):  # the main process has stopped
        pass


def peak_memory(device):
    """Return the peak memory in GiB: the GPU's, or this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def race(names, args):
    """Return each contender's seconds per step in each round, and its peak memory."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name in names:
        pipes[name], other = context.Pipe()
        process = context.Process(target=serve, name=name, args=(name, args, other))
        process.start()  # not a daemon, since daemons cannot have workers
        other.close()

    def ask(name, what):
        try:
            pipes[name].send(what)
            answer = pipes[name].recv()
        except (EOFError, BrokenPipeError):
            answer = "its process ended"
        if isinstance(answer, str):
            raise UserError(f"{name}: {answer}")
        return answer

    for name in names:
        ask(name, 2)  # warm-up
    seconds = in_turns({name: lambda name=name: ask(name, args.steps) / args.steps for name in names}, args.rounds)
    return seconds, {name: ask(name, None) for name in names}


# --------------------------------------------------------------------------- parts of the step


class Stopwatch:
    """Stopwatch for the seconds spent in blocks, by name."""

    def __init__(self, device):
        self.device, self.seconds = device, {}

    @contextlib.contextmanager
    def on(self, name):
        self.wait()
        start = time.perf_counter()
        yield
        self.wait()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def timed_step(learner, augmentation, batches, step, watch):
    """Take the step of train.train_step in one micro-batch, and time each part."""
    with watch.on("data"):
        batch = next(batches)
    with watch.on("augmentation"):
        image, mask = augmentation(batch, step)
    learner.optimizer.zero_grad(set_to_none=True)
    with watch.on("forward"), learner.runtime.autocast():
        logits = learner.train_model(image)
    with watch.on("loss"):
        loss = learner.criterion(logits, mask)
        confusion(foreground(logits.detach()) >= 0, mask)
    with watch.on("backward"):
        learner.scaler.scale(loss).backward()
    with watch.on("optimizer"):
        learner.scaler.step(learner.optimizer)
        learner.scaler.update()
        learner.scheduler.step()
        if learner.ema:
            learner.ema.update()


@training_backends()
def parts_of_step(args):
    """Return the fraction of our step's time by part, and its images per second while its parts are timed."""
    (learner, augmentation, _), batches = our_run(args)
    watch = Stopwatch(learner.runtime.device)
    timed_step(learner, augmentation, batches, 0, watch)
    watch.seconds.clear()
    with watch.on("all"):
        for step in range(args.steps * args.rounds):
            timed_step(learner, augmentation, batches, step, watch)
    total = watch.seconds.pop("all")
    parts = {name: seconds / total for name, seconds in watch.seconds.items()}
    return {**parts, "rest": 1 - sum(parts.values())}, args.steps * args.rounds * args.batch_size / total


def training_flops(args):
    """Return a step's floating-point operations per image: forward once, backward twice as many."""
    settings, _ = parse_args(None, train_flags(args))
    with torch.device("meta"):
        model, image = build_model(args.model, **network_options(settings)), torch.empty(1, 3, *2 * [args.image_size])
    with FlopCounterMode(display=False) as counter:
        model.eval()(image)
    return 3 * counter.get_total_flops()


@training_backends()
def peaks(args):
    """Return the machine's FLOP/s in a matrix product and in training a convolution, in the step's precision."""
    runtime = choose_runtime(args.device, args.precision)
    device, watch = runtime.device, Stopwatch(runtime.device)
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=runtime.dtype) for _ in range(2))
    conv = torch.nn.Conv2d(128, 128, 3, padding=1).to(device, memory_format=torch.channels_last)
    image = torch.randn(16, 128, 64, 64, device=device).to(memory_format=torch.channels_last).requires_grad_()

    def convolve():
        with runtime.autocast():
            out = conv(image)
        out.sum().backward()

    best = {}
    for name, work, flops in (
        ("matrix product", lambda: a @ b, 2 * n**3),
        ("convolution", convolve, 3 * 2 * 16 * 128 * 128 * 9 * 64 * 64),
    ):
        work()
        for _ in range(5):
            watch.seconds.clear()
            with watch.on(name):
                work()
            best[name] = max(best.get(name, 0), flops / watch.seconds[name])
    return best


def parse_flags(argv=None):
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", default="resnet34_unet", help="network; default %(default)s")
    add("--width", type=positive_int, help="only for U-Nets: channels of the first level")
    add("--image_size", type=positive_int, default=256, help="image size; default %(default)s")
    add("--batch_size", "-b", type=positive_int, default=16, help="images per step; default %(default)s")
    add("--data_path", type=Path, help="folder of the pets; default dataset/oxford-iiit-pet, else synthetic images")
    add("--cache_dir", type=Path, help="folder for decoded images; default: a temporary one")
    add("--steps", type=positive_int, default=3, help="steps per turn; default %(default)s")
    add("--rounds", type=positive_int, default=5, help="number of rounds; default %(default)s")
    add("--device", default="auto", help="device; default %(default)s")
    add("--precision", default="auto", help="precision of our step; default %(default)s")
    add("--also", action="append", default=[], metavar="FLAGS", help="add a row: ours with these flags of train.py")
    return parser.parse_args(argv)


def main():
    args = parse_flags()
    with tempfile.TemporaryDirectory() as scratch:
        if args.data_path is None:
            args.data_path = oxford_pet.DATA_PATH
            if not args.data_path.is_dir():
                args.data_path = Path(scratch) / "pets"
                draw_dataset(args.data_path, 20 * args.batch_size)
        args.cache_dir = args.cache_dir or Path(scratch)
        report(args)
    return 0


def report(args):
    runtime = choose_runtime(args.device, args.precision)
    device, precision = runtime.device, runtime.precision
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(
        f"{args.model}{f' --width {args.width}' if args.width else ''}, {args.image_size}x{args.image_size}, "
        f"batches of {args.batch_size}, on {where}; ours in {precision}, torch {torch.__version__}"
    )
    names = ["ours", "plain", *(f"ours {flags}" for flags in args.also)]
    with contextlib.suppress(ImportError):
        import segmentation_models_pytorch  # noqa: F401

        names.append("smp")
    busy = busy_cores()
    seconds, memory = race(names, args)
    ratios, medians = ratios_to("plain", seconds), {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{'':26}{'images/s':>12}{'ms/image':>12}{'plain / it':>12}{'range':>16}{'peak GiB':>10}")
    for name in names:
        spread = f"{min(ratios[name]):.2f} to {max(ratios[name]):.2f}"
        speed = args.batch_size / medians[name]
        ratio = f"{medians['plain'] / medians[name]:.2f}"
        if busy > BUSY:
            ratio = spread = "-"
        print(f"{name:26}{speed:12.2f}{1e3 / speed:12.1f}{ratio:>12}{spread:>16}{memory[name]:10.2f}")
    if busy > BUSY:
        print(f"warning: other processes use {busy:.1f} cores; repeat this on a quiet machine", file=sys.stderr)
        return
    parts, speed = parts_of_step(args)
    print("our step: " + ", ".join(f"{name} {100 * value:.1f}%" for name, value in parts.items()))
    flops = training_flops(args) * speed
    against = [f"{flops / peak:.0%} of the {name}'s {peak / 1e9:.0f}" for name, peak in peaks(args).items()]
    print(f"{flops / 1e9:.0f} GFLOP/s, {', '.join(against)}")
    refuse_noise({name: (min(values), max(values)) for name, values in ratios.items()})


if __name__ == "__main__":
    run(main)
