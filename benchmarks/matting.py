"""Measure the errors of cutouts against a known alpha, by method.

    python benchmarks/matting.py                                     # synthetic fur and backgrounds
    pip install -r requirements-matting.txt                          # for three more rows, with PyMatting
    python benchmarks/matting.py --photos photos --model saved_models/resnet34_unet_pets.pth

Foregrounds are synthetic: a body with thousands of fine hairs across its edge, drawn at three times the size, so that
alpha and the foreground's colors are known exactly after reduction. Each is put on a synthetic background. The
probability imitates a 256x256 prediction of a network trained on the pets: a smooth outline half a border's width
outside the edge, perturbed, blurred and enlarged bilinearly. Methods:

before:      alpha = clip((p - 0.5) * 2 + 0.5) and the photo's colors, as in cutouts before matting was added.
guided:      src/photos/matting.py.
closed_form: src/photos/matting.py with PyMatting's closed form in the band around the edge.
knn:         PyMatting's KNN matting in the same band, multi-level foreground colors (Germer et al. 2020).
rembg:       as in rembg: masks above 240 and below 10 eroded by 10 pixels, closed form in between, colors as for knn.

Alpha: sum of absolute differences, mean squared error and gradient error (Rhemann et al. 2009, "A Perceptually
Motivated Online Benchmark for Image Matting") over the whole photo, scaled as in `errors`. Color: mean absolute
difference of the foreground's colors, 0 to 255, weighted by the true alpha, over pixels whose alpha is between 0.02
and 0.98. Cutout: mean absolute difference of the cutout on green, 0 to 255, within 7 pixels of these.

With --photos, a folder with images/ and trimaps/, it also prints the mean alpha over the trimaps' classes.
"""

import math
import sys
import time
from pathlib import Path

import numpy as np
import scipy  # loads scipy.ndimage lazily
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
from photos.decode import read_image
from photos.matting import BORDER, EDGE, border_width, depth_in_mask, find_band, matte
from predictor import to_size
from utils import Parser, positive_int, run

SCALE = 3  # foregrounds are drawn at this many times their size
GREEN = (0, 255, 0)

# --------------------------------------------------------------------------------------- drawing


def draw_foreground(rng, width, height):
    """Draw a furry animal made of ellipses. Returns colors float32 (H, W, 3) in [0, 1], and alpha float32 (H, W)."""
    large = np.array([width, height]) * SCALE
    size = large.min()
    canvas = Image.new("RGBA", tuple(large.tolist()), (0, 0, 0, 0))
    draw = ImageDraw.Draw(canvas)
    coats = [natural_color(rng) for _ in range(2)]
    middle = large * rng.uniform(0.42, 0.58, 2)
    parts = [(middle, size * rng.uniform(0.2, 0.3), size * rng.uniform(0.17, 0.26))]  # center and half axes
    head = middle + size * np.array([rng.uniform(-0.22, 0.22), rng.uniform(-0.26, -0.2)])
    parts.append((head, size * rng.uniform(0.12, 0.17), size * rng.uniform(0.11, 0.15)))
    for side in (-1, 1):
        parts.append((head + size * np.array([side * 0.09, -0.1]), size * 0.04, size * 0.07))
        parts.append((middle + size * np.array([side * rng.uniform(0.08, 0.16), 0.22]), size * 0.045, size * 0.13))
    tail = middle + size * np.array([rng.choice([-1, 1]) * 0.33, rng.uniform(-0.1, 0.1)])
    parts.append((tail, size * 0.13, size * 0.03))
    long_hair = size * rng.uniform(0.02, 0.06)
    for (x, y), a, b in parts:
        draw.ellipse((x - a, y - b, x + a, y + b), fill=(*coat(rng, coats, x, y, large), 255))
    for (x, y), a, b in parts:
        for radius, angle in rng.uniform((0, 0), (1, 2 * math.pi), (int(a * b / 18 / SCALE), 2)):
            radius = math.sqrt(radius) * 0.99  # evenly over the ellipse, so that some hairs cross its edge
            root = x + a * radius * math.cos(angle), y + b * radius * math.sin(angle)
            draw_hair(draw, rng, *root, angle + rng.normal(0, 0.5), long_hair, coat(rng, coats, *root, large))
    pixels = torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255
    pixels[:3] *= pixels[3:]
    pixels = F.avg_pool2d(pixels, SCALE)
    alpha = pixels[3]
    colors = pixels[:3] / alpha.clamp(min=1e-6)
    return colors.permute(1, 2, 0), alpha


def natural_color(rng):
    """Return a coat color, float64 (3,) in 0 to 255: black to white, gray to ginger."""
    light, warm = rng.uniform(25, 230), rng.uniform(0, 0.5)
    return light * np.array([1, 1 - 0.5 * warm, 1 - warm])


