"""Predictor: precision, evaluation mode and thresholds."""

import pytest
import torch
from conftest import load_shapes, make_checkpoint
from test_checkpoint import NETWORKS

from checkpoint import load, restore_model
from data import eval_loader
from photos.prediction import probability_of
from predictor import Predictor, load_predictor
from runtime import Runtime
from scoring import DiceMeter, confusion, evaluate
from utils import UserError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name, options", NETWORKS)
def test_weights_cast_in_advance_give_the_logits_of_autocast(name, options, dtype, tmp_path):
    path, runtime = make_checkpoint(tmp_path / "a.pth", name, **options), Runtime(dtype=dtype)
    predictor = load_predictor(path, runtime, tta=True)
    assert {weight.dtype for weight in predictor.network.parameters()} == {dtype}
    pixels = torch.randint(0, 256, (2, options.get("in_channels", 3), 45, 70), dtype=torch.uint8)
    logits = predictor.logits(pixels)
    predictor.network = restore_model(load(path), path, runtime, folded=True)
    expected = predictor.logits(pixels)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=0, rtol=0)


def test_evaluation_counts_every_image_once_in_evaluation_mode(tmp_path):
    checkpoint = load(make_checkpoint(tmp_path / "a.pth"))
    network = restore_model(checkpoint, "a.pth").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    predictor = Predictor(network, checkpoint.mean, checkpoint.std, 32, Runtime())
    dataset = load_shapes("valid", 32, limit=7)
    meter = evaluate(predictor, eval_loader(dataset, 4), DiceMeter(dataset))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    images = [dataset[[index]] for index in range(7)]
    expected = [confusion(predictor.probability(one["image"]) >= 0.5, one["mask"]) for one in images]
    assert meter.at(0.5).tolist() == torch.cat(expected).tolist()


def test_a_probability_at_the_threshold_is_foreground():
    meter = DiceMeter(range(1), thresholds=(0.25, 0.5, 0.75))
    logits = torch.logit(torch.tensor([0.25, 0.5, 0.75, 0.9], dtype=torch.float64)).float().view(1, 1, 1, 4)
    meter.add({"mask": torch.ones(1, 1, 1, 4, dtype=torch.uint8)}, logits)
    assert meter.counts()[:, 0, 0].tolist() == [4, 3, 2]


def test_a_loss_with_parameters_is_averaged_without_gradients():
    """`Predictor` returns inference tensors, which autograd refuses to save."""
    scale = torch.tensor(2.0, requires_grad=True)
    meter, mask = DiceMeter(range(2), criterion=lambda logits, mask: (logits * scale).mean()), torch.ones(2, 1, 4, 4)
    with torch.inference_mode():
        logits = torch.ones(2, 1, 4, 4)
    meter.add({"mask": mask.byte()}, logits)
    assert meter.loss() == 2.0


def test_nan_is_never_scored_or_drawn():
    meter, mask = DiceMeter(range(2)), torch.ones(2, 1, 4, 4, dtype=torch.uint8)
    logits = torch.zeros(2, 1, 4, 4)
    logits[1, 0, 2, 2] = torch.nan
    meter.add({"mask": mask}, logits)
    with pytest.raises(UserError, match="NaN"):
        meter.at(0.5)
    network = torch.nn.Conv2d(3, 1, 1)
    network.weight.data.fill_(torch.nan)
    with pytest.raises(UserError, match="NaN"):
        probability_of(Predictor(network, [0.5] * 3, [0.5] * 3, 4, Runtime()), [torch.zeros(3, 4, 4).byte()])
