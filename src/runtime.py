"""Device, precision and memory layout; torch's settings for training."""

import math
import os
import random
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch

from utils import ProcessError, UserError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Runtime:
    """Where and how a network runs."""

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32  # for convolutions and matrix products
    memory_format: torch.memory_format = torch.channels_last  # for weights and images
    speeds: dict[str, float] = field(default_factory=dict, compare=False)  # GFLOP/s per core, if measured

    @property
    def precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def describe(self) -> str:
        """Return e.g. "cpu in bfloat16 (GFLOP/s per core: float32 85, bfloat16 590)"."""
        speeds = ", ".join(f"{name} {speed:.0f}" for name, speed in self.speeds.items())
        return f"{self.device} in {self.precision}" + (f" (GFLOP/s per core: {speeds})" if speeds else "")

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def suited_to(self, network: torch.nn.Module) -> "Runtime":
        """Return the runtime with the network's memory layout: channels last, with two exceptions on CPUs.

        Wide float32 U-Nets: contiguous was 1.3 times as fast with 64 channels, but took 1.2 times as long with 16.
        Dilated grouped convolutions: oneDNN's bfloat16 weight gradient is wrong in channels last.
        """
        convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
        dilated = any(conv.groups > 1 and conv.dilation != (1, 1) for conv in convolutions)
        wide = any(conv.out_channels >= 64 and conv.stride == (1, 1) for conv in convolutions[:1])  # the first
        contiguous = self.device.type == "cpu" and (dilated or (wide and self.dtype == torch.float32))
        return replace(self, memory_format=torch.contiguous_format if contiguous else torch.channels_last)

    def to_device(self, network: torch.nn.Module) -> torch.nn.Module:
        return network.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload]

    def layout(self, images: torch.Tensor) -> torch.Tensor:
        """Put images (N, C, H, W) into the memory layout."""
        return images.contiguous(memory_format=self.memory_format)


def copy_to(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to a device, asynchronously if CUDA. On MPS, an asynchronous copy could read already freed memory."""
    return values.to(device, non_blocking=device.type == "cuda")


def choose_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """Return the runtime for --device and --precision. Raises UserError."""
    chosen = pick_device(device)
    if chosen.type == "cuda":
        if chosen.index is not None:
            torch.cuda.set_device(chosen)  # else pinned memory takes memory on the first GPU
        if precision == "float32":
            torch.backends.cudnn.allow_tf32 = False  # training_backends turns it on for training
    if precision != "auto":
        return Runtime(chosen, getattr(torch, precision))
    if chosen.type == "cuda":
        recent = torch.cuda.get_device_capability(chosen) >= (8, 0)
        return Runtime(chosen, torch.bfloat16 if recent else torch.float16)
    if chosen.type != "cpu":
        return Runtime(chosen)
    speeds = convolution_speeds()
    faster = speeds["bfloat16"] >= 1.2 * speeds["float32"]  # less is not worth the rounding
    return Runtime(chosen, torch.bfloat16 if faster else torch.float32, speeds=speeds)


def add_runtime_flags(parser, precision="auto"):
    add = parser.add_argument
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps or auto (CUDA if available, else CPU); default auto")
    add("--precision", default=precision, choices=PRECISIONS, help="auto: best for this device; default %(default)s")


def pick_device(name: str) -> torch.device:
    """Return the device for --device. Raises UserError if it cannot be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # one GPU for each process of torchrun
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        gpus = torch.cuda.device_count()
        if ranks > gpus:
            raise UserError(f"--nproc_per_node {ranks} exceeds the GPU count ({gpus}); lower it, or use --device cpu")
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ProcessError(f"--device {name} cannot be used ({reason}); use --device cpu") from None
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """Return a GPU's model, or "cpu" or "mps"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@lru_cache
@torch.inference_mode(False)  # gradients even if the caller disabled them
def convolution_speeds() -> dict[str, float]:
    """Measure a convolution's GFLOP/s, forward and backward, by precision.

    Uses one core, because threads would wait for busy cores. CPU flags do not tell: some CPUs have slow bfloat16.
    """
    n, channels, size = 2, 64, 32
    flops = 3 * 2 * n * size**2 * 9 * channels**2
    image = torch.ones(n, channels, size, size).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(channels, channels, 3, 3).contiguous(memory_format=torch.channels_last)
    inputs = {}
    for name in ("float32", "bfloat16"):
        dtype = getattr(torch, name)
        inputs[name] = image.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
    best = dict.fromkeys(inputs, math.inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began, rounds = time.perf_counter(), 0
    while rounds < 5 or time.perf_counter() - began < 0.15:  # the best of many, since other processes interrupt some
        rounds += 1
        for name, (images, weights) in inputs.items():
            start = time.perf_counter()
            output = torch.nn.functional.conv2d(images, weights, padding=1)
            total = (output * torch.ones_like(output)).sum()  # passing grad_outputs would import sympy
            torch.autograd.grad(total, (images, weights))
            best[name] = min(best[name], time.perf_counter() - start)
    torch.set_num_threads(threads)
    return {name: flops / seconds / 1e9 for name, seconds in best.items()}


def seed_everything(seed: int):
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def training_backends(deterministic: bool = False):
    """Set torch's backends for the block. deterministic: only deterministic algorithms, no TF32."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.benchmark_limit, cudnn.allow_tf32
    matmul = torch.get_float32_matmul_precision()
    strict = torch.are_deterministic_algorithms_enabled()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn.benchmark = cudnn.allow_tf32 = not deterministic
    cudnn.benchmark_limit = 3  # kernels to try, not 10: as fast a step, found in a third of the time (H100)
    torch.use_deterministic_algorithms(deterministic)
    torch.set_float32_matmul_precision("highest" if deterministic else "high")
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.benchmark_limit, cudnn.allow_tf32 = before
        torch.set_float32_matmul_precision(matmul)
        torch.use_deterministic_algorithms(strict)
