"""A photo and its probability of foreground -> alpha and foreground colours at the photo's own size.

The network sees 256x256 pixels and learned trimaps whose border band counts as pet, so its mask is smooth and too
wide. Here the edge is found again in the photo, within a band around the place where it must be:

1. Band. The border class of the training trimaps is BORDER wide, and the edge lies in its middle: half a border
   inside the mask. Beyond the band everything is pet or background (`find_band`).
2. Alpha in the band. Locally, pet and background are two clouds of colours; a linear function of the colour that
   is 0 at one mean and 1 at the other separates them best (Fisher's discriminant), and counts for more the further
   the clouds are apart; where they overlap, the distance to the edge decides (`separate_colors`). A guided filter
   (He, Sun, Tang: "Guided Image Filtering", ECCV 2010; PAMI 2013) makes the result follow the photo.
3. Colours. Blur fusion (Forte: "Approximate Fast Foreground Colour Estimation", ICIP 2021) replaces what shines
   through of the old background.

Steps 1 and 2 work on the photo reduced to at most WORK_SIDE pixels. As in the fast guided filter (He, Sun: "Fast
Guided Filter", 2015), alpha is there a linear function of the colour around each pixel, and that function is
enlarged, not alpha; so single hairs reappear at full size, and memory beyond the outputs is one tile's.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

METHODS = ("guided", "closed_form")
WORK_SIDE = 768  # the longer side on which alpha is solved, in pixels
TILE = 64  # side of a tile that is enlarged at once, in pixels of the reduced photo

# The width of the trimaps' border class / geometric mean of the photo's longer side and the square root of the pet's
# area (border included). Of 612 training trimaps the median is .0425, 5 % are below .028 and 5 % above .060. By the
# longer side or by the area alone the widths spread more, and the former is too wide for a small pet in a large photo.
BORDER = 0.0425
EDGE = 0.5  # the pet's edge, in borders inside the mask's
REACH = 0.85  # half the band's width in borders


def matte(photo, probability, threshold=0.5, method="guided", tile=TILE):
    """Estimate the pet's alpha and its own colours.

    photo: PIL picture in mode RGB. probability: float32 tensor (H, W) of the photo's own size, from a network that
    learned the border class as foreground. method: "guided", or "closed_form", which solves alpha with PyMatting
    (Levin, Lischinski, Weiss, PAMI 2008; requirements-matting.txt).

    Returns alpha, float32 (H, W) in [0, 1], and the foreground, uint8 (H, W, 3); outside the band the foreground is
    the photo. Raises ValueError for another size or method, ImportError if PyMatting is not installed.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method}")
    if tuple(probability.shape) != (photo.height, photo.width):
        raise ValueError(f"a photo of {photo.size} needs a probability of its size, not {tuple(probability.shape)}")
    factor = math.ceil(max(photo.size) / WORK_SIDE)
    image = to_planes(photo.reduce(factor) if factor > 1 else photo)
    small = F.avg_pool2d(probability[None, None], factor, ceil_mode=True, count_include_pad=False)[0, 0]
    depth, border = depth_in_mask(small >= threshold)
    known, band = find_band(depth, border)
    pixels = torch.from_numpy(np.array(photo))
    if not band.any():
        return enlarge(known, factor, photo.size), pixels
    solve = solve_guided if method == "guided" else solve_closed_form
    solved = solve(image, known, band, depth, border)
    if method == "closed_form" and factor == 1:
        slope, offset = torch.zeros_like(image), solved[None]
    else:
        slope, offset = guided_filter(image, solved, radius=max(1, round(border / 8)))
    colors = blur_fusion(image, torch.where(band, solved, known), border)
    fields = torch.cat([slope, offset, *colors])
    alpha = enlarge(known, factor, photo.size)
    fill_band(alpha, pixels, fields, known, band, factor, tile)
    return alpha, pixels


def compose(alpha, foreground, background):
    """Put a foreground on a background.

    alpha: float32 (H, W). foreground: uint8 (H, W, 3). background: a colour that Pillow knows ("white", "#00ff00",
    a tuple of three) or a PIL picture, which is scaled and cropped about its centre to fill the photo's size.
    Returns a PIL picture in mode RGB.
    """
    height, width = alpha.shape
    if isinstance(background, Image.Image):
        from PIL import ImageOps

        under = ImageOps.fit(background.convert("RGB"), (width, height))
    else:
        under = Image.new("RGB", (width, height), background)
    over = Image.fromarray(foreground.numpy())
    return Image.composite(over, under, Image.fromarray(to_bytes(alpha).numpy()))


def to_bytes(alpha):
    """float (H, W) in [0, 1] -> uint8 (H, W) in [0, 255]."""
    return alpha.mul(255).round_().to(torch.uint8)


