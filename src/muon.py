"""Muon: momentum whose update is made orthogonal, for convolutions; AdamW for all the other parameters.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(kellerjordan.github.io/posts/muon), with the step length of Liu et al., "Muon is Scalable for LLM
Training", 2025 (arXiv 2502.16982), section 2.2, which gives updates the root mean square of AdamW's,
so that both kinds of parameters share one learning rate.

`torch.optim.Muon` takes matrices alone, and multiplies in bfloat16, which is slow on many a CPU.
"""

from itertools import groupby

import torch
from torch.optim import AdamW, Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of the quintic a x + b x^3 + c x^5 (Jordan et al.)
RMS = 0.2  # root mean square of an update of AdamW, about (Liu et al.)


class Muon(AdamW):
    """Convolutions of more than two filters are seen as matrices of a row per filter; momentum is Nesterov's."""

    def __init__(self, parameters, lr, weight_decay=0.0, momentum=0.95):
        parameters = list(parameters)
        matrices = [parameter for parameter in parameters if is_matrix(parameter)]
        rest = [parameter for parameter in parameters if not is_matrix(parameter)]
        super().__init__([{"params": matrices}, {"params": rest}], lr, weight_decay=weight_decay)
        self.momentum = momentum

    def __setstate__(self, state):
        Optimizer.__setstate__(self, state)  # AdamW's own looks for its count of steps in every parameter's state

    @torch.no_grad()
    def step(self, closure=None):
        """One step for all parameters. The gradients of the convolutions are used up (None afterwards)."""
        group = self.param_groups[0]
        moved = sorted((p for p in group["params"] if p.grad is not None), key=matrix_shape)
        for shape, alike in groupby(moved, matrix_shape):
            alike = list(alike)
            updates = orthogonal(torch.stack([self.velocity(p).flatten(1) for p in alike]))
            for parameter, update in zip(alike, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * RMS * max(shape) ** 0.5)
                parameter.grad = None  # AdamW passes over it
        return super().step(closure)

    def velocity(self, parameter):
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["momentum_buffer"].lerp_(parameter.grad, 1 - self.momentum)
        return parameter.grad.lerp(state["momentum_buffer"], self.momentum)


def is_matrix(parameter):
    return parameter.ndim == 4 and len(parameter) > 2  # the layer that gives the logits has one filter or two


def matrix_shape(parameter):
    return parameter.shape[0], parameter[0].numel()


def orthogonal(matrices):
    """float32 (N, rows, columns) -> the same, singular values pushed near 1 (between .68 and 1.21, most of them)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    x = newton_schulz(x) if x.is_cuda else newton_schulz_by_square(x)
    return x.mT if tall else x


def newton_schulz(x, steps=5):
    """The iteration as Jordan et al. write it, which stands the rounding of TF32."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


def newton_schulz_by_square(x, steps=5):
    """The same with a third of the multiplications, for a CPU: polynomials of x x^T commute, so that they can be
    multiplied with one another first and then with x.

    In float32 to the full: coarser rounding makes small eigenvalues negative, from where the steps diverge.
    """
    a, b, c = NEWTON_SCHULZ
    kept = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        square, product = x @ x.mT, None
        for step in range(steps):
            polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
            polynomial.diagonal(dim1=1, dim2=2).add_(a)
            product = polynomial if product is None else polynomial @ product
            if step < steps - 1:
                square = polynomial @ square @ polynomial
        return product @ x
    finally:
        torch.set_float32_matmul_precision(kept)
