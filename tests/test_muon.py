import pytest
import torch
from torch import nn

from muon import NEWTON_SCHULZ, RMS, Muon, newton_schulz, newton_schulz_by_square, orthogonal


@pytest.mark.parametrize("shape", [(3, 8, 72), (1, 9, 64), (2, 16, 16)])
@pytest.mark.parametrize("iterate", [newton_schulz, newton_schulz_by_square])
def test_both_ways_are_five_newton_schulz_steps(shape, iterate):
    a, b, c = NEWTON_SCHULZ
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrices /= torch.linalg.matrix_norm(matrices, keepdim=True)
    for matrix, found in zip(matrices.double(), iterate(matrices), strict=True):
        x = matrix
        for _ in range(5):
            x = a * x + b * x @ x.T @ x + c * x @ x.T @ x @ x.T @ x
        torch.testing.assert_close(found.double(), x, atol=1e-4, rtol=1e-4)


def test_singular_values_come_near_one_from_any_size():
    u, _, v = torch.linalg.svd(torch.randn(32, 288), full_matrices=False)
    matrix = 1e-6 * u @ torch.diag(torch.logspace(0, -2, 32)) @ v
    low, high = torch.linalg.svdvals(orthogonal(matrix[None])[0]).aminmax()
    assert low > 0.5 and high < 1.25
    torch.testing.assert_close(orthogonal(matrix.T[None]), orthogonal(matrix[None]).mT)
    assert orthogonal(torch.zeros(1, 4, 9)).abs().max() == 0


def test_convolutions_move_by_muon_and_the_rest_by_adamw():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 1))
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    plain = [
        value.detach().clone().requires_grad_() for name, value in network.named_parameters() if name != "0.weight"
    ]
    optimizer, adamw = Muon(network.parameters(), 0.01, 0.1), torch.optim.AdamW(plain, 0.01, weight_decay=0.1)
    network(torch.randn(4, 3, 8, 8)).sum().backward()
    rest = [value for name, value in network.named_parameters() if name != "0.weight"]
    for copy, value in zip(plain, rest, strict=True):
        copy.grad = value.grad.clone()
    gradient = network[0].weight.grad.clone()
    optimizer.step()
    adamw.step()
    torch.testing.assert_close(rest, plain)
    moved = network[0].weight - before["0.weight"] * (1 - 0.01 * 0.1)
    expected = -0.01 * RMS * 27**0.5 * orthogonal(gradient.flatten(1)[None])[0].view_as(moved)
    torch.testing.assert_close(moved, expected)


def test_a_gradient_that_overflowed_in_float16_moves_nothing():
    network = nn.Conv2d(3, 8, 3)
    before = [value.detach().clone() for value in network.parameters()]
    optimizer, scaler = Muon(network.parameters(), 0.01), torch.amp.GradScaler("cpu")
    scaler.scale(network(torch.full((1, 3, 4, 4), 1e38)).sum() * 1e38).backward()
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(list(network.parameters()), before)
    assert scaler.get_scale() < 65536
