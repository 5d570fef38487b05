"""Real users' datasets: split folders, empty masks, many mask values, lossy and deep files, stacks, names and lists."""

import re
import shutil
import zlib
from dataclasses import replace

import numpy as np
import pytest
from conftest import draw_folder, encoded, labeled, load_folder, make_folder, read_scores, script, with_orientation
from PIL import Image, ImageFilter

import folder
from checkpoint import load
from data import TrainingData
from pairs import find_pairs, read_pair
from photos.colors import to_rgb
from photos.prediction import load_model, predict
from splits import SPLITS, DataOptions
from utils import UserError


def lines(data, **options):
    """Return what train.py prints about a folder."""
    return "\n".join(folder.describe(DataOptions("folder", data, **options)))


def masks(data, **options):
    """Return the original masks of all images, by name."""
    found = {}
    for split in SPLITS:
        dataset = load_folder(data, split, **options)
        found |= {name: dataset.original_mask(name)[0].numpy() for name in dataset.names}
    return found


def replace_masks(data, encode, suffix="png", **save):
    for path in sorted((data / "masks").iterdir()):
        mask = np.asarray(Image.open(path)) > 0
        path.unlink()
        encode(mask).save(path.with_suffix(f".{suffix}"), **save)
    return data


# ------------------------------------------------------------------------------- split folders

INSIDE, OUTSIDE = "{part}/{split}", "{split}/{part}"  # where a split's folders are
TO_STORED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def make_splits(data, order, names, numbers):
    for index, split in enumerate(np.repeat(names, numbers)):
        images, labels = (order.format(part=part, split=split) for part in ("images", "masks"))
        draw_folder(index, folder=data, name=index, images=images, masks=labels)
    return data


@pytest.mark.parametrize(
    "order, valid",
    [(INSIDE, "val"), (OUTSIDE, "valid"), (INSIDE, "Validation"), (INSIDE, "val2017"), (OUTSIDE, "val2017")],
)
def test_split_folders_are_the_splits(order, valid, tmp_path):
    data = make_splits(tmp_path / "data", order, ("train", valid, "test"), (7, 3, 5))
    assert folder.has_layout(data)
    found = {split: load_folder(data, split).names for split in SPLITS}
    assert found == {
        "train": [f"train/{index}" for index in range(7)],
        "valid": [f"{valid}/{index}" for index in range(7, 10)],
        "test": [f"test/{index}" for index in range(10, 15)],
    }
    assert "15 pairs" in lines(data) and "7 train, 3 valid, 5 test" in lines(data)
    mask = load_folder(data, "valid").original_mask(f"{valid}/7")[0].numpy()
    assert np.array_equal(mask, draw_folder(7)[1])


def test_without_a_validation_folder_a_part_of_train_is_used(tmp_path):
    data = make_splits(tmp_path / "data", INSIDE, ("train", "test"), (20, 5))
    found = {split: load_folder(data, split).names for split in SPLITS}
    assert sorted(found["train"] + found["valid"]) == sorted(f"train/{index}" for index in range(20))
    assert 1 <= len(found["valid"]) < 8 and found["test"] == [f"test/{index}" for index in range(20, 25)]


def test_a_split_folder_without_masks_is_ignored_and_noted(tmp_path):
    data = make_splits(tmp_path / "data", OUTSIDE, ("train", "valid", "test"), (6, 3, 3))
    shutil.rmtree(data / "test/masks")
    pairs, [note] = find_pairs(data)
    assert len(pairs) == 9 and "test" in note


def test_a_folder_of_bounding_boxes_next_to_the_masks_is_ignored(tmp_path):
    data = make_folder(tmp_path / "data", 4)
    (data / "labels").mkdir()
    (data / "labels/0.txt").write_text("0 .5 .5 .1 .1")
    found = [pair.label for pair in find_pairs(data)[0].values()]
    assert found == [data / "masks" / f"{name}.png" for name in range(4)]


