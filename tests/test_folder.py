"""A person's own images/ and masks/: every kind of mask, names, and splits."""

import numpy as np
import pytest
import torch
from conftest import draw_folder, labelled, load_folder, make_folder
from PIL import Image

import folder
import mask_values
from data import TrainingData, choose_dataset
from splits import SPLITS, DataOptions
from utils import UserError


def drawn_mask(index, width=60, height=44):
    return draw_folder(index, width, height)[1]


def as_palette(mask):
    picture = Image.fromarray(mask)
    picture.putpalette([0, 0, 0, 200, 30, 10])
    return picture


def as_sixteen_bits(mask):
    return Image.fromarray(mask.astype(np.uint16) * 40000)


def as_colors(mask):
    return Image.fromarray(np.stack([mask * 255, mask * 0, mask * 90], axis=2))


def as_grey_palette(mask):
    """Two greys whose indices are the other way round: index 0 is white."""
    picture = Image.fromarray(1 - mask)
    picture.putpalette([255, 255, 255, 0, 0, 0])
    return picture


ENCODINGS = {
    "0 and 1": (Image.fromarray, "png", "the values 0 and 1: 1"),
    "0 and 255": (lambda mask: Image.fromarray(mask * 255), "png", "the values 0 and 255: 255"),
    "boolean": (lambda mask: Image.fromarray(mask.astype(bool)), "png", "the values 0 and 1: 1"),
    "palette": (as_palette, "png", "the values 0 and 1: 1"),
    "grey palette": (as_grey_palette, "gif", "the values 0 and 255: 255"),
    "RGB": (lambda mask: Image.fromarray(mask * 255).convert("RGB"), "bmp", "the values 0 and 255: 255"),
    "RGB of colors": (as_colors, "png", "the values 0 and 255,0,90: 255,0,90"),
    "RGBA": (lambda mask: as_colors(mask).convert("RGBA"), "png", "the values 0 and 255,0,90: 255,0,90"),
    "16 bit": (as_sixteen_bits, "png", "the values 0 and 40000: 40000"),
    "32 bit": (lambda mask: Image.fromarray(mask.astype(np.int32) * 7), "tif", "the values 0 and 7: 7"),
    "float": (lambda mask: Image.fromarray(mask.astype(np.float32)), "tif", "the values 0 and 1: 1"),
}


@pytest.mark.parametrize("kind", ENCODINGS)
def test_masks_of_every_kind_give_the_drawn_mask(kind, tmp_path):
    encode, suffix, values = ENCODINGS[kind]
    data = make_folder(tmp_path / "data", 12, encode, suffix=suffix)
    seen = 0
    for split in SPLITS:
        dataset = load_folder(data, split)
        for place, name in enumerate(dataset.names):
            mask = drawn_mask(int(name))
            assert np.array_equal(dataset.original_mask(name)[0].numpy(), mask)
            small = Image.fromarray(mask).resize((32, 32), Image.Resampling.NEAREST)
            assert np.array_equal(dataset[place]["mask"][0].numpy(), np.asarray(small))
            assert dataset.original_size(name) == (60, 44)
            seen += 1
    assert seen == 12
    [pairs, said] = folder.describe(DataOptions("folder", data, in_channels=1))
    share = 100 * np.mean([drawn_mask(index) for index in range(12)])
    assert pairs.startswith(f"12 pairs in {data / 'images'} and masks: ")
    assert said == f"the masks have {values} is foreground, {share:.1f} % of the pixels; the rest is not"


@pytest.mark.parametrize("ending", ["", "_mask", "_label", "_seg"])
@pytest.mark.parametrize(
    "images, masks", [("images", "masks"), ("imgs", "label"), ("image", "labels"), ("Images", "annotations")]
)
def test_names_endings_and_sub_folders(images, masks, ending, tmp_path):
    data = make_folder(tmp_path / "data", 0, images=images, masks=masks)
    for index, name in enumerate(["1", "10", "a.b", "a.b.c", "left/1", "left/deep/x y"]):
        draw_folder(index, folder=data, name=name, images=images, masks=masks, ending=ending)
    assert choose_dataset(None, data) == ("folder", data)
    found = {name: load_folder(data, split) for split in SPLITS for name in load_folder(data, split).names}
    assert set(found) == {"1", "10", "a.b", "a.b.c", "left/1", "left/deep/x y"}
    for index, name in enumerate(["1", "10", "a.b", "a.b.c", "left/1", "left/deep/x y"]):
        assert np.array_equal(found[name].original_mask(name)[0].numpy(), drawn_mask(index))


