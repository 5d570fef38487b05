"""What a run says of itself after an epoch."""

from pathlib import Path

import pytest
import torch
from conftest import script

from training.progress import note_one_class
from training.saving import RunFiles

FILES = RunFiles(Path("saved_models"), "a")


@pytest.mark.parametrize(
    "counts, words",
    [  # per picture: true positives, false positives, false negatives, true negatives
        (
            [[0, 0, 4, 96], [0, 0, 5, 95]],
            "2 of 2 valid pictures are predicted as background alone; foreground is 4.5%",
        ),
        (
            [[0, 0, 40, 60], [0, 0, 0, 100]],
            "as background alone; if the next epochs do so too, look at the masks",
        ),
        ([[30, 70, 0, 0], [20, 80, 0, 0]], "note: 2 of 2 valid pictures are predicted as foreground alone"),
        ([[0, 0, 4, 96], [1, 0, 5, 94]], ""),
        ([[30, 69, 0, 1], [20, 80, 0, 0]], ""),
        ([[0, 0, 0, 100], [0, 0, 0, 100]], ""),  # as the truth has it
        ([[100, 0, 0, 0]], ""),
    ],
)
def test_a_prediction_of_one_class_is_said(counts, words, capsys):
    note_one_class(torch.tensor(counts), FILES)
    said = capsys.readouterr().err
    assert words in said and bool(words) == bool(said)
    assert ("saved_models/a.batch.png" in said) == bool(words)


def test_a_run_that_predicts_background_alone_says_so(tmp_path, monkeypatch):
    def forward(self, image):
        return self.head(image[:, :1].expand(-1, self.head.in_channels, -1, -1)) * 0 - 1

    monkeypatch.setattr("models.unet.UNet.forward", forward)
    flags = ("--dataset", "shapes", "--width", 2, "--image_size", 32, "--limit", 8, "--steps", 2, "--epochs", 1)
    done = script("train", *flags, "--batch_size", 4, "--optimizer", "sgd", "--ema", 0, cwd=tmp_path)
    assert "note: 8 of 8 valid pictures are predicted as background alone" in done.stderr