def test_lists_and_folds_work_on_split_folders(tmp_path):
    data = make_splits(tmp_path / "data", OUTSIDE, ("train", "valid", "test"), (6, 3, 3))
    (tmp_path / "list").write_text("train/images/0.png\ntrain/1.png\n")
    found = {split: load_folder(data, split, valid_list=tmp_path / "list").names for split in SPLITS}
    assert found["valid"] == ["train/0", "train/1"] and found["test"] == ["test/10", "test/11", "test/9"]
    assert len(found["train"]) == 7 and not set(found["train"]) & set(found["valid"])
    (data / "train.txt").write_text("train/0\ntrain/1\n")  # the other training images are in no split
    assert [len(load_folder(data, split)) for split in SPLITS] == [2, 3, 3] and "ignored 4 pairs" in lines(data)
    shutil.rmtree(data / "test")
    with pytest.raises(UserError, match="test split"):  # not the unlisted training images
        load_folder(data, "test")
    (data / "train.txt").unlink()
    parts = [load_folder(data, "valid", fold=f"{part}/3").names for part in (1, 2, 3)]
    assert sorted(sum(parts, [])) == sorted([f"train/{i}" for i in range(6)] + [f"valid/{i}" for i in range(6, 9)])


# ---------------------------------------------------------------------------------- empty masks


def test_images_with_empty_masks_are_trained_on(tmp_path):
    data = make_folder(tmp_path / "data", 12)
    for index in range(0, 12, 2):
        Image.new("L", (60, 44)).save(data / "masks" / f"{index}.png")
    found = TrainingData(DataOptions("folder", data, 32))
    assert len(found.indices) == len(found.train)
    assert any(not found.train[index]["mask"].any() for index in found.indices)


# ---------------------------------------------------------------------------------- mask values


