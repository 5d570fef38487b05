"""Which pictures of a split a checkpoint was trained on: their Dice says little about new ones.

A checkpoint keeps a short hash of each training picture's name, as `trained_on`; a folder's pictures also count by
their size in bytes, since names such as 1.png are everywhere. A picture renamed, or encoded anew, is not recognized.
"""

import hashlib
import os
from collections.abc import Iterable

import torch

from cache import PackedDataset
from shapes import Shapes


def hashes(dataset: PackedDataset | Shapes, indices: Iterable[int] | None = None) -> list[str]:
    """A short hash of each picture, or of those at `indices`."""
    identities = dataset.identities if indices is None else [dataset.identities[index] for index in indices]
    return [hashlib.sha256(os.fsencode(identity)).hexdigest()[:12] for identity in identities]


def hash_of_set(dataset: PackedDataset | Shapes) -> str:
    """A short hash of which pictures a set holds."""
    return hashlib.sha256(" ".join(hashes(dataset)).encode()).hexdigest()[:12]


def scores_apart(about: dict, dataset: PackedDataset | Shapes, scores: torch.Tensor) -> dict:
    """Entries of a row of scores: how many of a split's pictures the checkpoint was trained on, and the Dice apart.

    about: the checkpoint's entries. scores: Dice (N,) of the dataset's pictures, in order. Returns
    `trained_on`, `dice_trained_on` and `dice_new` (None where there are no such pictures); nothing where the checkpoint
    has no record of its training pictures.
    """
    if "trained_on" not in about:
        return {}
    trained = set(about["trained_on"])
    seen = torch.tensor([key in trained for key in hashes(dataset)], dtype=torch.bool)
    names = {"dice_trained_on": seen, "dice_new": ~seen}
    apart = {name: scores[which].mean().item() if which.any() else None for name, which in names.items()}
    return {"trained_on": int(seen.sum()), **apart}


def warning(result: dict) -> str:
    """A sentence about a row of scores, or "" where no picture was trained on."""
    if not result.get("trained_on"):
        return ""
    text = f"{result['trained_on']:,} of {result['pictures']:,} pictures were trained on"
    if result["dice_new"] is None:
        return f"{text}: the Dice says little about new ones"
    others = result["pictures"] - result["trained_on"]
    return f"{text}: Dice {result['dice_trained_on']:.4f} on these, {result['dice_new']:.4f} on the other {others:,}"
