"""Where and how a network computes: device, precision and memory layout, chosen once."""

import math
import os
import random
import time
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch

from utils import UserError

TURNS = 5  # of each precision, when their speeds are measured
WORTH_IT = 1.2  # bfloat16 rounds: it must be this many times as fast as float32
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Runtime:
    """device: where a network computes. dtype: of its convolutions and products. memory_format: of its weights.

    speeds: GFLOP/s of each precision on one core, if they were measured to choose the dtype.
    """

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.channels_last
    speeds: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def precision(self) -> str:
        """The name of the dtype, as --precision has it."""
        return str(self.dtype).removeprefix("torch.")

    def describe(self) -> str:
        """Return device and precision in words, such as "cpu in bfloat16 (590 GFLOP/s a core, float32 85)"."""
        text = f"{self.device} in {self.precision}"
        if not self.speeds:
            return text
        other = "float32" if self.precision == "bfloat16" else "bfloat16"
        return f"{text} ({self.speeds[self.precision]:.0f} GFLOP/s a core, {other} {self.speeds[other]:.0f})"

    def autocast(self) -> torch.autocast:
        """A context in which a network computes in `dtype`."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def suited_to(self, network: torch.nn.Module) -> "Runtime":
        """The same with the faster memory layout for a network: channels last, but not for a wide U-Net in float32 on
        a CPU.

        There 64 channels at full size were measured 1.3 times as fast in the default layout, 16 channels 1.2 times as
        slow.
        """
        first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
        wide = first.out_channels >= 64 and first.stride == (1, 1)
        plain = wide and self.device.type == "cpu" and self.dtype == torch.float32
        return replace(self, memory_format=torch.contiguous_format if plain else torch.channels_last)

    def place(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network on the device, in the memory layout."""
        return network.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload]

    def move(self, batch: torch.Tensor) -> torch.Tensor:
        """A batch on the device; a copy from pinned memory does not wait."""
        return batch.to(self.device, non_blocking=True)

    def layout(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) in the memory layout of the network's weights."""
        return images.contiguous(memory_format=self.memory_format)


def choose_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """The runtime of --device and --precision. Raises UserError for a device that cannot be used."""
    chosen = pick_device(device)
    if chosen.type == "cuda":
        if chosen.index is not None:
            torch.cuda.set_device(chosen)  # else threads that pin memory take some of the first GPU's
        torch.backends.cudnn.allow_tf32 = False  # float32 is float32, but in training
    speeds = convolution_speeds() if precision == "auto" and chosen.type == "cpu" else {}
    return Runtime(chosen, pick_precision(precision, chosen), speeds=speeds)


def add_runtime_flags(parser, precision="auto"):
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto: CUDA when there, else the CPU"
    )
    parser.add_argument(
        "--precision",
        default=precision,
        choices=PRECISIONS,
        help="of the network's arithmetic; auto: bfloat16 if it is measured to be faster on this CPU or the GPU "
        "supports it, float16 on older GPUs, else float32; default %(default)s",
    )


def pick_device(name: str) -> torch.device:
    """A --device value as a torch.device. Raises UserError for one that cannot be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # one GPU for each process of torchrun
        processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if processes > gpus:
            raise UserError(f"{processes} processes for {gpus} GPUs; lower --nproc_per_node, or use --device cpu")
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise ValueError("it holds no values")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError, ImportError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise UserError(f"--device {name} cannot be used ({reason}); use --device cpu") from None
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """Return a --precision value as the dtype for autocast; "auto" is what computes fastest on the device."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu":
        speeds = convolution_speeds()
        return torch.bfloat16 if speeds["bfloat16"] >= WORTH_IT * speeds["float32"] else torch.float32
    return torch.float32


@lru_cache
def convolution_speeds() -> dict[str, float]:
    """Measure a convolution's forward and backward pass on one core: GFLOP/s by precision.

    A processor's flags do not tell: some have bfloat16 instructions and multiply in it at half the speed of float32.
    The two precisions take turns and the best turn counts. One thread, because a barrier between several measures how
    busy the machine is.
    """
    n, channels, size = 2, 64, 32
    flops = 3 * 2 * n * size**2 * 9 * channels**2
    image = torch.ones(n, channels, size, size).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(channels, channels, 3, 3).contiguous(memory_format=torch.channels_last)
    inputs = {
        str(dtype).removeprefix("torch."): [value.to(dtype).requires_grad_() for value in (image, weight)]
        for dtype in (torch.float32, torch.bfloat16)
    }
    best = dict.fromkeys(inputs, math.inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.enable_grad(), torch.inference_mode(False):
            for _ in range(TURNS):
                for name, (images, weights) in inputs.items():
                    start = time.perf_counter()
                    output = torch.nn.functional.conv2d(images, weights, padding=1)
                    torch.autograd.grad(output, (images, weights), torch.ones_like(output))
                    best[name] = min(best[name], time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return {name: flops / seconds / 1e9 for name, seconds in best.items()}


def seed_everything(seed: int, deterministic: bool = False):
    """Seed Python, NumPy and torch on every device; with `deterministic`, use deterministic algorithms only."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.benchmark_limit = 3  # of ten kernels: as fast a step, found in a third of the time (H100)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.set_float32_matmul_precision("highest" if deterministic else "high")
    torch.backends.cudnn.allow_tf32 = not deterministic
