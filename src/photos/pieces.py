"""The connected pieces of a mask: specks dropped, holes filled, the largest kept, a box around each animal.

A mask is a bool tensor (H, W) on the CPU. Pixels that touch by a side or a corner belong to one piece. Pieces are
found from the runs of True in each row, not pixel by pixel, so 24 megapixels take a fraction of a second.
"""

from dataclasses import dataclass

import numpy as np
import torch

# The share of the picture below which a piece is a speck; benchmarks/README.md has what that does to valid Dice.
SPECK = 0.005


@dataclass(frozen=True)
class Runs:
    """A mask as its horizontal runs of True; int64 arrays, in order of rows, then of columns."""

    row: np.ndarray
    start: np.ndarray  # first column
    end: np.ndarray  # the column after the last
    piece: np.ndarray  # the piece that it belongs to: 0 is the largest
    areas: np.ndarray  # pixels of each piece, in descending order
    shape: tuple


def find_pieces(mask):
    """bool (H, W) to its Runs."""
    row, start, end = runs_of(mask.numpy())
    root = join(len(row), *touching(row, start, end))
    roots, piece = np.unique(root, return_inverse=True)
    areas = np.bincount(piece, weights=end - start, minlength=len(roots)).astype(np.int64)
    by_area = np.argsort(-areas, kind="stable")
    rank = np.empty_like(by_area)
    rank[by_area] = np.arange(len(by_area))
    return Runs(row, start, end, rank[piece], areas[by_area], tuple(mask.shape))


def runs_of(mask):
    """bool array (H, W) to row, first column and the column after the last of each run of True."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded.reshape(-1))
    starts, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    row, start = np.divmod(starts, width + 2)
    return row, start, ends - row * (width + 2)


def touching(row, start, end):
    """Two int64 arrays: the indices of runs in neighbouring rows that touch, corners included."""
    stride = int(end.max(initial=0)) + 2
    above = (row - 1) * stride
    first = np.searchsorted(row * stride + end, above + start)  # the first run above that ends at our start or later
    last = np.searchsorted(row * stride + start, above + end, side="right")  # after the last that starts by our end
    counts = np.maximum(last - first, 0)
    ours = np.repeat(np.arange(len(row)), counts)
    within = np.arange(len(ours)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ours, np.repeat(first, counts) + within


def join(n, a, b):
    """Connected components of n nodes with edges a[i] - b[i]: for each node the least node of its component."""
    parent = np.arange(n)
    while True:
        low, high = np.minimum(parent[a], parent[b]), np.maximum(parent[a], parent[b])
        apart = low != high
        if not apart.any():
            return parent
        np.minimum.at(parent, high[apart], low[apart])
        while (parent[parent] != parent).any():
            parent = parent[parent]


def mask_of_runs(runs, chosen):
    """The mask, bool (H, W), of the chosen pieces (bool array)."""
    height, width = runs.shape
    kept = chosen[runs.piece]
    change = np.zeros((height, width + 1), dtype=np.int8)
    change[runs.row[kept], runs.start[kept]] = 1
    change[runs.row[kept], runs.end[kept]] = -1
    return torch.from_numpy(np.cumsum(change[:, :-1], axis=1, dtype=np.int8).view(bool))


def largest(mask):
    """The largest piece. bool (H, W) to bool (H, W)."""
    runs = find_pieces(mask)
    return mask_of_runs(runs, np.arange(len(runs.areas)) == 0)


def drop_specks(mask, share=SPECK):
    """Drop the pieces smaller than `share` of the picture, but never the largest. bool (H, W) to bool (H, W)."""
    runs = find_pieces(mask)
    return mask_of_runs(runs, is_animal(runs, share))


def fill_holes(mask, pixels):
    """Fill the holes of fewer than `pixels` pixels that do not touch the picture's edge. bool (H, W) to bool (H, W)."""
    runs = find_pieces(~mask)
    height, width = runs.shape
    at_edge = (runs.row == 0) | (runs.row == height - 1) | (runs.start == 0) | (runs.end == width)
    outside = np.bincount(runs.piece, weights=at_edge, minlength=len(runs.areas)) > 0
    return mask | mask_of_runs(runs, (runs.areas < pixels) & ~outside)


def attached(mask, core):
    """The pieces of a mask that hold some of a core's pixels. Both bool (H, W) to bool (H, W)."""
    runs = find_pieces(mask)
    before = np.zeros((mask.shape[0], mask.shape[1] + 1), dtype=np.int32)
    np.cumsum(core.numpy(), axis=1, out=before[:, 1:])
    held = before[runs.row, runs.end] - before[runs.row, runs.start]
    return mask_of_runs(runs, np.bincount(runs.piece, weights=held, minlength=len(runs.areas)) > 0)


def boxes(mask, share=SPECK):
    """(left, top, right, bottom) of each piece that `drop_specks` keeps, in pixels, the largest piece first."""
    runs = find_pieces(mask)
    found = []
    for piece in np.flatnonzero(is_animal(runs, share)):
        own = runs.piece == piece
        row = runs.row[own]
        found.append(tuple(map(int, (runs.start[own].min(), row[0], runs.end[own].max(), row[-1] + 1))))
    return found


def is_animal(runs, share):
    """Bool array: which pieces are the largest or at least `share` of the picture."""
    height, width = runs.shape
    return (runs.areas >= share * height * width) | (np.arange(len(runs.areas)) == 0)
