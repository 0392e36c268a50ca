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

from certify.bounds.local.ascent import Ascent
from certify.bounds.local.lines import Bounds
from certify.bounds.local.starts import Centres, Relative

MOST_CUT_ROWS = 150
LEAST_SHARE = 1e-3  # of an entry of q, beside the largest
LINES, EVERYWHERE = -1, -2  # in place of the layer of a functional: linear relaxation, a gain over all inputs


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


def ratios(v: Tensor, s: Tensor) -> Tensor:
    """Return v / s where v > 0 and 0 elsewhere, also for NaN; infinite where s is 0."""
    return torch.nan_to_num(torch.where(v > 0, v / s, 0.0), nan=0.0, posinf=torch.inf)


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