def test_a_picture_whose_own_name_ends_in_mask(tmp_path):
    data = make_folder(tmp_path / "data", 4)
    draw_folder(20, folder=data, name="0_mask")
    assert np.array_equal(folder.Folder(data).pairs["0_mask"].label, data / "masks" / "0_mask.png")
    assert folder.Folder(data).pairs["0"].label == data / "masks" / "0.png"


@pytest.mark.parametrize(
    "given, inside", [(("3",), (3,)), (("1", "7"), (1, 7)), (("2-7",), (3, 7)), (("1-3", "7"), (1, 3, 7))]
)
def test_foreground_of_more_than_two_values(given, inside, tmp_path):
    data = labelled(tmp_path, 0, 1, 3, 7)
    dataset = load_folder(data, image_size=60, foreground=given)
    expected = np.isin(np.array([0, 1, 3, 7]).repeat(15), inside)
    assert (dataset[0]["mask"][0].numpy() == expected).all()
    assert f"{25 * len(inside)}.0 % of the pixels" in folder.describe(DataOptions("folder", data, foreground=given))[1]


def palette(*colors, foreground=1):
    def encode(mask):
        picture = Image.fromarray(mask if foreground else 1 - mask, "P")
        picture.putpalette([level for color in colors for level in color])
        return picture

    return encode


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_palette_whose_first_color_is_not_black_is_read_by_color(suffix, tmp_path):
    """Pillow's quantize puts the most frequent color first, which may be the foreground's."""
    red = palette((255, 0, 0), (0, 0, 0), foreground=0)
    data = make_folder(tmp_path / "data", 6, red, suffix=suffix)
    dataset = load_folder(data, image_size=60)
    for name in dataset.names:
        assert np.array_equal(dataset.original_mask(name)[0].numpy(), drawn_mask(int(name)))
    draw_folder(20, folder=data, name=20, encode=palette((0, 0, 0), (255, 0, 0)))
    with pytest.raises(UserError, match="the values 0, 1 and 255,0,0 .*; say which are foreground"):
        load_folder(data)
    assert load_folder(data, foreground=("1", "255,0,0")).names


@pytest.mark.parametrize("colors", [((255, 255, 255), (255, 0, 0)), ((68, 1, 84), (253, 231, 37))])
def test_a_palette_without_black_is_read_by_index(colors, tmp_path):
    dataset = load_folder(make_folder(tmp_path / "data", 6, palette(*colors)), image_size=60)
    for name in dataset.names:
        assert np.array_equal(dataset.original_mask(name)[0].numpy(), drawn_mask(int(name)))


@pytest.mark.parametrize("color", ["white", "black", "red"])
def test_a_mask_in_the_alpha_channel(color, tmp_path):
    def encode(mask):
        picture = Image.new("RGBA", mask.shape[::-1], color)
        picture.putalpha(Image.fromarray(mask * 255))
        return picture

    data = make_folder(tmp_path / "data", 6, encode)
    dataset = load_folder(data, image_size=60)
    encode(np.zeros((44, 60), dtype=np.uint8)).save(tmp_path / "empty.png")
    assert not mask_values.read_values(tmp_path / "empty.png").any()
    for name in dataset.names:
        assert np.array_equal(dataset.original_mask(name)[0].numpy(), drawn_mask(int(name)))


def test_a_value_of_foreground_that_no_mask_has_is_said(tmp_path):
    data = labelled(tmp_path, 0, 1, 3)
    said = folder.describe(DataOptions("folder", data, foreground=("3", "33", "40-50")))[1]
    assert said.endswith("the rest is not; no mask has 33 or 40 to 50")


def test_noise_of_two_values_is_not_taken_for_classes(tmp_path):
    data = labelled(tmp_path, 0, 1, 2, 254, 255)
    with pytest.raises(UserError, match=r"such as --foreground 128-255 \(a lossy format"):
        load_folder(data)


def test_foreground_that_is_lost_at_the_networks_size_is_noted(tmp_path, capsys):
    def speck(mask):
        small = np.zeros_like(mask)
        small[0, 0] = 255
        return Image.fromarray(small)

    data = make_folder(tmp_path / "data", 6, speck)
    load_folder(data, image_size=16)
    assert "masks of the train split, such as" in (said := capsys.readouterr().err)
    assert "lose all of their foreground at 16x16 pixels; a larger --image_size keeps it" in said
    with pytest.raises(
        UserError, match="no training picture in .* has any foreground at 16 pixels; look at its masks, or"
    ):
        TrainingData(DataOptions("folder", data, 16))


