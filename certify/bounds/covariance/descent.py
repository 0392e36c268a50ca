r"""Limited-memory BFGS with backtracking, for functions that are not defined everywhere.

The two-loop recursion of Nocedal (Mathematics of Computation 35, 1980). A point where the function has no value halves
the step; among points where it has one, the first with sufficient decrease (Armijo) is taken. Pairs of steps and
differences of derivatives without positive curvature are left out, so that the model stays positive definite. Before
there is a model, the function may guess its own first steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

MEMORY = 20
LONGEST = 1.5  # of one coordinate in one step: variables are logarithms
DECREASE = 1e-4
CURVATURE = 1e-10
TRIES = 12


class Point(NamedTuple):
    """The value and the derivative at a point, and a step that the function itself guesses."""

    value: float
    gradient: Tensor
    guess: Tensor | None = None


class Descent:
    """The state of one search; it may be continued with more evaluations."""

    def __init__(self, function: Callable[[Tensor], Point | None], x: Tensor, *, guesses: int = 0) -> None:
        """Begin a search.

        Args:
            function: The point at x, or None where there is none; it must exist at the first x.
            x: The first x.
            guesses: How many steps to take that the function guesses, while they descend.
        """
        self.function, self.x, self.guesses = function, x, guesses
        self.pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=MEMORY)
        self.used = 0

    def run(self, evaluations: int, *, tolerance: float = 1e-7) -> Tensor:
        """Return the best x found with a number of evaluations.

        Args:
            evaluations: How often the function may be asked.
            tolerance: Stop when the model expects to gain less than this.

        Example:
            >>> import torch
            >>> target = torch.tensor([1.0, -2.0])
            >>> distance = lambda x: Point(float((x - target).square().sum()), 2 * (x - target))
            >>> x = Descent(distance, torch.zeros(2)).run(20)
            >>> torch.allclose(x, target)
            True
        """
        at, left = self.function(self.x), evaluations - 1
        while at is not None and left > 0:
            guessed = self.guesses > 0 and at.guess is not None
            direction = at.guess if guessed and at.guess is not None else self._direction(at.gradient)
            slope = float(at.gradient @ direction)
            if not guessed and not slope < -(tolerance if self.pairs else tolerance / 1000):
                break
            step, found, used = self._search(at.value, direction, slope, left)
            left -= used
            if found is not None:
                self._learn(step * direction, found.gradient - at.gradient)
                self.x, at = self.x + step * direction, found
                self.guesses = self.guesses - 1 if step > 0.5 else 0
            elif guessed or self.pairs:
                self.guesses = 0 if guessed else self.guesses
                self.pairs.clear()
            else:
                break
        return self.x

    def _learn(self, s: Tensor, y: Tensor) -> None:
        product = float(s @ y)
        if product > CURVATURE * float(s.norm() * y.norm()):
            self.pairs.append((s, y, product))

    def _direction(self, gradient: Tensor) -> Tensor:
        q, steps = gradient.clone(), list[float]()
        for s, y, product in reversed(self.pairs):
            steps.append(float(s @ q) / product)
            q = q - steps[-1] * y
        if self.pairs:
            _, y, product = self.pairs[-1]
            q = q * (product / float(y @ y))
        else:
            q = q / q.norm().clamp(min=1e-300)
        for (s, y, product), step in zip(self.pairs, reversed(steps), strict=True):
            q = q + s * (step - float(y @ q) / product)
        return -q * min(1.0, LONGEST / max(float(q.abs().max()), 1e-300))

    def _search(self, value: float, direction: Tensor, slope: float, left: int) -> tuple[float, Point | None, int]:
        """Return the step, what was found there (None: nothing acceptable), and the number of evaluations."""
        step, tries = 1.0, min(left, TRIES) if slope < 0 else 0
        for used in range(1, tries + 1):
            found = self.function(self.x + step * direction)
            if found is None:
                step /= 2
            elif found.value <= value + DECREASE * step * slope:
                return step, found, used
            else:
                parabola = -slope * step**2 / (2 * (found.value - value - slope * step))
                step = min(max(parabola, step / 10), step / 2)
        return step, None, tries
