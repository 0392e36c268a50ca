r"""The values between two layers of a chain: affine maps of the layer's outputs, kept exact or with counted roundings.

A value v with n entries is  v = sum over sources S of M_S h_S + c,  where a *source* is a segment of outputs of one
layer. A block M_S is one of

- `Select`: row i is scale_i times entry index_i of the source (-1: nothing): what copying and scaling makes of it;
- a `Window`: one convolution of the whole source;
- a dense matrix ``[n, size]``.

The network's real entries differ from the stored ones by a relative gamma_steps(2^-53) at most: a scale known up to k
roundings adds k, and the product one more (Higham, Lemma 3.3: (1 + theta_j)(1 + theta_k) = 1 + theta_{j+k}). A product
of two maps has that property only while no entry of it is a *sum* of products; `compose` therefore takes only maps of
selections that use no entry twice, and `add` only sums in which no two entries meet. Everything else gets an identity
layer in between, which costs no accuracy. Offsets carry an absolute error per entry instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from certify.bounds.local.windows import Window
from certify.bounds.magnitudes import nextafter_up
from certify.rounding import SMALLEST, U64, gamma_up

LEAST_ENTRY = 2.0**-500  # times a factor of at least `LEAST_FACTOR` a number of this size does not underflow
LEAST_FACTOR = 2.0**-450
MAX_ENTRIES = 2**26  # of one dense matrix: 512 MB in float64


@dataclass(frozen=True)
class Source:
    """A segment of outputs: ``number`` tells it from the others of layer ``stage`` (0: the input)."""

    stage: int
    number: int
    size: int


@dataclass(frozen=True, eq=False)
class Select:
    """Row i is ``scale[i]`` times entry ``index[i]``; index -1 stands for a zero row."""

    index: Tensor
    scale: Tensor


Block: TypeAlias = Select | Window | Tensor


@dataclass(frozen=True, eq=False)
class Affine:
    """A value of n entries as an affine map of the outputs of layer ``stage``; see the module."""

    stage: int
    blocks: Mapping[Source, Block]
    offset: Tensor
    offset_error: Tensor
    steps: float = 0.0

    @property
    def size(self) -> int:
        """The number of entries."""
        return len(self.offset)


def whole(source: Source) -> Affine:
    """Return the outputs of a source, as they are."""
    zeros = torch.zeros(source.size, dtype=torch.float64)
    return Affine(source.stage, {source: Select(torch.arange(source.size), zeros + 1.0)}, zeros, zeros)


def constant(value: Tensor) -> Affine:
    """Return a value that does not depend on the input and is known exactly."""
    flat = value.to(torch.float64).reshape(-1)
    return Affine(0, {}, flat, torch.zeros_like(flat))


def dense(block: Block, source: Source) -> Tensor:
    """Return a block as a matrix ``[n, source.size]``."""
    if isinstance(block, Tensor):
        return block
    if isinstance(block, Window):
        return block.matrix()
    found = block.scale.new_zeros(len(block.index), source.size + 1)  # the last column takes what is nowhere
    found.scatter_(1, torch.where(block.index >= 0, block.index, source.size)[:, None], block.scale[:, None])
    return found[:, : source.size]


def rows_of(block: Block) -> int:
    """Return the number of rows of a block."""
    return len(block.index) if isinstance(block, Select) else block.rows if isinstance(block, Window) else len(block)


def is_small(value: Affine) -> bool:
    """Tell that no block is a convolution whose dense matrix would be too large."""
    sizes = (value.size * source.size for source, block in value.blocks.items() if isinstance(block, Window))
    return max(sizes, default=0) <= MAX_ENTRIES


def gather(value: Affine, index: Tensor, fill: float = 0.0) -> Affine:
    """Return the rows ``index`` of a value (-1: the number ``fill``)."""
    if len(index) == value.size and torch.equal(index, torch.arange(value.size)):
        return value
    here, at = index >= 0, index.clamp(min=0)

    def rows(source: Source, block: Block) -> Block:
        if isinstance(block, Select):
            return Select(torch.where(here, block.index[at], -1), torch.where(here, block.scale[at], 0.0))
        return dense(block, source)[at] * here[:, None]

    blocks = {source: rows(source, block) for source, block in value.blocks.items()}
    offset = torch.where(here, value.offset[at], fill)
    return replace(value, blocks=blocks, offset=offset, offset_error=value.offset_error[at] * here)


def stack(values: list[Affine]) -> Affine:
    """Return values of one stage, or constants, beside each other, as one value."""
    total = sum(value.size for value in values)
    found, first = constant(torch.zeros(total)), 0
    for value in values:
        index = torch.full((total,), -1)
        index[first : first + value.size] = torch.arange(value.size)
        placed = add(found, gather(value, index))
        if placed is None:
            raise ValueError("expected rows apart from each other to be added exactly, got a rounded sum")
        found, first = placed, first + value.size
    return found


def add(a: Affine, b: Affine) -> Affine | None:
    """Return the sum of two values of one stage (or constants), or None when an entry of a block would be rounded."""
    blocks = dict(a.blocks)
    for source, block in b.blocks.items():
        joined = _join(blocks[source], block, source) if source in blocks else block
        if joined is None:
            return None
        blocks[source] = joined
    offset = a.offset + b.offset
    rounded = (a.offset != 0.0) & (b.offset != 0.0)
    error = _sum_up(a.offset_error, b.offset_error, torch.where(rounded, U64 * offset.abs() + SMALLEST, 0.0))
    stage = a.stage if a.blocks else b.stage
    return Affine(stage, blocks, offset, error, max(a.steps, b.steps))


def scale(
    value: Affine, factor: Tensor, steps: float, mean: Tensor | None = None, bias: Tensor | None = None
) -> Affine | None:
    """Return factor (value - mean) + bias, entry by entry, or None when a product could underflow or overflow.

    Args:
        value: The value.
        factor: One factor per entry, equal to the real one up to ``steps`` roundings.
        steps: 0 when it is exact.
        mean: What is subtracted first, exact; or None.
        bias: What is added last, exact; or None.
    """
    exact = steps == 0.0 and bool(torch.all((factor.abs() == 1.0) | (factor == 0.0)))
    blocks = {source: _scale_block(block, factor, source) for source, block in value.blocks.items()}
    if not (_in_range(Select(factor, factor), LEAST_FACTOR) and all(_in_range(block) for block in blocks.values())):
        return None
    offset, rounded = _scaled_offset(value.offset, factor, steps, mean, bias)
    if exact and mean is None and bias is None:
        rounded = torch.zeros_like(rounded)
    error = _sum_up(factor.abs() * value.offset_error * (1.0 + 2.0 * gamma_up(steps + 4.0)), rounded)
    return Affine(value.stage, blocks, offset, error, value.steps + (0.0 if exact else steps + 1.0))


def _scaled_offset(
    offset: Tensor, factor: Tensor, steps: float, mean: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return factor (offset - mean) + bias and its error, gamma (|factor| (|offset| + |mean|) + |bias|)."""
    centred, sizes = (offset, offset.abs()) if mean is None else (offset - mean, offset.abs() + mean.abs())
    found, sizes = factor * centred, factor.abs() * sizes
    if bias is not None:
        found, sizes = found + bias, sizes + bias.abs()
    return found, torch.where(sizes > 0.0, gamma_up(steps + 8.0) * sizes + 8.0 * SMALLEST, 0.0)