def test_linked_folders_are_left_out_and_said(tmp_path):
    """A picture that is there twice may be in two splits."""
    data = make_folder(tmp_path / "data", 4)
    make_folder(tmp_path / "other", 3)
    for part in ("images", "masks"):
        (data / part / "more").symlink_to(tmp_path / "other" / part)
    found = folder.Folder(data)
    assert list(found.pairs) == ["0", "1", "2", "3"]
    assert found.notes == ["left out, links to folders: images/more, masks/more"]


def test_a_picture_whose_name_looks_like_a_comment_can_be_listed(tmp_path):
    data = make_folder(tmp_path / "data", 4)
    draw_folder(20, folder=data, name="#1")
    (data / "train.txt").write_text("# of the first day\n#1.png\n0\n")
    assert load_folder(data).names == ["#1", "0"]


def test_the_packed_array_follows_foreground(tmp_path):
    data = labelled(tmp_path, 0, 1, 3)
    masks = [load_folder(data, foreground=(value,))[0]["mask"] for value in ("1", "3", "1")]
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])
    assert len(list(data.glob("cache/train-*.npy"))) == 2


def test_values_are_counted_again_after_a_change_and_a_damaged_count_is_none(tmp_path):
    data = labelled(tmp_path, 0, 1)
    assert "the values 0 and 1:" in folder.describe(DataOptions("folder", data))[1]
    [kept] = data.glob("cache/masks-*.json")
    mask_values.scans.clear()
    kept.write_text("[1, 2")
    assert "the values 0 and 1:" in folder.describe(DataOptions("folder", data))[1]
    for path in (data / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) * 9).save(path)
    assert "the values 0 and 9:" in folder.describe(DataOptions("folder", data))[1]


def test_a_mask_is_of_the_pixels_as_stored_whatever_exif_says(tmp_path):
    data = make_folder(tmp_path / "data", 8)
    for name in range(8):
        exif = Image.Exif()
        exif[0x0112] = 1 + name
        path = data / "images" / f"{name}.png"
        Image.open(path).save(path, exif=exif)
    found = folder.Folder(data).pairs
    for name in range(8):
        picture, label = folder.read_labelled(found[str(name)], Image.open, data)
        assert np.array_equal(np.asarray(picture), draw_folder(name)[0])
        assert np.array_equal(np.asarray(label), 255 * drawn_mask(name))


# -------------------------------------------------------------------------------------- splits


def test_a_picture_added_later_moves_no_other(tmp_path):
    names = [f"{number}" for number in range(1000)]
    before = folder.by_hash(names, list(SPLITS))
    assert {split: len(found) for split, found in before.items()} == pytest.approx(
        {"train": 800, "valid": 100, "test": 100}, abs=40
    )
    after = folder.by_hash(["new", *names, "newer"], list(SPLITS))
    for split in SPLITS:
        assert [name for name in after[split] if not name.startswith("new")] == before[split]


@pytest.mark.parametrize("number", [3, 4, 5, 10])
def test_a_small_set_has_all_three_splits(number, tmp_path):
    data = make_folder(tmp_path / "data", number)
    names = [name for split in SPLITS for name in load_folder(data, split).names]
    assert sorted(names) == sorted(str(index) for index in range(number))


def test_lists_in_the_folder_win_and_the_rest_is_cut_by_the_hash(tmp_path):
    data = make_folder(tmp_path / "data", 30)
    (data / "test.txt").write_text("3\n4.png\nimages of mine\n")
    with pytest.raises(UserError, match=r"test.txt names 'images of mine', not found in the dataset; correct the list"):
        load_folder(data, "test")
    (data / "test.txt").write_text("3\n4.png\n")
    parts = {split: load_folder(data, split).names for split in SPLITS}
    assert parts["test"] == ["3", "4"] and len(set(parts["train"]) | set(parts["valid"])) == 28
    (data / "train.txt").write_text("\n".join(map(str, range(5, 30))))
    (data / "valid.txt").write_text("0")
    assert [load_folder(data, split).names for split in ("valid", "test")] == [["0"], ["3", "4"]]
    assert load_folder(data, "train").names == [str(number) for number in range(5, 30)]
    (data / "test.txt").unlink()
    assert load_folder(data, "test").names == ["1", "2", "3", "4"]  # what no list names
    (data / "valid.txt").write_text("\n".join(map(str, range(5))))
    with pytest.raises(UserError, match="no picture for the test split; name some in .*test.txt"):
        load_folder(data, "test")
