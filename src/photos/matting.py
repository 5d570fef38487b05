"""From a photo and its probability of foreground to alpha and foreground colours at the photo's own size.

The network sees 256x256 pixels and learned from trimaps whose border band counts as pet, so its mask is smooth and
too wide. Here the edge is found again in the photo, within a band around the place where it must be:

1. Band. The edge lies in the middle of the trimaps' border, so half a border inside the mask; farther from it than a
   border, everything is pet or background (`find_band`).
2. Alpha in the band. The colours of the pet nearby and those of the background nearby are two clouds. The linear
   function of the colour that is 0 at one mean and 1 at the other and separates them best (Fisher's discriminant)
   is alpha; the nearer the clouds, the more the distance to the edge counts instead (`separate_colors`). A guided
   filter makes it follow the photo (He, Sun, Tang: "Guided Image Filtering", ECCV 2010).
3. Colours. Blur fusion takes out what shines through of the old background (Forte: "Approximate Fast Foreground
   Colour Estimation", ICIP 2021).

All of it is computed on the photo reduced to at most WORK_SIDE pixels. The guided filter makes alpha a linear
function of the colour around each pixel; as in "Fast Guided Filter" (He, Sun, 2015) that function is enlarged, not
alpha, so single hairs reappear at full size, and memory beyond the results is one tile's.
"""

import math

import numpy as np
import torch
from PIL import Image, ImageOps

from photos.filters import PAIRS, distance, enlarge, enlarge_part, grow, guided_filter, reduce, smooth, solve3
from photos.pieces import attached, drop_specks, fill_holes

METHODS = ("guided", "closed_form", "plain")
WORK_SIDE = 768  # the longer side on which alpha is solved, in pixels
TILE = 32  # side of a tile that is enlarged at once, in pixels of the reduced photo

# The width of the trimaps' border class / geometric mean of the photo's longer side and the square root of the pet's
# area (border included). Over 612 training trimaps the median is .0425, 5 % are below .028 and 5 % above .060.
# Relative to the longer side alone, or to the area alone, the widths spread more.
BORDER = 0.0425
EDGE = 0.5  # the pet's edge, in borders inside the mask's
REACH = 1.0  # half the band's width in borders: where borders are wide, or the network is off by half a border


def matte(photo, probability, threshold=0.5, method="guided", keep=drop_specks, tile=TILE):
    """Estimate the pet's alpha and its own colours.

    photo: PIL picture in mode RGB. probability: float32 tensor (H, W) of the photo's own size, from a network that
    learned the border class as foreground. method: "guided", or "closed_form", which solves alpha with PyMatting
    (Levin, Lischinski, Weiss, PAMI 2008; requirements-matting.txt), or "plain", which estimates nothing: alpha is the
    probability, and 0 below the threshold; colours are the photo's. keep: a function of photos/pieces.py that chooses
    pieces of the mask (bool (h, w), of the reduced photo unless method is "plain"), or None for all.

    Returns alpha, float32 (H, W) in [0, 1], and the foreground's colours, uint8 (H, W, 3), which outside the band are
    the photo's. Raises ValueError for another size or an unknown method, ImportError if PyMatting is not installed.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method}")
    if tuple(probability.shape) != (photo.height, photo.width):
        raise ValueError(f"a photo of {photo.size} needs a probability of its size, not {tuple(probability.shape)}")
    if method == "plain":
        mask = probability >= threshold
        return torch.where(keep(mask) if keep else mask, probability, 0.0), torch.from_numpy(np.array(photo))
    factor = math.ceil(max(photo.size) / WORK_SIDE)
    mask = reduce(probability[None], factor)[0] >= threshold
    if keep:
        mask = keep(mask)
    border = border_width(mask)
    # a hole smaller than a border's square is the network's doubt: a true one's rim would have closed it
    depth = depth_in_mask(fill_holes(mask, border**2), border)
    known, band = find_band(depth, border)
    alpha, pixels = enlarge(known, factor, photo.size), torch.from_numpy(np.array(photo))
    if not band.any():
        return alpha, pixels
    window = bounds(band, margin=math.ceil(2 * border))
    known, band, depth = known[window], band[window], depth[window]
    image = to_planes(photo.reduce(factor) if factor > 1 else photo, window)
    if method == "closed_form":
        solved = solve_closed_form(image, known, band)
    else:
        solved = solve_guided(image, known, band, depth, border)
    if method == "closed_form" and factor == 1:
        linear = torch.cat([torch.zeros_like(image), solved[None]])
    else:
        linear = guided_filter(image, solved, radius=max(1, round(border / 8)))
    fields = torch.cat([linear, *blur_fusion(image, solved, border), band[None].float()])
    corner = [part.start * factor for part in window]
    inside = (slice(corner[0], window[0].stop * factor), slice(corner[1], window[1].stop * factor))
    fill_band(alpha[inside], pixels[inside], fields, band, factor, tile)
    return alpha, pixels


def compose(alpha, foreground, background):
    """Put a foreground on a background.

    alpha: float32 (H, W). foreground: uint8 (H, W, 3). background: a colour that Pillow knows ("white", "#00ff00",
    a tuple of three) or a PIL picture, which is scaled and cropped about its centre to fill the photo's size.
    Returns a PIL picture in mode RGB.
    """
    height, width = alpha.shape
    if isinstance(background, Image.Image):
        under = ImageOps.fit(background.convert("RGB"), (width, height))
    else:
        under = Image.new("RGB", (width, height), background)
    over = Image.fromarray(foreground.numpy())
    return Image.composite(over, under, Image.fromarray(to_bytes(alpha).numpy()))


def to_bytes(alpha):
    """float (H, W) in [0, 1] to uint8 (H, W) in [0, 255]."""
    return alpha.mul(255).round_().to(torch.uint8)


def to_planes(photo, window):
    """PIL picture and slices of rows and columns to float32 (3, h, w) in [0, 1]."""
    return torch.from_numpy(np.array(photo)[window]).permute(2, 0, 1).float().div_(255)


# ---------------------------------------------------------------------------------------- the band


def border_width(mask):
    """The width, in pixels, that the trimap's border would have around a pet of this mask, bool (H, W)."""
    return max(2.0, BORDER * (mask.sum().item() ** 0.5 * max(mask.shape)) ** 0.5)


