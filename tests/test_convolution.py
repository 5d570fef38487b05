import numpy as np
import pytest
import torch
import torch.nn.functional as F
from convolution import conv2d, deconv2d


@pytest.mark.parametrize("k", [1, 3, 5])
def test_conv2d_matches_pytorch(k):
    rng = np.random.default_rng(k)
    x, w = rng.normal(size=(3, 9, 12)), rng.normal(size=(4, 3, k, k))
    expected = F.conv2d(torch.tensor(x)[None], torch.tensor(w), padding=k // 2)[0]
    np.testing.assert_allclose(conv2d(x, w), expected, atol=1e-12)


def test_deconv2d_matches_pytorch():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 7, 5)), rng.normal(size=(2, 3, 3, 3))
    rotated = torch.tensor(w).flip(2, 3).transpose(0, 1)
    expected = F.conv_transpose2d(torch.tensor(x)[None], rotated, stride=2, padding=1)[0]
    np.testing.assert_allclose(deconv2d(x, w), expected, atol=1e-12)
