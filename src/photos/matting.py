"""Estimate alpha and the foreground's colors at the photo's original size.

The network's mask is smooth, because its input is small, and too wide, because the trimaps' border
counts as pet in training. So the edge is located in the photo itself, within a band:

1. The edge lies half a border width inside the mask, in the middle of the trimap's border.
   (Networks trained on other masks have no border: for them, it lies at the mask's edge.)
   Everything more than a border width away from it is pet or background.
2. Near a pixel, the colors of pet and background form two clouds. Alpha is the linear function of
   color that separates them best (Fisher's discriminant). The closer the clouds are, the more the
   distance to the edge counts. A guided filter makes alpha follow the photo (He, Sun, Tang:
   "Guided Image Filtering", ECCV 2010).
3. Blur fusion removes the old background from the colors (Forte: "Approximate Fast Foreground
   Colour Estimation", ICIP 2021).

The photo is reduced first. As in "Fast Guided Filter" (He, Sun, 2015), the linear function of
color is enlarged instead of alpha, so individual hairs reappear at full size. The constants were
chosen on the drawings of benchmarks/matting.py.
"""

import math

import numpy as np
import scipy  # loads scipy.ndimage lazily
import torch
import torch.nn.functional as F

from checkpoint import Checkpoint
from photos.components import attached, drop_small, fill_holes

WORK_SIZE = 768  # maximum side of the reduced photo, in pixels
TILE = 32  # side of the tiles enlarged one at a time, in reduced pixels
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # entries of a symmetric 3x3 matrix

# Width of a trimap's border, divided by the geometric mean of the photo's longer side and the square
# root of the area of pet and border: the median over 612 training trimaps.
BORDER = 0.0425
EDGE = {"foreground": 0.5, "ignore": 0.0, "background": -0.5}  # see `edge_depth`
REACH = 1.0  # half the band's width, in border widths; networks are off by half a border width


def edge_depth(checkpoint: Checkpoint) -> float:
    """Return the depth of the foreground's edge inside a network's masks, in border widths."""
    return EDGE[checkpoint.border] if checkpoint.dataset == "pets" else 0.0


def matte(photo, probability, threshold=0.5, closed_form=False, edge=EDGE["foreground"]):
    """Estimate the pet's alpha, float32 (H, W) in [0, 1], and its unmixed colors, uint8 (H, W, 3).

    photo: PIL image of mode RGB. probability: float32 tensor (H, W). closed_form: use PyMatting
    (Levin, Lischinski, Weiss, PAMI 2008). edge: from `edge_depth`.
    """
    pixels = torch.from_numpy(np.array(photo))
    factor = math.ceil(max(photo.size) / WORK_SIZE)
    mask = drop_small(reduce(probability[None], factor)[0] >= threshold)
    border = border_width(mask)
    if edge > 0:  # smaller holes are noise: the border would have closed real ones
        mask = fill_holes(mask, border**2)
    inside = depth_in_mask(mask, border) / border - edge
    ramp, band = find_band(inside)
    alpha = enlarge(ramp[None], factor, photo.size[::-1])[0].clone()
    if not band.any():
        return alpha, pixels
    margin = math.ceil(2 * border)
    [box_of_band] = scipy.ndimage.find_objects(band.numpy().astype(np.uint8))
    window = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box_of_band)
    large_window = tuple(slice(side.start * factor, side.stop * factor) for side in window)
    ramp, band, inside = ramp[window], band[window], inside[window]
    reduced = np.array(photo.reduce(factor))[window]
    image = torch.from_numpy(reduced).permute(2, 0, 1).float().div_(255)
    if closed_form:
        solved = solve_closed_form(image, ramp, band)
        linear = torch.cat([torch.zeros_like(image), solved[None]])
    else:
        solved = solve_guided(image, ramp, band, inside, border)
    if not closed_form or factor > 1:
        linear = guided_filter(image, solved, radius=max(1, round(border / 8)))
    fields = torch.cat([linear, *blur_fusion(image, solved, border), band[None].float()])
    fill_band(alpha[large_window], pixels[large_window], fields, band, factor)
    return alpha, pixels


def border_width(mask):
    """Estimate the trimap's border width in pixels from a mask, bool (H, W)."""
    return max(2.0, BORDER * (mask.sum().item() ** 0.5 * max(mask.shape)) ** 0.5)


def distance(mask, limit):
    """Return the distance to the nearest True pixel's edge, float32 (H, W) from 0 to limit."""
    if not mask.any():
        return torch.full(mask.shape, float(limit))
    distances = scipy.ndimage.distance_transform_edt(~mask.numpy())
    return torch.from_numpy(distances).float().sub_(0.5).clamp_(0, limit)


