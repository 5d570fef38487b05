"""Muon: momentum whose update is made orthogonal, for convolutions; AdamW for all other parameters.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(kellerjordan.github.io/posts/muon), with the step length of Liu et al., "Muon is Scalable for LLM
Training", 2025 (arXiv 2502.16982), section 2.2, which gives updates the root mean square of AdamW's,
so that both kinds of parameters share one learning rate.

A matrix of more than WHOLE rows is made orthogonal in blocks of BLOCK rows, each on its own: ResNet34-UNet's update
takes a sixth of the time, at the same Dice (benchmarks/README.md has the measurements).

`torch.optim.Muon` takes two-dimensional parameters only, and multiplies in bfloat16, which is slow on many CPUs.
"""

from contextlib import contextmanager

import torch
from torch.optim import Optimizer
from torch.optim.adamw import adamw

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of the quintic a x + b x^3 + c x^5 (Jordan et al.)
RMS = 0.2  # approximate root mean square of an AdamW update (Liu et al.)
BLOCK = 64  # rows that are made orthogonal to one another,
WHOLE = 128  # in matrices of more rows than this


class Muon(Optimizer):
    """Muon for `matrices`, AdamW without weight decay for `others`; both at the same learning rate.

    matrices: parameters of two dimensions or more, each seen as a row for each entry of its first dimension.
    lr: the root mean square of an update is about RMS * lr. momentum: Nesterov's. betas, eps: AdamW's.
    """

    def __init__(self, matrices, others, lr, weight_decay=0.0, momentum=0.95, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(
            [
                {"params": list(matrices), "momentum": momentum, "weight_decay": weight_decay},
                {"params": list(others), "betas": betas, "eps": eps},
            ],
            {"lr": lr},
        )

    def load_state_dict(self, state_dict):
        """Go on from what `state_dict` gave, whatever device it was on; on a GPU AdamW counts steps there."""
        super().load_state_dict(state_dict)  # which leaves them where they were saved
        for parameter in self.param_groups[1]["params"]:
            if self.state[parameter]:
                self.state[parameter]["step"] = self.state[parameter]["step"].to(parameter.device)

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient; gradients of matrices are overwritten."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices, others = self.param_groups
        self._muon(matrices)
        self._adamw(others)
        return loss

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

    def _adamw(self, group):
        moved = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in moved:
            if not self.state[parameter]:
                self.state[parameter].update(
                    step=torch.zeros((), dtype=torch.float32, device=parameter.device),
                    exp_avg=torch.zeros_like(parameter),
                    exp_avg_sq=torch.zeros_like(parameter),
                )
        states = [self.state[parameter] for parameter in moved]
        adamw(
            moved,
            [parameter.grad for parameter in moved],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )


def is_matrix(parameter):
    """Whether Muon takes a parameter: convolutions, but for those of one or two filters that give the logits."""
    return parameter.ndim == 4 and len(parameter) > 2


def as_matrix(parameter):
    """(rows, ...) seen as (rows, columns), without a copy; the order of the columns follows the memory's."""
    if parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        parameter = parameter.permute(0, 2, 3, 1)
    return parameter.flatten(1)


def in_blocks(matrix):
    """(rows, columns) seen as (N, BLOCK, columns / rows / ...): blocks of the shorter side, which comes first.

    A side of up to WHOLE, or one that BLOCK does not divide, stays whole: (1, short side, long side).
    """
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    rows = short.shape[0]
    return short.unflatten(0, (-1, BLOCK if rows > WHOLE and rows % BLOCK == 0 else rows))


def newton_schulz(matrices, steps=5):
    """For each x, float32 (N, rows, columns) with rows <= columns, the (N, rows, rows) whose product with x has
    singular values near 1 (most of .68 to 1.21).

    The iteration of Jordan et al., in polynomials of x x^T: they commute, so they can be multiplied with one another
    first and with x last, a third of the multiplications. x is normalised by its Frobenius norm, the root of the trace.
    All blocks of as many rows are computed together, whatever their columns.
    """
    a, b, c = NEWTON_SCHULZ
    found = [None] * len(matrices)
    with full_float32():
        squares = [x @ x.mT for x in matrices]
        for rows in {square.shape[1] for square in squares}:
            places = [place for place, square in enumerate(squares) if square.shape[1] == rows]
            square = torch.cat([squares[place] for place in places])
            norm = square.diagonal(dim1=1, dim2=2).sum(1).sqrt().view(-1, 1, 1) + 1e-7
            square, product = square / norm**2, 1 / norm
            for step in range(steps):
                polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
                polynomial.diagonal(dim1=1, dim2=2).add_(a)
                product = polynomial * product if step == 0 else polynomial @ product
                if step < steps - 1:
                    square = polynomial @ square @ polynomial
            for place, part in zip(places, product.split([len(squares[place]) for place in places]), strict=True):
                found[place] = part
    return found


@contextmanager
def full_float32():
    """Matrix products without TF32 or bfloat16, whose rounding makes small eigenvalues negative, from where the
    iteration diverges."""
    kept = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(kept)
