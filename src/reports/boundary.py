"""The boundary F-measure: how much of the predicted contour lies near the true one, and the reverse.

Csurka, Larlus, Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013, section 3.2, in
the form of Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (DAVIS),
CVPR 2016. A contour pixel counts as matched if the other contour has a pixel within the tolerance, in pixels.
"""

import math

import torch
import torch.nn.functional as F

TOLERANCE = 0.008  # of the picture's diagonal, DAVIS's own


def tolerance_of(height: int, width: int) -> int:
    """The tolerance in whole pixels of a picture: 3 at 256 x 256."""
    return math.ceil(TOLERANCE * math.hypot(height, width))


def contour(mask: torch.Tensor) -> torch.Tensor:
    """Pixels that differ from their right, lower or lower right neighbour. Boolean (N, 1, H, W) to the same."""
    right = F.pad(mask[..., 1:], (0, 1))
    right[..., -1] = mask[..., -1]
    lower, diagonal = below(mask), below(right)
    return (mask ^ right) | (mask ^ lower) | (mask ^ diagonal)


def below(mask: torch.Tensor) -> torch.Tensor:
    """The mask shifted up by one row, its last row repeated."""
    return torch.cat([mask[..., 1:, :], mask[..., -1:, :]], dim=-2)


def near(contours: torch.Tensor, tolerance: int) -> torch.Tensor:
    """Pixels within `tolerance` pixels (Euclidean) of a contour. Boolean (N, 1, H, W) to the same."""
    offset = torch.arange(-tolerance, tolerance + 1, device=contours.device)
    disk = (offset[:, None] ** 2 + offset[None, :] ** 2 <= tolerance**2).float()[None, None]
    return F.conv2d(contours.float(), disk, padding=tolerance) > 0.5


def boundary_f(prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The harmonic mean of the matched shares of both contours, by picture.

    prediction, truth: boolean (N, 1, H, W). Returns float64 (N,), on the CPU. Two masks without a contour score 1; a
    contour on one side alone, or none matched, 0.
    """
    tolerance = tolerance_of(*truth.shape[-2:])
    predicted, true = contour(prediction), contour(truth)
    matches = (predicted & near(true, tolerance), true & near(predicted, tolerance), predicted, true)
    matched, found, of_predicted, of_true = (part.flatten(1).sum(1).cpu().double() for part in matches)
    precision, recall = matched / of_predicted.clamp(min=1), found / of_true.clamp(min=1)
    f = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return torch.where(of_predicted + of_true > 0, f, 1.0)
