"""A user's own images/ and masks/: mask encodings, file names, and splits."""

import numpy as np
import pytest
import torch
from conftest import draw_folder, labeled, load_folder, make_folder
from PIL import Image

import folder
from data import TrainingData, choose_dataset
from pairs import find_pairs
from splits import SPLITS, DataOptions
from utils import UserError


def palette(*colors, foreground=1):
    def encode(mask):
        image = Image.fromarray(mask if foreground else 1 - mask, "P")
        image.putpalette([level for color in colors for level in color])
        return image

    return encode


def opacity(color):
    def encode(mask):
        image = Image.new("RGBA", mask.shape[::-1], color)
        image.putalpha(Image.fromarray(mask * 255))
        return image

    return encode


def as_colors(mask):
    return Image.fromarray(np.stack([mask * 255, mask * 0, mask * 90], axis=2))


BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)
ENCODINGS = {  # kind: how to encode a mask, suffix, the values and the foreground in the description
    "0 and 1": (Image.fromarray, "png", "0 and 1: 1"),
    "0 and 255": (lambda mask: Image.fromarray(mask * 255), "png", "0 and 255: 255"),
    "boolean": (lambda mask: Image.fromarray(mask.astype(bool)), "png", "0 and 1: 1"),
    "palette": (palette(BLACK, (200, 30, 10)), "png", "0 and 1: 1"),
    "palette without black": (palette(WHITE, RED), "png", "0 and 1: 1"),
    "palette whose second color is black": (palette(RED, BLACK, foreground=0), "png", "0 and 255,0,0: 255,0,0"),
    "palette of grays, white first": (palette(WHITE, BLACK, foreground=0), "gif", "0 and 255: 255"),
    "RGB": (lambda mask: Image.fromarray(mask * 255).convert("RGB"), "bmp", "0 and 255: 255"),
    "RGB of colors": (as_colors, "png", "0 and 255,0,90: 255,0,90"),
    "RGBA": (lambda mask: as_colors(mask).convert("RGBA"), "png", "0 and 255,0,90: 255,0,90"),
    "opacity of black": (opacity("black"), "png", "0 and 255: 255"),
    "opacity of red": (opacity("red"), "png", "0 and 255: 255"),
    "16 bit": (lambda mask: Image.fromarray(mask.astype(np.uint16) * 40000), "png", "0 and 40000: 40000"),
    "32 bit": (lambda mask: Image.fromarray(mask.astype(np.int32) * 7), "tif", "0 and 7: 7"),
    "float": (lambda mask: Image.fromarray(mask.astype(np.float32)), "tif", "0 and 1: 1"),
}


@pytest.mark.parametrize("kind", ENCODINGS)
def test_masks_of_every_encoding_are_read_correctly(kind, tmp_path):
    encode, suffix, described = ENCODINGS[kind]
    data = make_folder(tmp_path / "data", 12, encode, suffix=suffix)
    seen = 0
    for split in SPLITS:
        dataset = load_folder(data, split)
        for index, name in enumerate(dataset.names):
            mask = draw_folder(int(name))[1]
            assert np.array_equal(dataset.original_mask(name)[0].numpy(), mask)
            small = Image.fromarray(mask).resize((32, 32), Image.Resampling.NEAREST)
            assert np.array_equal(dataset[index]["mask"][0].numpy(), np.asarray(small))
            assert dataset.original_size(name) == (60, 44)
            seen += 1
    assert seen == 12
    [pairs, text, *_] = folder.describe(DataOptions("folder", data, in_channels=1))
    percent = 100 * np.mean([draw_folder(index)[1] for index in range(12)])
    assert "12 pairs" in pairs and f"{percent:.1f}%" in text
    assert all(part in text for part in described.split(": "))


