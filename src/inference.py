"""Predict masks: of a split of the dataset, or of any pictures.

    python src/inference.py --model saved_models/unet.pth                           # the test split
    python src/inference.py --model saved_models/unet.pth --input photos cat.jpg    # folders and files
    python src/inference.py --model saved_models/unet.pth --input photos --output masks

Each mask is a PNG of its picture's own size, 255 where the probability of foreground is at least .5, else 0.
With a split come its scores, and panels.png: the best, the median and the worst pictures.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from augment import to_float
from checkpoint import load, restore_model, write_whole
from data import eval_loader
from evaluate import add_data_flags, data_of, describe, evaluate, panel_rows, predict, print_table
from oxford_pet import SPLITS
from pictures import PictureError, read_picture, resize
from plots import plot_panels
from utils import Parser, UserError, autocast, dice, foreground, pick_device, pick_precision, run


@torch.inference_mode()
def probabilities(model, image, checkpoint, device, precision, tta=False):
    """uint8 pictures (N, C, S, S) -> probability of foreground, float32 (N, S, S), on the device."""
    image = to_float(image.to(device, non_blocking=True), checkpoint["mean"], checkpoint["std"])
    with autocast(device, precision):
        return foreground(predict(model, image, tta)).sigmoid()[:, 0]


def save_mask(probability, size, path):
    """Write probability (H, W) as a mask of that size (width, height), resized bilinearly before the threshold."""
    resized = F.interpolate(probability[None, None], size=size[::-1], mode="bilinear", align_corners=False)[0, 0]
    mask = Image.fromarray((resized >= 0.5).to(torch.uint8).mul(255).cpu().numpy())
    write_whole(path, lambda file: mask.save(file, format="png"))


# ------------------------------------------------------------------------------------ a split


def predict_split(model, checkpoint, args, device, precision, output):
    """Masks, scores and panels of a split of the dataset."""
    dataset = data_of(checkpoint, args, args.split)
    loader = eval_loader(dataset, args.batch_size, args.workers, device)
    done = 0

    def write(probability):
        nonlocal done
        for one in probability[:, 0]:
            save_mask(one, dataset.original_size(done), output / f"{dataset.names[done]}.png")
            done += 1

    mean, std = checkpoint["mean"], checkpoint["std"]
    counts, _ = evaluate(model, loader, device, precision, mean, std, tta=args.tta, title=args.split, each=write)
    print_table([describe(args.model, checkpoint, args, counts)])
    worst_first = dice(counts).argsort().tolist()
    n = min(3, len(worst_first))
    middle = (len(worst_first) - n) // 2
    groups = {"best": worst_first[::-1][:n], "median": worst_first[middle : middle + n], "worst": worst_first[:n]}
    rows = []
    for group, indices in groups.items():
        for row in panel_rows(model, dataset, device, precision, mean, std, indices, args.tta):
            rows.append({**row, "note": f"{group}: "})
    plot_panels(rows, f"{args.model.name} on the {args.split} split", output / "panels.png")
    print(f"wrote {done:,} masks and panels.png into {output}")
    return 0


# --------------------------------------------------------------------------------- any pictures


def find_pictures(inputs):
    """Files and folders -> picture files; of a folder, the files with a picture's suffix. Raises UserError."""
    suffixes = Image.registered_extensions()
    found = []
    for path in inputs:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes and p.is_file())
            if not inside:
                raise UserError(f"--input {path} has no picture in it; name a folder of pictures, or files")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"--input {path} is not there; name files or folders of pictures")
    return list(dict.fromkeys(found))


def name_outputs(pictures, folder):
    """A PNG path for each picture, no two alike and none a picture's own. Raises UserError."""
    taken = {path.resolve() for path in pictures}
    outputs = []
    for path in pictures:
        names = [f"{path.stem}.png", f"{path.name}.png", *(f"{path.name}-{i}.png" for i in range(2, len(pictures) + 2))]
        free = (folder / name for name in names if (folder / name).resolve() not in taken)
        outputs.append(next(free))
        taken.add(outputs[-1].resolve())
    return outputs


def predict_files(model, checkpoint, args, device, precision, output):
    """A mask for every picture that can be read; what cannot is named at the end. -> exit status."""
    pictures = find_pictures(args.input)
    outputs = name_outputs(pictures, output)
    size = args.image_size or checkpoint["image_size"]
    grey = checkpoint["options"]["in_channels"] == 1

    def read(path):
        try:
            picture = read_picture(path)
        except PictureError as error:
            return error
        pixels = np.array(resize(picture.convert("L") if grey else picture, size))
        return torch.from_numpy(pixels.reshape(size, size, -1)).permute(2, 0, 1), picture.size

    broken, jobs = [], zip(pictures, outputs, strict=True)
    bar = tqdm(total=len(pictures), unit="picture", disable=not sys.stderr.isatty())
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(jobs, args.batch_size)):
            good = []
            for (path, target), result in zip(chunk, pool.map(read, [path for path, _ in chunk]), strict=True):
                if isinstance(result, PictureError):
                    broken.append(f"{path} {result}")
                else:
                    good.append((target, *result))
            if good:
                targets, images, sizes = zip(*good, strict=True)
                probability = probabilities(model, torch.stack(images), checkpoint, device, precision, args.tta)
                list(pool.map(save_mask, probability, sizes, targets))
            bar.update(len(chunk))
    bar.close()
    print(f"wrote {len(pictures) - len(broken):,} masks into {output}")
    if broken:
        raise UserError(f"{len(broken)} of {len(pictures)} files were left out: {'; '.join(broken)}")
    return 0


def get_args_parser():
    parser = Parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint")
    parser.add_argument("--input", type=Path, nargs="+", help="pictures and folders of pictures; default: a split")
    parser.add_argument(
        "--split", choices=SPLITS, default="test", help="where no --input is given; default %(default)s"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("predictions"), help="folder to write into; default %(default)s"
    )
    add_data_flags(parser)
    return parser


def main():
    args = get_args_parser().parse_args()
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    checkpoint = load(args.model)
    model = restore_model(checkpoint, args.model).to(device, memory_format=torch.channels_last)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {args.output} cannot be made ({error.strerror}); choose another folder") from None
    work = predict_files if args.input else predict_split
    return work(model, checkpoint, args, device, precision, args.output)


if __name__ == "__main__":
    run(main)
