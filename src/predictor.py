"""A network with its scaling, size and runtime: the one way from pixels to a prediction.

Validation, evaluate.py, inference.py, report.py, app.py and a notebook all go through it.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from augment import to_float
from checkpoint import load, restore_model
from runtime import Runtime, choose_runtime
from training.distributed import rank
from utils import foreground


@dataclass
class Predictor:
    """network: in evaluation mode, on the runtime's device, in its memory layout.

    mean, std: one number per channel, which pixels in [0, 1] are scaled by. size: the side of the network's input.
    tta: average each picture's probability with its mirror image's. about: the checkpoint's other entries.
    """

    network: nn.Module
    mean: list[float]
    std: list[float]
    size: int
    runtime: Runtime
    tta: bool = False
    about: dict = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Of the network's input: 3 for RGB, 1 for grey."""
        return len(self.mean)

    @torch.inference_mode()
    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (N, C, H, W) on any device to float32 logits (N, K, H, W) on the runtime's device."""
        images = self.runtime.layout(to_float(self.runtime.move(pixels), self.mean, self.std))
        with self.runtime.autocast():
            logits = self.network(images).float()
            if self.tta:
                mirrored = self.network(images.flip(3)).float().flip(3)
                logits = torch.logit((logits.sigmoid() + mirrored.sigmoid()) / 2, eps=1e-7)
        return logits

    @torch.inference_mode()
    def probability(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (N, C, H, W) to the probability of foreground, float32 (N, 1, H, W), on the runtime's device."""
        return foreground(self.logits(pixels)).sigmoid()


def load_predictor(path, runtime: Runtime | None = None, model_type: str | None = None, tta: bool = False) -> Predictor:
    """Open a checkpoint of train.py, or a state_dict of the network `model_type`. Raises UserError."""
    return make_predictor(load(path, model_type), path, runtime or choose_runtime(), tta)


def make_predictor(checkpoint: dict, path, runtime: Runtime, tta: bool = False) -> Predictor:
    """The predictor that a checkpoint describes; batch norms are folded into convolutions. Raises UserError.

    The weights are kept in the runtime's dtype; autocast would cast them at every call.
    """
    network = restore_model(checkpoint, path, runtime, folded=True).to(runtime.dtype)
    about = {name: value for name, value in checkpoint.items() if name not in ("model", "training")}
    runtime = runtime.suited_to(network)
    return Predictor(network, checkpoint["mean"], checkpoint["std"], checkpoint["image_size"], runtime, tta, about)


def predictions(predictor: Predictor, loader: DataLoader, title: str) -> Iterator[tuple[dict, torch.Tensor]]:
    """Each batch of `loader` with its logits (N, K, H, W), on the runtime's device; under torchrun, this rank's part.

    The batch is the dataset's dict: its mask moves to the device, its image stays where it is.
    """
    predictor.network.eval()
    for batch in tqdm(loader, title, unit="batch", leave=False, disable=rank() > 0 or not sys.stderr.isatty()):
        yield {**batch, "mask": predictor.runtime.move(batch["mask"])}, predictor.logits(batch["image"])
