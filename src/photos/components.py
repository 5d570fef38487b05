"""Connected components of a mask: drop small ones, fill holes, keep the largest.

A mask is a bool tensor (H, W) on the CPU. Pixels that share a side or a corner are connected.
"""

import numpy as np
import scipy  # loads scipy.ndimage lazily
import torch

SMALL = 0.005  # components below this fraction of the image are dropped from cutouts (benchmarks/README.md)


def label(mask):
    """Return int labels (H, W) of a mask (0: background), and each label's area (background: 0)."""
    labels, _ = scipy.ndimage.label(mask.numpy(), structure=np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return labels, areas


def is_large(areas, labels, fraction=SMALL):
    """Check which labels cover at least `fraction` of the image, or are the largest."""
    large = areas >= max(1, fraction * labels.size)
    if areas.any():
        large[areas.argmax()] = True
    return large


def drop_small(mask, fraction=SMALL):
    """Drop the components smaller than `fraction` of the image, but never the largest."""
    labels, areas = label(mask)
    return torch.from_numpy(is_large(areas, labels, fraction)[labels])


def fill_holes(mask, pixels):
    """Fill holes of fewer than `pixels` pixels that do not touch the image's edge."""
    labels, areas = label(~mask)
    small = (areas > 0) & (areas < pixels)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        small[edge] = False
    return mask | torch.from_numpy(small[labels])


def attached(mask, core):
    """Keep the components that contain pixels of `core`, bool (H, W)."""
    kept = scipy.ndimage.binary_propagation((mask & core).numpy(), np.ones((3, 3)), mask.numpy())
    return torch.from_numpy(kept)
