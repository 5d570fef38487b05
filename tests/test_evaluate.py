import json
import re
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import error_of, make_checkpoint, make_pets, read_scores, read_table, script
from PIL import Image

import losses
from checkpoint import Checkpoint, save
from scoring import THRESHOLDS, DiceMeter, best_threshold, confusion, dice_score, resolve_threshold
from training.progress import explain_failures
from utils import UserError


def test_the_best_threshold_has_the_highest_mean_dice():
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 2, (6, 1, 16, 16), generator=generator, dtype=torch.uint8)
    mask[:, :, :2] = 255
    probability = (0.3 * mask.clamp(max=1) + 0.5 * torch.rand(mask.shape, generator=generator)).clamp(0, 1)
    meter = DiceMeter(range(6), criterion=losses.bce)
    for part in (slice(0, 4), slice(4, 6)):
        meter.add({"mask": mask[part]}, probability.logit()[part])
    expected = torch.stack([confusion(probability >= threshold, mask) for threshold in THRESHOLDS])
    assert torch.equal(meter.counts(), expected) and torch.equal(meter.at(0.5), expected[9])
    means = [dice_score(counts).mean().item() for counts in expected]
    assert best_threshold(meter.counts()) == THRESHOLDS[int(np.argmax(means))] != 0.5
    assert meter.loss() == pytest.approx(losses.bce(probability.logit(), mask).item())
    counts = torch.tensor([[[4, 0, 4, 0]], [[6, 0, 2, 0]], [[6, 0, 2, 0]], [[6, 0, 2, 0]]])
    assert best_threshold(counts, (0.1, 0.2, 0.45, 0.9)) == 0.45  # of equally good ones, the nearest to 0.5


def evaluate(folder, *flags):
    """Run evaluate.py on a.pth. Return the scores and the rows of the images."""
    script("evaluate", "--model", "a.pth", "--output", "scores", *flags, cwd=folder)
    return read_scores(folder), read_table(folder / "scores.csv")


def test_dice_at_original_size_is_the_dice_of_the_masks_that_inference_writes(pets, tmp_path):
    make_checkpoint(tmp_path / "a.pth")
    flags = ("--data_path", pets, "--precision", "float32")
    script("inference", "--model", "a.pth", *flags, "--output", "masks", cwd=tmp_path)
    result, images = evaluate(tmp_path, *flags, "--original_size")
    for row in images:
        mask = np.array(Image.open(tmp_path / "masks" / f"{row['name']}.png")) > 0
        target = np.array(Image.open(pets / "annotations/trimaps" / f"{row['name']}.png")) != 2
        assert float(row["dice"]) == pytest.approx(2 * (mask & target).sum() / (mask.sum() + target.sum()), abs=1e-6)
    assert result["original_size"] and evaluate(tmp_path, *flags)[0]["dice"] != result["dice"]
    assert result["dice"] == pytest.approx(np.mean([float(row["dice"]) for row in images]), abs=1e-6)


def test_dice_is_also_given_without_empty_masks(pets, tmp_path):
    make_checkpoint(tmp_path / "a.pth")
    empty, *others = (pets / "annotations/trimaps").glob("Drawn_2[0-5].png")
    Image.open(empty).point(lambda value: 2).save(empty)
    result, images = evaluate(tmp_path, "--data_path", pets)
    rest = [float(row["dice"]) for row in images if int(row["tp"]) + int(row["fn"])]
    assert result["empty_masks"] == 1 and len(rest) == 5
    assert result["dice_without_empty"] == pytest.approx(np.mean(rest), abs=1e-6)
    for path in others:
        Image.open(path).point(lambda value: 2).save(path)
    result, _ = evaluate(tmp_path, "--data_path", pets)
    assert result["dice_without_empty"] is None  # NaN is not valid JSON


def test_the_threshold_is_half_by_default_or_given_or_chosen(pets, tmp_path):
    make_checkpoint(tmp_path / "a.pth", threshold=0.3)
    half, _ = evaluate(tmp_path, "--data_path", pets)
    given, _ = evaluate(tmp_path, "--data_path", pets, "--threshold", "0.3")
    chosen, images = evaluate(tmp_path, "--data_path", pets, "--threshold", "chosen")
    assert half["scored_at"] == 0.5 and given["scored_at"] == chosen["scored_at"] == 0.3
    assert given["dice"] == chosen["dice"] == half["dice_at_threshold"] != half["dice"]
    assert np.mean([float(row["dice"]) for row in images]) == pytest.approx(chosen["dice"], abs=1e-6)
    with pytest.raises(UserError, match="--threshold chosen: a.pth"):  # of a plain state_dict
        resolve_threshold("chosen", Checkpoint({}, "unet", {}), "a.pth")


