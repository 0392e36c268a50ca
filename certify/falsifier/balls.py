"""The balls of a batch of certificates, and how an attack moves inside them. Floating point: nothing here decides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from certify.bounds.steepest import Box, unit_directions
from certify.results import Norm

WIDEST = 100.0  # of the size of the centre: where to stop looking when a radius is infinite for all purposes


@dataclass(frozen=True, eq=False)
class Balls:
    """Centres ``[B, *input_shape]`` and radii ``[B]`` in float64, the norm, and the box no input may leave."""

    centres: Tensor
    radii: Tensor
    norm: Norm
    box: Box = None

    @cached_property
    def reach(self) -> Tensor:
        """How far to look: the radius, or where the box ends, or `WIDEST` times the centre; ``[B, 1, ...]``."""
        root = math.sqrt(self.centres[0].numel()) if self.norm == "l2" and len(self.centres) else 1.0
        if self.box is not None:
            most = torch.full_like(self.radii, root * (self.box[1] - self.box[0]))
        else:
            most = WIDEST * root * (1.0 + self.centres.flatten(1).abs().amax(1))
        return per_row(torch.minimum(self.radii, most), self.centres)

    def project(self, points: Tensor) -> Tensor:
        """Return the points, brought back into ball and box; what is not a number goes to the centre."""
        moved = torch.nan_to_num(points - self.centres, nan=0.0)
        if self.norm == "linf":
            moved = torch.maximum(torch.minimum(moved, self.reach), -self.reach)
        else:
            moved = moved * (self.reach / lengths(moved).clamp_min(torch.finfo(moved.dtype).tiny)).clamp(max=1.0)
        points = self.centres + moved
        return points if self.box is None else points.clamp(*self.box)

    def descend(self, points: Tensor, gradient: Tensor, share: float | Tensor) -> Tensor:
        """Return the points after a step of ``share`` times the reach against the gradient, projected."""
        return self.project(points - share * self.reach * steepest_direction(gradient, self.norm))

    def scattered(self, seed: int) -> Tensor:
        """Return one random point of each ball: uniform in linf, in l2 with a uniform distance."""
        if self.norm == "l2":
            generator = torch.Generator().manual_seed(seed + 1)
            far = per_row(torch.rand(len(self.radii), generator=generator, dtype=torch.float64), self.centres)
            return self.project(self.centres + far * self.reach * unit_directions(self.centres, seed))
        generator = torch.Generator().manual_seed(seed)
        noise = 2.0 * torch.rand(self.centres.shape, generator=generator, dtype=torch.float64) - 1.0
        return self.project(self.centres + self.reach * noise)

    def outermost(self, points: Tensor, share: float) -> Tensor:
        """Return the points moved away from their centres to ``share`` of the reach, projected."""
        moved = points - self.centres
        size = lengths(moved) if self.norm == "l2" else per_row(moved.flatten(1).abs().amax(1), moved)
        stretch = torch.where(size > 0.0, share * self.reach / size.clamp_min(torch.finfo(moved.dtype).tiny), 0.0)
        return self.project(self.centres + stretch * moved)


def steepest_direction(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the direction of norm 1 that the gradient grows fastest along; 0 where it is 0 or not a number."""
    if norm == "linf":
        return torch.nan_to_num(gradient.sign(), nan=0.0)
    largest = per_row(gradient.flatten(1).abs().amax(1), gradient)
    usable = (largest > 0.0) & torch.isfinite(largest)
    scaled = torch.where(usable, gradient / torch.where(usable, largest, 1.0), 0.0)
    return scaled / torch.where(usable, lengths(scaled), 1.0)


def lengths(moved: Tensor) -> Tensor:
    """Return the l2 norm of each row of a batch, ``[B, 1, ...]``."""
    return per_row(moved.flatten(1).norm(dim=1), moved)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Return one value per row, shaped to broadcast against a batch."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