def is_selection(value: Affine) -> bool:
    """Tell that every block is a selection that uses no entry of its source twice."""
    return all(isinstance(block, Select) and _uses_once(block) for block in value.blocks.values())


def compose(operator: Window | Tensor, steps: float, value: Affine, bias: Tensor | None) -> Affine | None:
    """Return operator times value plus bias, or None when a product could underflow or overflow.

    Args:
        operator: A convolution or a dense matrix, equal to the real one up to ``steps`` roundings per entry.
        steps: 0 when it is exact.
        value: A value for which `is_selection` holds.
        bias: Exact, or None.
    """
    scaled = [bool(torch.all(b.scale[b.index >= 0] == 1.0)) for b in value.blocks.values() if isinstance(b, Select)]
    blocks = {source: _product(operator, block, source) for source, block in value.blocks.items()}
    if not all(scaled) and not all(_in_range(block) for block in blocks.values()):
        return None
    offset, error = _moved_offset(operator, steps, value, bias)
    more = steps + (0.0 if all(scaled) else 1.0)
    return Affine(value.stage, blocks, offset, error, value.steps + more)


def _product(operator: Window | Tensor, block: Block, source: Source) -> Block:
    if not isinstance(block, Select):
        raise ValueError("expected a selection")
    unscaled = bool(torch.all(block.scale[block.index >= 0] == 1.0))
    if isinstance(operator, Window):
        factor = _per_channel(block.scale, operator.channels)
        if factor is not None and torch.equal(block.index, torch.arange(source.size)):
            return operator if unscaled else operator.scaled(None, factor)
        found = operator.scatter(block.index, source.size)
    else:
        used = block.index >= 0
        found = operator.new_zeros(operator.shape[0], source.size)
        found[:, block.index[used]] = operator[:, used]
    if unscaled:
        return found
    columns = found.new_zeros(source.size)
    columns[block.index[block.index >= 0]] = block.scale[block.index >= 0]
    return found * columns


