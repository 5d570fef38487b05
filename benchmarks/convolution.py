"""Convolution and transposed convolution written by hand in NumPy, for clarity; the networks use PyTorch's.

    y[o, i, j] = sum over c, a, b of w[o, c, a, b] * x[c, i + a - k // 2, j + b - k // 2]

x is zero outside. Deep learning calls this a convolution, signal processing a cross-correlation.
"""

import numpy as np


def conv2d(x, w):
    """Convolve x (c_in, h, w) with w (c_out, c_in, k, k), k odd, to (c_out, h, w): stride 1, zero padding k // 2.

    Equal to torch.nn.functional.conv2d(x, w, padding=k // 2).
    """
    k = w.shape[-1]
    padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(1, 2))  # (c_in, h, w, k, k)
    return np.einsum("ocab,cijab->oij", w, windows)


def deconv2d(x, w):
    """Convolve x (c_in, h, w) with w (c_out, c_in, k, k), k odd, to (c_out, 2h - 1, 2w - 1): transposed, stride 2.

    Insert zeros between and around the pixels (2h + 1, 2w + 1), convolve, and crop one pixel from every
    side. For k = 3, equal to conv_transpose2d(x, rotated, stride=2, padding=1), where rotated is w
    rotated by 180 degrees with its first two axes swapped.
    """
    c, height, width = x.shape
    spread = np.zeros((c, 2 * height + 1, 2 * width + 1), dtype=x.dtype)
    spread[:, 1::2, 1::2] = x
    return conv2d(spread, w)[:, 1:-1, 1:-1]