def depth_in_mask(mask, border):
    """Bool (H, W) to signed distance to the mask's edge in pixels, float32 (H, W).

    Positive inside, negative outside, and within two borders of the edge; where nothing is nearer, two borders.
    """
    limit = math.ceil(2 * border)
    return distance(~mask, limit) - distance(mask, limit)


def find_band(depth, border):
    """Alpha by depth alone, float32 (H, W): 0, 1 and a ramp across the band; and the band, bool (H, W)."""
    inside = depth / border - EDGE
    return (inside / (2 * REACH) + 0.5).clamp(0, 1), inside.abs() < REACH


# --------------------------------------------------------------------------------------- alpha


def solve_guided(image, known, band, depth, border):
    """Alpha, float32 (H, W) from the colours on both sides.

    Examples of pet and background are first what lies far from the edge; then, nearer, what the first alpha is sure of.
    """
    inside = depth / border - EDGE
    prior = (2 * inside + 0.5).clamp(0, 1)
    # a pale ear before a pale wall, a grey blade of grass beside a grey coat: far from the edge colours mislead
    doubt = 2 * (1 + (inside / 0.45).square().square())
    pet, background = (2 * inside - 0.5).clamp(0, 1), (-2 * inside - 0.5).clamp(0, 1)
    alpha = separate_colors(image, prior, doubt, pet, background, radius=1.3 * border)
    alpha = torch.where(band, alpha, known)
    pet, background = (2 * alpha - 1).clamp(min=0).square(), (1 - 2 * alpha).clamp(min=0).square()
    alpha = separate_colors(image, (alpha + prior) / 2, doubt, pet, background, radius=0.6 * border)
    alpha = (1.25 * alpha - 0.125).clamp(0, 1)  # colours vary within a cloud; a tenth of alpha tells nothing
    alpha = torch.where(band, alpha, known)
    return alpha * attached(alpha > 0.1, inside > 0)  # fur hangs on the pet; what does not is background


