"""Estimate alpha and foreground colors at the photo's original size from the photo and its probability of foreground.

The network's input has 256x256 pixels and its training trimaps count the border as pet, so its mask is smooth and too
wide. The edge is located again in the photo, within a band:

1. Band. The edge lies in the middle of the trimap's border, half a border inside the mask. Farther from it than a
   border, everything is pet or background (`find_band`).
2. Alpha in the band. The colors of the pet nearby and of the background nearby are two clouds. Alpha is the linear
   function of color that is 0 at one mean, 1 at the other, and separates them best (Fisher's discriminant). The
   closer the clouds, the more the distance to the edge counts instead (`separate_colors`). A guided filter makes alpha
   follow the photo (He, Sun, Tang: "Guided Image Filtering", ECCV 2010).
3. Colors. Blur fusion removes the old background that shines through (Forte: "Approximate Fast Foreground Colour
   Estimation", ICIP 2021).

All of it is computed on the photo reduced to at most WORK_SIZE pixels. As in "Fast Guided Filter" (He, Sun, 2015) the
filter's linear function of color is enlarged instead of alpha, tile by tile, so single hairs reappear at full size.
"""

import math

import numpy as np
import scipy  # imports scipy.ndimage when it is first used
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from photos.components import attached, drop_small, fill_holes

WORK_SIZE = 768  # pixels of the longer side at which alpha is solved
TILE = 32  # pixels of the reduced photo per side of a tile that is enlarged at once
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # distinct entries of a symmetric 3x3 matrix

# The width of the trimaps' border class / geometric mean of the photo's longer side and the square root of the pet's
# area (border included). Over 612 training trimaps the median is 0.0425, 5% are below 0.028 and 5% above 0.060.
BORDER = 0.0425
EDGE = 0.5  # depth of the pet's edge inside the mask, in borders
REACH = 1.0  # half the band's width in borders: wide borders, and networks that are off by half a border


def matte(photo, probability, threshold=0.5, method="guided", tile=TILE):
    """Estimate the pet's alpha and its own colors.

    photo: PIL image of mode RGB. probability: float32 tensor (H, W) of the photo's original size, from a network that
    learned the border class as foreground. method: "guided", or "closed_form", which solves it with PyMatting (Levin,
    Lischinski, Weiss, PAMI 2008; requirements-matting.txt).

    Returns alpha, float32 (H, W) in [0, 1], and the foreground's colors, uint8 (H, W, 3), which are the photo's outside
    the band.
    """
    pixels = torch.from_numpy(np.array(photo))
    factor = math.ceil(max(photo.size) / WORK_SIZE)
    mask = drop_small(reduce(probability[None], factor)[0] >= threshold)
    border = border_width(mask)
    # A hole smaller than a border's square is prediction noise: the border class would have closed a real one.
    depth = depth_in_mask(fill_holes(mask, border**2), border)
    known, band = find_band(depth, border)
    alpha = enlarge(known[None], factor, photo.size[::-1])[0].clone()
    if not band.any():
        return alpha, pixels
    margin = math.ceil(2 * border)
    box_of_band = scipy.ndimage.find_objects(band.numpy().astype(np.uint8))[0]
    window = tuple(slice(max(0, part.start - margin), part.stop + margin) for part in box_of_band)
    known, band, depth = known[window], band[window], depth[window]
    image = torch.from_numpy(np.array(photo.reduce(factor))[window]).permute(2, 0, 1).float().div_(255)
    closed = method == "closed_form"
    solved = solve_closed_form(image, known, band) if closed else solve_guided(image, known, band, depth, border)
    if closed and factor == 1:
        linear = torch.cat([torch.zeros_like(image), solved[None]])
    else:
        linear = guided_filter(image, solved, radius=max(1, round(border / 8)))
    fields = torch.cat([linear, *blur_fusion(image, solved, border), band[None].float()])
    inside = tuple(slice(part.start * factor, part.stop * factor) for part in window)
    fill_band(alpha[inside], pixels[inside], fields, band, factor, tile)
    return alpha, pixels


def compose(alpha, foreground, background):
    """Put a foreground on a background. Returns a PIL image of mode RGB.

    alpha: float32 (H, W). foreground: uint8 (H, W, 3). background: a color that Pillow knows, or a PIL image, which is
    scaled and cropped about its center to fill the photo's size.
    """
    size = alpha.shape[::-1]
    is_image = isinstance(background, Image.Image)
    under = ImageOps.fit(background.convert("RGB"), size) if is_image else Image.new("RGB", size, background)
    return Image.composite(Image.fromarray(foreground.numpy()), under, Image.fromarray(to_bytes(alpha).numpy()))


def to_bytes(alpha):
    """Convert float (H, W) in [0, 1] to uint8 (H, W) in [0, 255]."""
    return alpha.mul(255).round_().to(torch.uint8)


