import pytest
import torch
from torch import nn

from training import optimizers
from training.optimizers import RMS, Muon, as_matrix, build_optimizer, in_blocks, newton_schulz, split_parameters


def orthogonal(matrix):
    """Orthogonalize a matrix by five steps of the iteration as the paper writes it, in float64."""
    a, b, c = optimizers.NEWTON_SCHULZ
    x = matrix.double() / (matrix.double().norm() + 1e-7)
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(5):
        x = a * x + b * x @ x.T @ x + c * x @ x.T @ x @ x.T @ x
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)


def muon_of(network, *settings):
    return Muon(*split_parameters(network), *settings)


class Block(nn.Module):
    """Layers of networks besides plain convolutions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.linear = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Conv2d(8, 1, 1)


def test_muon_leaves_linear_layers_and_depthwise_convolutions_to_adamw_with_decay():
    block = Block()
    names = {id(parameter): name for name, parameter in block.named_parameters()}
    matrices, others, decayed = ([names[id(p)] for p in part] for part in split_parameters(block))
    assert matrices == ["conv.weight"] and decayed == ["depthwise.weight", "linear.weight"]
    assert set(others) == {name for name in names.values() if "bias" in name} | {"norm.weight", "head.weight"}
    decay = {id(p): group["weight_decay"] for group in build_optimizer("muon", block, 0.01, 0.1).param_groups
             for p in group["params"]}  # fmt: skip
    assert {names[key] for key, value in decay.items() if value} == {"conv.weight", *decayed}


def test_adamw_does_not_decay_norms_and_biases():
    block = Block()
    decayed, others = build_optimizer("adamw", block, 0.01, 0.1).param_groups
    assert decayed["weight_decay"] == 0.1 and all(parameter.ndim > 1 for parameter in decayed["params"])
    assert others["weight_decay"] == 0 and all(parameter.ndim == 1 for parameter in others["params"])


def test_newton_schulz_matches_the_iteration_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=generator) for shape in ((3, 8, 72), (1, 9, 64), (2, 8, 16))]
    for x, polynomial in zip(matrices, newton_schulz(matrices), strict=True):
        for one, found in zip(x, polynomial @ x, strict=True):
            torch.testing.assert_close(found, orthogonal(one), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "filters, channels, blocks", [(256, 32, 4), (128, 16, 1), (48, 64, 1), (256, 8, 1), (200, 64, 1)]
)
def test_a_convolution_is_split_into_blocks_without_a_copy(filters, channels, blocks, layout):
    weight = torch.randn(filters, channels, 3, 3).to(memory_format=layout)
    seen = in_blocks(as_matrix(weight))
    short, long = sorted((filters, 9 * channels))
    assert seen.shape == (blocks, short // blocks, long)
    seen.zero_()
    assert not weight.any()


def test_singular_values_become_nearly_one():
    u, _, v = torch.linalg.svd(torch.randn(32, 288), full_matrices=False)
    matrix = 1e-6 * u @ torch.diag(torch.logspace(0, -2, 32)) @ v
    [polynomial] = newton_schulz([matrix[None]])
    low, high = torch.linalg.svdvals(polynomial[0] @ matrix).aminmax()
    assert low > 0.5 and high < 1.25
    [polynomial] = newton_schulz([torch.zeros(1, 4, 9)])
    assert polynomial.isfinite().all()


def test_convolutions_are_updated_by_muon_and_the_rest_by_adamw():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 1))
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    rest = [value for name, value in network.named_parameters() if name != "0.weight"]
    plain = [value.detach().clone().requires_grad_() for value in rest]
    optimizer, adamw = muon_of(network, 0.01, 0.1), torch.optim.AdamW(plain, 0.01, weight_decay=0)
    network(torch.randn(4, 3, 8, 8)).sum().backward()
    for copy, value in zip(plain, rest, strict=True):
        copy.grad = value.grad.clone()
    gradient = network[0].weight.grad.clone()
    optimizer.step()
    adamw.step()
    torch.testing.assert_close(rest, plain)
    moved = network[0].weight - before["0.weight"] * (1 - 0.01 * 0.1)
    expected = -0.01 * RMS * 27**0.5 * orthogonal(gradient.flatten(1)).view_as(moved)
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_blocks_of_rows_are_orthogonalized_separately(layout):
    torch.manual_seed(0)
    network = nn.Conv2d(64, 4 * optimizers.BLOCK, 3, bias=False).to(memory_format=layout)
    before = network.weight.detach().clone()
    network.weight.grad = torch.randn_like(network.weight)
    gradient = network.weight.grad.clone()
    muon_of(network, 0.01).step()
    length = -0.01 * RMS * (9 * 64) ** 0.5
    for rows in torch.arange(4 * optimizers.BLOCK).split(optimizers.BLOCK):
        expected = length * orthogonal(gradient[rows].flatten(1)).view_as(before[rows])
        torch.testing.assert_close(network.weight[rows] - before[rows], expected, atol=1e-6, rtol=1e-4)
