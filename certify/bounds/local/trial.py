r"""One trial: the certificates of a batch of centres on balls of given radii, in plain floating point.

A certificate is a pair (v_j, s_j) with margin_j(x0 + d) >= v_j - s_j ||d|| for all ||d|| <= eps, its ratio v_j / s_j.
The trial walks up the chain once. Linear relaxation bounds each layer, the recursion gives its ellipsoid, and both are
intersected before the layer's slopes are taken; rows of slope 0 are dropped. At the last hidden layer every class gets
its functional; *cuts* are functionals at earlier layers, with the rows at which linear relaxation arrives there: it
handles the late layers, the ellipsoid the early ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from certify.bounds.local.adjoint import focus, growth, sweep
from certify.bounds.local.functionals import Functionals, Signs, functional_moves, signed_slopes
from certify.bounds.local.layers import Chain
from certify.bounds.local.lines import Bounds, Relaxation, through_lines
from certify.bounds.local.recursion import (
    Ellipsoid,
    Explicit,
    Factored,
    Slopes,
    Step,
    pick,
    pick_columns,
    pick_rows,
    pick_square,
    push,
    solve,
)

MOST_CUT_ROWS = 150
LEAST_SHARE = 1e-3  # of an entry of q, beside the largest
LINES, EVERYWHERE = -1, -2  # in place of the layer of a functional: linear relaxation, a gain over all inputs


@dataclass(frozen=True, eq=False)
class Centres:
    """A batch of inputs and everything about them that no radius changes, in the precision of the trials.

    ``lines`` is their linear relaxation, ``rows`` are the margins as rows on the last hidden layer ``[B, o, m]`` with
    ``offsets`` ``[B, o]``, ``margins`` their values; ``gram`` is W_1 W_1^T, ``everywhere`` the gains of the
    margins over all inputs ``[B, o]``, if known.
    """

    lines: Relaxation
    rows: Tensor
    offsets: Tensor
    margins: Tensor
    gram: Tensor | None
    everywhere: Tensor | None = None

    @property
    def chain(self) -> Chain:
        """The network."""
        return self.lines.chain

    @property
    def z(self) -> tuple[Tensor, ...]:
        """The pre-activations of every layer ``[B, m_k]``."""
        return self.lines.z

    @property
    def hidden(self) -> int:
        """The number of hidden layers."""
        return len(self.chain.layers) - 1

    def choose(self, index: Tensor) -> Centres:
        """Return some of the batch."""
        return replace(
            self,
            lines=self.lines.choose(index),
            rows=self.rows[index],
            offsets=self.offsets[index],
            margins=self.margins[index],
            everywhere=None if self.everywhere is None else self.everywhere[index],
        )

    def choose_margins(self, pairs: Tensor) -> Centres:
        """Return a batch with one margin each: pairs (example, margin) ``[P, 2]``."""
        found, at = self.choose(pairs[:, 0]), pairs[:, 1, None]
        return replace(
            found,
            rows=found.rows.gather(1, at[..., None].expand(-1, -1, found.rows.shape[2])),
            offsets=found.offsets.gather(1, at),
            margins=found.margins.gather(1, at),
            everywhere=None if found.everywhere is None else found.everywhere.gather(1, at),
        )


@dataclass(frozen=True, eq=False)
class Relative:
    """The relative multipliers e of a batch: per layer ``[B, m_k]``, and of the functionals ``[B, o, m_k]``.

    ``age`` counts the passes that improved them, ``[B]``; ``stretch`` are the roots of the diagonal of P_0, 1 / sqrt(q)
    in linf ``[B, d]`` (None: ones, in l2).
    """

    layers: dict[int, Tensor]
    functionals: dict[int, Tensor]
    age: Tensor
    stretch: Tensor | None = None

    def choose(self, index: Tensor) -> Relative:
        """Return those of some of the batch."""
        layers = {k: e[index] for k, e in self.layers.items()}
        functionals = {k: e[index] for k, e in self.functionals.items()}
        return Relative(layers, functionals, self.age[index], None if self.stretch is None else self.stretch[index])

    def put(self, index: Tensor, new: Relative) -> None:
        """Replace those of some of the batch, in place."""
        for mine, others in ((self.layers, new.layers), (self.functionals, new.functionals)):
            for k, e in others.items():
                mine[k][index] = e
        self.age[index] = new.age
        if self.stretch is not None and new.stretch is not None:
            self.stretch[index] = new.stretch


@dataclass(frozen=True, eq=False)
class Trial:
    """What a trial found per functional ``[B, o]``: the best ratio, v and s, and by which method.

    ``method`` is the layer of the functional, `LINES` or `EVERYWHERE`. ``relative`` and the scales are the multipliers
    that made it; ``improved`` those to try next.
    """

    ratio: Tensor
    v: Tensor
    s: Tensor
    method: Tensor
    relative: Relative | None = None
    scales: Mapping[int, Tensor] = field(default_factory=dict)
    functional_scales: Mapping[int, Tensor] = field(default_factory=dict)
    improved: Relative | None = None

    @property
    def radius(self) -> Tensor:
        """R, the smallest ratio ``[B]``."""
        return self.ratio.amin(1)

    def choose(self, n: int) -> Trial:
        """Return that of one centre."""
        at = torch.tensor([n])
        relative = None if self.relative is None else self.relative.choose(at)
        return Trial(
            self.ratio[at],
            self.v[at],
            self.s[at],
            self.method[at],
            relative,
            {k: scale[at] for k, scale in self.scales.items()},
            {k: scale[at] for k, scale in self.functional_scales.items()},
        )

    def better(self, v: Tensor, s: Tensor, method: int) -> Trial:
        """Return the trial with another certificate of every functional where that has the larger ratio."""
        found = ratios(v, s)
        mine = self.ratio >= found
        return replace(
            self,
            ratio=torch.where(mine, self.ratio, found),
            v=torch.where(mine, self.v, v),
            s=torch.where(mine, self.s, s),
            method=torch.where(mine, self.method, method),
        )


@dataclass(frozen=True, eq=False)
class Stage:
    """One hidden layer on the ball: the rows kept, their centres, slopes and ellipsoid."""

    alive: Tensor
    slopes: Slopes
    signs: Signs
    ellipsoid: Ellipsoid


def ratios(v: Tensor, s: Tensor) -> Tensor:
    """Return v / s where v > 0 and 0 elsewhere, also for NaN; infinite where s is 0."""
    return torch.nan_to_num(torch.where(v > 0, v / s, 0.0), nan=0.0, posinf=torch.inf)


def fresh(centres: Centres, cuts: Sequence[int]) -> Relative:
    """Return e = 1, and in linf q by the gradients at the centres."""
    z, count = centres.z, centres.rows.shape[1]
    layers = {k: torch.ones_like(z[k]) for k in range(centres.hidden - 1)}
    ends = (*cuts, centres.hidden - 1)
    functionals = {k: torch.ones_like(z[k])[:, None].repeat(1, count, 1) for k in ends}
    return Relative(layers, functionals, torch.zeros(len(z[0]), dtype=torch.long), _first_stretch(centres))


def _first_stretch(centres: Centres) -> Tensor | None:
    if centres.lines.norm == "l2":
        return None
    below: list[Bounds] = []
    eps = torch.zeros_like(centres.margins[:, 0])
    for k in range(centres.hidden):
        below.append(centres.lines.bounds(k, eps, below))
    rows, const = centres.lines.margins(centres.rows, centres.offsets, below)[2][0]
    rows, _ = through_lines(rows, const, centres.lines.lines(0, below))
    return stretch_of(centres.chain.layers[0].backward(rows).abs().sum(1))


def stretch_of(q: Tensor) -> Tensor:
    """Return 1 / sqrt(q) for positive q of sum 1 in proportion to given sizes ``[B, d]``, none of them very small."""
    q = q + LEAST_SHARE * q.amax(1, keepdim=True).clamp_min(torch.finfo(q.dtype).tiny)
    return (q / q.sum(1, keepdim=True)).rsqrt()


def lines_trial(centres: Centres, eps: Tensor) -> Trial:
    """Return the certificates of linear relaxation alone."""
    below: list[Bounds] = []
    for k in range(centres.hidden):
        below.append(centres.lines.bounds(k, eps, below))
    v, s, _ = centres.lines.margins(centres.rows, centres.offsets, below)
    return _first_found(centres, v, s)


def _first_found(centres: Centres, v: Tensor, s: Tensor) -> Trial:
    """Return the better of linear relaxation and of the gains over all inputs."""
    found = Trial(ratios(v, s), v, s, torch.full_like(v, LINES, dtype=torch.long))
    return found if centres.everywhere is None else found.better(centres.margins, centres.everywhere, EVERYWHERE)


def run_trial(centres: Centres, eps: Tensor, relative: Relative, cuts: Sequence[int]) -> Trial:
    """Return the best certificates of linear relaxation, of the recursion, and of cuts.

    Args:
        centres: The batch.
        eps: Radii ``[B]``.
        relative: The multipliers to use.
        cuts: Layers of functionals beside the last hidden one.
    """
    ascent = Ascent(centres, eps, relative)
    for k in range(centres.hidden):
        ascent.climb(k)
    v, s, kept = centres.lines.margins(centres.rows, centres.offsets, ascent.below)
    best = replace(_first_found(centres, v, s), relative=relative)
    scales, functionals = {}, dict(relative.functionals)
    last = centres.hidden - 1
    for k in (*(k for k in cuts if ascent.may_cut(k)), last):
        rows, v = (centres.rows, centres.margins) if k == last else _at_centre(centres, k, *kept[k])
        found, functionals[k] = ascent.functionals(k, rows)
        scales[k] = found.scale
        best = best.better(v, found.phi.clamp_min(0).sqrt(), k)
    layers, stretch = ascent.improve(found, best.ratio)
    steps = {k: step.scale for k, step in enumerate(ascent.steps)}
    improved = Relative(layers, functionals, relative.age + 1, stretch)
    return replace(best, scales=steps, functional_scales=scales, improved=improved)


def _at_centre(centres: Centres, k: int, rows: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows on a hidden layer and their values at the centre."""
    h = centres.chain.layers[k].activate(centres.z[k])
    return rows, (rows @ h[..., None])[..., 0] + offsets


