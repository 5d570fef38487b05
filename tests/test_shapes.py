import numpy as np
import torch
from conftest import load_shapes
from torch.utils.data import DataLoader

import shapes


def test_items_are_reproducible_and_differ_from_each_other():
    first, again = load_shapes("train", 32), load_shapes("train", 32)
    again[7]  # reading one item does not affect others
    for index in (0, 5, 7999):
        assert torch.equal(first[index]["image"], again[index]["image"])
        assert torch.equal(first[index]["mask"], again[index]["mask"])
    assert not torch.equal(first[0]["image"], first[1]["image"])


def test_no_image_is_in_two_splits_or_twice_in_one():
    seen = {}
    for split in shapes.SPLITS:
        dataset = load_shapes(split, 16, limit=200)
        for index in range(len(dataset)):
            seen.setdefault(dataset[index]["image"].numpy().tobytes(), set()).add((split, index))
    assert all(len(places) == 1 for places in seen.values()) and len(seen) == 200 + 100 + 200


def test_items_and_batches_have_the_documented_shapes():
    for channels in (1, 3):
        dataset = load_shapes("valid", 40, in_channels=channels, limit=10)
        item, batch = dataset[3], dataset[[3, 4]]
        assert item["image"].shape == (channels, 40, 40) and item["image"].dtype == torch.uint8
        assert item["mask"].shape == (1, 40, 40) and set(item["mask"].unique().tolist()) <= {0, 1}
        assert torch.equal(batch["image"][0], item["image"]) and batch["name"] == ["valid_3", "valid_4"]
        loaded = next(iter(DataLoader(dataset, batch_size=4, collate_fn=lambda batch: batch)))
        assert loaded["image"].shape == (4, channels, 40, 40)


def test_the_mask_is_the_union_of_the_discs():
    image, mask = shapes.draw(np.random.default_rng(1), 96, 128, sigma=0, gray=True)
    assert image.shape == mask.shape == (96, 128)
    assert image[mask == 0].max() == image.min() == 0  # without noise the background has one level, the lowest
    assert (image[mask == 1] > 0).mean() > 0.99 and image.max() == 255
