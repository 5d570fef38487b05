import numpy as np
import torch
from conftest import load_shapes
from torch.utils.data import DataLoader

import shapes


def test_items_come_back_the_same_and_differ_from_each_other():
    first, again = load_shapes("train", 32), load_shapes("train", 32)
    again[7]  # other reads change nothing
    for index in (0, 5, 7999):
        assert torch.equal(first[index]["image"], again[index]["image"])
        assert torch.equal(first[index]["mask"], again[index]["mask"])
    assert not torch.equal(first[0]["image"], first[1]["image"])


def test_no_split_shares_an_item():
    seen = {}
    for mode in shapes.SPLITS:
        dataset = load_shapes(mode, 16, limit=200)
        for index in range(len(dataset)):
            seen.setdefault(dataset[index]["image"].numpy().tobytes(), set()).add((mode, index))
    assert all(len(places) == 1 for places in seen.values()) and len(seen) == 200 + 100 + 200


def test_contract_of_gray_and_rgb():
    for gray, channels in ((True, 1), (False, 3)):
        dataset = load_shapes("valid", 40, in_channels=1 if gray else 3, limit=10)
        item, batch = dataset[3], dataset[[3, 4]]
        assert item["image"].shape == (channels, 40, 40) and item["image"].dtype == torch.uint8
        assert item["mask"].shape == (1, 40, 40) and set(item["mask"].unique().tolist()) <= {0, 1}
        assert torch.equal(batch["image"][0], item["image"]) and batch["name"] == ["valid_3", "valid_4"]
        loaded = next(iter(DataLoader(dataset, batch_size=4, collate_fn=lambda batch: batch)))
        assert loaded["image"].shape == (4, channels, 40, 40)


def test_the_mask_is_the_union_of_the_discs():
    image, mask = shapes.draw(np.random.default_rng(1), 96, 128, sigma=0, gray=True)
    assert image.shape == mask.shape == (96, 128)
    assert image[mask == 0].max() == image.min() == 0  # without noise the background is one level, the lowest
    assert (image[mask == 1] > 0).mean() > 0.99 and image.max() == 255
