"""Runs of train.py on synthetic images: files, reproducibility, divergence, precision, notebooks."""

import signal
from unittest.mock import patch

import pytest
import torch
import torchvision
from conftest import FAST, FIGURES, after_each_step, error_of, read_table, script, trained_run
from PIL import Image

import reports.plots
import train
from checkpoint import load
from data import STOP_SIGNALS
from models.unet import UNet

TINY = ("--dataset", "shapes", "--width", 4, "--image_size", 32, "--limit", 12, "--batch_size", 4, "--steps", 3)
TINY = (*TINY, "--epochs", 2)
FILES = (".pth", ".last.pth", ".csv", ".curve.png", ".panels.png", ".batch.png")


def history_of(folder, name="a"):
    return read_table(folder / f"saved_models/{name}.csv")


def weights_of(folder, name="a"):
    return load(folder / f"saved_models/{name}.last.pth").model


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


PETS = ("--width", 4, "--image_size", 32, "--batch_size", 4, "--learning_rate", 0.01, "--epochs", 3)


def test_training_keeps_the_best_epoch(tmp_path):
    out = trained_run(tmp_path, *PETS, "--augment", "flips", pets=True)
    assert "unet" in out and "dataset/oxford-iiit-pet" in out and "18 training images" in out
    assert {path.name for path in (tmp_path / "saved_models").iterdir()} == {f"a{ending}" for ending in FILES}
    history = history_of(tmp_path)
    best = max(history, key=lambda row: float(row["valid_dice"]))
    kept, last = (load(tmp_path / f"saved_models/a{ending}") for ending in (".pth", ".last.pth"))
    assert len(history) == 3 == last.epoch and kept.epoch == int(best["epoch"])
    assert kept.scores["valid"]["dice"] == float(best["valid_dice"])
    assert float(history[-1]["train_loss"]) < float(history[0]["train_loss"])
    assert kept.training is None and kept.args["learning_rate"] == 0.01 and len(kept.trained_on) == 18
    assert kept.command and kept.versions["torch"] and kept.augmentation["flip_horizontal"]
    assert kept.precision == FAST  # not "auto"
    trained = last.training["model"]  # the checkpoint has the average, not the last weights
    assert any(not torch.equal(value, trained[name]) for name, value in last.model.items())


def test_a_run_draws_its_figures(tmp_path):
    with patch.multiple(reports.plots, **FIGURES):
        script("train", *TINY, "--name", "a", cwd=tmp_path)
    for figure in ("curve", "panels", "batch"):
        assert Image.open(tmp_path / f"saved_models/a.{figure}.png").size[0] > 500


def test_a_second_run_does_not_change_the_files_of_the_first(tmp_path):
    script("train", *TINY, cwd=tmp_path)
    before = (tmp_path / "saved_models/unet.pth").read_bytes()
    script("train", *TINY, "--seed", 1, cwd=tmp_path)
    assert history_of(tmp_path, "unet") != history_of(tmp_path, "unet-2")  # another seed, another run
    assert "--name unet" in error_of(script("train", *TINY, "--name", "unet", cwd=tmp_path, expect=2))
    assert (tmp_path / "saved_models/unet.pth").read_bytes() == before


UNSTEADY = (*TINY, "--norm", "none", "--optimizer", "sgd", "--schedule", "none", "--ema", 0)


@pytest.mark.parametrize("rate, steps", [(1e30, 3), (1e10, 1)], ids=["before its last step", "in its last step"])
def test_a_run_that_diverges_in_its_first_epoch_saves_nothing(rate, steps, tmp_path):
    flags = (*UNSTEADY, "-lr", rate, "--steps", steps, "--epochs", 1)
    assert "NaN" in error_of(script("train", *flags, cwd=tmp_path, expect=2))
    assert not [*(tmp_path / "saved_models").glob("*.pth")]


def test_a_constant_training_loss_gets_a_note(tmp_path):
    flags = ("--schedule", "none", "-lr", 0, "--weight_decay", 0, "--steps", 12, "--augment", "none")
    assert "--learning_rate" in script("train", *TINY, *flags, cwd=tmp_path).stderr.splitlines()[-1]


def test_micro_batches_give_the_weights_of_the_whole_batch(tmp_path):
    flags = (*TINY, "--norm", "none", "--augment", "full", "--precision", "float32", "--optimizer", "sgd")
    for steps in (1, 3):
        script("train", *flags, "--name", steps, "--accumulation_steps", steps, cwd=tmp_path)
    whole, parts = (weights_of(tmp_path, name) for name in "13")
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], atol=1e-5, rtol=1e-4)


def test_no_pass_through_the_network_exceeds_a_micro_batch(tmp_path, monkeypatch):
    sizes, forward = [], UNet.forward
    monkeypatch.setattr(UNet, "forward", lambda self, image: sizes.append(len(image)) or forward(self, image))
    script("train", *TINY, "--limit", 20, "--batch_size", 16, "--accumulation_steps", 3, cwd=tmp_path)
    assert max(sizes) == 6 and 1 not in sizes  # in training, validation and the batch norm statistics


def test_encoder_weights_of_torchvision_are_loaded(tmp_path):
    weights = torchvision.models.resnet34(weights=None).state_dict()
    torch.save(weights, tmp_path / "resnet34.pth")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    flags = ("--model", "resnet34_unet", "--dataset", "shapes", "--steps", 1, "--limit", 2, "--image_size", 32)
    flags = (*flags, "--batch_size", 2, "--epochs", 1, "-lr", 0, "--weight_decay", 0, "--ema", 0, "--name", "a")
    assert "other.pth" in error_of(script("train", *flags, "--encoder_weights", "other.pth", cwd=tmp_path, expect=2))
    script("train", *flags, "--encoder_weights", "resnet34.pth", cwd=tmp_path)
    assert torch.equal(weights_of(tmp_path)["encoder.layer4.2.conv2.weight"], weights["layer4.2.conv2.weight"])


def test_main_restores_signals_and_torch_settings_for_notebooks(tmp_path, monkeypatch):
    def state():
        cudnn = torch.backends.cudnn
        flags = (torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(), cudnn.benchmark)
        return [signal.getsignal(number) for number in STOP_SIGNALS], *flags, torch.get_num_threads()

    monkeypatch.chdir(tmp_path)
    before, during = state(), []
    flags = [*map(str, TINY), "--epochs", "1", "--deterministic"]
    with after_each_step(lambda taken, learner: during.append(state())):
        assert train.main(flags) == 0
    assert state() == before != during[0] and during[0][1]
