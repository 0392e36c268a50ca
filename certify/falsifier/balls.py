"""The balls of a batch of certificates, and how an attack moves inside them. Floating point: nothing here decides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

from certify.bounds.steepest import Box, unit_directions
from certify.results import AnyNorm

WIDEST = 100.0  # of the size of the centre: where to stop looking when a radius is infinite for all purposes
ORDERS: Mapping[AnyNorm, float] = MappingProxyType({"l1": 1.0, "l2": 2.0, "linf": math.inf})
ROOTS: Mapping[AnyNorm, float] = MappingProxyType({norm: 1.0 / order for norm, order in ORDERS.items()})


@dataclass(frozen=True, eq=False)
class Balls:
    """Centres ``[B, *input_shape]`` and radii ``[B]`` in float64, the norm, and the box no input may leave."""

    centres: Tensor
    radii: Tensor
    norm: AnyNorm
    box: Box = None

    @cached_property
    def reach(self) -> Tensor:
        """How far to look: the radius, or where the box ends, or `WIDEST` times the centre; ``[B, 1, ...]``."""
        root = float(self.centres[0].numel() ** ROOTS[self.norm]) if len(self.centres) else 1.0
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
            size = lengths(moved, self.norm).clamp_min(torch.finfo(moved.dtype).tiny)
            moved = moved * (self.reach / size).clamp(max=1.0)
        points = self.centres + moved
        return points if self.box is None else points.clamp(*self.box)

    def descend(self, points: Tensor, gradient: Tensor, share: float | Tensor) -> Tensor:
        """Return the points after a step of ``share`` times the reach against the gradient, projected."""
        if self.norm == "l1" and self.box is not None:  # a step along one coordinate must have room
            blocked = ((points <= self.box[0]) & (gradient > 0.0)) | ((points >= self.box[1]) & (gradient < 0.0))
            gradient = torch.where(blocked, 0.0, gradient)
        return self.project(points - share * self.reach * steepest_direction(gradient, self.norm))

    def scattered(self, seed: int) -> Tensor:
        """Return one random point of each ball: uniform in linf, in l1 and l2 with a uniform distance."""
        if self.norm != "linf":
            generator = torch.Generator().manual_seed(seed + 1)
            far = per_row(torch.rand(len(self.radii), generator=generator, dtype=torch.float64), self.centres)
            ahead = unit_directions(self.centres, seed)
            return self.project(self.centres + far * self.reach * ahead / lengths(ahead, self.norm))
        generator = torch.Generator().manual_seed(seed)
        noise = 2.0 * torch.rand(self.centres.shape, generator=generator, dtype=torch.float64) - 1.0
        return self.project(self.centres + self.reach * noise)

    def outermost(self, points: Tensor, share: float) -> Tensor:
        """Return the points moved away from their centres to ``share`` of the reach, projected."""
        moved = points - self.centres
        size = lengths(moved, self.norm)
        stretch = torch.where(size > 0.0, share * self.reach / size.clamp_min(torch.finfo(moved.dtype).tiny), 0.0)
        return self.project(self.centres + stretch * moved)


def steepest_direction(gradient: Tensor, norm: AnyNorm) -> Tensor:
    """Return the direction of norm 1 that the gradient grows fastest along; 0 where it is 0 or not a number.

    Example:
        >>> steepest_direction(torch.tensor([[1.0, -3.0, 2.0]]), "l1").tolist()
        [[0.0, -1.0, 0.0]]
    """
    if norm == "linf":
        return torch.nan_to_num(gradient.sign(), nan=0.0)
    if norm == "l1":
        rows = torch.nan_to_num(gradient, nan=0.0).flatten(1)
        place = rows.abs().argmax(1, keepdim=True)
        return torch.zeros_like(rows).scatter(1, place, rows.gather(1, place).sign()).reshape(gradient.shape)
    largest = per_row(gradient.flatten(1).abs().amax(1), gradient)
    usable = (largest > 0.0) & torch.isfinite(largest)
    scaled = torch.where(usable, gradient / torch.where(usable, largest, 1.0), 0.0)
    return scaled / torch.where(usable, lengths(scaled), 1.0)


def lengths(moved: Tensor, norm: AnyNorm = "l2") -> Tensor:
    """Return the norm of each row of a batch, ``[B, 1, ...]``."""
    return per_row(moved.flatten(1).norm(p=ORDERS[norm], dim=1), moved)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Return one value per row, shaped to broadcast against a batch."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
