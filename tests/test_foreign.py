"""Networks and losses that users add work with every command."""

import pytest
import torch
from conftest import error_of, make_pets, read_scores, script, stop_after
from PIL import Image
from torch import nn
from torch.nn import functional as F

from checkpoint import load, restore_model
from losses import LOSSES
from models import MODELS
from models.unet import UNet
from predictor import load_predictor
from runtime import Runtime
from training.args import network_options, parse_args


class Mixer(nn.Module):
    """Mixes patches with a linear layer, for one image size (Tolstikhin et al., "MLP-Mixer", NeurIPS 2021)."""

    def __init__(self, in_channels=3, out_channels=1, size=32):
        super().__init__()
        patches = (size // 4) ** 2
        self.patches = nn.Conv2d(in_channels, 16, 4, stride=4)
        self.norm, self.tokens = nn.LayerNorm(patches), nn.Linear(patches, patches)
        self.head = nn.ConvTranspose2d(16, out_channels, 4, stride=4)

    def forward(self, image):
        x = self.patches(image)
        return self.head(x + self.tokens(self.norm(x.flatten(2))).view_as(x))


class Blurred(UNet):
    """Has fixed numbers that are not in the state_dict: a buffer, a tensor, and a value computed with tensors.

    Its last batch norm follows a ReLU, so it must not be folded into the convolution declared before it.
    """

    def __init__(self, in_channels=3, out_channels=1):
        super().__init__(in_channels, out_channels, width=4, depth=2)
        self.mix, self.norm = nn.Conv2d(out_channels, out_channels, 1), nn.BatchNorm2d(out_channels)
        self.register_buffer("kernel", torch.full((in_channels, 1, 3, 3), 1 / 9), persistent=False)
        self.shift, self.scale = torch.full((1,), 0.25), torch.linspace(0, 1, 3)[1].item()

    def forward(self, image):
        image = F.conv2d(image * self.scale + self.shift, self.kernel, padding=1, groups=image.shape[1])
        return self.norm(F.relu(self.mix(super().forward(image))))


def squared(logits, mask):
    assert logits.dtype == torch.float32  # in any --precision
    return ((logits.sigmoid() - (mask == 1).float()) ** 2).mean()


def test_options_of_an_added_network_do_not_reach_others(monkeypatch):
    monkeypatch.setitem(MODELS, "added", (lambda in_channels, out_channels, image_size=224, seed=1: None, {}))
    for name in ("unet", "added"):
        args, _ = parse_args(None, ["--model", name, "--dataset", "shapes"])
        assert network_options(args) == {"in_channels": 3, "out_channels": 1}


@pytest.mark.parametrize("network", [Mixer, Blurred])
def test_an_added_network_and_loss_work_with_every_command(network, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "added", (network, {}))
    monkeypatch.setitem(LOSSES, "squared", squared)
    pets = make_pets(tmp_path / "dataset/oxford-iiit-pet", 12, 3)
    flags = ("--model", "added", "--loss", "squared:2,bce:0.1", "--image_size", 32, "--batch_size", 4, "--name", "a")
    flags = (*flags, "--precision", "bfloat16")
    with stop_after(4):
        script("train", *flags, "--epochs", 2, "--ema", 0.5, cwd=tmp_path, expect=143)
    script("train", "--resume", "saved_models/a.last.pth", cwd=tmp_path)

    path = tmp_path / "saved_models/a.pth"
    predictor, checkpoint = load_predictor(path, Runtime()), load(path)
    plain = network(3, 1).eval()
    plain.load_state_dict(checkpoint.model)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = plain((pixels / 255 - 0.5) / 0.5)
    torch.testing.assert_close(predictor.logits(pixels).clone(), expected, atol=1e-4, rtol=1e-4)
    assert all(not value.is_meta for value in restore_model(checkpoint, path).buffers())

    flags = ("--split", "valid", "--output", "scores", "--precision", "bfloat16")
    script("evaluate", "--model", path, *flags, cwd=tmp_path)
    assert read_scores(tmp_path)["dice"] == pytest.approx(checkpoint.scores["valid"]["dice"], abs=1e-6)
    script("inference", "--model", path, "--output", "masks", cwd=tmp_path)
    assert len([*(tmp_path / "masks").glob("Drawn_*.png")]) == 3
    photo = pets / "images/Drawn_1.jpg"
    script("predict", photo, "--model", path, "--output", "mask.png", "--precision", "bfloat16", cwd=tmp_path)
    assert Image.open(tmp_path / "mask.png").size == Image.open(photo).size
    if network is Mixer:  # exports must accept any size
        assert "all sizes" in error_of(script("export", "--model", path, "--format", "pt2", cwd=tmp_path, expect=2))
    else:
        script("export", "--model", path, "--format", "pt2", "half", cwd=tmp_path)
        assert (tmp_path / "saved_models/a.pt2").exists() and (tmp_path / "saved_models/a.half.pth").exists()
