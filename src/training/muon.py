"""Muon: momentum whose update is orthogonalized, for convolutions; AdamW for all other parameters.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (kellerjordan.github.io/posts/muon), with
the step length of Liu et al., "Muon is Scalable for LLM Training", 2025 (arXiv 2502.16982), section 2.2. It gives
updates the root mean square of AdamW's, so that both kinds of parameters share one learning rate.

A matrix of more than WHOLE rows is orthogonalized in separate blocks of BLOCK rows: ResNet34-UNet's update takes a
sixth of the time, at the same Dice (benchmarks/README.md). `torch.optim.Muon` takes only two-dimensional parameters.
"""

from contextlib import contextmanager

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of the quintic a x + b x^3 + c x^5 (Jordan et al.)
RMS = 0.2  # approximate root mean square of an AdamW update (Liu et al.)
BLOCK = 64  # rows that are orthogonalized together,
WHOLE = 128  # in matrices of more rows than this


class Muon(Optimizer):
    """Muon for `matrices`, PyTorch's AdamW for `decayed` and `others`, all at one learning rate.

    matrices: parameters of two dimensions or more, each taken as a matrix with a row per entry of its first dimension.
    decayed: parameters that AdamW decays. others: parameters without weight decay.
    lr: the root mean square of an update is about RMS * lr. momentum: Nesterov's. betas, eps: AdamW's.
    """

    def __init__(self, matrices, others, lr, weight_decay=0.0, momentum=0.95, betas=(0.9, 0.999), eps=1e-8, decayed=()):
        groups: list[dict] = [{"params": list(matrices), "momentum": momentum, "weight_decay": weight_decay}]
        groups += [{"params": list(others), "weight_decay": 0.0}]
        groups += [{"params": list(decayed), "weight_decay": weight_decay}]
        super().__init__([group for group in groups if group["params"] or group is groups[0]], {"lr": lr})
        self.adamw = AdamW(self.param_groups[1:], lr, betas, eps, fused=True) if self.param_groups[1:] else None
        self._share()

    def _share(self):
        """Have both optimizers use one state and the same parameter groups."""
        if self.adamw:
            self.adamw.state, self.adamw.param_groups = self.state, self.param_groups[1:]

    def load_state_dict(self, state_dict):
        """Load a state_dict from any device."""
        super().load_state_dict(state_dict)
        for group in self.param_groups[1:]:
            for parameter in group["params"]:
                if "step" in self.state[parameter]:  # which super() leaves on the device it was saved from
                    self.state[parameter]["step"] = self.state[parameter]["step"].to(parameter.device)
        self._share()

    @torch.no_grad()
    def step(self):  # type: ignore[override]
        """Update every parameter that has a gradient. Gradients of matrices are overwritten."""
        self._muon(self.param_groups[0])
        if self.adamw:
            self.adamw.step()

    def _muon(self, group):
        moved = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not moved:
            return
        for parameter in moved:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in moved]
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in moved]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        torch._foreach_lerp_(gradients, buffers, group["momentum"])
        blocks = [in_blocks(as_matrix(gradient)) for gradient in gradients]
        decay = 1 - group["lr"] * group["weight_decay"]
        with full_float32():
            for parameter, x, polynomial in zip(moved, blocks, newton_schulz(blocks), strict=True):
                matrix = as_matrix(parameter)
                length = RMS * max(matrix.shape) ** 0.5
                in_blocks(matrix).baddbmm_(polynomial, x, beta=decay, alpha=-group["lr"] * length)


def split_parameters(model: nn.Module) -> tuple[list, list, list]:
    """Split a network's parameters into those for Muon, those that AdamW does not decay, and those that it does.

    Muon takes convolutions. AdamW takes the rest: filters with nothing to orthogonalize (a head of one or
    two channels, depthwise convolutions), linear layers, norms and biases. Norms, biases and the head are not decayed.
    """
    grouped = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    matrices, others, decayed = [], [], []
    for parameter in model.parameters():
        if id(parameter) in grouped or parameter.ndim in (2, 3, 5):
            decayed.append(parameter)
        elif parameter.ndim == 4 and len(parameter) > 2:
            matrices.append(parameter)
        else:
            others.append(parameter)
    return matrices, others, decayed


def as_matrix(parameter):
    """View (rows, ...) as (rows, columns) without a copy; the order of the columns is the memory's."""
    if parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        parameter = parameter.permute(0, 2, 3, 1)
    return parameter.flatten(1)


def in_blocks(matrix):
    """View (rows, columns) as (N, BLOCK, columns / rows / ...): blocks of the shorter side, which comes first.

    A side of up to WHOLE, or one that BLOCK does not divide, stays whole: (1, short side, long side).
    """
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    rows = short.shape[0]
    return short.unflatten(0, (-1, BLOCK if rows > WHOLE and rows % BLOCK == 0 else rows))


def newton_schulz(matrices, steps=5):
    """Return a polynomial (N, rows, rows) of each x, float32 (N, rows, columns): its product with x is near orthogonal.

    rows <= columns; the product's singular values are near 1 (most in 0.68 to 1.21). This is the iteration of Jordan et
    al. in polynomials of x xᵀ: they commute, so they are multiplied with each other first and with x last, which takes
    a third of the multiplications. x is normalized by its Frobenius norm, the root of the trace. All blocks with the
    same number of rows are computed together, whatever their columns.
    """
    a, b, c = NEWTON_SCHULZ
    found = [None] * len(matrices)
    with full_float32():
        squares = [x @ x.mT for x in matrices]
        for rows in {square.shape[1] for square in squares}:
            indices = [index for index, square in enumerate(squares) if square.shape[1] == rows]
            square = torch.cat([squares[index] for index in indices])
            norm = square.diagonal(dim1=1, dim2=2).sum(1).sqrt().view(-1, 1, 1) + 1e-7
            square, product = square / norm**2, 1 / norm
            for step in range(steps):
                polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
                polynomial.diagonal(dim1=1, dim2=2).add_(a)
                product = polynomial * product if step == 0 else polynomial @ product
                if step < steps - 1:
                    square = polynomial @ square @ polynomial
            for index, part in zip(indices, product.split([len(squares[i]) for i in indices]), strict=True):
                found[index] = part
    return found


@contextmanager
def full_float32():
    """Multiply matrices without TF32 or bfloat16, whose rounding makes small eigenvalues negative and the iteration
    diverge."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
