"""Prediction with a checkpoint's network."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from augment import normalize
from checkpoint import Checkpoint, load, restore_model
from runtime import Runtime, copy_to
from training.distributed import rank


@dataclass
class Predictor:
    """A network with its normalization, input size and runtime.

    network: in evaluation mode, on the runtime's device, in its memory layout.
    mean, std: per channel, to normalize pixels in [0, 1]. size: input size in pixels.
    tta: average the predictions for the image and its mirror image. checkpoint: the network's.
    """

    network: nn.Module
    mean: list[float]
    std: list[float]
    size: int
    runtime: Runtime
    tta: bool = False
    checkpoint: Checkpoint | None = None

    @torch.inference_mode()
    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Predict float32 logits (N, K, H, W) on the runtime's device from uint8 (N, C, H, W) on any device."""
        images = self.runtime.layout(normalize(copy_to(pixels, self.runtime.device), self.mean, self.std))
        with self.runtime.autocast():
            logits = self.network(images).float()
            if self.tta:
                mirrored = self.network(images.flip(3)).float().flip(3)
                logits = torch.logit((logits.sigmoid() + mirrored.sigmoid()) / 2, eps=1e-7)
        return logits

    @torch.inference_mode()
    def probability(self, pixels: torch.Tensor) -> torch.Tensor:
        """Predict foreground probability, float32 (N, 1, H, W), for uint8 (N, C, H, W)."""
        return foreground(self.logits(pixels)).sigmoid()


def load_predictor(path: Path | str, runtime: Runtime, model_type: str | None = None, tta: bool = False) -> Predictor:
    """Load a checkpoint, or a state_dict of the network `model_type`. Raises UserError."""
    return make_predictor(load(path, model_type), path, runtime, tta)


def make_predictor(checkpoint: Checkpoint, path, runtime: Runtime, tta: bool = False) -> Predictor:
    """Make a checkpoint's predictor, with batch norms folded into convolutions. Raises UserError."""
    network = restore_model(checkpoint, path, runtime, folded=True)
    for module in network.modules():  # as autocast does at each call; norms stay in float32
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.to(runtime.dtype)
    runtime = runtime.suited_to(network)
    return Predictor(network, checkpoint.mean, checkpoint.std, checkpoint.image_size, runtime, tta, checkpoint)


def predictions(predictor: Predictor, loader: DataLoader, title: str) -> Iterator[tuple[dict, torch.Tensor]]:
    """Yield each batch, with its mask on the runtime's device, and its logits (N, K, H, W)."""
    predictor.network.eval()
    for batch in tqdm(loader, title, unit="batch", leave=False, disable=rank() > 0 or None):  # None: if not a terminal
        yield {**batch, "mask": copy_to(batch["mask"], predictor.runtime.device)}, predictor.logits(batch["image"])


def foreground(logits: torch.Tensor) -> torch.Tensor:
    """Select the foreground's channel: logits (N, C, H, W) to (N, 1, H, W)."""
    return logits[:, -1:]


def to_size(probability: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize a probability (h, w) bilinearly to (H, W). size: (width, height)."""
    if probability.shape == size[::-1]:
        return probability
    return F.interpolate(probability[None, None], size=size[::-1], mode="bilinear", align_corners=False)[0, 0]
