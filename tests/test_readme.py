"""The commands for the five reports in benchmarks/README.md, seen to be the reports' settings."""

import re
import shlex

import pytest
from conftest import ROOT

from training.settings import parse_args

PETS, SHAPES = {"dataset": "pets", "image_size": 256}, {"dataset": "shapes", "image_size": 128}
R1 = {**PETS, "mean_std": "train", "augment": "flips", "loss": "bce", "optimizer": "radam", "epochs": 20}
R2 = {**PETS, "augment": "light", "loss": "bce_dice", "optimizer": "adam", "mean_std": "fixed", "schedule": "plateau"}
R3 = {**SHAPES, "in_channels": 1, "out_channels": 2, "loss": "bce", "optimizer": "sgd", "learning_rate": 1e-3}
R3 |= {"weight_decay": 5e-4, "epochs": 5, "steps": 50, "mean_std": "unit", "augment": "none", "schedule": "none"}
R4 = {**PETS, "mean_std": "unit", "augment": "none", "loss": "bce", "optimizer": "adam", "schedule": "none"}
R5 = {**PETS, "augment": "none", "loss": "bce", "optimizer": "adamw", "learning_rate": 5e-4, "batch_size": 16}
REPORTS = {
    "r1_unet": {**R1, "model": "unet", "width": 32, "schedule": "none"},
    "r1_resnet34_unet": {**R1, "model": "resnet34_unet", "schedule": "none"},
    "r2_unet": {**R2, "model": "unet", "norm": "none", "learning_rate": 5e-4, "weight_decay": 1e-5},
    "r2_resnet34_unet": {**R2, "model": "resnet34_unet", "decoder": "transposed", "learning_rate": 1e-4},
    "r3_unet": {**R3, "model": "unet", "batch_size": 32},
    "r3_unet_shallow": {**R3, "model": "unet_shallow", "batch_size": 4},
    "r3_unet_add": {**R3, "model": "unet_add", "batch_size": 4},
    "r4_unet": {**R4, "model": "unet", "norm": "none", "learning_rate": 4e-5, "batch_size": 64, "epochs": 100},
    "r4_resnet34_unet": {**R4, "decoder": "nearest", "learning_rate": 5e-5, "batch_size": 100, "epochs": 150},
    "r5_unet": {**R5, "model": "unet", "schedule": "none"},
    "r5_resnet34_unet": {**R5, "model": "resnet34_unet", "decoder": "upconv", "schedule": "none"},
}


def commands():
    text = (ROOT / "benchmarks/README.md").read_text()
    lines = re.findall(r"^ +python src/train\.py (.*--name (r\d\w+))$", text, re.MULTILINE)
    return {name: shlex.split(flags) for flags, name in lines}


def test_every_report_has_its_command():
    assert commands().keys() == REPORTS.keys()


@pytest.mark.parametrize("name", REPORTS)
def test_a_reports_command_is_its_settings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset" / "oxford-iiit-pet" / "annotations").mkdir(parents=True)
    settings, _ = parse_args(None, commands()[name])
    assert {key: getattr(settings, key) for key in REPORTS[name]} == REPORTS[name]
    assert settings.ema == 0 and settings.start_size == 0
