"""What a search goes on from: a batch of centres, and the relative multipliers tried next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from certify.bounds.local.layers import Chain
from certify.bounds.local.lines import Bounds, Relaxation, through_lines

LEAST_SHARE = 1e-3  # of an entry of q, beside the largest


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
