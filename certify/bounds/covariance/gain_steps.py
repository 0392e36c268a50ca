r"""Steps that keep no correlation: the start, max pools, and operations of which only a gain is known.

An operation without a rule is a map of Lipschitz constant c in l2 (the gain of `certify.bounds.rules`), so its output
has P' = c^2 lmax(P) I. With several inputs u_i of one register, a rule g that is monotone and homogeneous gives
||dv|| <= g(||du_1||, ...) <= g(1, ...) ||(du_1, ...)||. Where the inputs stand in no register, the value's own gain
from the network's input is used: in linf sqrt(d) times the l2 gain, since ||d||_2 <= sqrt(d) ||d||_inf.

*Max pooling.* By the mean value theorem (G. Lebourg 1975) a difference of maxima is max a - max a' = l.(a - a') with
weights l_i >= 0 of sum 1, so dv' = S dv with a row of such weights per window, each on pixels of one channel. If M <=
diag(delta), constant over pixels, and a pixel is in at most ``overlap`` windows, then by Cauchy-Schwarz

    u^T S diag(delta) S^T u  <=  sum_i delta (sum_j S_ji) (sum_j S_ji u_j^2)  <=  overlap u^T diag(delta) u.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch

from certify.bounds.covariance import limits
from certify.bounds.covariance.draft import Draft
from certify.bounds.covariance.linear import flattened
from certify.bounds.covariance.maps import Rows, picked
from certify.bounds.covariance.standing import stand
from certify.bounds.covariance.states import Behind, Flat, Held, Lost, View
from certify.bounds.covariance.steps import Bounded, Pool, Sides, Start
from certify.bounds.magnitudes import root_upper
from certify.bounds.rules import RULES
from certify.bounds.walk import ask
from certify.graph import Operation
from certify.results import Unbounded
from certify.rounding import mul_up

EXTREMES: Mapping[str, float] = MappingProxyType({"maximum": 1.0, "minimum": 1.0})
"""Operations whose gain from all inputs together, when none broadcasts, is below that of their rule at (1, 1)."""


def begin(draft: Draft) -> Unbounded | None:
    """Hold the value a plan starts from: an image where something reads it as one, else plain rows.

    Returns:
        `Unbounded` if it has no gain.
    """
    name = draft.start
    shape, dims, gain = draft.facts.shapes[name], draft.grids.dims[name], _from_input(draft, name)
    if isinstance(gain, Unbounded):
        return gain
    sides = draft.grids.sides(name, dims) if dims else ()
    pixels = math.prod(shape[len(shape) - dims :])
    rows = math.prod(shape) // pixels
    if sides is None or (not sides and rows > limits.MOST_ROWS):
        draft.held[name] = Lost()
        return None
    is_input = name == draft.facts.graph.input
    register = draft.emit(Start(sides, rows, pixels) if is_input else Bounded(None, sides, rows, gain), rows)
    draft.held[name] = View(register, Rows(torch.arange(rows)), (1,) * dims)
    return None


def _from_input(draft: Draft, name: str) -> float | Unbounded:
    """Return at least ||dv||_2 of a value per norm of the input's difference."""
    own = draft.gains[name]
    if isinstance(own, Unbounded) or draft.norm == "l2":
        return own
    return mul_up(own, root_upper(math.prod(draft.facts.graph.input_shape)))


def pool(draft: Draft, operation: Operation) -> bool:
    """Max-pool an image; False when it is not held as one."""
    held = draft.held[operation.inputs[0]]
    view = held.view if isinstance(held, Behind) else held
    sides = draft.grids.sides(operation.name, len(view.strides)) if isinstance(view, View) else None
    if not isinstance(view, View) or sides is None:
        return False
    standing = stand(draft, [view], [operation.name], alone=True)
    if standing is None:
        return False
    rows, slope = standing.rows[0], held.slope if isinstance(held, Behind) else 1.0
    draft.mark(operation.inputs[0], standing.register, rows)
    made = draft.emit(Pool(standing.register, sides, _overlap(operation), slope), len(rows))
    draft.held[operation.name] = View(made, Rows(rows), (1,) * len(sides))
    draft.mark(operation.name, made, rows)
    return True