def depth_in_mask(mask, border):
    """Return the signed distance to the mask's edge in pixels, float32 (H, W): positive inside."""
    limit = math.ceil(2 * border)
    return distance(~mask, limit) - distance(mask, limit)


def find_band(inside):
    """Return alpha as a ramp across the band, float32 (H, W), and the band, bool (H, W).

    inside: depth inside the foreground's edge, in border widths.
    """
    return (inside / (2 * REACH) + 0.5).clamp(0, 1), inside.abs() < REACH


def solve_guided(image, ramp, band, inside, border):
    """Solve for alpha, float32 (H, W), from pixels far from the edge, then from pixels with alpha near 0 or 1."""
    prior = (2 * inside + 0.5).clamp(0, 1)
    # Colors mislead far from the edge, e.g. a pale ear in front of a pale wall.
    prior_weight = 2 * (1 + (inside / 0.45).square().square())
    pet = (2 * inside - 0.5).clamp(0, 1)
    background = (-2 * inside - 0.5).clamp(0, 1)
    alpha = separate_colors(image, prior, prior_weight, pet, background, radius=1.3 * border)
    alpha = torch.where(band, alpha, ramp)
    prior = (alpha + prior) / 2
    pet = (2 * alpha - 1).clamp(min=0).square()
    background = (1 - 2 * alpha).clamp(min=0).square()
    alpha = separate_colors(image, prior, prior_weight, pet, background, radius=0.6 * border)
    alpha = (1.25 * alpha - 0.125).clamp(0, 1)  # up to 0.1 is noise: colors vary within a cloud
    alpha = torch.where(band, alpha, ramp)
    return alpha * attached(alpha > 0.1, inside > 0)  # fur is attached to the pet


def separate_colors(image, prior, prior_weight, pet, background, radius):
    """Estimate alpha by Fisher's linear discriminant of the colors within about 2 * radius pixels.

    image (3, H, W), others (H, W). prior: alpha without colors. prior_weight: squared Mahalanobis
    distance of the clouds at which colors count as much as `prior`. pet, background: example weights.
    """
    noise = 4e-4  # minimum variance of a cloud: about (5 / 255) ** 2
    step = max(1, int(radius))
    weights = torch.stack([pet, background])
    products = (pet + background) * torch.stack([image[i] * image[j] for i, j in PAIRS])
    sums = torch.cat([weights, pet * image, background * image, products])
    sums = smooth(reduce(sums, step), radius / step) + 1e-7
    total = sums[:2]
    means = sums[2:8].view(2, 3, *sums.shape[1:]) / total[:, None]
    between = [(total * means[:, i] * means[:, j]).sum(0) for i, j in PAIRS]
    scatter = sums[8:] - torch.stack(between)
    gap = means[0] - means[1]
    slope = solve3(scatter / total.sum(0), gap, noise)
    apart = (slope * gap).sum(0)  # squared Mahalanobis distance between the means
    slope = slope / apart.clamp(min=1e-6)
    offset = -(slope * means[1]).sum(0)
    trust = apart * (50 * total.amin(0)).clamp(max=1)  # less if one side has few examples
    fields = torch.cat([slope, offset[None], trust[None]])
    slope, offset, trust = enlarge(fields, step, prior.shape).split((3, 1, 1))
    alpha = ((slope * image).sum(0) + offset[0]).clamp(0, 1)
    return (trust[0] * alpha + prior_weight * prior) / (trust[0] + prior_weight)


def solve3(matrix, right, ridge):
    """Solve 3x3 systems (matrix + ridge I) x = right. matrix: (6, H, W) as in PAIRS; x, right: (3, H, W)."""
    a, b, c, d, e, f = matrix.double()  # float32 would cancel: black and white are nearly on a line
    a, d, f = a + ridge, d + ridge, f + ridge
    p, q, r = d * f - e * e, c * e - b * f, b * e - c * d
    s, t, u = a * f - c * c, b * c - a * e, a * d - b * b
    determinant = a * p + b * q + c * r
    p, q, r, s, t, u = (cofactor / determinant for cofactor in (p, q, r, s, t, u))
    x, y, z = right
    return torch.stack([p * x + q * y + r * z, q * x + s * y + t * z, r * x + t * y + u * z]).float()


def guided_filter(image, alpha, radius):
    """Fit a linear function of color to alpha: 3 factors and an offset, (4, H, W) (He et al. 2010)."""
    products = torch.stack([image[i] * image[j] for i, j in PAIRS])
    means = box(torch.cat([image, alpha[None], image * alpha, products]), radius)
    mean, level = means[:3], means[3]
    covariance = means[7:] - torch.stack([mean[i] * mean[j] for i, j in PAIRS])
    slope = solve3(covariance, means[4:7] - mean * level, ridge=1e-4)
    offset = level - (slope * mean).sum(0)
    return box(torch.cat([slope, offset[None]]), radius)


