"""Where and how a network computes: device, precision and memory layout, chosen once."""

import ctypes
import os
import random
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch

from utils import UserError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Runtime:
    """device: where a network computes. dtype: of its convolutions and products. memory_format: of its weights."""

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.channels_last

    @property
    def precision(self) -> str:
        """The name of the dtype, as --precision has it."""
        return str(self.dtype).removeprefix("torch.")

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
    if chosen.type == "cpu":
        keep_freed_memory()
    if chosen.type == "cuda":
        if chosen.index is not None:
            torch.cuda.set_device(chosen)  # else threads that pin memory take some of the first GPU's
        torch.backends.cudnn.allow_tf32 = False  # float32 is float32, but in training
    return Runtime(chosen, pick_precision(precision, chosen))


def add_runtime_flags(parser, precision="auto"):
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto: CUDA when there, else the CPU"
    )
    parser.add_argument(
        "--precision",
        default=precision,
        choices=PRECISIONS,
        help="of the network's arithmetic; auto: bfloat16 where the hardware multiplies in it, "
        "float16 on older GPUs, else float32; default %(default)s",
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
    """A --precision value as the dtype for autocast."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu":
        # Private, so looked up: torch has no public question for "multiplies in bfloat16".
        for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            if getattr(torch.cpu, check, bool)():
                return torch.bfloat16
    return torch.float32


def keep_freed_memory():
    """Have the C library keep freed memory for the next batch: glibc only; does nothing elsewhere.

    By default it returns large blocks to the system, which then clears every page of the next batch's activations:
    a tenth of a training step on the CPU, a quarter of a small network's prediction.
    """
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


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