def _overlap(operation: Operation) -> int:
    """Return in how many windows one pixel is, at most: ceil(k / (s / gcd(s, dilation))) per axis."""
    windows = zip(*(operation.integers(word) for word in ("kernel", "stride", "dilation")), strict=True)
    return math.prod(math.ceil(k / (s // math.gcd(s, d))) for k, s, d in windows)


def bound(draft: Draft, operation: Operation) -> Unbounded | None:
    """Hold an operation's output by a gain: from its inputs' register, or from the network's input.

    Returns:
        `Unbounded` if it has no gain either.
    """
    rule = ask(RULES, draft.facts, operation)
    own = _from_input(draft, operation.name)
    if isinstance(rule, Unbounded):
        return rule
    if isinstance(own, Unbounded):
        return own
    layout = _layout(draft, operation)
    if layout is None:
        draft.held[operation.name] = Lost()
        return None
    sides, rows = layout
    source = _source(draft, operation)
    amounts = [0.0 if name in draft.facts.independent else 1.0 for name in operation.inputs]
    if source is None:
        gain = own
    else:
        gain = _together(draft, operation, rule(*amounts))
        behind = (draft.held[name] for name in draft.varying(operation))
        gain = mul_up(gain, *(held.slope for held in behind if isinstance(held, Behind)))
    reason = "only its gain is known" if source is not None else "only its gain from the input is used"
    draft.fallbacks.append(f"{operation.where}: {reason}")
    made = draft.emit(Bounded(source, sides, rows, gain), rows)
    draft.held[operation.name] = View(made, Rows(torch.arange(rows)), (1,) * len(sides))
    draft.mark(operation.name, made, torch.arange(rows))
    return None


def _together(draft: Draft, operation: Operation, gain: float) -> float:
    shapes = {draft.facts.shapes[name] for name in (*operation.inputs, operation.name)}
    return EXTREMES.get(operation.kind, gain) if len(shapes) == 1 else gain


def _layout(draft: Draft, operation: Operation) -> tuple[Sides, int] | None:
    """Return the sides and rows of the register of an operation's output; None when it would be too large."""
    shape = draft.facts.shapes[operation.name]
    read = [draft.held[name] for name in draft.varying(operation)]
    ahead = draft.grids.dims[operation.name]
    beside = max((len(held.strides) for held in read if isinstance(held, View)), default=0)
    for dims in (ahead, beside):
        sides = draft.grids.sides(operation.name, dims) if dims else None
        if sides is not None:
            return sides, math.prod(shape[:-dims])
    return ((), math.prod(shape)) if math.prod(shape) <= limits.MOST_ROWS else None


def _source(draft: Draft, operation: Operation) -> int | None:
    """Return a register that holds the inputs of an operation and nothing else, or None."""
    held = [_before_pool(draft.held[name]) for name in dict.fromkeys(draft.varying(operation))]
    targets = [one for one in held if isinstance(one, View | Flat)]
    if len(targets) < len(held) or len({one.register for one in targets}) > 1:
        return None
    if len({(type(one), one.strides if isinstance(one, View) else ()) for one in targets}) > 1:
        targets = [flattened(draft, name) for name in dict.fromkeys(draft.varying(operation))]
    targets = [_unflattened(targets[0])] if len(targets) == 1 else targets
    standing = stand(draft, targets, [operation.name], alone=True)
    return None if standing is None else standing.register


def _before_pool(held: Held) -> Held:
    return held.view if isinstance(held, Behind) else held


def _unflattened(held: View | Flat) -> View | Flat:
    """Return the image instead of its pixels in another order: they have the same norm, and it has fewer rows."""
    pixels = picked(held.map) if isinstance(held, Flat) and held.windows is None else None
    return held.view if isinstance(held, Flat) and pixels is not None else held