def coat(rng, coats, x, y, large):
    """Return the color of a hair that starts at x, y: two coats in patches, with a random lightness for each hair."""
    patches = math.sin(9 * x / large[0] + 5 * y / large[1]) + math.sin(7 * x / large[0] - 11 * y / large[1])
    fraction = 1 / (1 + math.exp(-4 * patches))
    color = (coats[0] * (1 - fraction) + coats[1] * fraction) * rng.normal(1, 0.12)
    return tuple(int(value) for value in color.clip(0, 255))


def draw_hair(draw, rng, x, y, angle, length, color):
    """Draw a curved hair that gets thinner toward its end."""
    length *= rng.uniform(0.3, 1.2)
    bend = rng.normal(0, 0.25)
    thick = rng.uniform(0.7, 2) * SCALE
    for part in range(5):
        ahead = x + math.cos(angle) * length / 5, y + math.sin(angle) * length / 5
        draw.line((x, y, *ahead), fill=(*color, 255), width=max(1, round(thick * (1 - part / 5))))
        x, y = ahead
        angle += bend


def draw_background(rng, width, height):
    """Draw a blurred room, a lawn, or a patterned rug, float32 (H, W, 3) in [0, 1]."""
    kind = rng.integers(3)
    cells = (8, 160, 24)[kind]
    light = rng.uniform(0.15, 0.85)
    tint = rng.normal(0, 0.08, 3)
    base = torch.from_numpy(light + tint).float()[:, None, None]
    shade = noise(rng, 1, 3, width, height) * 0.1 + noise(rng, 3, 4, width, height) * 0.06
    pattern = noise(rng, 1, cells, width, height) * (0.04, 0.1, 0.1)[kind]
    grain = noise(rng, 3, width // 2, width, height) * 0.012
    return (base + shade + pattern + grain).clamp(0, 1).permute(1, 2, 0)


def noise(rng, channels, cells, width, height):
    """Return smooth noise of standard deviation near 1, (channels, H, W), with `cells` cells across."""
    values = rng.standard_normal((1, channels, max(2, round(cells * height / width)), max(2, cells)))
    return F.interpolate(torch.from_numpy(values).float(), size=(height, width), mode="bicubic")[0]


def network_probability(rng, alpha, side=256):
    """Imitate a network's prediction at side x side pixels: alpha (H, W) to probability (H, W).

    The border's width varies from the 5% to the 95% quantile of the training trimaps; the method assumes the median.
    """
    height, width = alpha.shape
    small = F.interpolate(alpha[None, None], size=(side, side), mode="area")
    inside = small > 0.5
    area = inside.sum().item() ** 0.25 * side**0.5
    half = area * rng.uniform(0.028, 0.060) / 2
    depth = depth_in_mask(inside[0, 0], 20) + half
    depth += noise(rng, 1, 24, side, side)[0] * 1.5 + noise(rng, 1, 6, side, side)[0] * 1
    softness = rng.uniform(1.0, 3.0)  # p goes from 0.1 to 0.9 within 4 to 13 of the network's pixels, as on photos
    return to_size((depth / softness).sigmoid(), (width, height))


# --------------------------------------------------------------------------------------- methods


def before(photo, probability):
    """Return alpha and colors without matting."""
    return ((probability - 0.5) * 2 + 0.5).clamp(0, 1), torch.from_numpy(np.array(photo))


def with_trimap(solve):
    """Turn solve(image, probability), which returns alpha, into a method with multi-level foreground colors."""

    def method(photo, probability):
        from pymatting import estimate_foreground_ml

        image = np.asarray(photo) / 255
        alpha = solve(image, probability)
        colors = estimate_foreground_ml(image, alpha)
        return torch.from_numpy(alpha).float(), torch.from_numpy((colors * 255).round().clip(0, 255).astype(np.uint8))

    return method


def knn(image, probability):
    from pymatting import estimate_alpha_knn

    mask = probability >= 0.5
    border = border_width(mask)
    ramp, band = find_band(depth_in_mask(mask, border) / border - EDGE["foreground"])
    return estimate_alpha_knn(image, torch.where(band, 0.5, ramp.round()).double().numpy())


def rembg(image, probability):
    """Run rembg's alpha_matting_cutout with its defaults."""
    from pymatting import estimate_alpha_cf
    from scipy.ndimage import binary_erosion

    mask = (probability.numpy() * 255).astype(np.uint8)
    square = np.ones((10, 10), dtype=bool)
    trimap = np.full(mask.shape, 0.5)
    trimap[binary_erosion(mask > 240, square)] = 1
    trimap[binary_erosion(mask < 10, square, border_value=1)] = 0
    return estimate_alpha_cf(image, trimap)


def methods():
    """Return the available methods by name."""
    found = {"before": before, "guided": lambda photo, probability: matte(photo, probability)}
    threads = torch.get_num_threads()
    try:
        import pymatting  # noqa: F401
    except ImportError:
        return found
    torch.set_num_threads(threads)  # importing numba makes OpenMP use all cores
    found["closed_form"] = lambda photo, probability: matte(photo, probability, closed_form=True)
    return {**found, "knn": with_trimap(knn), "rembg": with_trimap(rembg)}


# ---------------------------------------------------------------------------------------- errors


def errors(alpha, foreground, true_alpha, true_colors):
    """Return SAD / 1000, MSE / 0.001, gradient error / 1000, color error and cutout error."""
    difference = alpha - true_alpha
    gradient = (gradient_size(alpha) - gradient_size(true_alpha)).square().sum() / 1000
    mixed = true_alpha * ((true_alpha > 0.02) & (true_alpha < 0.98))
    colors = foreground.float()
    color = ((colors - true_colors * 255).abs().mean(2) * mixed).sum() / mixed.sum()
    green = torch.tensor(GREEN).float()
    ours = alpha[..., None] * colors + (1 - alpha[..., None]) * green
    expected = true_alpha[..., None] * true_colors * 255 + (1 - true_alpha[..., None]) * green
    edge = F.max_pool2d((mixed > 0).float()[None], 15, 1, 7)[0]
    cut = ((ours - expected).abs().mean(2) * edge).sum() / edge.sum()
    values = difference.abs().sum() / 1000, difference.square().mean() * 1000, gradient, color, cut
    return [value.item() for value in values]


def gradient_size(alpha, sigma=1.4):
    """Return the length of the gradient of alpha by Gaussian derivatives of norm 1 (Rhemann et al. 2009)."""
    lengths = scipy.ndimage.gaussian_gradient_magnitude(alpha.numpy(), sigma, mode="nearest", radius=5)
    return torch.from_numpy(lengths) * sigma**2 * (8 * math.pi) ** 0.5


def drawn(seed, width, height):
    """Return photo, probability, true alpha and true colors of a drawing."""
    rng = np.random.default_rng(seed)
    colors, alpha = draw_foreground(rng, width, height)
    background = draw_background(rng, width, height)
    mixed = alpha[..., None] * colors + (1 - alpha[..., None]) * background
    photo = Image.fromarray(mixed.mul(255).round().to(torch.uint8).numpy())
    return photo, network_probability(rng, alpha), alpha, colors


def score_drawings(args):
    found = methods()
    total = {name: np.zeros(6) for name in found}
    for seed in range(args.drawings):
        photo, probability, alpha, colors = drawn(seed, args.width, args.height)
        for name, method in found.items():
            start = time.process_time()
            result = method(photo, probability)
            seconds = time.process_time() - start
            total[name] += [*errors(*result, alpha, colors), seconds]
    print(f"{args.drawings} drawings of {args.width}x{args.height}, border of {BORDER} assumed, means:")
    print(f"{'':14}{'SAD':>8}{'MSE':>8}{'gradient':>10}{'color':>8}{'cutout':>9}{'CPU s':>9}{'/ before':>30}")
    for name, values in total.items():
        values /= args.drawings
        ratios = "  ".join(f"{value:.2f}" for value in (values / total["before"])[:5])
        sad, mse, gradient, color, cut, seconds = values
        print(f"{name:14}{sad:8.2f}{mse:8.2f}{gradient:10.2f}{color:8.2f}{cut:9.2f}{seconds:9.2f}{ratios:>30}")


def score_photos(args):
    """Print the mean alpha over the background, the pet and the border of the trimaps."""
    from photos.prediction import load_model, predict

    model = load_model(args.model, precision="float32")
    found = methods()
    total = {name: np.zeros(3) for name in found}
    files = sorted((args.photos / "images").iterdir())
    for file in files:
        photo = read_image(file)
        trimap = torch.from_numpy(np.array(Image.open(args.photos / "trimaps" / f"{file.stem}.png")))
        probability = torch.from_numpy(predict(model, photo))
        for name, method in found.items():
            alpha = method(photo, probability)[0]
            total[name] += [alpha[trimap == label].mean().item() for label in (2, 1, 3)]
    print(f"mean alpha over {len(files)} photos with trimaps:")
    print(f"{'':14}{'background':>12}{'pet':>8}{'border':>8}")
    for name, values in total.items():
        print(f"{name:14}" + "{:12.4f}{:8.4f}{:8.4f}".format(*values / len(files)))


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--drawings", type=positive_int, default=12, help="number of drawings; default %(default)s")
    add("--width", type=positive_int, default=640, help="width of a drawing in pixels; default %(default)s")
    add("--height", type=positive_int, default=480, help="height of a drawing in pixels; default %(default)s")
    add("--photos", type=Path, help="folder with images/ and trimaps/ to measure too")
    add("--model", type=Path, default=Path("saved_models/resnet34_unet_pets.pth"), help="checkpoint for --photos")
    args = parser.parse_args()
    score_drawings(args)
    if args.photos:
        score_photos(args)
    return 0


if __name__ == "__main__":
    run(main)