class Ascent:
    """The walk up the chain: what is known of the layers so far."""

    def __init__(self, centres: Centres, eps: Tensor, relative: Relative) -> None:
        self.centres, self.eps, self.relative = centres, eps, relative
        self.below: list[Bounds] = []
        self.stages: list[Stage] = []
        self.steps: list[Step] = []
        self.weights: list[Tensor] = []

    def climb(self, k: int) -> None:
        """Add layer k."""
        z, layer = self.centres.z[k], self.centres.chain.layers[k]
        lower, upper = self.centres.lines.bounds(k, self.eps, self.below)
        a, b = layer.centred_slopes(z, z, lower, upper)
        alive = _filled((a != 0.0) | (b != 0.0))
        if k == 0:
            alive, ellipsoid = self._first(alive)
        else:
            alive, ellipsoid = self._next(k, alive)
            lower, upper = self._refine(z, lower, upper, alive, ellipsoid.M)
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

    def _next(self, k: int, alive: Tensor) -> tuple[Tensor, Explicit]:
        weight = self.centres.chain.layers[k].weight(self.eps.dtype)
        self.weights.append(pick_columns(pick_rows(weight[None], alive), self.stages[-1].alive))
        return alive, Explicit(push(self.steps[-1], self.weights[-1], alive))

    def _refine(self, z: Tensor, lower: Tensor, upper: Tensor, alive: Tensor, M: Tensor) -> Bounds:
        """Return the bounds intersected with those of the ellipsoid."""
        reach = self.eps[:, None] * M.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
        at = pick(z, alive)
        lower = lower.scatter(1, alive, torch.maximum(pick(lower, alive), at - reach))
        return lower, upper.scatter(1, alive, torch.minimum(pick(upper, alive), at + reach))

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
        changes, u = sweep(self.steps, self.weights, found.u, emphasis)
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