def to_planes(photo):
    """PIL picture -> float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1).float().div_(255)


# ---------------------------------------------------------------------------------------- the band


def depth_in_mask(mask):
    """bool (H, W) -> signed distance to the mask's edge in pixels, float32 (H, W), and the border's width in pixels.

    Positive in the mask, negative outside; right to two borders, clamped beyond.
    """
    border = max(2.0, BORDER * mask.sum().item() ** 0.25 * max(mask.shape) ** 0.5)
    limit = math.ceil(2 * border)
    return distance(~mask, limit) - distance(mask, limit), border


def distance(mask, limit):
    """bool (H, W) -> Euclidean distance to the nearest True minus half a pixel, float32 (H, W); 0 there, at most limit.

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


def find_band(depth, border):
    """-> alpha by depth alone, float32 (H, W): 0, 1 and a ramp across the edge; and the band, bool (H, W)."""
    inside = depth / border - EDGE
    return (inside / (2 * REACH) + 0.5).clamp(0, 1), inside.abs() < REACH


# --------------------------------------------------------------------------------------- alpha


def solve_guided(image, known, band, depth, border):
    """-> alpha float32 (H, W): discriminant of local colours, twice, the second time around the first's edge."""
    inside = depth / border - EDGE
    prior = (inside / 0.5 + 0.5).clamp(0, 1)
    alpha = separate_colors(image, prior, (inside * 2 - 0.3).clamp(0, 1), (-inside * 2 - 0.3).clamp(0, 1), border)
    alpha = torch.where(band, alpha, known)
    return alpha


def separate_colors(image, prior, pet, background, radius):
    """Fisher's linear discriminant of the colours around each pixel.

    image (3, H, W); prior (H, W); pet, background (H, W): weight of each pixel as an example of its class.
    """
    step = max(1, int(radius / 4))
    weights = torch.stack([pet, background])[:, None]  # (2, 1, H, W)
    first = weights * image  # (2, 3, H, W)
    products = (pet + background) * torch.stack([image[i] * image[j] for i, j in PAIRS])
    stacked = torch.cat([weights.flatten(0, 1), first.flatten(0, 1), products])
    sums = smooth(reduce(stacked, step), radius / step) + 1e-7
    total = sums[:2]
    means = sums[2:8].view(2, 3, *sums.shape[1:]) / total[:, None]
    pooled = sums[8:] - torch.stack([(total * means[:, i] * means[:, j]).sum(0) for i, j in PAIRS])
    pooled = pooled / total.sum(0)
    gap = means[0] - means[1]
    slope = solve3(pooled, gap, ridge=NOISE)
    distance2 = (slope * gap).sum(0)
    # the means themselves are uncertain where examples are few
    seen = (total.min(0).values / 0.02).clamp(max=1)
    confidence = distance2 * seen
    slope = slope / distance2.clamp(min=1e-6)
    offset = -(slope * means[1]).sum(0)
    fields = grow(torch.cat([slope, offset[None], confidence[None]]), step, prior.shape)
    color = ((fields[:3] * image).sum(0) + fields[3]).clamp_(0, 1)
    return (fields[4] * color + DOUBT * prior) / (fields[4] + DOUBT)


PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # of a symmetric 3x3 matrix
NOISE = 4e-4  # variance of a colour within a cloud at the least: 5 of 255
DOUBT = 4.0


def solve3(matrix, right, ridge):
    """Solve a symmetric 3x3 system per pixel. matrix (6, H, W) as in PAIRS, right (3, H, W) -> (3, H, W)."""
    a, b, c, d, e, f = matrix
    a, d, f = a + ridge, d + ridge, f + ridge
    cofactors = (d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b)
    determinant = a * cofactors[0] + b * cofactors[1] + c * cofactors[2]
    p, q, r, s, t, u = (value / determinant for value in cofactors)
    x, y, z = right
    return torch.stack([p * x + q * y + r * z, q * x + s * y + t * z, r * x + t * y + u * z])


def guided_filter(image, alpha, radius, eps=1e-4):
    """Guided filter with a colour guide -> slope (3, H, W), offset (1, H, W): alpha is slope . colour + offset.

    He et al. 2010, section 3.4: alpha's local linear fit to the colours, averaged over the windows of a pixel.
    """
    products = torch.stack([image[i] * image[j] for i, j in PAIRS])
    stacked = torch.cat([image, alpha[None], image * alpha, products])
    means = box(stacked, radius)
    mean, level = means[:3], means[3]
    covariance = means[7:] - torch.stack([mean[i] * mean[j] for i, j in PAIRS])
    slope = solve3(covariance, means[4:7] - mean * level, eps)
    offset = level - (slope * mean).sum(0)
    fields = box(torch.cat([slope, offset[None]]), radius)
    return fields[:3], fields[3:]


