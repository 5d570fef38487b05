"""The Dice of a mask against the trimap that lies beside its photo."""

import numpy as np
import torch

from oxford_pet import read_trimap, truth_of
from photos.colors import turn
from photos.pictures import PictureError, opened, stored_orientation
from utils import confusion, dice


def dice_beside(path, mask, border):
    """Dice against the trimap in a folder trimaps or annotations/trimaps beside the picture's, or "" without one.

    mask: PIL picture of mode L, upright. A trimap labels the pixels as they are stored, so it is turned as the photo
    is; one that fits the upright photo alone labels that. Raises PictureError.
    """
    above = path.absolute().parent.parent
    for folder in (above / "trimaps", above / "annotations" / "trimaps"):
        if (folder / f"{path.stem}.png").exists():
            break
    else:
        return ""
    try:
        trimap = read_trimap(folder / f"{path.stem}.png")
    except PictureError as error:
        raise PictureError(f"has a trimap that {error}") from None
    with opened(path) as picture:
        turned = turn(trimap, stored_orientation(picture))
    turned = turned if turned.size == mask.size else trimap
    if turned.size != mask.size:
        raise PictureError(f"has a trimap of another size, {trimap.size[0]}x{trimap.size[1]}")
    truth = truth_of(torch.from_numpy(np.array(turned)), border)[None, None]
    prediction = torch.from_numpy(np.array(mask))[None, None] > 0
    return f"{dice(confusion(prediction, truth)).item():.6f}"
