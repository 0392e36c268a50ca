"""An estimate of the Lipschitz constant from below: the largest Jacobian norm at given inputs, and at steeper ones.

Any valid bound is at or above the exact Jacobian norm at any point. The values here are computed in floating point
without an error bound: *estimates*, to show beside the proved upper bound how much of it may be slack.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from certify.bounds.constants import independent_values
from certify.bounds.steepest import (
    Box,
    Network,
    ascend,
    input_direction,
    inside,
    jacobian_gains,
    random_inputs,
    typical_distance,
    unit_directions,
)
from certify.bounds.work import multiplications, rows_at_once
from certify.errors import InputError
from certify.examples import Example
from certify.graph import Graph, run, value_shapes
from certify.results import Norm

CHUNK = 64
BUDGET = 2.5e10  # multiplications of one search: a second or two on one core
SCREENED, STARTS, STEPS, LEAST_STEPS = 1024, 32, 100, 12
SCREEN_STEPS, LAST_STEPS, FINALISTS = 4, 20, 8
SHAVED = 1.0 - 2.0**-40  # more than the rounding of a float64 pass, so that a tight bound is not shown below its floor


def jacobian(graph: Graph, x: Tensor) -> Tensor:
    """Return the Jacobian of the output at one input, ``[outputs, inputs]``, in float64.

    Row k is the gradient of output k. Rows are computed side by side, one copy of the input for each: examples of a
    batch do not touch each other, so the sum of output k of copy k over all k has row k as its gradient in copy k.

    Args:
        graph: The network, in float64; its output has the batch as its first dimension.
        x: One input, without a batch dimension.

    Raises:
        InputError: If PyTorch cannot differentiate an operation with such attributes.
    """
    point = x.detach().to(torch.float64)
    with torch.no_grad():
        outputs = run(graph, point.unsqueeze(0)).numel()
    return torch.cat([_rows(graph, point, rows) for rows in torch.split(torch.arange(outputs), CHUNK)])


def _rows(graph: Graph, point: Tensor, rows: Tensor) -> Tensor:
    copies = point.expand(len(rows), *point.shape).clone().requires_grad_()
    output = run(graph, copies).reshape(len(rows), -1)
    if not output.requires_grad:  # no output depends on the input
        return torch.zeros(len(rows), point.numel(), dtype=torch.float64)
    try:
        (gradient,) = torch.autograd.grad(output[torch.arange(len(rows)), rows].sum(), copies)
    except RuntimeError as error:  # PyTorch differentiates some kinds with attributes in float32
        reason = str(error).splitlines()[0]
        raise InputError(f"expected a network that PyTorch can differentiate, got: {reason}") from error
    return gradient.reshape(len(rows), -1)


def jacobian_norm(matrix: Tensor, norm: Norm) -> float:
    """Return the operator norm of a matrix in floating point: an estimate."""
    if norm == "linf":
        return float(matrix.abs().sum(1).max())
    return float(torch.linalg.svdvals(matrix).max())


def jacobian_floor(graph: Graph, examples: Iterable[Example], *, norm: Norm = "l2") -> float:
    """Return the largest Jacobian norm over the examples: an estimate of the Lipschitz constant from below.

    Example:
        >>> import numpy as np
        >>> from certify.graph import Operation
        >>> ops = (Operation(name="x", kind="input"),
        ...        Operation(name="y", kind="linear", inputs=("x",), weights={"weight": "W"}))
        >>> graph = Graph(ops, "y", (2,), {"W": torch.diag(torch.tensor([3.0, 4.0]))})
        >>> round(jacobian_floor(graph, [Example(0, "0", 0, np.zeros(2))]), 12)
        4.0
    """
    exact = graph.to(torch.float64, "cpu")
    points = (torch.from_numpy(example.values()) for example in examples)
    return max((jacobian_norm(jacobian(exact, point), norm) for point in points), default=0.0)


@dataclass(frozen=True)
class _Effort:
    """How many inputs are looked at, how many are ascended from, and for how many steps."""

    screened: int
    starts: int
    steps: int


def _effort(graph: Graph) -> _Effort:
    """Return an effort that costs about `BUDGET`; a pass and its gradient cost about three passes."""
    passes = BUDGET / multiplications(graph)
    steps = int(min(STEPS, max(LEAST_STEPS, passes / 12)))
    starts = int(min(STARTS, max(2, passes / (2 * 6 * steps))))
    return _Effort(screened=int(min(SCREENED, max(2, passes / (2 * 5 * SCREEN_STEPS)))), starts=starts, steps=steps)


@dataclass(frozen=True, eq=False)
class SteepPlace:
    """An input with a large Jacobian: where, in which direction, how large.

    ``slope`` is the norm of the Jacobian, an estimate; ``x`` the input ``[*input_shape]`` in float64; ``direction`` one
    of l2 norm 1 that the Jacobian stretches most; ``distance`` a typical l2 distance of two inputs.
    """

    slope: float
    x: Tensor
    direction: Tensor
    distance: float


def data_floor(
    graph: Graph,
    examples: Sequence[Example] = (),
    *,
    norm: Norm = "l2",
    seed: int = 0,
    range: tuple[float, float] | None = None,  # noqa: A002 - the field of the input space
) -> float | None:
    """Return the largest Jacobian norm found: the ``slope`` of `steepest_place`, with the same arguments.

    Example:
        >>> from certify.graph import Operation
        >>> ops = (Operation(name="x", kind="input"),
        ...        Operation(name="y", kind="linear", inputs=("x",), weights={"weight": "W"}))
        >>> round(data_floor(Graph(ops, "y", (2,), {"W": torch.diag(torch.tensor([3.0, 4.0]))})), 9)
        4.0
    """
    found = steepest_place(graph, examples, norm=norm, seed=seed, range=range)
    return None if found is None else found.slope


def steepest_place(
    graph: Graph,
    examples: Sequence[Example] = (),
    *,
    norm: Norm = "l2",
    seed: int = 0,
    range: tuple[float, float] | None = None,  # noqa: A002 - the field of the input space
) -> SteepPlace | None:
    """Return where the largest Jacobian norm was found, which is an estimate of the Lipschitz constant from below.

    Looked at are the examples, and inputs ascended to from the steepest of them and from random ones
    (`certify.bounds.steepest`). The search runs in float32, the norms that count in float64.

    Args:
        graph: The network.
        examples: Inputs; a large set is thinned out evenly. Without any, random inputs alone.
        norm: The norm.
        seed: Of random inputs and directions. The value is a function of the arguments.
        range: Where inputs lie; None for everywhere.

    Returns:
        The place, its slope lowered by the rounding of the pass; None when PyTorch cannot differentiate the network.

    Example:
        >>> from certify.graph import Operation
        >>> ops = (Operation(name="x", kind="input"),
        ...        Operation(name="y", kind="linear", inputs=("x",), weights={"weight": "W"}))
        >>> steepest_place(Graph(ops, "y", (2,), {"W": torch.diag(torch.tensor([3.0, 4.0]))})).direction.abs().round()
        tensor([0., 1.], dtype=torch.float64)
    """
    try:
        with torch.autocast("cpu", enabled=False):  # the same place, whatever surrounds the call
            return _search(graph, _thinned(examples, _effort(graph).screened), norm, seed, range)
    except InputError:
        return None


def _thinned(examples: Sequence[Example], most: int) -> Tensor | None:
    """Return at most so many examples, evenly spread, in float64."""
    if not examples:
        return None
    chosen = np.unique(np.linspace(0, len(examples) - 1, most).astype(int))
    return torch.from_numpy(np.stack([examples[position].values() for position in chosen]))


def _search(graph: Graph, data: Tensor | None, norm: Norm, seed: int, box: Box) -> SteepPlace:
    if graph.output in independent_values(graph):
        nowhere = torch.zeros(graph.input_shape, dtype=torch.float64)
        return SteepPlace(0.0, nowhere, nowhere, 1.0)
    effort, rows = _effort(graph), rows_at_once(graph)
    fast, exact = (partial(run, graph.to(dtype)) for dtype in (torch.float32, torch.float64))
    loose = random_inputs(effort.starts if data is None else effort.starts // 2, graph.input_shape, box=box, seed=seed)
    if box is None and data is not None:  # standard normal so far
        loose = data.mean() + data.std(correction=0) * loose
    distance = typical_distance(loose if data is None else data)
    near = loose[:0]
    if data is not None:
        gains, _ = _gains(fast, data.float(), norm, 1e-3 * distance, SCREEN_STEPS, seed, rows)
        near = data[gains.argsort(descending=True, stable=True)]
    starts = torch.split(torch.cat([near[: effort.starts - len(loose)], loose]).float(), rows)
    search = partial(ascend, fast, norm=norm, distance=distance, steps=effort.steps, stay=inside(box), seed=seed)
    steep = [search(x).x for x in starts]
    points = torch.cat([near[:FINALISTS], *steep]).double()
    gains, directions = _gains(exact, points, norm, 1e-6 * distance, SCREEN_STEPS, seed, rows)
    best = gains.argsort(descending=True, stable=True)[:FINALISTS]
    last = _final_norms(graph, points[best], directions[best], norm, 1e-6 * distance)
    steepest = best[last.argmax()]
    place, before = points[steepest], directions[steepest]
    direction = _stretched_most(graph, place, before, norm, 1e-6 * distance)
    return SteepPlace(float(torch.cat([gains, last]).max()) * SHAVED, place, direction, distance)


def _stretched_most(graph: Graph, x: Tensor, before: Tensor, norm: Norm, half: float) -> Tensor:
    """Return a direction of l2 norm 1 that the Jacobian stretches most: exactly where there are few outputs."""
    if math.prod(value_shapes(graph)[graph.output]) > CHUNK:
        gain = partial(jacobian_gains, partial(run, graph.to(torch.float64)), norm=norm, half=half, steps=LAST_STEPS)
        return gain(x.unsqueeze(0), before.unsqueeze(0))[1][0]
    matrix = jacobian(graph.to(torch.float64), x)
    if not bool(torch.isfinite(matrix).all()):
        return before
    row = torch.linalg.svd(matrix, full_matrices=False).Vh[0] if norm == "l2" else matrix[matrix.abs().sum(1).argmax()]
    return input_direction(row.reshape(1, *x.shape), before.unsqueeze(0), norm)[0]


def _final_norms(graph: Graph, points: Tensor, directions: Tensor, norm: Norm, half: float) -> Tensor:
    """Return the norms of few Jacobians: exactly where there are few outputs, else by the power method."""
    exact = graph.to(torch.float64)
    if math.prod(value_shapes(graph)[graph.output]) > CHUNK:
        return jacobian_gains(partial(run, exact), points, directions, norm=norm, half=half, steps=LAST_STEPS)[0]
    matrices = [jacobian(exact, point) for point in points]
    found = [jacobian_norm(matrix, norm) if bool(torch.isfinite(matrix).all()) else 0.0 for matrix in matrices]
    return torch.tensor(found, dtype=torch.float64).nan_to_num(nan=0.0, posinf=0.0)


def _gains(
    network: Network, x: Tensor, norm: Norm, half: float, steps: int, seed: int, rows: int
) -> tuple[Tensor, Tensor]:
    parts = [
        jacobian_gains(network, part, unit_directions(part, seed), norm=norm, half=half, steps=steps)
        for part in torch.split(x, rows)
    ]
    return torch.cat([gains for gains, _ in parts]), torch.cat([directions for _, directions in parts])