def separate_colors(image, prior, doubt, pet, background, radius):
    """Fisher's linear discriminant of the colours within about 2 `radius` pixels of each pixel.

    image (3, H, W); prior (H, W), alpha where the colours do not tell; doubt (H, W), in squared standard deviations
    how far apart the clouds must be to count as much as the prior; pet, background (H, W), the weight of each pixel
    as an example. Returns alpha, float32 (H, W).
    """
    noise = 4e-4  # the least variance of a cloud: that of 5 levels of 255
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
    apart = (slope * gap).sum(0)  # Mahalanobis distance of the means, squared
    slope = slope / apart.clamp(min=1e-6)
    offset = -(slope * means[1]).sum(0)
    trust = apart * (50 * total.amin(0)).clamp(max=1)  # less where one side has few examples
    slope, offset, trust = grow(torch.cat([slope, offset[None], trust[None]]), step, prior.shape).split((3, 1, 1))
    color = ((slope * image).sum(0) + offset[0]).clamp(0, 1)
    return (trust[0] * color + doubt * prior) / (trust[0] + doubt)


def solve_closed_form(image, known, band):
    """Alpha, float32 (H, W) by PyMatting."""
    threads = torch.get_num_threads()
    from pymatting import estimate_alpha_cf

    trimap = torch.where(band, 0.5, known).double()
    if not ((trimap == 0).any() and (trimap == 1).any()):  # nothing to tell one from the other
        return known
    alpha = estimate_alpha_cf(image.permute(1, 2, 0).double().numpy(), trimap.numpy())
    torch.set_num_threads(threads)  # which numba raises; more threads than cores take ten times as long
    return torch.from_numpy(alpha).float()


def bounds(mask, margin=0):
    """Of a mask, bool (H, W) with some True, the slices that hold all True, and `margin` pixels more on each side."""
    slices = []
    for dim in (0, 1):
        where = mask.any(1 - dim).nonzero()
        slices.append(slice(max(0, where[0].item() - margin), min(where[-1].item() + 1 + margin, mask.shape[dim])))
    return tuple(slices)


# -------------------------------------------------------------------------------------- colours


def blur_fusion(image, alpha, border):
    """Smooth estimates of foreground and background, (3, H, W) each: Forte 2021, section 3, twice, wide then narrow.

    `true_colors` adds what the photo itself says.
    """
    near = far = image
    for radius in (border, border / 4):
        foreground = true_colors(image, alpha, near, far)
        step = max(1, int(radius / 4))
        sums = torch.cat([torch.stack([alpha, 1 - alpha]), foreground * alpha, far * (1 - alpha)])
        sums = grow(smooth(reduce(sums, step), radius / step), step, alpha.shape)
        little = 1e-4  # where there is none of one side nearby, it has the photo's colours
        near, far = (
            (sums[i : i + 3] + little * image) / (weight + little) for i, weight in ((2, sums[0]), (5, sums[1]))
        )
    return near, far


def true_colors(image, alpha, near, far):
    """The foreground closest to an estimate that can explain the photo: all (3, H, W), alpha (H, W).

    Of all changes of both estimates that make them mix to the photo's colour, the least. (Forte adds alpha times the
    residual, which leaves part of it; this is 7 % nearer to the colours of benchmarks/matting.py.)
    """
    residual = image - alpha * near - (1 - alpha) * far
    return (near + alpha / (alpha.square() + (1 - alpha).square()) * residual).clamp(0, 1)


def fill_band(alpha, pixels, fields, band, factor, tile):
    """Write alpha (H, W) and colours, uint8 (H, W, 3), into the band, tile by tile, at the photo's own size.

    fields (11, h, w): four of alpha's linear function, foreground, background, and the band; band (h, w).
    """
    height, width = band.shape
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            here = (slice(top, min(top + tile, height)), slice(left, min(left + tile, width)))
            if not band[max(0, top - 1) : top + tile + 1, max(0, left - 1) : left + tile + 1].any():  # reaches in
                continue
            there = tuple(slice(part.start * factor, part.stop * factor) for part in here)
            image = pixels[there].permute(2, 0, 1).float().div_(255)
            values = enlarge_part(fields, here, factor)[:, : image.shape[1], : image.shape[2]]
            linear, near, far, inside = values[:4], values[4:7], values[7:10], values[10] > 0.5
            solved = ((linear[:3] * image).sum(0) + linear[3]).clamp_(0, 1)
            part = torch.where(inside, solved, alpha[there])
            own = torch.where(inside, true_colors(image, part, near, far), image)
            alpha[there] = part
            pixels[there] = own.permute(1, 2, 0).mul_(255).round_().to(torch.uint8)
