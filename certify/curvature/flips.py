r"""How near an input of another class was found: an attack, so a distance from above and no certificate.

With logits z, the class y of the input and the margin m = z_y - max_{j != y} z_j, each step goes to where the
linearised margin changes its sign, x - m grad m / ||grad m||^2, and a little further (S.-M. Moosavi-Dezfooli,
A. Fawzi, P. Frossard, DeepFool, arXiv 1511.04599, towards the runner-up alone); the end is then drawn back along the
line to the input while the class stays another one.

*What counts as another class.* The margin has to be below zero by more than `CLEARLY` times the largest logit. That is
far above what rounding in float64 adds to a margin, by measurement and not by proof.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

CLEARLY = 1e-6  # of the largest logit
OVERSHOOT = 1.02
HALVINGS = 20


def flip_distances(
    predict: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    box: tuple[float, float] | None = None,
    steps: int = 30,
) -> Tensor:
    """Return how far (l2) the nearest input of another class is that was found, float64 ``[N]``; inf where none was.

    Args:
        predict: The network, whose rows do not touch each other.
        inputs: ``[N, ...]``.
        box: Where inputs lie; None for everywhere.
        steps: Gradients taken.

    Example:
        >>> W = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)  # the boundary is where x_0 is zero
        >>> found = flip_distances(lambda x: x @ W.T, torch.tensor([[0.5, 3.0]], dtype=torch.float64))
        >>> 0.5 < found.item() < 0.5001
        True
    """
    start = inputs.detach()
    with torch.no_grad():
        labels = predict(start).argmax(1)
    flipped, ends = torch.zeros_like(labels, dtype=torch.bool), start.clone()
    x = start
    for _ in range(steps):
        margin, enough, gradient = _slope(predict, x, labels)
        gradient = _free(gradient, x, box)
        size = gradient.flatten(1).square().sum(1)
        factor = torch.where(size > 0.0, OVERSHOOT * (margin + enough) / size, 0.0)
        moved = x - factor.reshape(-1, *[1] * (x.dim() - 1)) * gradient
        x = _within(moved, box)
        now = _is_flipped(predict, x, labels) & ~flipped
        ends[now] = x[now]
        flipped |= now
        if bool(flipped.all()):
            break
    near = _drawn_back(predict, start, ends, labels)
    distances = (near - start).double().flatten(1).norm(dim=1)
    return torch.where(flipped, distances, math.inf)


def leads_clearly(logits: Tensor) -> Tensor:
    """Return for each row of logits whether the largest one leads by more than rounding in float64 could, bool ``[N]``.

    Example:
        >>> leads_clearly(torch.tensor([[1.0, 0.0], [1.0, 1.0 - 1e-9]], dtype=torch.float64)).tolist()
        [True, False]
    """
    return _margins(logits, logits.argmax(1)) > CLEARLY * logits.abs().amax(1)


def _slope(predict: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the margin of each row, what is clearly above its rounding, and its gradient."""
    at = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = predict(at)
        margin = _margins(logits, labels)
        (gradient,) = torch.autograd.grad(margin.sum(), at)
    return margin.detach(), 2.0 * CLEARLY * logits.detach().abs().amax(1), gradient


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels.unsqueeze(1))
    others = logits.scatter(1, labels.unsqueeze(1), -math.inf)
    return own.squeeze(1) - others.amax(1)


def _is_flipped(predict: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        logits = predict(x)
    return _margins(logits, labels) < -CLEARLY * logits.abs().amax(1)


def _drawn_back(predict: Callable[[Tensor], Tensor], start: Tensor, ends: Tensor, labels: Tensor) -> Tensor:
    """Return points of another class between the start and the ends; the start where the end has none."""
    low = torch.zeros(len(start), dtype=start.dtype, device=start.device)
    high = torch.ones_like(low)
    shape = (-1, *[1] * (start.dim() - 1))
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        other = _is_flipped(predict, start + middle.reshape(shape) * (ends - start), labels)
        low, high = torch.where(other, low, middle), torch.where(other, middle, high)
    return start + high.reshape(shape) * (ends - start)


def _free(gradient: Tensor, x: Tensor, box: tuple[float, float] | None) -> Tensor:
    """Return the gradient without the coordinates in which a step against it would leave the box."""
    if box is None:
        return gradient
    stuck = ((x <= box[0]) & (gradient > 0.0)) | ((x >= box[1]) & (gradient < 0.0))
    return torch.where(stuck, 0.0, gradient)


def _within(x: Tensor, box: tuple[float, float] | None) -> Tensor:
    return x if box is None else x.clamp(*box)
