r"""Attacks that look for another class inside a ball. What they return is a guess, to be checked exactly.

With logits z and the certified class y, an attack lowers the margin z_y - max_{j != y} z_j, or z_y - z_j for one rival.

- *PGD* (A. Madry et al., Towards deep learning models resistant to adversarial attacks, ICLR 2018, arXiv:1706.06083):
  steps along the steepest direction of the norm, projected onto ball and box. Step k of K is 1 - k/K of the radius.
  The first start is the centre, the others are random; every second start goes for one rival alone, in the order of
  their logits, for the nearest class by slope need not be the nearest by distance.
- *DDN* (J. Rony et al., Decoupling direction and norm for efficient gradient-based L2 adversarial attacks and
  defenses, CVPR 2019, arXiv:1811.09600), l2: the direction follows the gradient, the distance shrinks by 5 % where the
  class has changed and grows by 5 % where it has not. Its steps are stated in units of the distance reached.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.steepest import Network, differentiate
from certify.falsifier.balls import Balls, lengths, per_row, steepest_direction

GAMMA = 0.05
LAST_STEP = 0.01


@dataclass(eq=False)
class Best:
    """The input of the smallest margin so far, per ball."""

    points: Tensor
    margins: Tensor

    def take(self, points: Tensor, margins: Tensor) -> None:
        """Keep the points that are better; NaN is no margin."""
        better = margins < self.margins
        self.points = torch.where(per_row(better, points), points, self.points)
        self.margins = torch.where(better, margins, self.margins)


def margins(logits: Tensor, labels: Tensor, rivals: Tensor | None = None) -> Tensor:
    """Return z_y - z_j per row, j the rival given or the largest other class.

    Example:
        >>> margins(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
        tensor([1.])
    """
    own = logits.gather(1, labels.unsqueeze(1))
    if rivals is not None:
        return (own - logits.gather(1, rivals.unsqueeze(1))).squeeze(1)
    others = logits.scatter(1, labels.unsqueeze(1), -math.inf)
    return own.squeeze(1) - others.amax(1)


def rivals_by_rank(network: Network, balls: Balls, labels: Tensor, rank: int) -> Tensor:
    """Return, per centre, the other class of the given rank (0: the largest logit), cyclically."""
    with torch.no_grad():
        logits = network(balls.centres)
    order: Tensor = logits.scatter(1, labels.unsqueeze(1), -math.inf).argsort(stable=True, dim=1, descending=True)
    return order[:, rank % max(1, logits.shape[1] - 1)]


def pgd(network: Network, balls: Balls, labels: Tensor, *, steps: int, starts: int, seed: int) -> Tensor:
    """Return, per ball, the input of the smallest margin that projected gradient descent meets.

    Example:
        >>> balls = Balls(torch.tensor([[1.0, 0.0]]).double(), torch.tensor([2.0]).double(), "l2")
        >>> found = pgd(lambda x: torch.cat([x[:, :1], 0 * x[:, :1]], 1), balls, torch.tensor([0]), steps=5, starts=1,
        ...             seed=0)
        >>> found.tolist()
        [[-1.0, 0.0]]
    """
    best = Best(balls.centres.clone(), torch.full_like(balls.radii, math.inf))
    for start in range(starts):
        points = balls.centres if start == 0 else balls.scattered(seed + 2 * start)
        rivals = rivals_by_rank(network, balls, labels, start // 2) if start % 2 else None
        for step in range(steps):
            found, gradient = _margins_and_gradient(network, points, labels, rivals)
            best.take(points, found)
            points = balls.descend(points, gradient, 1.0 - step / steps)
        with torch.no_grad():
            best.take(points, margins(network(points), labels))
    return best.points


def ddn(network: Network, balls: Balls, labels: Tensor, *, steps: int) -> Tensor:
    """Return, per l2 ball, the nearest input of another class that DDN meets, or one of the smallest margin inside."""
    best = Best(balls.centres.clone(), torch.full_like(balls.radii, math.inf))
    nearest = Best(balls.centres.clone(), torch.full_like(balls.radii, math.inf))
    moved, distance = torch.zeros_like(balls.centres), balls.reach
    points = balls.centres
    for step in range(steps):
        found, gradient = _margins_and_gradient(network, points, labels, None)
        flipped = found < 0.0
        away = lengths(points - balls.centres)
        nearest.take(points, torch.where(flipped, away.flatten(), math.inf))
        best.take(points, torch.where((away <= balls.reach).flatten(), found, math.inf))
        share = LAST_STEP + (1.0 - LAST_STEP) * (1.0 + math.cos(math.pi * step / steps)) / 2.0
        moved = moved - share * distance * steepest_direction(gradient, "l2")
        distance = distance * torch.where(per_row(flipped, moved), 1.0 - GAMMA, 1.0 + GAMMA)
        moved = distance * steepest_direction(moved, "l2")
        points = balls.centres + moved
        points = points if balls.box is None else points.clamp(*balls.box)
        moved = points - balls.centres
    inside = nearest.margins <= balls.reach.flatten()
    return torch.where(per_row(inside, points), nearest.points, best.points)


def _margins_and_gradient(
    network: Network, points: Tensor, labels: Tensor, rivals: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the margins against all classes, and the gradient of those against the rivals."""
    x = points.detach().clone().requires_grad_()
    logits = network(x)
    found = margins(logits.detach(), labels)
    return found, differentiate(margins(logits, labels, rivals).sum(), x)