def border_width(mask):
    """Return the width in pixels that a trimap's border would have around a pet with this mask, bool (H, W)."""
    return max(2.0, BORDER * (mask.sum().item() ** 0.5 * max(mask.shape)) ** 0.5)


def distance(mask, limit):
    """Return the Euclidean distance to the nearest True minus half a pixel, float32 (H, W): 0 there, at most limit."""
    if not mask.any():
        return torch.full(mask.shape, float(limit))
    return torch.from_numpy(scipy.ndimage.distance_transform_edt(~mask.numpy())).float().sub_(0.5).clamp_(0, limit)


def depth_in_mask(mask, border):
    """Return the signed distance to the mask's edge in pixels, float32 (H, W): positive inside, at most two borders."""
    limit = math.ceil(2 * border)
    return distance(~mask, limit) - distance(mask, limit)


def find_band(depth, border):
    """Return alpha by depth only, float32 (H, W): 0, 1 and a ramp across the band; and the band, bool (H, W)."""
    inside = depth / border - EDGE
    return (inside / (2 * REACH) + 0.5).clamp(0, 1), inside.abs() < REACH


def solve_guided(image, known, band, depth, border):
    """Solve alpha, float32 (H, W), from the colors on both sides.

    Examples of pet and background are first the pixels far from the edge, then those whose first alpha is certain.
    """
    inside = depth / border - EDGE
    prior = (2 * inside + 0.5).clamp(0, 1)
    # Colors mislead far from the edge: a pale ear before a pale wall, a gray blade of grass next to a gray coat.
    prior_weight = 2 * (1 + (inside / 0.45).square().square())
    pet, background = (2 * inside - 0.5).clamp(0, 1), (-2 * inside - 0.5).clamp(0, 1)
    alpha = separate_colors(image, prior, prior_weight, pet, background, radius=1.3 * border)
    alpha = torch.where(band, alpha, known)
    pet, background = (2 * alpha - 1).clamp(min=0).square(), (1 - 2 * alpha).clamp(min=0).square()
    alpha = separate_colors(image, (alpha + prior) / 2, prior_weight, pet, background, radius=0.6 * border)
    alpha = (1.25 * alpha - 0.125).clamp(0, 1)  # colors vary within a cloud, so a tenth of alpha is noise
    alpha = torch.where(band, alpha, known)
    return alpha * attached(alpha > 0.1, inside > 0)  # fur is attached to the pet; the rest is background


def separate_colors(image, prior, prior_weight, pet, background, radius):
    """Apply Fisher's linear discriminant to the colors within about 2 `radius` pixels of each pixel.

    image (3, H, W). prior (H, W): alpha if colors do not tell. prior_weight (H, W): how far apart, in squared standard
    deviations, the clouds must be to count as much as the prior. pet, background (H, W): the weight of each pixel as an
    example. Returns alpha, float32 (H, W).
    """
    noise = 4e-4  # the least variance of a cloud: 5 levels of 255
    step = max(1, int(radius))
    weights = torch.stack([pet, background])
    products = (pet + background) * torch.stack([image[i] * image[j] for i, j in PAIRS])
    sums = torch.cat([weights, pet * image, background * image, products])
    sums = smooth(reduce(sums, step), radius / step) + 1e-7
    total = sums[:2]
    means = sums[2:8].view(2, 3, *sums.shape[1:]) / total[:, None]
    scatter = sums[8:] - torch.stack([(total * means[:, i] * means[:, j]).sum(0) for i, j in PAIRS])
    gap = means[0] - means[1]
    slope = solve3(scatter / total.sum(0), gap, noise)
    apart = (slope * gap).sum(0)  # squared Mahalanobis distance of the means
    slope = slope / apart.clamp(min=1e-6)
    offset = -(slope * means[1]).sum(0)
    trust = apart * (50 * total.amin(0)).clamp(max=1)  # less if one side has few examples
    fields = enlarge(torch.cat([slope, offset[None], trust[None]]), step, prior.shape)
    color = ((fields[:3] * image).sum(0) + fields[3]).clamp(0, 1)
    return (fields[4] * color + prior_weight * prior) / (fields[4] + prior_weight)


def solve3(matrix, right, ridge):
    """Solve a symmetric 3x3 system per pixel. matrix (6, H, W) as in PAIRS, right (3, H, W) to (3, H, W)."""
    a, b, c, d, e, f = matrix
    a, d, f = a + ridge, d + ridge, f + ridge
    cofactors = (d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b)
    determinant = a * cofactors[0] + b * cofactors[1] + c * cofactors[2]
    p, q, r, s, t, u = (value / determinant for value in cofactors)
    x, y, z = right
    return torch.stack([p * x + q * y + r * z, q * x + s * y + t * z, r * x + t * y + u * z])


