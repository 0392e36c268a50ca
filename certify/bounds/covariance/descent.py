r"""Limited-memory BFGS with backtracking, for functions that are not defined everywhere.

The two-loop recursion of Nocedal (Mathematics of Computation 35, 1980). A point where the function has no value halves
the step; among points where it has one, the first with sufficient decrease (Armijo) is taken. Pairs of steps and
differences of derivatives without positive curvature are left out, so that the model stays positive definite.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

Evaluate: TypeAlias = Callable[[Tensor], tuple[float, Tensor] | None]

MEMORY = 20
LONGEST = 1.5  # of one coordinate in one step: variables are logarithms
DECREASE = 1e-4
CURVATURE = 1e-10


class _Model:
    """The inverse Hessian as the last few pairs (s, y)."""

    def __init__(self) -> None:
        self.pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=MEMORY)

    def learn(self, s: Tensor, y: Tensor) -> None:
        product = float(s @ y)
        if product > CURVATURE * float(s.norm() * y.norm()):
            self.pairs.append((s, y, product))

    def direction(self, gradient: Tensor) -> Tensor:
        q = gradient.clone()
        steps: list[float] = []
        for s, y, product in reversed(self.pairs):
            step = float(s @ q) / product
            q, steps = q - step * y, [*steps, step]
        if self.pairs:
            _, y, product = self.pairs[-1]
            q = q * (product / float(y @ y))
        else:
            q = q / q.norm()
        for (s, y, product), step in zip(self.pairs, reversed(steps), strict=True):
            q = q + s * (step - float(y @ q) / product)
        return -q * min(1.0, LONGEST / max(float(q.abs().max()), 1e-300))


def minimise(function: Evaluate, x: Tensor, *, evaluations: int, tolerance: float = 1e-7) -> Tensor:
    """Return the best point found within a number of evaluations.

    Args:
        function: The value and the derivative at a point, or None where there is none.
        x: The first point; the function must have a value there, or ``x`` is returned.
        evaluations: How often the function may be asked.
        tolerance: Stop when the model expects to gain less than this.

    Example:
        >>> import torch
        >>> target = torch.tensor([1.0, -2.0])
        >>> distance = lambda x: (float((x - target).square().sum()), 2 * (x - target))
        >>> x = minimise(distance, torch.zeros(2), evaluations=20)
        >>> torch.allclose(x, target)
        True
    """
    at = function(x)
    model, left = _Model(), evaluations - 1
    while at is not None and left > 0:
        value, gradient = at
        direction = model.direction(gradient)
        slope = float(gradient @ direction)
        if not slope < -tolerance * 1e-3 or (model.pairs and not slope < -tolerance):
            break
        step, found, used = _search(function, x, value, direction, slope, left)
        left -= used
        if found is not None:
            x, at = x + step * direction, found
            model.learn(step * direction, found[1] - gradient)
        elif model.pairs:
            model = _Model()
        else:
            break
    return x


def _search(
    function: Evaluate, x: Tensor, value: float, direction: Tensor, slope: float, left: int
) -> tuple[float, tuple[float, Tensor] | None, int]:
    """Return the step, what was found there (None: nothing acceptable), and the number of evaluations."""
    step = 1.0
    for used in range(1, min(left, 12) + 1):
        found = function(x + step * direction)
        if found is None:
            step /= 2
        elif found[0] <= value + DECREASE * step * slope:
            return step, found, used
        else:
            parabola = -slope * step**2 / (2 * (found[0] - value - slope * step))
            step = min(max(parabola, step / 10), step / 2)
    return step, None, min(left, 12)
