import numpy as np
import pytest
import torch
import torch.nn.functional as F
from convolution import conv2d, deconv2d


def test_conv2d_gives_the_matrix_in_the_report():
    x = [
        [[1, 0, 1, 2, 1], [0, 2, 1, 0, 1], [1, 1, 0, 2, 0], [2, 2, 1, 1, 0], [2, 0, 1, 2, 0]],
        [[2, 0, 2, 1, 1], [0, 1, 0, 0, 2], [1, 0, 0, 2, 1], [1, 1, 2, 1, 0], [1, 0, 1, 1, 1]],
    ]
    w = [[[[1, 0, 1], [-1, 1, 0], [0, -1, 0]], [[-1, 0, 1], [0, 0, 1], [1, 1, 1]]]]
    expected = [[[2, 0, 2, 4, 0], [1, 4, 4, 3, 5], [4, 3, 5, 9, -1], [3, 4, 6, 2, 1], [5, 3, 5, 1, -2]]]
    assert conv2d(np.array(x), np.array(w)).tolist() == expected


def test_deconv2d_gives_the_matrices_in_the_report():
    x = [
        [[1, 0, 1], [0, 2, 1], [1, 1, 0]],
        [[2, 0, 2], [0, 1, 0], [1, 0, 0]],
        [[1, 1, 1], [2, 2, 0], [1, 1, 1]],
        [[1, 1, 2], [1, 0, 1], [0, 2, 2]],
    ]
    w = [
        [
            [[1, 0, 1], [-1, 1, 0], [0, -1, 0]],
            [[-1, 0, 1], [0, 0, 1], [1, 1, 1]],
            [[0, 1, 1], [2, 0, 1], [1, 2, 1]],
            [[1, 1, 1], [0, 2, 1], [1, 0, 1]],
        ],
        [
            [[1, 0, 2], [-2, 1, 1], [1, -1, 0]],
            [[-1, 0, 1], [-1, 2, 1], [1, 1, 1]],
            [[0, 0, 0], [2, 2, 1], [1, -1, 1]],
            [[2, 1, 1], [0, -1, 1], [1, 1, 1]],
        ],
    ]
    expected = [
        [[3, 3, 2, 7, 5], [6, 8, 5, 11, 2], [2, 7, 2, 3, 3], [5, 11, 3, 9, 3], [1, 4, 5, 4, 4]],
        [[6, 0, 1, 8, 5], [0, 8, -2, 14, 2], [3, 9, 8, 1, 0], [0, 13, 0, 11, 2], [5, 3, 1, 3, 0]],
    ]
    assert deconv2d(np.array(x), np.array(w)).tolist() == expected


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