@pytest.mark.parametrize(
    "values, options, foreground, ignored",
    [
        (range(0, 201, 10), {}, range(10, 201, 10), ()),  # instances numbered from 10 to 200
        ([*range(0, 21, 2), 255], {}, range(2, 21, 2), (255,)),  # VOC
        ([0, 15, 255], {}, (15,), (255,)),
        ([0, 15, 255], {"foreground": ("15", "255")}, (15, 255), ()),
        ([0, 15, 255], {"foreground": ("1-255",)}, (15, 255), ()),
        ([*range(11)], {}, range(1, 11), ()),
        ([*range(11)], {"ignore": ("3", "5-7")}, (1, 2, 4, 8, 9, 10), (3, 5, 6, 7)),
        ([0, 7, 255], {"ignore": ("7",)}, (255,), (7,)),
        ([0, 128, 255], {}, (128, 255), ()),  # gray levels
        ([0, 85, 170, 255], {}, (85, 170, 255), ()),
        ([*range(0, 182, 13), 255], {}, range(13, 182, 13), (255,)),  # COCO-Stuff
        ([0, 1, 3, 7], {"foreground": ("3",)}, (3,), ()),
        ([0, 1, 3, 7], {"foreground": ("1-3", "7")}, (1, 3, 7), ()),
    ],
)
def test_foreground_and_ignored_values_by_default_and_by_flag(values, options, foreground, ignored, tmp_path):
    data = labeled(tmp_path, *values)
    stripes = np.array(values, dtype=np.uint8).repeat(60 // len(values))
    wide = np.tile(stripes, (44, 1))
    for path in (data / "images").iterdir():
        Image.open(path).crop((0, 0, len(stripes), 44)).save(path)
    expected = np.select([np.isin(wide, [*foreground]), np.isin(wide, [*ignored])], [1, 255], 0)
    for mask in masks(data, **options).values():
        assert np.array_equal(mask, expected)
    text = lines(data, **options)
    assert f"({100 * (expected == 1).mean():.3g}% of" in text
    assert ("ignored:" in text) == bool(ignored)


def test_masks_without_0_need_foreground(tmp_path):
    data = labeled(tmp_path, 1, 2)
    with pytest.raises(UserError, match="the values 1 and 2, but no 0 .*--foreground"):
        load_folder(data)
    assert all((mask == (np.arange(60) < 30)).all() for mask in masks(data, foreground=("1",)).values())


# ---------------------------------------------------------------------------------- lossy masks


LOSSY = {
    "JPEG": ("jpg", {"quality": 75}, 255),
    "dark JPEG": ("jpg", {"quality": 75}, 120),
    "WebP": ("webp", {"quality": 60}, 255),
    "AVIF": ("avif", {"quality": 15}, 255),
    "JPEG in TIFF": ("tif", {"compression": "jpeg", "quality": 75}, 255),
}


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_gray_masks_are_split_at_half_their_maximum(kind, tmp_path):
    suffix, save, level = LOSSY[kind]
    data = make_folder(tmp_path / "data", 8)
    replace_masks(data, lambda mask: Image.fromarray((mask * level).astype(np.uint8)), suffix, **save)
    for name, mask in masks(data).items():
        assert (mask != draw_folder(int(name))[1]).mean() < 0.02 and set(np.unique(mask)) <= {0, 1}
    [threshold] = re.findall(r">= (\d+)", lines(data))
    assert int(threshold) == pytest.approx(level / 2, abs=level / 5)  # JPEG may overshoot


def test_masks_with_soft_edges_are_split_at_half_but_numbered_objects_are_not(tmp_path):
    data = make_folder(tmp_path / "data", 8)
    replace_masks(data, lambda mask: Image.fromarray(mask).convert("L").filter(ImageFilter.GaussianBlur(1)))
    for name, mask in masks(data).items():
        assert (mask != draw_folder(int(name))[1]).mean() < 0.02
    assert ">= 128" in lines(data)
    assert ">= 1 " in lines(labeled(tmp_path / "objects", *range(0, 232, 8), 255))


@pytest.mark.parametrize("levels, foreground, ignore, values, quality", [
    ((0, 255, 255), ["255"], [], (0, 1, 1), 50), ((0, 128, 255), ["128"], [], (0, 1, 0), 50),
    ((0, 128, 255), ["0"], [], (1, 0, 0), 50), ((0, 128, 255), ["255"], ["128"], (0, 255, 1), 50),
    ((0, 128, 255), [], ["128"], (0, 255, 1), 50), ((0, 128, 255), ["200-255"], [], (0, 0, 1), 50),
    ((0, 20, 255), ["10-255"], [], (0, 1, 1), 50), ((0, 30, 255), ["30"], [], (0, 1, 0), 95),
    ((0, 100, 130), ["130"], [], (0, 0, 1), 95),
])  # fmt: skip
def test_flags_on_lossy_gray_masks_select_whole_levels(levels, foreground, ignore, values, quality, tmp_path):
    data = labeled(tmp_path, *levels, suffix="jpg", quality=quality)
    expected = np.repeat(values, 20)[None].repeat(44, 0)
    for found in masks(data, foreground=foreground, ignore=ignore).values():
        assert (found == expected).mean() > 0.97


def test_lossy_masks_among_others_do_not_change_which_values_are_foreground(tmp_path):
    data = make_folder(tmp_path / "data", 6)
    for index, scale in enumerate((1, 2, 1, 2, 255)):  # class indices in five files, and one JPEG
        path = data / f"masks/{index}.png"
        Image.fromarray(draw_folder(index)[1] * np.uint8(scale)).save(path)
    path = data / "masks/4.png"
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()
    for name, mask in masks(data).items():
        assert (mask != draw_folder(int(name))[1]).mean() < 0.02
    stripes = np.repeat(np.array([0, 128, 255], np.uint8), 20)[None].repeat(44, 0)
    Image.fromarray(stripes).save(data / "masks/4.jpg", quality=75)
    for ignore in (("128",), ("100-150",)):
        found = masks(data, ignore=ignore)["4"]
        assert [np.bincount(part.ravel(), minlength=256).argmax() for part in np.split(found, 3, 1)] == [0, 255, 1]


@pytest.mark.parametrize("foreground, hint", [((), "1-254 255"), (("13",), "13 255"), (("13", "1-5"), "13 1-5 255")])
def test_the_hint_on_void_pixels_keeps_the_foreground_values(foreground, hint, tmp_path):
    assert f"--foreground {hint}" in lines(labeled(tmp_path, 0, 2, 13, 255), foreground=foreground)


def paint(*colors):
    """Return an encoder of masks: foreground has one color in the left half of the image, another in the right."""

    def encode(mask):
        image = np.zeros((*mask.shape, 3), np.uint8)
        half = mask.shape[1] // 2
        for color, columns in zip(colors, (slice(0, half), slice(half, None)), strict=True):
            image[:, columns][mask[:, columns]] = color
        return Image.fromarray(image)

    return encode


@pytest.mark.parametrize("suffix, given", [("jpg", ()), ("jpg", ("254,0,0",)), ("webp", ("255,0,0",))])
def test_the_original_colors_of_lossy_masks_are_recovered(suffix, given, tmp_path):
    data = make_folder(tmp_path / "data", 8, width=120, height=88)
    replace_masks(data, paint((255, 0, 0), (255, 0, 0)), suffix, quality=75)
    for name, mask in masks(data, foreground=given).items():
        assert (mask != draw_folder(int(name), 120, 88)[1]).mean() < 0.04
    text = lines(data, foreground=given)
    assert "0 and " in text and len(text.splitlines()[1]) < 200


def test_one_of_two_colors_of_lossy_masks_can_be_the_foreground(tmp_path):
    data = make_folder(tmp_path / "data", 8, width=120, height=88)
    replace_masks(data, paint((255, 0, 0), (0, 128, 255)), "jpg", quality=75)
    for name, mask in masks(data, foreground=("0,128,255",)).items():
        expected = draw_folder(int(name), 120, 88)[1]
        expected[:, :60] = 0
        assert (mask != expected).mean() < 0.04
    with pytest.raises(UserError, match="--foreground 0,255,0"):
        load_folder(data, foreground=("0,255,0",))


# ---------------------------------------------------------------------------------- deep images

DEEP = {
    "12 bits in 16": (np.uint16, 4095, "tif"),
    "12 bits in a 16-bit PNG": (np.uint16, 4095, "png"),
    "32-bit integers": (np.int32, 4080, "tif"),
    "floats": (np.float32, 240.0, "tif"),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_images_are_scaled_by_the_range_of_the_training_images(kind, tmp_path):
    dtype, high, suffix = DEEP[kind]
    data = make_folder(tmp_path / "data", 8)
    values = {}
    for path in list((data / "images").iterdir()):
        gray = np.asarray(Image.open(path).convert("L"))
        values[path.stem] = (gray / 255 * high).astype(dtype)
        path.unlink()
        Image.fromarray(values[path.stem]).save(path.with_suffix(f".{suffix}"))
    dataset = load_folder(data, image_size=44)
    low, top = folder.Folder(DataOptions("folder", data)).intensity_range
    ends = np.array([np.percentile(values[name], (0.1, 99.9)) for name in dataset.names])
    assert (low, top) == pytest.approx((ends[:, 0].min(), ends[:, 1].max()))
    name = dataset.names[0]
    expected = ((values[name].astype(float) - low) / (top - low)).clip(0, 1) * 255
    image, _ = read_pair(
        folder.Folder(DataOptions("folder", data)).pairs[name], lambda path, page: Image.open(path), data, (low, top)
    )
    assert np.abs(np.asarray(image)[..., 0] - expected).max() <= 0.51
    assert len(np.unique(dataset.packed[:, 0])) > 200
    assert f"{low:g} " in lines(data) and f"{top:g} " in lines(data)
    given = load_folder(data, image_size=44, intensity_range=(0.0, 2.0 * high))  # from a checkpoint, for other data
    assert given.packed[:, 0].max() <= 128 < dataset.packed[:, 0].max()


def test_8_bit_images_have_no_intensity_range_and_nan_is_black(tmp_path):
    data = make_folder(tmp_path / "data", 6)
    assert folder.Folder(DataOptions("folder", data)).intensity_range is None and "8 bits" not in lines(data)
    values = np.array([[np.nan, -np.inf, 2.0], [5.0, 8.0, np.inf]], np.float32)
    assert np.asarray(to_rgb(Image.fromarray(values), (2.0, 8.0)))[..., 0].tolist() == [[0, 0, 0], [128, 255, 255]]
    assert np.asarray(to_rgb(Image.fromarray(values), (5.0, 5.0))).shape == (2, 3, 3)


def test_16_bit_color_images_get_a_note_that_they_lose_their_lower_bits(tmp_path):
    data = make_folder(tmp_path / "data", 6)
    assert "16-bit" not in lines(data)
    header = bytearray(encoded(Image.new("I;16", (60, 44)), "PNG"))
    header[25] = 2  # color instead of gray
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    for path in (data / "images").iterdir():
        path.write_bytes(header)
    assert "16-bit" in lines(data)


@pytest.mark.integration
def test_the_intensity_range_is_saved_for_scores_and_predictions(tmp_path):
    data = make_folder(tmp_path / "data", 20)
    for path in (data / "images").iterdir():  # 12 bits in 16
        Image.fromarray(np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16).save(path)
    flags = ("--width", 4, "--image_size", 32, "--batch_size", 4, "--epochs", 1, "--name", "a", "--in_channels", 1)
    script("train", "--data_path", "data", *flags, "--precision", "float32", cwd=tmp_path)
    checkpoint = load(tmp_path / "saved_models/a.pth")
    expected = folder.Folder(DataOptions("folder", data)).intensity_range
    assert checkpoint.intensity_range == [*expected] and expected[1] > 3000
    packed = set(data.glob("cache/valid-*.npy"))
    evaluate = ("evaluate", "--model", "saved_models/a.pth", "--split", "valid", "--output", "scores")
    script(*evaluate, "--threshold", 0.5, cwd=tmp_path)
    assert read_scores(tmp_path)["dice"] == pytest.approx(checkpoint.scores["valid"]["dice"], abs=1e-4)
    assert set(data.glob("cache/valid-*.npy")) == packed  # the same pixels as in validation
    path = data / "images" / f"{load_folder(data, 'valid').names[0]}.png"
    model = load_model(tmp_path / "saved_models/a.pth", "cpu", "float32")
    as_trained, by_type = (predict(model, np.asarray(to_rgb(Image.open(path), ends))) for ends in (expected, None))
    assert np.array_equal(predict(model, path), as_trained) and np.abs(as_trained - by_type).max() > 0.05


# --------------------------------------------------------------------------------------- stacks


def make_stack(data, suffix, pages, mask_pages, mask_suffix=None, name="stack"):
    (data / "images").mkdir(parents=True, exist_ok=True)
    (data / "masks").mkdir(exist_ok=True)
    drawn = [draw_folder(index) for index in range(max(pages, mask_pages))]
    frames = [Image.fromarray(image[..., 0]) for image, _ in drawn][:pages]
    labels = [Image.fromarray(mask * 255) for _, mask in drawn][:mask_pages]
    for path, stack in ((f"images/{name}.{suffix}", frames), (f"masks/{name}.{mask_suffix or suffix}", labels)):
        stack[0].save(data / path, save_all=True, append_images=stack[1:])
    return data


def test_a_single_image_and_a_single_mask_need_no_common_name(tmp_path):
    data = make_stack(tmp_path / "data", "tif", 5, 5)
    (data / "images/stack.tif").rename(data / "images/train-volume.tif")
    (data / "masks/stack.tif").rename(data / "masks/train-labels.tif")
    assert list(find_pairs(data)[0]) == [f"train-volume#{page}" for page in range(5)]


@pytest.mark.parametrize("suffix, mask_suffix", [("tif", "tif"), ("gif", "gif"), ("png", "tif")])
def test_the_pages_of_two_stacks_of_equal_length_are_pairs(suffix, mask_suffix, tmp_path):
    data = make_stack(tmp_path / "data", suffix, 12, 12, mask_suffix)
    found = masks(data)
    assert sorted(found) == sorted(f"stack#{page}" for page in range(12))
    for name, mask in found.items():
        assert np.array_equal(mask, draw_folder(int(name.partition("#")[2]))[1])
    pair = folder.Folder(DataOptions("folder", data)).pairs["stack#7"]
    image, _ = read_pair(pair, lambda path, page: Image.new("L", (60, 44)), data)
    if suffix == "tif":
        assert np.array_equal(np.asarray(image)[..., 0], draw_folder(7)[0][..., 0])
    (tmp_path / "list").write_text("stack#7\nstack#3\n")
    assert load_folder(data, "test", test_list=tmp_path / "list").names == ["stack#7", "stack#3"]


@pytest.mark.parametrize("stacks, together", [(2, False), (12, True)])
def test_pages_of_a_stack_are_in_one_split_if_there_are_enough_stacks(stacks, together, tmp_path):
    for number in range(stacks):
        make_stack(tmp_path / "data", "tif", 6, 6, name=number)
    options = DataOptions("folder", tmp_path / "data")
    splits = [folder.Folder(options).names(split) for split in SPLITS]
    assert sorted(sum(splits, [])) == sorted(f"{number}#{page}" for number in range(stacks) for page in range(6))
    stems = [{name.partition("#")[0] for name in names} for names in splits]
    assert (sum(map(len, stems)) == stacks) == together
    assert ("in several splits" in lines(tmp_path / "data")) != together
    assert ("in several splits" in lines(tmp_path / "data", fold="1/5")) != together
    folds = [folder.Folder(replace(options, fold=f"{part}/3")).names("valid") for part in (1, 2, 3)]
    assert sorted(sum(folds, [])) == sorted(splits[0] + splits[1])


@pytest.mark.parametrize("orientations, upright", [((1, 3, 6, 8), True), ((1, 3), False)])
def test_masks_that_fit_only_upright_images_decide_for_all(orientations, upright, tmp_path):
    data = make_folder(tmp_path / "data", 8)
    expected = {}
    for index, orientation in enumerate(orientations * (8 // len(orientations))):
        path = data / f"images/{index}.png"
        image = Image.open(path)
        expected[str(index)] = image.resize((32, 32), Image.Resampling.BILINEAR)
        stored = image.transpose(TO_STORED[orientation]) if upright and orientation > 1 else image
        stored.save(path, exif=with_orientation(orientation))
    for split in SPLITS:
        dataset = load_folder(data, split)
        for index, name in enumerate(dataset.names):
            assert np.array_equal(dataset[index]["image"].permute(1, 2, 0).numpy(), np.asarray(expected[name]))
    assert ("EXIF orientation of 4 images" in lines(data)) != upright


@pytest.mark.parametrize("suffix, pages, mask_pages", [("tif", 12, 11), ("tif", 1, 3), ("gif", 5, 1)])
def test_stacks_of_different_lengths_are_paired_by_their_first_page_with_a_note(suffix, pages, mask_pages, tmp_path):
    data = make_stack(tmp_path / "data", suffix, pages, mask_pages)
    pairs, [note] = find_pairs(data)
    assert list(pairs) == ["stack"] and "pages" in note and f"images/stack.{suffix}" in note


# ---------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("mask", ["a_segmentation", "a_L", "a.jpg", "a_gt", "a_Mask", "mask_a", "Seg-a"])
def test_masks_are_found_by_common_affixes(mask, tmp_path):
    data = touch(tmp_path / "data", ["a.jpg", "a_mask.jpg"], [f"{mask}.png", "a_mask_mask.png"])
    pairs, _ = find_pairs(data)
    assert [pairs[name].label.name for name in ("a", "a_mask")] == [f"{mask}.png", "a_mask_mask.png"]


def touch(data, images, labels):
    """Write blank images and masks with these file names."""
    for part, names in (("images", images), ("masks", labels)):
        (data / part).mkdir(parents=True)
        for name in names:
            Image.new("L", (9, 9)).save(data / part / name)
    return data


@pytest.mark.parametrize(
    "images, labels, pattern",
    [
        (["21_training.tif", "22_training.tif"], ["21_manual1.gif", "22_manual1.gif"], "{id}_manual1.gif"),  # DRIVE
        (["a.png", "b.png"], ["a-truth.png", "b-truth.png"], "{name}-truth.png"),
        (["x1.png", "x2.png"], ["ref.x1.tif", "ref.x2.tif"], "ref.{name}.tif"),
        (["image_1.png", "image_2.png"], ["mask_1.png", "mask_2.png"], "mask_{number}.png"),
        (["in1.png", "in12.png"], ["out1.png", "out12.png"], "out{number}.png"),
    ],
)
def test_the_hint_on_file_names_works_as_a_mask_pattern(images, labels, pattern, tmp_path):
    data = touch(tmp_path / "data", images, labels)
    with pytest.raises(UserError) as caught:
        find_pairs(data)
    for name in (*images, *labels, f"--mask_pattern '{pattern}'"):
        assert name in str(caught.value)
    pairs, notes = find_pairs(data, pattern)
    assert [pair.label.name for pair in pairs.values()] == labels and not notes
    assert len(find_pairs(data, pattern.rpartition(".")[0])[0]) == len(images)


def test_patterns_that_cannot_work_are_neither_suggested_nor_accepted(tmp_path):
    for images, labels in (
        (["x_1_rgb8.png", "x_2_rgb8.png"], ["x_1_gt.png", "x_2_gt.png"]),  # {id} would pair one mask with both images
        (["a.png", "b.png"], ["a_0.png", "a_1.png", "b_0.png"]),  # a mask per object: no pattern pairs them all
    ):
        with pytest.raises(UserError, match="no image has a mask") as caught:
            find_pairs(touch(tmp_path / images[0], images, labels))
        assert "--mask_pattern '" not in str(caught.value)
    data = touch(tmp_path / "data", ["21_a.png", "21_b.png"], ["21_manual.png"])
    with pytest.raises(UserError, match="masks/21_manual.png.*images/21_a.png.*images/21_b.png"):
        find_pairs(data, "{id}_manual.png")
    with pytest.raises(UserError, match="--mask_pattern gt.png"):
        find_pairs(data, "gt.png")
    with pytest.raises(UserError, match="--mask_pattern .*--dataset pets"):
        DataOptions("pets", data, mask_pattern="{name}")


def test_files_that_are_ignored_are_noted(tmp_path, capsys):
    data = make_folder(tmp_path / "data", 12)
    for name in (1, 3, 5, 7, 8, 9, 11):
        (data / f"masks/{name}.png").unlink()
    Image.new("L", (9, 9)).save(data / "masks/other.png")
    files = ("images/a.dcm", "images/b.dcm", "masks/c.npy", "masks/d.nii.gz", "masks/coco.json", "images/.DS_Store")
    for name in files:
        (data / name).write_bytes(b"x")
    load_folder(data)
    notes = capsys.readouterr().err.splitlines()
    without_mask = "images/1.png, images/11.png, images/3.png, images/5.png, images/7.png"
    for text in (without_mask, "masks/other.png", "2 .dcm, 1 .json, 1 .nii.gz, 1 .npy"):
        assert sum(text in note for note in notes) == 1
    assert len(notes) == 3 and not any("DS_Store" in note for note in notes)
    boxes = make_folder(tmp_path / "boxes", 3, masks="labels")
    for path in (boxes / "labels").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(UserError, match="3 .txt"):
        find_pairs(boxes)


# ---------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize(
    "form",
    ["images/{}.png masks/{}.png", r"images\{}.png", "./images/{}.png", "./{}.png", "{}.png,{}.png", "{}.png;{}.png",
     "{data}/images/{}.png", "/elsewhere/images/{}.png\t/elsewhere/masks/{}.png", "data/images/{}.png", "{}"],
)  # fmt: skip
def test_lists_may_contain_names_or_paths(form, tmp_path):
    data = make_folder(tmp_path / "data", 12)
    chosen = ["3", "11", "0"]
    text = "\n".join(form.replace("{data}", str(data)).replace("{}", name) for name in chosen)
    (tmp_path / "list.txt").write_text(text)
    assert load_folder(data, "test", test_list=tmp_path / "list.txt").names == chosen
    (data / "test.txt").write_text(text)
    assert load_folder(data, "test").names == chosen


@pytest.mark.parametrize("given", [("train",), ("valid",), ("test",), ("train", "test"), ("valid", "train")])
def test_pairs_in_no_list_belong_to_the_splits_without_one(given, tmp_path):
    data = make_folder(tmp_path / "data", 40, width=20, height=20)
    options = {}
    for number, split in enumerate(given):
        options[f"{split}_list"] = tmp_path / split
        (tmp_path / split).write_text("".join(f"{index}.png\n" for index in range(8 * number, 8 * number + 8)))
    found = {split: load_folder(data, split, **options).names for split in SPLITS}
    assert sorted(sum(found.values(), [])) == sorted(map(str, range(40)))
    assert all(len(found[split]) == 8 for split in given)


def test_unused_pairs_and_small_splits_are_noted(tmp_path):
    data = make_folder(tmp_path / "data", 40, width=20, height=20)
    (tmp_path / "same").write_text("1\n2\n")
    assert "pages" not in lines(data, valid_list=tmp_path / "same", test_list=tmp_path / "same")
    options = {f"{split}_list": tmp_path / split for split in SPLITS}
    for number, split in enumerate(SPLITS):
        (tmp_path / split).write_text("".join(f"{8 * number + index}\n" for index in range(8)))
    assert "16 pairs" in lines(data, **options) and "--fold" not in lines(data, **options)
    assert "--fold" in lines(make_folder(tmp_path / "few", 9))
