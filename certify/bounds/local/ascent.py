"""The walk up a chain on balls around a batch of centres: bounds, slopes, ellipsoids, multipliers of every layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.local.adjoint import focus, growth, sweep
from certify.bounds.local.behind import Behind, behind
from certify.bounds.local.ellipsoids import Ellipsoid, Explicit, Factored
from certify.bounds.local.functionals import Functionals, Signs, functional_moves, signed_slopes
from certify.bounds.local.lines import Bounds
from certify.bounds.local.recursion import Slopes, Step, push, solve
from certify.bounds.local.rows import pick, pick_columns, pick_rows, pick_square
from certify.bounds.local.starts import Centres, Relative, stretch_of

MOST_CUT_ROWS = 150


@dataclass(frozen=True, eq=False)
class Stage:
    """One hidden layer on the ball: the rows kept, their centres, slopes and ellipsoid."""

    alive: Tensor
    slopes: Slopes
    signs: Signs
    ellipsoid: Ellipsoid


class Ascent:
    """The walk up the chain: what is known of the layers so far."""

    def __init__(self, centres: Centres, eps: Tensor, relative: Relative) -> None:
        self.centres, self.eps, self.relative = centres, eps, relative
        self.below: list[Bounds] = []
        self.stages: list[Stage] = []
        self.steps: list[Step] = []
        self.backs: list[Callable[[Tensor], Tensor]] = []

    def climb(self, k: int) -> None:
        """Add layer k."""
        z, layer = self.centres.z[k], self.centres.chain.layers[k]
        lower, upper = self.centres.lines.bounds(k, self.eps, self.below)
        a, b = layer.centred_slopes(z, z, lower, upper)
        alive = _filled((a != 0.0) | (b != 0.0))
        if k == 0:
            alive, ellipsoid = self._first(alive)
        else:
            bent = _filled(a < b) if self._stays_in_factors(k, alive) else None
            alive, ellipsoid = self._next(k, alive) if bent is None else self._next_in_factors(k, bent)
            lower, upper = self._refine(z, lower, upper, alive, ellipsoid)
            a, b = layer.centred_slopes(z, z, lower, upper)
        slopes = Slopes(pick(a, alive), pick(b, alive))
        tangent = layer.local_slopes(z, z)
        signs = Signs(*(pick(part, alive) for part in (*tangent, *layer.curvature(lower, upper))))
        self.below.append((lower, upper))
        self.stages.append(Stage(alive, slopes, signs, ellipsoid))
        if k < self.centres.hidden - 1:
            self.steps.append(solve(ellipsoid, slopes, pick(self.relative.layers[k], alive)))

    def _first(self, alive: Tensor) -> tuple[Tensor, Ellipsoid]:
        """Return the ellipsoid of the first layer, and its rows."""
        layer, gram, stretch = self.centres.chain.layers[0], self.centres.gram, self.relative.stretch
        if self.centres.hidden > 1 and (layer.window is not None or alive.shape[1] > layer.columns):
            return torch.arange(layer.rows).expand(len(alive), -1), Factored(
                layer, self.eps.dtype, stretch, gram, self.centres.lines.patches
            )
        if stretch is None and gram is not None:
            return alive, Explicit(pick_square(gram[None].expand(len(alive), -1, -1), alive))
        J = pick_rows(layer.weight(self.eps.dtype)[None], alive)
        J = J if stretch is None else J * stretch[:, None]
        return alive, Explicit(J @ J.mT)

    def _stays_in_factors(self, k: int, alive: Tensor) -> bool:
        """Tell whether only functionals of this layer are asked for: behind a first layer in factors, before others."""
        inside = k == 1 < self.centres.hidden - 1 and alive.shape[1] > MOST_CUT_ROWS
        return inside and isinstance(self.stages[0].ellipsoid, Factored)

    def _next_in_factors(self, k: int, bent: Tensor) -> tuple[Tensor, Behind]:
        layer = self.centres.chain.layers[k]
        self.backs.append(layer.backward)
        return torch.arange(layer.rows).expand(len(bent), -1), behind(self.steps[-1], layer, bent)

    def _next(self, k: int, alive: Tensor) -> tuple[Tensor, Explicit]:
        weight = self.centres.chain.layers[k].weight(self.eps.dtype)
        weight = pick_columns(pick_rows(weight[None], alive), self.stages[-1].alive)
        self.backs.append(lambda u: u @ weight)
        return alive, Explicit(push(self.steps[-1], weight))

    def _refine(self, z: Tensor, lower: Tensor, upper: Tensor, alive: Tensor, ellipsoid: Explicit | Behind) -> Bounds:
        """Return the bounds intersected with those of the ellipsoid."""
        rows, moved = alive, ellipsoid.diagonal()
        if isinstance(ellipsoid, Behind):
            rows, moved = ellipsoid.rows, ellipsoid.moved
        reach = self.eps[:, None] * moved.clamp_min(0).sqrt()
        at = pick(z, rows)
        lower = lower.scatter(1, rows, torch.maximum(pick(lower, rows), at - reach))
        return lower, upper.scatter(1, rows, torch.minimum(pick(upper, rows), at + reach))

    def may_cut(self, k: int) -> bool:
        """Tell whether a functional at a layer before the last is cheap enough."""
        stage = self.stages[k]
        return isinstance(stage.ellipsoid, Explicit) and stage.alive.shape[1] <= MOST_CUT_ROWS

    def functionals(self, k: int, rows: Tensor) -> tuple[Functionals, Tensor]:
        """Return what functionals ``[B, o, m_k]`` of a layer may lose, and their improved multipliers."""
        stage, e = self.stages[k], self.relative.functionals[k]
        if not isinstance(stage.ellipsoid, Explicit):
            raise ValueError(f"expected a layer with an explicit ellipsoid, got layer {k} in factors")
        index = stage.alive[:, None].expand(-1, rows.shape[1], -1)
        c = rows.gather(2, index)
        found = functional_moves(stage.ellipsoid.M, c, signed_slopes(c, stage.slopes, stage.signs), e.gather(2, index))
        return found, e.scatter(2, index, e.gather(2, index) * growth(found.ratio, self.relative.age))

    def improve(self, found: Functionals, ratio: Tensor) -> tuple[dict[int, Tensor], Tensor | None]:
        """Return the layers' multipliers and the stretch to try next, given functionals of the last hidden layer."""
        layers = dict(self.relative.layers)
        emphasis = focus(ratio) / found.phi
        changes, u = sweep(self.steps, self.backs, found.u, emphasis)
        for k, change in enumerate(changes):
            alive = self.stages[k].alive
            grown = pick(layers[k], alive) * growth(change, self.relative.age) * self.steps[k].raised[:, None]
            layers[k] = layers[k].scatter(1, alive, grown)
        return layers, self._restretched(u, emphasis)

    def _restretched(self, u: Tensor, emphasis: Tensor) -> Tensor | None:
        """Return the stretch half way, on a log scale, to q in proportion to |W_1^T u|, which is optimal for that u."""
        stretch = self.relative.stretch
        if stretch is None:
            return None
        layer, alive = self.centres.chain.layers[0], self.stages[0].alive
        full = u.new_zeros(*u.shape[:2], layer.rows).scatter(2, alive[:, None].expand(-1, u.shape[1], -1), u)
        sizes = (layer.backward(full) * emphasis.sqrt()[..., None]).norm(dim=1)
        moved = stretch_of(torch.nan_to_num(sizes, nan=0.0))
        return (stretch * moved).sqrt() * (1.0 / stretch / moved).sum(1, keepdim=True).sqrt()


def _filled(flags: Tensor) -> Tensor:
    """Return the rows flagged, filled up with others to the largest count of the batch."""
    count = int(flags.sum(1).max())
    return torch.argsort(~flags, dim=1, stable=True)[:, :count]
