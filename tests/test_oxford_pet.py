import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_pet, load_pets, make_pets, with_orientation
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from cache import PackedDataset
from data import choose_dataset, eval_loader
from oxford_pet import read_trimap, split_names
from pairs import Pair, read_pair
from splits import SPLITS
from utils import UserError


def test_splits_are_disjoint_and_have_the_official_sizes(tmp_path):
    annotations = tmp_path / "annotations"
    annotations.mkdir()
    annotations.joinpath("trainval.txt").write_text("".join(f"Abyssinian_{i} 1 1 1\n" for i in range(3680)))
    annotations.joinpath("test.txt").write_text("".join(f"pug_{i} 26 2 18\n" for i in range(3669)))
    names = {split: split_names(tmp_path, split) for split in SPLITS}
    assert {split: len(found) for split, found in names.items()} == {"train": 3312, "valid": 368, "test": 3669}
    assert len(set().union(*names.values())) == 3680 + 3669
    assert names["valid"][:3] == ["Abyssinian_0", "Abyssinian_10", "Abyssinian_20"]
    assert names["train"][:2] == ["Abyssinian_1", "Abyssinian_2"]


@pytest.mark.parametrize("border, value", [("foreground", 1), ("background", 0), ("ignore", 255)])
def test_a_trimap_becomes_a_mask_by_the_border_rule(pets, border, value):
    dataset = load_pets(pets, "train", 40, border=border)
    name = dataset.names[2]
    trimap = Image.open(pets / "annotations" / "trimaps" / f"{name}.png").resize((40, 40), Image.Resampling.NEAREST)
    expected = np.select([np.asarray(trimap) == 1, np.asarray(trimap) == 2], [1, 0], value)
    assert (dataset[2]["mask"][0].numpy() == expected).all() and (np.asarray(trimap) == 3).any()


def test_images_are_resized_bilinearly(pets):
    dataset = load_pets(pets, "test", 32)
    image = Image.open(pets / "images" / f"{dataset.names[1]}.jpg").resize((32, 32), Image.Resampling.BILINEAR)
    assert (dataset[1]["image"].permute(1, 2, 0).numpy() == np.asarray(image)).all()
    assert dataset.original_size(dataset.names[1]) == Image.open(pets / "images" / f"{dataset.names[1]}.jpg").size


def test_items_batches_and_loaders_have_the_documented_shapes(pets):
    dataset = load_pets(pets, "train", 32)
    item, batch = dataset[5], dataset[[5, 0]]
    assert item["image"].shape == (3, 32, 32) and item["mask"].shape == (1, 32, 32) and item["name"] == "Drawn_6"
    assert item["image"].dtype == item["mask"].dtype == torch.uint8
    assert torch.equal(batch["image"][0], item["image"]) and batch["name"] == ["Drawn_6", "Drawn_1"]
    loaded = next(iter(DataLoader(dataset, batch_size=4, collate_fn=lambda batch: batch)))
    assert loaded["image"].shape == (4, 3, 32, 32)
    assert load_pets(pets, "train", 32, in_channels=1, limit=3)[[0, 1, 2]]["image"].shape == (3, 1, 32, 32)


def test_images_are_decoded_once_and_again_after_a_change(pets, monkeypatch):
    first = load_pets(pets, "train", 32)[0]["image"]
    monkeypatch.setattr("cache.fill", None)  # a second decoding would fail
    assert torch.equal(load_pets(pets, "train", 32)[0]["image"], first)
    monkeypatch.undo()
    draw_pet(pets, "Drawn_1", 99)
    assert not torch.equal(load_pets(pets, "train", 32)[0]["image"], first)
    assert not list(pets.glob("cache/unfinished-*"))