def solve_closed_form(image, ramp, band):
    """Solve for alpha, float32 (H, W), with PyMatting."""
    threads = torch.get_num_threads()
    from pymatting import estimate_alpha_cf

    trimap = torch.where(band, 0.5, ramp).double()
    if trimap.min() > 0 or trimap.max() < 1:  # one side has no examples
        return ramp
    alpha = estimate_alpha_cf(image.permute(1, 2, 0).double().numpy(), trimap.numpy())
    torch.set_num_threads(threads)  # numba raises it above the number of cores
    return torch.from_numpy(alpha).float()


def blur_fusion(image, alpha, border):
    """Estimate foreground and background colors, (3, H, W) each (Forte 2021, section 3)."""
    little = 1e-4  # weight of the photo's color, if one side is not nearby
    foreground = background = image
    for radius in (border, border / 4):
        colors = true_colors(image, alpha, foreground, background)
        step = max(1, int(radius / 4))
        sums = torch.cat([torch.stack([alpha, 1 - alpha]), colors * alpha, background * (1 - alpha)])
        sums = enlarge(smooth(reduce(sums, step), radius / step), step, alpha.shape)
        foreground = (sums[2:5] + little * image) / (sums[0] + little)
        background = (sums[5:8] + little * image) / (sums[1] + little)
    return foreground, background


def true_colors(image, alpha, foreground, background):
    """Return the foreground (3, H, W) after the smallest change to both colors that makes them mix to the photo's."""
    # Forte adds alpha * residual, which is 7% worse in benchmarks/matting.py.
    residual = image - alpha * foreground - (1 - alpha) * background
    return (foreground + alpha / (alpha.square() + (1 - alpha).square()) * residual).clamp(0, 1)


def fill_band(alpha, pixels, fields, band, factor):
    """Fill the band in alpha (H, W) and pixels, uint8 (H, W, 3), tile by tile to save memory.

    fields (11, h, w): alpha's linear function (4), foreground (3), background (3) and the band.
    """
    height, width = band.shape
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            # With one more pixel on each side, tiles are enlarged as the whole image would be.
            above, before = max(0, top - 1), max(0, left - 1)
            rows, columns = slice(above, top + TILE + 1), slice(before, left + TILE + 1)
            if not band[rows, columns].any():
                continue
            bottom, right = (top + TILE) * factor, (left + TILE) * factor
            tile = (slice(top * factor, bottom), slice(left * factor, right))
            image = pixels[tile].permute(2, 0, 1).float().div_(255)
            y, x = (top - above) * factor, (left - before) * factor
            size = (y + image.shape[1], x + image.shape[2])
            values = enlarge(fields[:, rows, columns], factor, size)[:, y:, x:]
            linear, foreground, background, inside = values.split((4, 3, 3, 1))
            inside = inside[0] > 0.5
            solved = ((linear[:3] * image).sum(0) + linear[3]).clamp_(0, 1)
            solved = torch.where(inside, solved, alpha[tile])
            colors = true_colors(image, solved, foreground, background)
            colors = torch.where(inside, colors, image)
            alpha[tile] = solved
            pixels[tile] = colors.permute(1, 2, 0).mul_(255).round_().to(torch.uint8)


def reduce(values, step):
    """Average (C, H, W) over blocks of step x step pixels."""
    if step > 1:
        values = F.avg_pool2d(values[None], step, ceil_mode=True, count_include_pad=False)[0]
    return values


def enlarge(values, factor, shape):
    """Enlarge (C, h, w) bilinearly by an integer factor, and crop it to shape (H, W)."""
    if factor > 1:
        values = F.interpolate(values[None], scale_factor=factor, mode="bilinear")[0]
    return values[:, : shape[0], : shape[1]]


def smooth(values, radius):
    """Blur (C, H, W) with two box filters, which is nearly Gaussian."""
    radius = max(1, round(radius * 0.7))
    return box(box(values, radius), radius)


def box(values, radius):
    """Return the means (C, H, W) over windows of side 2 * radius + 1, cut off at the image's edge."""
    size = 2 * radius + 1
    mean = scipy.ndimage.uniform_filter
    covered = mean(np.ones(values.shape[1:]), size, mode="constant")
    means = mean(values.double().numpy(), (1, size, size), mode="constant")
    return torch.from_numpy(means / covered).float()
