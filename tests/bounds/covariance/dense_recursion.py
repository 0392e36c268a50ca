"""The covariance recursion of a layered network on explicit matrices, of the image or of a torus, from the formulas.

Multipliers are those of the plan's free steps, in order; one per channel is copied to all pixels. On the torus the
recursion must equal the plan's; on the image it must stay below it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from tests.bounds.covariance.layered_networks import (
    Act,
    Conv,
    Layer,
    Max,
    Network,
    Res,
    Sizes,
    conv_matrix,
    head_matrix,
    identity_matrix,
    outputs_of,
)


def needs_zero(layers: tuple[Layer, ...], place: int, sizes: Sizes) -> bool:
    """Whether a padded layer reads the value behind layer ``place - 1``, also behind layers that act pixel by pixel."""
    if place == len(layers) or not isinstance(layers[place], Conv | Res):
        return False
    layer = layers[place]
    if isinstance(layer, Res):
        through = layer.skip is None or layer.skip.keeps_zeros(sizes)
        reads = [layer.branch[0], *([] if layer.skip is None else [layer.skip])]
    else:
        through, reads = layer.keeps_zeros(sizes), [layer]
    padded = any(read.leaves(sizes) for read in reads)
    return padded or (through and needs_zero(layers, place + 1, outputs_of(layer, sizes)))


def bracket(M: Tensor, lower: Tensor, upper: Tensor, D: Tensor) -> Tensor:
    """Formula (1), with D diagonal or a matrix."""
    B, C, U = (lower + upper) / 2, (upper - lower) / 2, upper > lower
    D = torch.diag(D) if D.dim() == 1 else D
    inner = M + M[:, U] @ torch.linalg.inv(D - M[U][:, U]) @ M[U]
    P = B[:, None] * inner * B
    P[U.nonzero(), U.nonzero().T] += C[U][:, None] * D * C[U]
    return (P + P.T) / 2


class Recursion:
    """One run. ``grid`` are the sides of the torus, None on the image; ``pooled`` those behind each max pool."""

    def __init__(
        self, network: Network, multipliers: Iterator[Tensor], grid: Sizes | None, pooled: Iterable[Sizes] = ()
    ) -> None:
        self.network, self.multipliers, self.torus, self.pooled = network, multipliers, grid is not None, iter(pooled)
        self.true = network.sizes
        self.sizes = network.sizes if grid is None else grid
        self.P = identity_matrix(network.channels * math.prod(self.sizes))
        self.clean = True

    @property
    def pixels(self) -> int:
        return math.prod(self.sizes)

    def output(self) -> Tensor:
        layers = self.network.layers
        for place, layer in enumerate(layers):
            if isinstance(layer, Act) and place + 1 < len(layers) and isinstance(layers[place + 1], Max):
                continue
            if isinstance(layer, Max):
                before = layers[place - 1] if place else None
                self.pool(layer, max(map(abs, before.range)) if isinstance(before, Act) else 1.0)
            elif isinstance(layer, Act):
                self.activate(layer, len(self.P), needs_zero(layers, place + 1, outputs_of(layer, self.true)))
            elif isinstance(layer, Conv):
                self.mask_for(layer)
                self.convolve(layer)
            else:
                self.residual(layer, needs_zero(layers, place + 1, outputs_of(layer, self.true)))
        if self.network.head is None:
            return self.P
        A = head_matrix(self.network, self.true, self.sizes)
        return A @ self.P @ A.T

    def mask_for(self, *reads: Conv) -> None:
        if self.clean or not any(read.leaves(self.true) for read in reads):
            return
        D = next(self.multipliers)
        if self.torus:
            full = torch.kron(D, identity_matrix(self.pixels))
            ones = torch.ones(len(self.P), dtype=torch.float64)
            self.P = bracket(self.P, 0 * ones, ones, full)
        self.clean = True

    def convolve(self, conv: Conv) -> None:
        A = conv_matrix(conv, self.sizes, self.torus)
        self.P = A @ self.P @ A.T
        self.clean = self.clean and conv.keeps_zeros(self.true)
        self.move(conv)

    def move(self, layer: Conv | Max) -> None:
        self.true = layer.outputs(self.true)
        coarse = tuple(n // s for n, s in zip(self.sizes, layer.stride, strict=True))
        self.sizes = coarse if self.torus else self.true

    def activate(self, act: Act, rows: int, widen: bool) -> None:
        """The last ``rows`` rows pass through the activation, the others as they are."""
        least, most = act.range
        if widen:
            least, most = min(least, 0.0), max(most, 0.0)
        lower = torch.ones(len(self.P), dtype=torch.float64)
        upper = lower.clone()
        lower[-rows:], upper[-rows:] = least, most
        D = next(self.multipliers).repeat_interleave(self.pixels) if most > least else torch.ones(0)
        self.P = bracket(self.P, lower, upper, D.double())
        self.clean = self.clean or least <= 0.0 <= most

    def pool(self, layer: Max, slope: float) -> None:
        delta = next(self.multipliers)
        self.move(layer)
        self.sizes = next(self.pooled) if self.torus else self.sizes
        self.P = layer.overlap * slope**2 * torch.diag(delta.repeat_interleave(self.pixels))
        self.clean = True

    def residual(self, layer: Res, widen: bool) -> None:
        first, *rest = layer.branch
        self.mask_for(first, *([layer.skip] if layer.skip is not None else []))
        skip_clean = self.clean and (layer.skip is None or layer.skip.keeps_zeros(self.true))
        K = conv_matrix(first, self.sizes, self.torus)
        skip = layer.skip
        S = identity_matrix(len(self.P)) if skip is None else conv_matrix(skip, self.sizes, self.torus)
        G, kept = torch.cat([S, K]), len(S)
        self.P = G @ self.P @ G.T
        self.clean = self.clean and first.keeps_zeros(self.true)
        self.move(first)
        for place, part in enumerate(rest):
            if isinstance(part, Act):
                follower = rest[place + 1]
                through = follower is rest[-1] and follower.keeps_zeros(self.true) and widen
                self.activate(part, len(self.P) - kept, follower.leaves(self.true) or through)
                continue
            K = conv_matrix(part, self.sizes, self.torus)
            last = place + 1 == len(rest)
            A = torch.cat([identity_matrix(kept), K], 1) if last else torch.block_diag(identity_matrix(kept), K)
            self.P = A @ self.P @ A.T
            self.clean = self.clean and part.keeps_zeros(self.true)
            self.move(part)
        self.clean = self.clean and skip_clean