def _moved_offset(operator: Window | Tensor, steps: float, value: Affine, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return operator times offset plus bias, and its error: gamma (|L| |c| + |b|) + |L| e, rounded up."""
    rows = operator.rows if isinstance(operator, Window) else operator.shape[0]
    shift = value.offset.new_zeros(rows) if bias is None else bias
    if not bool(value.offset.any()) and not bool(value.offset_error.any()):
        return shift, torch.zeros_like(shift)
    sizes = operator_abs(operator)
    moved = _apply(operator, value.offset)
    grown = gamma_up(value.size + steps + 8.0)
    carried = _apply(sizes, value.offset_error) * (1.0 + 2.0 * grown)
    rounded = _apply(sizes, value.offset.abs()) * (2.0 * grown) + 4.0 * U64 * (moved.abs() + shift.abs())
    underflow = torch.full_like(shift, 4.0 * value.size * SMALLEST)
    return moved + shift, _sum_up(carried, rounded, underflow)


def operator_abs(operator: Window | Tensor) -> Window | Tensor:
    """Return the operator of absolute entries."""
    return replace(operator, weight=operator.weight.abs()) if isinstance(operator, Window) else operator.abs()


def _apply(operator: Window | Tensor, x: Tensor) -> Tensor:
    return operator.forward(x[None])[0] if isinstance(operator, Window) else operator @ x


def _scale_block(block: Block, factor: Tensor, source: Source) -> Block:
    if isinstance(block, Select):
        return Select(block.index, block.scale * factor)
    if isinstance(block, Window):
        per_channel = _per_channel(factor, block.weight.shape[0])
        if per_channel is not None:
            return block.scaled(per_channel, None)
    return dense(block, source) * factor[:, None]


def _per_channel(factor: Tensor, channels: int) -> Tensor | None:
    """Return one factor per channel when it is the same all over each channel, None otherwise."""
    if factor.numel() % channels:
        return None
    blocks = factor.reshape(channels, -1)
    return blocks[:, 0] if bool(torch.all(blocks == blocks[:, :1])) else None


def _join(a: Block, b: Block, source: Source) -> Block | None:
    """Return the sum of two blocks of one source when no entry of it is rounded."""
    if isinstance(a, Select) and isinstance(b, Select) and bool(torch.all((a.index < 0) | (b.index < 0))):
        return Select(torch.maximum(a.index, b.index), a.scale + b.scale)
    if rows_of(a) * source.size > MAX_ENTRIES:
        return None
    left, right = dense(a, source), dense(b, source)
    return left + right if bool(torch.all((left == 0.0) | (right == 0.0))) else None


def _uses_once(block: Select) -> bool:
    used = block.index[block.index >= 0]
    return len(torch.unique(used)) == len(used)


def _in_range(block: Block, least: float = LEAST_ENTRY) -> bool:
    """Tell that every entry is 0 or between ``least`` and its reciprocal in size."""
    entries = block.weight if isinstance(block, Window) else block.scale if isinstance(block, Select) else block
    sizes = entries[entries != 0.0].abs()
    return bool(torch.all((sizes >= least) & (sizes <= 1.0 / least)))


def _sum_up(*terms: Tensor) -> Tensor:
    """Return at least the sum of non-negative terms, exactly 0 where all are 0."""
    total = torch.stack(terms).sum(0)
    return torch.where(total > 0.0, nextafter_up(total * (1.0 + 8.0 * U64)), 0.0)