def test_a_dataset_on_a_gpu_gives_the_same_batches(pets):
    """Its pixels are a tensor, here on the CPU."""
    mapped = load_pets(pets, "train", 32, border="ignore")
    moved = PackedDataset(torch.from_numpy(np.array(mapped.packed)), mapped.pairs, mapped.read_label, mapped.mask_of)
    for index in (3, [4, 0, 7]):
        one, two = mapped[index], moved[index]
        assert torch.equal(one["image"], two["image"]) and torch.equal(one["mask"], two["mask"])
        assert one["name"] == two["name"]
    assert mapped.to(torch.device("cpu")) is mapped
    loaded = next(iter(eval_loader(moved, 5, workers=2)))
    assert torch.equal(loaded["image"], mapped[[0, 1, 2, 3, 4]]["image"])


TRIMAP = "annotations/trimaps/Drawn_3.png"
SPOILED = {  # regular expression for the error: how to damage the files
    "images/Drawn_3.jpg": lambda pets, trimap: (pets / "images/Drawn_3.jpg").write_text("no image"),
    "trimaps/Drawn_3.png .*missing": lambda pets, trimap: (pets / TRIMAP).unlink(),
    "Drawn_3.png .*9x9.*60x44": lambda pets, trimap: trimap.resize((9, 9), 0).save(pets / TRIMAP),
    "trimaps/Drawn_3.png .*mode L": lambda pets, trimap: ImageOps.invert(trimap).save(pets / TRIMAP),
    "trimaps/Drawn_3.png .*mode RGB": lambda pets, trimap: trimap.convert("RGB").save(pets / TRIMAP),
}


@pytest.mark.parametrize("reason", SPOILED)
def test_a_file_that_cannot_be_used_is_named_in_one_line(reason, pets):
    SPOILED[reason](pets, Image.open(pets / TRIMAP).copy())
    with pytest.raises(UserError, match=rf"^1 of 18 .*{reason}[^\n]*$"):
        load_pets(pets, "train", 32)
    assert not list(pets.glob("cache/*train*")) and not list(pets.glob("cache/unfinished-*"))


def test_nested_folders_as_on_kaggle_are_found(pets, tmp_path, monkeypatch):
    expected = load_pets(pets, "train", 32)
    for name in ("images", "annotations"):
        (pets / name).rename(pets / "inner")
        (pets / name).mkdir()
        (pets / "inner").rename(pets / name / name)
    found = load_pets(pets, "train", 32)
    assert found.names == expected.names and np.array_equal(found.packed, expected.packed)
    (tmp_path / "other").mkdir()
    pets.rename(tmp_path / "other/dataset")
    monkeypatch.chdir(tmp_path / "other")
    assert choose_dataset(None, None) == ("pets", Path("dataset"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_ignored_unless_only_the_transposed_image_fits_its_trimap(orientation, tmp_path):
    pets = make_pets(tmp_path / "oxford-iiit-pet", 2, 1)
    path, trimap = pets / "images/Drawn_1.jpg", pets / "annotations/trimaps/Drawn_1.png"
    Image.open(path).save(path, exif=with_orientation(orientation), quality=95)
    image, label = read_pair(Pair("Drawn_1", path, trimap), read_trimap, pets)
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(path)))
    assert np.array_equal(np.asarray(label), np.asarray(Image.open(trimap)))
    if orientation >= 5:
        Image.open(trimap).transpose(Image.Transpose.ROTATE_90).save(trimap)
        image, label = read_pair(Pair("Drawn_1", path, trimap), read_trimap, pets)
        assert np.array_equal(np.asarray(image), np.asarray(ImageOps.exif_transpose(Image.open(path))))
        assert image.size == label.size == (44, 60)


def test_spawned_workers_map_the_packed_file_instead_of_copying_it(pets):
    dataset = load_pets(pets, "train", 128, border="ignore")
    assert len(pickle.dumps(dataset)) < 10_000 < dataset.packed.nbytes / 100
    copy = pickle.loads(pickle.dumps(dataset))
    assert isinstance(copy.packed, np.memmap) and copy.names == dataset.names
    assert all(torch.equal(copy[3][part], dataset[3][part]) for part in ("image", "mask"))
