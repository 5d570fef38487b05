"""Filters of planes (C, H, W) that matting stands on: means, distances, sizes, the guided filter."""

import torch
import torch.nn.functional as F

PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # the distinct entries of a symmetric 3x3 matrix


def distance(mask, limit):
    """bool (H, W) to Euclidean distance to the nearest True minus half a pixel, float32 (H, W); 0 there, at most limit.

    Columns first, then rows, as in Felzenszwalb and Huttenlocher, "Distance Transforms of Sampled Functions", 2012.
    """
    height, width = mask.shape
    rows = torch.arange(height, dtype=torch.float32)[:, None].expand(height, width)
    above = torch.where(mask, rows, -2.0 * limit - 1).cummax(0).values
    below = torch.where(mask, rows, height + 2.0 * limit).flip(0).cummin(0).values.flip(0)
    column = torch.minimum(rows - above, below - rows).clamp_(max=limit + 1).square_()
    nearest = column.clone()
    for step in range(1, min(limit, width - 1) + 1):
        cost = column + step * step
        torch.minimum(nearest[:, step:], cost[:, :-step], out=nearest[:, step:])
        torch.minimum(nearest[:, :-step], cost[:, step:], out=nearest[:, :-step])
    return nearest.sqrt_().sub_(0.5).clamp_(0, limit)


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
    """Guided filter with a colour guide to (4, H, W): alpha is the first three . colour + the fourth.

    He et al. 2010, section 3.4: alpha's linear fit to the colours of a window, averaged over the windows of a pixel.
    """
    products = torch.stack([image[i] * image[j] for i, j in PAIRS])
    means = box(torch.cat([image, alpha[None], image * alpha, products]), radius)
    mean, level = means[:3], means[3]
    covariance = means[7:] - torch.stack([mean[i] * mean[j] for i, j in PAIRS])
    slope = solve3(covariance, means[4:7] - mean * level, eps)
    offset = level - (slope * mean).sum(0)
    return box(torch.cat([slope, offset[None]]), radius)


def enlarge(values, factor, size):
    """(h, w) to (H, W), bilinearly, by a whole factor; size is (width, height)."""
    if factor == 1:
        return values.clone()
    large = F.interpolate(values[None, None], scale_factor=factor, mode="bilinear")[0, 0]
    return large[: size[1], : size[0]].contiguous()


def enlarge_part(fields, here, factor):
    """(C, h, w) to the part `here` (two slices), enlarged as the whole would be."""
    if factor == 1:
        return fields[:, here[0], here[1]]
    starts = [max(0, part.start - 1) for part in here]
    around = fields[:, starts[0] : here[0].stop + 1, starts[1] : here[1].stop + 1]
    large = F.interpolate(around[None], scale_factor=factor, mode="bilinear")[0]
    for dim, (part, start) in enumerate(zip(here, starts, strict=True), start=1):
        large = large.narrow(dim, (part.start - start) * factor, (part.stop - part.start) * factor)
    return large


def reduce(values, step):
    """(C, H, W) to means of squares of step x step pixels."""
    return F.avg_pool2d(values[None], step, ceil_mode=True, count_include_pad=False)[0] if step > 1 else values


def grow(values, step, shape):
    """The inverse of `reduce`, bilinearly, to shape (H, W)."""
    if step == 1:
        return values
    return F.interpolate(values[None], scale_factor=step, mode="bilinear")[0][:, : shape[0], : shape[1]]


def smooth(values, radius):
    """(C, H, W) to its mean around each pixel, twice, which is nearly Gaussian; nothing lies outside the picture."""
    return box(box(values, max(1, round(radius * 0.7))), max(1, round(radius * 0.7)))


def box(values, radius):
    """(C, H, W) to the mean over windows of 2 radius + 1 pixels, of what lies in the picture."""
    for dim in (2, 1):
        length = values.shape[dim]
        total = values.clone()
        for step in range(1, min(radius, length - 1) + 1):  # radii are small here, and sums stay exact
            total.narrow(dim, step, length - step).add_(values.narrow(dim, 0, length - step))
            total.narrow(dim, 0, length - step).add_(values.narrow(dim, step, length - step))
        place = torch.arange(length)
        count = (place + radius).clamp(max=length - 1) - (place - radius).clamp(min=0) + 1
        values = total.div_(count.view(-1, 1) if dim == 1 else count)
    return values
