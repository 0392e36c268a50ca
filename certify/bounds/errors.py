r"""The floating-point error of the forward pass, carried through the proved gains.

For one example with float64 activations h (what `certify.graph.run.run_all` computed) the error e of a value obeys

    e_out  <=  rule(e_in, ...)  +  gamma_steps(u) size + absolute,

because an operation turns wrong inputs into outputs that are wrong by at most its gain rule near h (`nearby`: the right
and the wrong inputs both lie within a known distance of h), and adds its own rounding (`roundings`). Two programs are
followed:

- the *measured* one, the float64 run at hand: its inputs are h itself, drift 0. The first error is that of the input:
  an 8-bit pixel stands for stored / 255, which is rounded to nearest: u ||x||. Otherwise the input is exact.
- the *deployed* one, in float64 or float32, in any order of summation, at any real input x' of the ball of radius R:
  its inputs are within drift = L R + e + e_measured of h, with L the gain of the value; on arrival x' is rounded to the
  format: u (||x|| + R). This covers programs that read 8-bit images and divide by 255 themselves.

The error model does not hold for TF32, bfloat16, float16, Winograd or FFT convolutions, or emulated float64.

Reference: N. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, Chapters 2 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.facts import Facts
from certify.bounds.magnitudes import l2_upper
from certify.bounds.nearby import Nearby, rule_nearby
from certify.bounds.roundings import FORMATS, ROUNDINGS, Evaluation, Format, as_tensor, rounding_upper
from certify.bounds.rules import Combine
from certify.bounds.walk import no_bound, walk
from certify.graph import Operation
from certify.results import Unbounded
from certify.rounding import U64, add_up, mul_up

Errors = dict[str, float | Unbounded]
Reach = Callable[[str], float]


@dataclass(frozen=True, eq=False)
class Pass:
    """One float64 forward pass of one example: its facts (in l2), the gain rules, and every activation."""

    facts: Facts
    rules: Mapping[str, Combine | Unbounded]
    values: Mapping[str, Tensor | float]

    def tensor(self, name: str) -> Tensor:
        """Return one activation."""
        return as_tensor(self.values[name])

    def rule_nearby(self, operation: Operation, reaches: tuple[float, ...]) -> Combine | Unbounded:
        """Return the gain rule of an operation for inputs within reach (l2, one per input) of the activations."""
        if operation.name in self.facts.independent:
            return self.rules[operation.name]
        inputs = tuple(map(self.tensor, operation.inputs[:3]))
        mask = tuple(torch.as_tensor(self.values[name]) for name in operation.inputs[3:])
        return rule_nearby(Nearby(self.facts, operation, (*inputs, *mask), reaches, self.rules[operation.name]))

    def in_float64(self, name: str) -> bool:
        """Tell whether a value was computed in float64, or only moved: a sigmoid of booleans, for one, is float32."""
        value = self.values[name]
        return name in self.facts.constants or not isinstance(value, Tensor) or value.dtype == torch.float64


def measured_errors(run: Pass, *, rounded_input: bool) -> Errors:
    """Return, per value, at least the l2 distance of the float64 activations from the exact ones.

    Args:
        run: The forward pass.
        rounded_input: Whether the input itself is the nearest float64 to the exact one (8-bit pixels).
    """
    start = mul_up(U64, l2_upper(run.tensor(run.facts.graph.input))) if rounded_input else 0.0
    return _carry(run, FORMATS["float64"], start, {}, lambda _: 0.0)


def deployed_errors(run: Pass, measured: Errors, movement: Reach, arithmetic: str) -> Errors:
    """Return, per value, at least the l2 error of the deployed program at every input of the ball.

    Args:
        run: The forward pass.
        measured: The errors of that pass (`measured_errors`).
        movement: From a value to a bound of how far it moves inside the ball, in l2 (its gain times the radius).
        arithmetic: ``float64`` or ``float32``.
    """
    form = FORMATS[arithmetic]
    convertible = check_convertible(run.facts, form)
    if convertible is not None:
        return dict.fromkeys(run.values, convertible)
    return _carry(run, form, _arrival_error(run, form, measured, movement), measured, movement)


def _arrival_error(run: Pass, form: Format, measured: Errors, movement: Reach) -> float:
    """Return at least the l2 distance of any input of the ball from its nearest in the format."""
    entry = run.facts.graph.input
    x, own = run.tensor(entry), measured[entry]
    size = math.inf if isinstance(own, Unbounded) else add_up(l2_upper(x), own, movement(entry))
    return add_up(mul_up(form.unit, size), mul_up(form.tiny, float(x.numel())))


def check_convertible(facts: Facts, form: Format) -> Unbounded | None:
    """Return why the numbers of a network cannot be rounded to a format with a small relative error, if so."""
    if form.name == "float64":
        return None
    for name, tensor in facts.graph.tensors.items():
        if not _convertible(tensor):
            return Unbounded(f"tensor {name!r} has entries outside the range of {form.name}")
    for operation in facts.graph:
        for attribute, value in operation.attributes.items():
            if isinstance(value, float) and not _convertible(torch.tensor(value, dtype=torch.float64)):
                return no_bound(operation, f"its attribute {attribute} = {value} is outside the range of {form.name}")
    return None


def _convertible(x: Tensor) -> bool:
    """Tell that every entry is a float32, or so far inside the range of float32 that its rounding is relative."""
    sizes = x.to(torch.float64).abs()  # of booleans too
    exact = x.to(torch.float32).to(torch.float64) == x
    return bool(torch.all(exact | ((sizes > 2.0**-120) & (sizes < 2.0**120))))


def _carry(run: Pass, form: Format, start: float, measured: Errors, movement: Reach) -> Errors:
    """Walk the graph with the error of every value."""

    def step(operation: Operation, known: Mapping[str, float]) -> float | Unbounded:
        if operation.kind == "input":
            return start
        drift = tuple(_drift(name, known, measured, movement) for name in operation.inputs)
        errors = tuple(known[name] for name in operation.inputs)
        rule = run.rule_nearby(operation, drift if measured else errors)
        if isinstance(rule, Unbounded):
            return rule
        return _one_error(run, form, operation, rule, errors, drift)

    return walk(run.facts.graph, step)


def _drift(name: str, known: Mapping[str, float], measured: Errors, movement: Reach) -> float:
    """Return at least the l2 distance between the program's value and the activation at hand."""
    if not measured:
        return 0.0
    distance = measured[name]
    return math.inf if isinstance(distance, Unbounded) else add_up(movement(name), known[name], distance)


def _one_error(
    run: Pass, form: Format, operation: Operation, rule: Combine, errors: tuple[float, ...], drift: tuple[float, ...]
) -> float | Unbounded:
    local = ROUNDINGS.get(operation.kind)
    if local is None:
        return no_bound(operation, f"the floating-point error of {operation.kind} has no bound")
    if not run.in_float64(operation.name):
        return no_bound(operation, "it computes with constants that are no floats, in another precision than float64")
    inputs = tuple(run.tensor(name) for name in operation.inputs)
    at = Evaluation(run.facts, operation, inputs, run.tensor(operation.name), drift, rule, form)
    rounding = local(at)
    if isinstance(rounding, Unbounded):
        return rounding
    error = add_up(rule(*errors), rounding_upper(rounding, form))
    return error if math.isfinite(error) else no_bound(operation, f"a number leaves the range of {form.name}")
