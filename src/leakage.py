"""Detect train/test leakage: evaluation images that a checkpoint was trained on.

A checkpoint keeps hashes of its training images' names (in your own folders, of names and file sizes) as
`trained_on`. Images whose name (and file size) has changed are not recognized.
"""

import torch

from data import hashes
from splits import SegmentationDataset


def scores_apart(checkpoint, dataset: SegmentationDataset, scores: torch.Tensor) -> dict:
    """Compare the images that the checkpoint was trained on with the others. scores: Dice (N,).

    Returns `trained_on` (a count), `dice_trained_on` and `dice_new` (None for no images); {} if unknown.
    """
    if checkpoint.trained_on is None:
        return {}
    trained = set(checkpoint.trained_on)
    seen = torch.tensor([key in trained for key in hashes(dataset)], dtype=torch.bool)
    result: dict = {"trained_on": int(seen.sum())}
    for name, chosen in (("dice_trained_on", seen), ("dice_new", ~seen)):
        result[name] = scores[chosen].mean().item() if chosen.any() else None
    return result


def warning(result: dict) -> str:
    """Return a note on how many scored images were used for training, or "" if none."""
    if not result.get("trained_on"):
        return ""
    text = f"{result['trained_on']:,} of {result['images']:,} images were used for training"
    if result["dice_new"] is None:
        return f"{text}, so Dice overestimates performance on new images"
    seen, new = result["dice_trained_on"], result["dice_new"]
    return f"{text}: Dice {seen:.4f} on these, {new:.4f} on the others"
