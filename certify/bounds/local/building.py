r"""Collecting the rows of every layer of a chain while a graph is walked.

An affine map closed by an activation becomes a *source* of the next stage. A value that is read at a later stage than
it was made is carried there through identity rows, once, and so is one whose map cannot be used without rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from certify.bounds.facts import Facts
from certify.bounds.local.activations import IDENTITY, Activation
from certify.bounds.local.affine import Affine, Block, Select, Source, add, gather, is_selection, is_small, scale, whole
from certify.bounds.local.forms import Dense, Form, Part, Selection
from certify.bounds.local.layers import Chain, Layer, Segment
from certify.bounds.local.windows import Window
from certify.graph import Operation
from certify.results import Unbounded
from certify.rounding import gamma_up

MAX_ROWS = 2**14  # of one layer, and of the input
MAX_TOTAL = 2**27  # entries of all layers together: 1 GB in float64


class Builder:
    """Collects the rows of every layer while the graph is walked."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.input = Source(0, 0, math.prod(facts.graph.input_shape))
        self.rows: dict[Source, tuple[Affine, Activation, str]] = {}
        self.lifted: dict[tuple[Affine, int], Affine] = {}

    def place(self, rows: Affine, activation: Activation, value: str) -> Affine:
        """Make rows with an activation in the layer after their stage; return its outputs."""
        source = Source(rows.stage + 1, len(self.rows) + 1, rows.size)
        self.rows[source] = (rows, activation, value)
        return whole(source)

    def carry(self, value: Affine, stage: int, name: str) -> Affine:
        """Return a value as one of a later stage, through identity rows."""
        if value.stage >= stage or not value.blocks:
            return value
        key = (value, stage)
        if key not in self.lifted:
            before = self.carry(value, stage - 1, name)
            self.lifted[key] = self.place(before, IDENTITY, name)
        return self.lifted[key]

    def level(self, operation: Operation, values: list[Affine]) -> list[Affine]:
        """Return the inputs of an operation at one common stage, with small maps; constants as they are."""
        named = list(zip(values, operation.inputs, strict=True))
        small = [value if is_small(value) else self.carry(value, value.stage + 1, name) for value, name in named]
        stage = max((value.stage for value in small if value.blocks), default=0)
        return [self.carry(value, stage, name) for value, name in zip(small, operation.inputs, strict=True)]

    def selection(self, value: Affine, name: str) -> Affine:
        """Return a value as a selection of outputs: as it is, or through an identity layer."""
        return value if is_selection(value) else self.carry(value, value.stage + 1, name)

    def sum(self, operation: Operation, a: Affine, b: Affine) -> Affine:
        """Return a + b of one stage, through identity layers where the sum of their maps would be rounded."""
        found = add(a, b)
        if found is None:
            names = operation.inputs
            found = add(self.place(a, IDENTITY, names[0]), self.place(b, IDENTITY, names[-1]))
        if found is None:
            raise ValueError("expected the sum of two sources to be exact, got a rounded one")
        return found

    def chain(self) -> Chain | Unbounded:
        """Return the layers, the last one holding the rows placed last."""
        last = max(source.stage for source in self.rows)
        by_stage = [[self.input]] + [
            [source for source in self.rows if source.stage == stage] for stage in range(1, last + 1)
        ]
        sizes = [sum(source.size for source in sources) for sources in by_stage]
        total = sum(rows * columns for columns, rows in itertools.pairwise(sizes))
        if max(sizes) > MAX_ROWS or total > MAX_TOTAL:
            return Unbounded(f"layers of {', '.join(map(str, sizes))} entries are too large for a local bound")
        layers = [self._layer(before, here) for before, here in itertools.pairwise(by_stage)]
        return Chain(tuple(layers), self.facts.graph.input_shape)

    def _layer(self, before: list[Source], here: list[Source]) -> Layer:
        made = [self.rows[source] for source in here]
        ends = torch.tensor([0, *(source.size for source in here)]).cumsum(0).tolist()
        segments = tuple(
            Segment(first, last, activation, name)
            for (_, activation, name), (first, last) in zip(made, itertools.pairwise(ends), strict=True)
        )
        starts = dict(zip(before, itertools.accumulate((source.size for source in before), initial=0), strict=False))
        parts = tuple(
            Part(segment.first, starts[source], _form(block, source))
            for (rows, _, _), segment in zip(made, segments, strict=True)
            for source, block in rows.blocks.items()
        )
        form = parts[0].form if len(parts) == len(made) == len(before) == 1 else None
        return Layer(
            columns=sum(source.size for source in before),
            bias=torch.cat([rows.offset for rows, _, _ in made]),
            bias_error=torch.cat([rows.offset_error for rows, _, _ in made]),
            error=gamma_up(max(rows.steps for rows, _, _ in made)),
            segments=segments,
            window=form if isinstance(form, Window) else None,
            dense=form.weight if isinstance(form, Dense) else None,
            parts=parts if form is None or isinstance(form, Selection) else (),
        )


def _form(block: Block, source: Source) -> Form:
    if isinstance(block, Select):
        return Selection(block.index, block.scale, source.size)
    return Dense(block) if isinstance(block, Tensor) else block


Rule: TypeAlias = Callable[[Builder, Operation, list[Affine]], Affine | Unbounded]


def broadcast(builder: Builder, operation: Operation, inputs: list[Affine]) -> list[Affine]:
    """Return the operands, each with the entries of the output, at one stage."""
    shape, found = builder.facts.shapes[operation.name], []
    for value, name in zip(builder.level(operation, inputs), operation.inputs, strict=True):
        index = torch.arange(value.size).reshape(builder.facts.shapes[name]).expand(shape)
        found.append(gather(value, index.reshape(-1)))
    return found


def negated(value: Affine) -> Affine:
    """Return -value, exactly."""
    found = scale(value, torch.full_like(value.offset, -1.0), 0.0)
    if found is None:
        raise ValueError("expected entries in range")
    return found
