"""The optimizers of --optimizer.

Muon: Jordan et al., 2024 (kellerjordan.github.io/posts/muon), with the step length of Liu et al., 2025 (arXiv
2502.16982), section 2.2, so that all parameters share one learning rate. `torch.optim.Muon` takes only matrices.

Large matrices are orthogonalized in blocks of rows, which cuts the time of ResNet34-U-Net's update to a sixth, at the
same Dice (benchmarks/README.md).
"""

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RAdam

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of the quintic a x + b x^3 + c x^5 (Jordan et al.)
STEPS = 5  # iterations of the quintic
RMS = 0.2  # approximate root mean square of an AdamW update (Liu et al.)
MOMENTUM = 0.95  # Nesterov momentum
BLOCK = 64  # rows orthogonalized together
WHOLE = 128  # a matrix of at most this many rows is not split


def build_optimizer(name: str, model: nn.Module, lr: float, weight_decay: float) -> Optimizer:
    """Build an optimizer. Muon and AdamW do not decay norms or biases."""
    if name == "muon":
        return Muon(*split_parameters(model), lr, weight_decay)
    parameters = list(model.parameters())
    if name == "adamw":
        decayed: dict = {"params": [value for value in parameters if value.ndim > 1]}
        others: dict = {"params": [value for value in parameters if value.ndim <= 1], "weight_decay": 0.0}
        return AdamW([decayed, others], lr, weight_decay=weight_decay, fused=True)
    if name == "sgd":  # if fused, a first step that overflows would leave the momentum uninitialized
        return SGD(parameters, lr, momentum=0.9, weight_decay=weight_decay)
    if name == "radam":
        return RAdam(parameters, lr, weight_decay=weight_decay)
    return Adam(parameters, lr, weight_decay=weight_decay, fused=True)


class Muon(Optimizer):
    """Momentum with orthogonalized updates for `matrices`, PyTorch's AdamW for `others` (not decayed) and `decayed`.

    matrices: tensors of two or more dimensions; the first gives the rows. The RMS of an update is up to about RMS * lr.
    """

    def __init__(self, matrices, others, decayed, lr, weight_decay=0.0):
        groups = [{"params": matrices, "momentum": MOMENTUM, "weight_decay": weight_decay}]
        if others:
            groups.append({"params": others, "weight_decay": 0.0})
        if decayed:
            groups.append({"params": decayed, "weight_decay": weight_decay})
        super().__init__(groups, {"lr": lr})
        self.adamw = AdamW(self.param_groups[1:], lr, fused=True) if groups[1:] else None

    @torch.no_grad()
    def step(self):  # type: ignore[override]
        """Update every parameter with a gradient. Overwrites the matrices' gradients."""
        if self.adamw:
            self.adamw.state, self.adamw.param_groups = self.state, self.param_groups[1:]  # load_state_dict renews them
            self.adamw.step()
        group = self.param_groups[0]
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
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # in TF32 or bfloat16, the iteration may diverge
        for parameter, x, polynomial in zip(moved, blocks, newton_schulz(blocks), strict=True):
            matrix = as_matrix(parameter)
            length = RMS * max(matrix.shape) ** 0.5
            in_blocks(matrix).baddbmm_(polynomial, x, beta=decay, alpha=-group["lr"] * length)
        torch.set_float32_matmul_precision(precision)


def split_parameters(model: nn.Module) -> tuple[list, list, list]:
    """Return Muon's parameters, those AdamW does not decay, and those it does.

    Muon takes convolutions, except grouped ones and a head of one or two channels.
    AdamW does not decay norms, biases or that head.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    grouped = {id(module.weight) for module in convolutions if module.groups > 1}
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
    """View (rows, ...) as (rows, columns), in memory order."""
    if parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        parameter = parameter.permute(0, 2, 3, 1)
    return parameter.flatten(1)


def in_blocks(matrix):
    """View a matrix, transposed if it is tall, as blocks of rows: (N, BLOCK, columns).

    If there are at most WHOLE rows, or BLOCK does not divide their number, it is one block: (1, rows, columns).
    """
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    rows = short.shape[0]
    if rows > WHOLE and rows % BLOCK == 0:
        rows = BLOCK
    return short.unflatten(0, (-1, rows))


def newton_schulz(matrices):
    """Return polynomials (N, rows, rows) whose products with each x, float32 (N, rows, columns), are nearly orthogonal.

    rows <= columns. Most singular values of the products are between 0.68 and 1.21. Polynomials of x xᵀ commute, so x
    can be multiplied last, which saves about two thirds of the multiplications. The trace of x xᵀ is |x|².
    """
    a, b, c = NEWTON_SCHULZ
    found = [None] * len(matrices)
    squares = [x @ x.mT for x in matrices]
    for rows in {square.shape[1] for square in squares}:
        indices = [index for index, square in enumerate(squares) if square.shape[1] == rows]
        square = torch.cat([squares[index] for index in indices])
        norm = square.diagonal(dim1=1, dim2=2).sum(1).sqrt().view(-1, 1, 1) + 1e-7
        square, product = square / norm**2, 1 / norm
        for step in range(STEPS):
            polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
            polynomial.diagonal(dim1=1, dim2=2).add_(a)
            product = polynomial * product if step == 0 else polynomial @ product
            if step < STEPS - 1:
                square = polynomial @ square @ polynomial
        counts = [len(squares[index]) for index in indices]
        for index, part in zip(indices, product.split(counts), strict=True):
            found[index] = part
    return found
