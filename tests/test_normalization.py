from argparse import Namespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from conftest import load_shapes
from torchvision.models import ResNet34_Weights

from training.preparation import mean_and_std


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_std_match_numpy(channels):
    dataset = load_shapes("train", 32, limit=70, in_channels=channels)  # more than the 64 in one read
    args = Namespace(resume=None, normalize="train", in_channels=channels)
    pixels = np.stack([dataset[index]["image"].numpy() for index in range(70)]).astype(np.float64) / 255
    mean, std = mean_and_std(args, dataset, None)
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std((0, 2, 3)), rtol=1e-9)


@pytest.mark.parametrize("value", [5, 7, 10, 77])
def test_a_constant_channel_is_not_scaled(value):
    pixels = torch.arange(3 * 2 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    pixels[:, 2] = value
    dataset = MagicMock(__len__=lambda self: 2, __getitem__=lambda self, indices: {"image": pixels[indices]})
    mean, std = mean_and_std(Namespace(resume=None, normalize="train", in_channels=3), dataset, None)
    assert std[2] == 1 and mean[2] == pytest.approx(value / 255) and 0 < std[0] < 1


def test_other_normalizations_are_constants():
    def constants(name, channels=3):
        return mean_and_std(Namespace(resume=None, normalize=name, in_channels=channels), None, None)

    preset = ResNet34_Weights.IMAGENET1K_V1.transforms()
    assert constants("fixed") == ([0.5] * 3, [0.5] * 3) and constants("unit", 1) == ([0.0], [1.0])
    assert constants("imagenet") == (preset.mean, preset.std)