def test_a_glob_of_models_prefers_the_best_weights_of_each_run(pets, tmp_path):
    for name in ("a.last.pth", "a.pth", "b.last.pth"):
        make_checkpoint(tmp_path / name)
    flags = ("--data_path", pets, "--output", "e", "--limit", 2)

    def scored(*models):
        done = script("evaluate", "--model", *models, *flags, cwd=tmp_path)
        return [result["model"] for result in json.loads((tmp_path / "e.json").read_text())], "left out" in done.stderr

    assert scored("*.pth") == scored("a.last.pth", "a.pth", "b.last.pth") == (["a.pth", "b.last.pth"], True)
    assert scored("a.pth", "a.last.pth") == (["a.pth", "a.last.pth"], False)  # named one by one
    assert scored("a.pth", "b.last.pth", "a.pth") == (["a.pth", "b.last.pth"], True)  # repeated
    assert "c*.pth" in error_of(script("evaluate", "--model", "c*.pth", *flags, cwd=tmp_path, expect=2))


def test_missing_data_is_reported_before_the_first_score(pets, tmp_path, monkeypatch):
    make_checkpoint(tmp_path / "a.pth")
    gone = Checkpoint(**torch.load(tmp_path / "a.pth", weights_only=True))
    save(replace(gone, dataset="folder", args={"data_path": str(tmp_path / "gone")}), tmp_path / "b.pth")
    make_pets(tmp_path / "dataset/oxford-iiit-pet")
    monkeypatch.setattr("evaluate.evaluate", lambda *args: pytest.fail("scored"))
    done = script("evaluate", "--model", "a.pth", "b.pth", cwd=tmp_path, expect=2)
    assert str(tmp_path / "gone") in error_of(done) and "--data_path" in error_of(done)


def test_inference_scores_like_evaluate_and_draws_at_its_threshold(pets, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("inference.plot_panels", lambda rows, title, path: drawn.append((rows, title)))
    make_checkpoint(tmp_path / "a.pth", seed=1)
    for threshold in (0.1, 0.5, 0.9):
        flags = ("--model", "a.pth", "--data_path", pets, "--threshold", threshold, "--precision", "float32")
        out = script("inference", *flags, "--output", f"{threshold}", cwd=tmp_path).stdout
        scored = script("evaluate", *flags, cwd=tmp_path).stdout
        assert re.findall(r"a.pth +32 .*", out) == re.findall(r"a.pth +32 .*", scored)
        for row in drawn[-1][0]:
            assert torch.equal(row["predicted"], row["probability"] >= threshold)


def test_the_error_in_a_saved_run_ends_with_the_command_that_resumes_it(tmp_path):
    def fail():
        with explain_failures(Namespace(accumulation_steps=1, compile=None), tmp_path / "a.last.pth"):
            raise torch.OutOfMemoryError

    with pytest.raises(UserError, match="smaller --image_size$"):
        fail()
    (tmp_path / "a.last.pth").touch()
    command = f"python src/train.py --resume {tmp_path}/a.last.pth --accumulation_steps 2"
    with pytest.raises(UserError, match=f" 2 or .*: {command}$"):
        fail()


@pytest.mark.parametrize("name, flag", [("train", "--accumulation_steps 2"), ("evaluate", "--batch_size"),
                                        ("inference", "--batch_size")])  # fmt: skip
def test_the_error_for_too_little_memory_names_the_flag_to_change(name, flag, pets, tmp_path, monkeypatch):
    def forward(self, image):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    make_checkpoint(tmp_path / "a.pth")
    monkeypatch.setattr("models.unet.UNet.forward", forward)
    flags = ("--width", 4, "--image_size", 32) if name == "train" else ("--model", "a.pth")
    assert flag in error_of(script(name, "--data_path", pets, *flags, cwd=tmp_path, expect=2))