def solve_closed_form(image, known, band, depth, border):
    """-> alpha float32 (H, W) by PyMatting on the part of the photo around the band."""
    from pymatting import estimate_alpha_cf

    trimap = torch.where(band, 0.5, known.round())
    solved = known.clone()
    rows, columns = bounds(band, margin=4)
    part = image[:, rows, columns].permute(1, 2, 0).double().numpy()
    labels = trimap[rows, columns].double().numpy()
    if (labels == 0).any() and (labels == 1).any():
        solved[rows, columns] = torch.from_numpy(estimate_alpha_cf(part, labels)).float()
    return solved


def bounds(mask, margin=0):
    """bool (H, W) with some True -> the slices of rows and columns that hold all True, and margin pixels more."""
    slices = []
    for dim in (1, 0):
        where = mask.any(dim).nonzero()
        slices.append(slice(max(0, where[0].item() - margin), where[-1].item() + 1 + margin))
    return slices


# -------------------------------------------------------------------------------------- colours


def blur_fusion(image, alpha, border):
    """Blur fusion twice, coarse then fine -> estimates of foreground and background, (3, H, W) each.

    Forte 2021, equations 4 to 7. The last step, which adds what the photo itself says, is `fill_band`'s.
    """
    foreground = background = image
    for radius in (1.5 * border, border / 4):
        weights = torch.stack([alpha, 1 - alpha])[:, None]
        step = max(1, int(radius / 4))
        stacked = torch.cat([weights.flatten(0, 1), foreground * alpha, background * (1 - alpha)])
        sums = smooth(reduce(stacked, step), radius / step)
        sums = grow(sums, step, alpha.shape)
        near = sums[2:5] / (sums[0] + 1e-4)
        far = sums[5:8] / (sums[1] + 1e-4)
        foreground = (near + alpha * (image - alpha * near - (1 - alpha) * far)).clamp(0, 1)
        background = far
    return near, far


def fill_band(alpha, pixels, fields, known, band, factor, tile):
    """Write alpha and the foreground's colours into the band, tile by tile, at the photo's own size."""
    height, width = band.shape
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            here = (slice(top, min(top + tile, height)), slice(left, min(left + tile, width)))
            if not band[here].any():
                continue
            rows, columns = (slice(part.start * factor, part.stop * factor) for part in here)
            colors = pixels[rows, columns]
            image = colors.permute(2, 0, 1).float().div_(255)
            values = enlarge_part(torch.cat([fields, band[None].float()]), here, factor)[:, : image.shape[1], : image.shape[2]]
            color = (values[:3] * image).sum(0) + values[3]
            part = torch.where(values[10] > 0.5, color.clamp_(0, 1), alpha[rows, columns])
            alpha[rows, columns] = part
            near, far = values[4:7], values[7:10]
            own = (near + part * (image - part * near - (1 - part) * far)).clamp_(0, 1)
            pixels[rows, columns] = torch.where(part < 1, own, image).permute(1, 2, 0).mul(255).round_().to(torch.uint8)


# ------------------------------------------------------------------------------- sizes and means


def enlarge(values, factor, size):
    """(h, w) -> (H, W), bilinearly, by a whole factor; size is (width, height)."""
    if factor == 1:
        return values.clone()
    large = F.interpolate(values[None, None], scale_factor=factor, mode="bilinear")[0, 0]
    return large[: size[1], : size[0]].contiguous()


def enlarge_part(fields, here, factor):
    """(C, h, w) -> the part `here` (two slices), enlarged as the whole would be."""
    if factor == 1:
        return fields[:, here[0], here[1]]
    starts = [max(0, part.start - 1) for part in here]
    around = fields[:, starts[0] : here[0].stop + 1, starts[1] : here[1].stop + 1]
    large = F.interpolate(around[None], scale_factor=factor, mode="bilinear")[0]
    for dim, (part, start) in enumerate(zip(here, starts, strict=True), start=1):
        large = large.narrow(dim, (part.start - start) * factor, (part.stop - part.start) * factor)
    return large


def reduce(values, step):
    """(C, H, W) -> means of squares of step x step pixels."""
    return F.avg_pool2d(values[None], step, ceil_mode=True, count_include_pad=False)[0] if step > 1 else values


def grow(values, step, shape):
    """The inverse of `reduce`, bilinearly, to shape (H, W)."""
    if step == 1:
        return values
    return F.interpolate(values[None], scale_factor=step, mode="bilinear")[0][:, : shape[0], : shape[1]]


def smooth(values, radius):
    """(C, H, W) -> its mean around each pixel, twice, which is nearly Gaussian; nothing lies outside the picture."""
    return box(box(values, max(1, round(radius * 0.7))), max(1, round(radius * 0.7)))


def box(values, radius):
    """(C, H, W) -> the mean over windows of 2 radius + 1 pixels, of what lies in the picture."""
    for kernel, padding in (((1, 2 * radius + 1), (0, radius)), ((2 * radius + 1, 1), (radius, 0))):
        values = F.avg_pool2d(values[None], kernel, 1, padding, count_include_pad=False)[0]
    return values