@pytest.mark.parametrize(
    "images, masks, ending",
    [("images", "masks", ""), ("imgs", "label", "_mask"), ("image", "labels", "_seg"),
     ("Images", "annotations", "-gt")],
)  # fmt: skip
def test_folders_and_masks_may_have_several_names_and_subfolders(images, masks, ending, tmp_path):
    data = make_folder(tmp_path / "data", 0, images=images, masks=masks)
    names = ["1", "10", "a.b", "a.b.c", "left/1", "left/deep/x y"]
    for index, name in enumerate(names):
        draw_folder(index, folder=data, name=name, images=images, masks=masks, ending=ending)
    assert choose_dataset(None, data) == ("folder", data)
    found = {name: load_folder(data, split) for split in SPLITS for name in load_folder(data, split).names}
    assert set(found) == set(names)
    for index, name in enumerate(names):
        assert np.array_equal(found[name].original_mask(name)[0].numpy(), draw_folder(index)[1])


def test_foreground_that_is_lost_at_the_image_size_is_noted(tmp_path, capsys):
    def single_pixel(mask):
        small = np.zeros_like(mask)
        small[0, 0] = 255
        return Image.fromarray(small)

    data = make_folder(tmp_path / "data", 6, single_pixel)
    load_folder(data, image_size=16)
    note = capsys.readouterr().err
    assert "training split" in note and "16x16" in note
    with pytest.raises(UserError, match="--image_size"):
        TrainingData(DataOptions("folder", data, 16))


def test_symlinked_folders_are_ignored_and_noted(tmp_path):
    """Otherwise an image could be in two splits."""
    data = make_folder(tmp_path / "data", 4)
    make_folder(tmp_path / "other", 3)
    for part in ("images", "masks"):
        (data / part / "more").symlink_to(tmp_path / "other" / part)
    pairs, [note] = find_pairs(data)
    assert list(pairs) == ["0", "1", "2", "3"] and "images/more" in note and "masks/more" in note


def test_each_choice_of_foreground_has_its_own_packed_array(tmp_path):
    data = labeled(tmp_path, 0, 1, 3)
    masks = [load_folder(data, foreground=(value,))[0]["mask"] for value in ("1", "3", "1")]
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])
    assert len(list(data.glob("cache/train-*.npy"))) == 2


def test_mask_values_are_counted_again_after_a_change(tmp_path):
    data = labeled(tmp_path, 0, 1)
    assert "0 and 1" in folder.describe(DataOptions("folder", data))[1]
    for path in (data / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) * 9).save(path)
    assert "0 and 9" in folder.describe(DataOptions("folder", data))[1]


# -------------------------------------------------------------------------------------- splits


def test_adding_images_does_not_move_others_to_another_split():
    names = [f"{number}" for number in range(1000)]
    files = {name: name for name in ["new", *names, "newer"]}
    before = folder.by_hash(names, list(SPLITS), files)
    assert {split: len(found) for split, found in before.items()} == pytest.approx(
        {"train": 800, "valid": 100, "test": 100}, abs=40
    )
    after = folder.by_hash(["new", *names, "newer"], list(SPLITS), files)
    for split in SPLITS:
        assert [name for name in after[split] if not name.startswith("new")] == before[split]
    for number in (3, 4, 5, 10):  # even a small dataset has all three splits
        small = folder.by_hash(names[:number], list(SPLITS), files)
        assert sorted(sum(small.values(), [])) == sorted(names[:number]) and all(small.values())


def test_lists_in_the_folder_take_precedence_over_the_hash(tmp_path):
    data = make_folder(tmp_path / "data", 30)
    (data / "test.txt").write_text("3\n4.png\nimages of mine\n")
    with pytest.raises(UserError, match="test.txt .*'images of mine'"):
        load_folder(data, "test")
    (data / "test.txt").write_text("3\n4.png\n")
    parts = {split: load_folder(data, split).names for split in SPLITS}
    assert parts["test"] == ["3", "4"] and len(set(parts["train"]) | set(parts["valid"])) == 28
    (data / "test.txt").unlink()
    (data / "train.txt").write_text("\n".join(map(str, range(5, 30))))
    (data / "val.txt").write_text("\n".join(map(str, range(5))))
    assert load_folder(data, "valid").names == ["0", "1", "2", "3", "4"]
    with pytest.raises(UserError, match="test split; pass --split valid"):
        load_folder(data, "test")
