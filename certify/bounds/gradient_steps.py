r"""Residual blocks that are gradient steps, x - W^T S act(W x + b): 1-Lipschitz where 1 + product says 3.

**Statement.** Let f(x) = x - V^T act(W x + b) + const with V = S W + E, S diagonal with entries >= 0, and act entrywise
with slopes in [low, high]. Let n >= ||S^(1/2) W||_2^2 and e >= ||E||_2. Then f is Lipschitz in l2 with constant

    max(1 + max(-low, 0) n,  max(high, 0) n - 1)  +  max(|low|, |high|) e ||W||_2.

*Proof.* For two inputs, act(W x + b) - act(W y + b) = D W (x - y) with D diagonal, its entries difference quotients of
act, so in [low, high]. Hence f(x) - f(y) = (I - Q - E^T D W)(x - y) with Q = W^T S D W. As S and D are diagonal, Q is
symmetric, and min(low, 0) W^T S W <= Q <= max(high, 0) W^T S W in the order of symmetric matrices, with
0 <= W^T S W <= n I. So the eigenvalues of I - Q lie between 1 - max(high, 0) n and 1 + max(-low, 0) n, and the norm of
a symmetric matrix is its largest |eigenvalue|. Last, ||E^T D W|| <= e max(|low|, |high|) ||W||. []

For slopes in [0, 1] and n <= 2 this is 1: the condition W W^T <= T of layers with S = 2 T^-1 says n <= 2. A step size
that was estimated too large shows: n = 2 c^2 gives 2 c^2 - 1 (blocks normalised with 0.9 of the norm: 1.469).

*Nothing has to match.* S is whatever fits the stored numbers best, s_i = <V_i, W_i> / <W_i, W_i> for row (channel) i,
and E the exact rest, so V may have been rounded to any format, and the statement holds for blocks that were never meant
to be gradient steps (the bound is then not the least one, and 1 + product is taken). For convolutions S is constant
over positions, which S and D commute needs nothing more than; W^T is the adjoint of the convolution:

- behind a convolution padded with zeros, the transposed convolution of equal stride, padding, dilation and groups that
  leads back to the size of x, with V in the layout of W;
- for stride 1 and one group, padded with zeros or circularly, the convolution by the flipped kernel with its channels
  swapped, padded by dilation (k - 1) - p before and after where the first one is padded by p: with zeros outside,
  (W^T y)(j) = sum_t W_t^T y(j - t + p) = sum_t' W_(k-1-t')^T y(j + t' - (k - 1 - p)), and likewise modulo the size
  where both ends together are padded by dilation (k - 1), so that no size changes.

Source: for E = 0 and slopes in [0, 1], L. Meunier et al., A Dynamical System Perspective for Lipschitz Neural Networks,
arXiv 2110.12690, Theorem 3, and A. Araujo et al., A Unified Algebraic Perspective on Lipschitz Neural Networks, arXiv
2303.03169, Theorem 2. With the rest, n > 2 and negative slopes as proved here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.linear_maps import WEIGHTED, LinearMap, Shapes, absolute_upper, enclose_operation
from certify.bounds.magnitudes import nextafter_up
from certify.bounds.slopes import ACTIVATIONS, Slopes, slope_range
from certify.graph import Graph, Operation
from certify.results import Norm, Unbounded
from certify.rounding import U64, add_up, mul_up

LEAST = 2.0**-200  # weights and scales between this and its reciprocal: no product below underflows or overflows
MOST_REST = 0.5  # of ||V||_F; a block with more than this left over is no gradient step, and is not tried
ROUNDING = 4.0 * U64


@dataclass(frozen=True)
class GradientStep:
    """Value ``value`` is x minus a gradient of x = value ``source``.

    ``names`` are the modules of the two linear maps, ``inside`` the values between x and the difference;
    ``square`` is at least ||S^(1/2) W||_2^2, ``rest`` at least ||E||_2 ||W||_2, ``slopes`` the range of the activation.
    """

    value: str
    source: str
    names: tuple[str, ...]
    inside: tuple[str, ...]
    slopes: Slopes
    square: float
    rest: float

    def upper(self, norm: Norm) -> float:
        """Return at least the Lipschitz constant of the block; infinity in linf, where the statement says nothing.

        Example:
            >>> GradientStep("y", "x", (), (), (0.0, 1.0), square=1.9, rest=0.0).upper("l2")
            1.0
        """
        if norm != "l2":
            return math.inf
        low, high = self.slopes
        outward = add_up(1.0, mul_up(max(-low, 0.0), self.square))
        back = add_up(mul_up(max(high, 0.0), self.square), -1.0)
        return add_up(max(outward, back), mul_up(max(abs(low), abs(high)), self.rest))


@dataclass(frozen=True, eq=False)
class _Block:
    """x - V^T act(W x + b): the operations, and the stored V in the layout of W."""

    first: Operation
    activation: Operation
    second: Operation
    end: Operation
    weight: Tensor
    adjoint: Tensor


def find_gradient_steps(graph: Graph, shapes: Shapes, maps: Mapping[str, LinearMap]) -> tuple[GradientStep, ...]:
    """Return every residual block of a network that is nearly a gradient step.

    Args:
        graph: The network, in float64.
        shapes: The shape of every value for one example.
        maps: The enclosed norms of its linear operations.
    """
    blocks = (block for end in graph for block in _blocks(graph, end, shapes))
    steps = (_step(graph, block, shapes, maps) for block in blocks)
    return tuple(step for step in steps if step is not None)


def _blocks(graph: Graph, end: Operation, shapes: Shapes) -> Iterator[_Block]:
    """Yield the blocks that end in an addition or a subtraction: one for each input that may be the branch."""
    if end.kind not in ("add", "sub"):
        return
    sign = 1.0 if end.kind == "sub" else -1.0  # branch - x is as steep as x - branch
    for position in (0, 1):
        source, branch = end.inputs[1 - position], graph.by_name[end.inputs[position]]
        inner = _inner(graph, source, branch)
        if inner is None or shapes[source] != shapes[branch.name]:
            continue
        first, activation = inner
        adjoint = _in_layout_of_first(graph, first, branch)
        if adjoint is not None:
            yield _Block(first, activation, branch, end, graph.required_weight(first, "weight"), sign * adjoint)


def _inner(graph: Graph, source: str, branch: Operation) -> tuple[Operation, Operation] | None:
    """Return the first linear map and the activation of branch = V^T act(W source + b)."""
    if branch.kind not in WEIGHTED:
        return None
    activation = graph.by_name[branch.inputs[0]]
    if activation.kind not in ACTIVATIONS:
        return None
    first = graph.by_name[activation.inputs[0]]
    return (first, activation) if first.kind in WEIGHTED and first.inputs == (source,) else None


def _in_layout_of_first(graph: Graph, first: Operation, second: Operation) -> Tensor | None:
    """Return the weight V for which the second map is the adjoint of "the first map with weight V", if there is one."""
    stored = graph.required_weight(second, "weight")
    shape = graph.required_weight(first, "weight").shape
    if first.kind == second.kind == "linear":
        found = stored.mT
    elif first.kind == "conv" and second.kind == "conv_transpose" and _mirrors(first, second):
        found = stored
    elif first.kind == second.kind == "conv" and _flips(first, second, shape[2:]):
        found = stored.transpose(0, 1).flip(list(range(2, stored.dim())))
    else:
        return None
    return found if found.shape == shape else None


def _mirrors(conv: Operation, transposed: Operation) -> bool:
    padding = tuple((amount, amount) for amount in transposed.integers("padding"))
    same = all(conv.integers(name) == transposed.integers(name) for name in ("stride", "dilation"))
    return (
        same
        and conv.integer("groups") == transposed.integer("groups")
        and conv.text("padding_mode") == "zeros"
        and conv.pairs("padding") == padding
    )


def _flips(first: Operation, second: Operation, kernel: tuple[int, ...]) -> bool:
    """Tell whether the second convolution can be the adjoint of the first: strides 1, mirrored padding.

    That both have one group is left to the shapes of their weights, which fit for no other number.
    """
    plain = all(set(op.integers("stride")) == {1} for op in (first, second))
    alike = all(first.attributes[name] == second.attributes[name] for name in ("dilation", "padding_mode"))
    mode, pairs = first.text("padding_mode"), first.pairs("padding")
    if not (plain and alike and mode in ("zeros", "circular")):
        return False
    spans = [dilation * (size - 1) for dilation, size in zip(first.integers("dilation"), kernel, strict=True)]
    mirrored = [(span - before, span - after) for span, (before, after) in zip(spans, pairs, strict=True)]
    same_size = all(before + after == span for span, (before, after) in zip(spans, pairs, strict=True))
    return list(second.pairs("padding")) == mirrored and (mode == "zeros" or same_size)


def _step(graph: Graph, block: _Block, shapes: Shapes, maps: Mapping[str, LinearMap]) -> GradientStep | None:
    slopes = slope_range(graph, block.activation)
    W, V = block.weight, block.adjoint
    if isinstance(slopes, Unbounded) or not (_in_range(W) and _in_range(V)):
        return None
    scales = best_scales(V, W)
    spread = scales.reshape(-1, *[1] * (W.dim() - 1))
    rest = rest_upper(V, spread, W)
    if not float(rest.norm()) <= MOST_REST * float(V.norm()):
        return None
    roots = torch.where(spread > 0.0, nextafter_up(spread.sqrt()), 0.0)
    found = enclose_operation(block.first, roots * W, shapes)
    root = add_up(found.l2.upper, mul_up(ROUNDING, found.abs_upper))
    beyond = mul_up(absolute_upper(block.first, rest, shapes), maps[block.first.name].l2.upper)
    names = tuple(one.module or one.name for one in (block.first, block.second))
    inside = tuple(one.name for one in (block.first, block.activation, block.second))
    return GradientStep(block.end.name, block.first.inputs[0], names, inside, slopes, mul_up(root, root), beyond)


def _in_range(x: Tensor) -> bool:
    sizes = x[x != 0.0].abs()
    return bool(torch.all((sizes >= LEAST) & (sizes <= 1.0 / LEAST)))


def best_scales(V: Tensor, W: Tensor) -> Tensor:
    """Return for each row (channel) i the s_i >= 0 that brings s_i W_i next to V_i; 0 where W_i is 0.

    Any such numbers give a bound: the rest V - S W is bounded for the s_i that are returned.
    """
    rows_V, rows_W = V.flatten(1), W.flatten(1)
    scales = (rows_V * rows_W).sum(1) / (rows_W * rows_W).sum(1)
    usable = (scales >= LEAST) & (scales <= 1.0 / LEAST)  # NaN, of a zero row, is not
    return torch.where(usable, scales, 0.0)


def rest_upper(V: Tensor, scales: Tensor, W: Tensor) -> Tensor:
    """Return at least |V - S W|, entrywise.

    The product is off by at most u |s w| and the difference by u of itself, u = 2^-53; both, and the roundings of this
    bound, are covered by 4 u of their sizes. Products of numbers in range do not underflow.
    """
    product = scales * W
    return ((V - product).abs() + ROUNDING * product.abs()) * (1.0 + 8.0 * U64)