def guided_filter(image, alpha, radius, eps=1e-4):
    """Apply the guided filter with a color guide. Returns (4, H, W): alpha is the first three . color + the fourth.

    He et al. 2010, section 3.4: alpha's linear fit to the colors of a window, averaged over the windows of a pixel.
    """
    products = torch.stack([image[i] * image[j] for i, j in PAIRS])
    means = box(torch.cat([image, alpha[None], image * alpha, products]), radius)
    mean, level = means[:3], means[3]
    covariance = means[7:] - torch.stack([mean[i] * mean[j] for i, j in PAIRS])
    slope = solve3(covariance, means[4:7] - mean * level, eps)
    offset = level - (slope * mean).sum(0)
    return box(torch.cat([slope, offset[None]]), radius)


def solve_closed_form(image, known, band):
    """Solve alpha, float32 (H, W), with PyMatting."""
    threads = torch.get_num_threads()
    from pymatting import estimate_alpha_cf

    trimap = torch.where(band, 0.5, known).double()
    if not ((trimap == 0).any() and (trimap == 1).any()):  # no example of one of them
        return known
    alpha = estimate_alpha_cf(image.permute(1, 2, 0).double().numpy(), trimap.numpy())
    torch.set_num_threads(threads)  # numba raises it; more threads than cores take ten times as long
    return torch.from_numpy(alpha).float()


def blur_fusion(image, alpha, border):
    """Estimate foreground and background smoothly, (3, H, W) each: Forte 2021, section 3, twice, wide then narrow."""
    foreground = background = image
    for radius in (border, border / 4):
        colors = true_colors(image, alpha, foreground, background)
        step = max(1, int(radius / 4))
        sums = torch.cat([torch.stack([alpha, 1 - alpha]), colors * alpha, background * (1 - alpha)])
        sums = enlarge(smooth(reduce(sums, step), radius / step), step, alpha.shape)
        little = 1e-4  # if one side is not nearby, its estimate is the photo's color
        foreground, background = (
            (sums[i : i + 3] + little * image) / (weight + little) for i, weight in ((2, sums[0]), (5, sums[1]))
        )
    return foreground, background


def true_colors(image, alpha, foreground, background):
    """Return the foreground closest to an estimate that can explain the photo: all (3, H, W), alpha (H, W).

    It is the smallest change of both estimates that makes them mix to the photo's color. (Forte adds alpha times the
    residual, which leaves part of it; this is 7% closer to the colors of benchmarks/matting.py.)
    """
    residual = image - alpha * foreground - (1 - alpha) * background
    return (foreground + alpha / (alpha.square() + (1 - alpha).square()) * residual).clamp(0, 1)


def fill_band(alpha, pixels, fields, band, factor, tile):
    """Write alpha (H, W) and colors, uint8 (H, W, 3), into the band, tile by tile, at the photo's original size.

    fields (11, h, w): four of alpha's linear function, foreground, background, and the band; band (h, w).
    """
    height, width = band.shape
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            # One more pixel on each side, so that a tile is enlarged as the whole would be.
            above, before = max(0, top - 1), max(0, left - 1)
            around = (slice(above, top + tile + 1), slice(before, left + tile + 1))
            if not band[around].any():
                continue
            there = tuple(slice(start * factor, (start + tile) * factor) for start in (top, left))
            image = pixels[there].permute(2, 0, 1).float().div_(255)
            size = image.shape[1:]
            skip = ((top - above) * factor, (left - before) * factor)
            values = enlarge(fields[:, around[0], around[1]], factor, (skip[0] + size[0], skip[1] + size[1]))
            linear, foreground, background, inside = values[:, skip[0] :, skip[1] :].split((4, 3, 3, 1))
            inside = inside[0] > 0.5
            solved = ((linear[:3] * image).sum(0) + linear[3]).clamp_(0, 1)
            part = torch.where(inside, solved, alpha[there])
            own = torch.where(inside, true_colors(image, part, foreground, background), image)
            alpha[there] = part
            pixels[there] = own.permute(1, 2, 0).mul_(255).round_().to(torch.uint8)


def reduce(values, step):
    """Reduce (C, H, W) to the means of squares of step x step pixels."""
    return F.avg_pool2d(values[None], step, ceil_mode=True, count_include_pad=False)[0] if step > 1 else values


def enlarge(values, factor, shape):
    """Enlarge (C, h, w) bilinearly by a whole factor, the inverse of `reduce`, and crop it to shape (H, W)."""
    if factor > 1:
        values = F.interpolate(values[None], scale_factor=factor, mode="bilinear")[0]
    return values[:, : shape[0], : shape[1]]


def smooth(values, radius):
    """Return the mean (C, H, W) around each pixel, taken twice, which is nearly Gaussian."""
    return box(box(values, max(1, round(radius * 0.7))), max(1, round(radius * 0.7)))


def box(values, radius):
    """Return the mean (C, H, W) over windows of 2 radius + 1 pixels, of the pixels inside the image."""
    size = 2 * radius + 1
    covered = scipy.ndimage.uniform_filter(np.ones(values.shape[1:]), size, mode="constant")
    means = scipy.ndimage.uniform_filter(values.double().numpy(), (1, size, size), mode="constant") / covered
    return torch.from_numpy(means).float()
