r"""Exact float64 tensors scaled by a power of two, so that no bound overflows and no square underflows.

Stored weights (float16, bfloat16, float32, float64) are float64 numbers, so the conversion is exact. Division by 2^e is
exact as well, unless an entry becomes subnormal: its error is then at most ``UNDERFLOW``, and `Scaled` carries the sum
of these errors over all entries, which bounds the norm of the difference for every map used here (each entry of the
tensor is one matrix unit, or one shift of norm at most the padding's).
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.errors import InputError
from certify.results import Bracket
from certify.rounding import add_up, down, mul_up, sub_down, up

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Covers the underflow of one operation on numbers up to 2, even where a library thread flushes subnormals to zero.
UNDERFLOW = 2.0**-1020


@dataclass(frozen=True, eq=False)
class Scaled:
    """A tensor divided by ``2**exponent``: ``values`` has its largest magnitude in [1/2, 1), or is zero."""

    values: Tensor
    exponent: int

    @property
    def slack(self) -> float:
        """At least the sum of the errors made by the scaling, over all entries."""
        return mul_up(float(self.values.numel()), UNDERFLOW)

    def bracket(self, lower: float, upper: float, method: str, *, copies: float = 1.0) -> Bracket:
        """Return the bracket of the unscaled map, given one of the scaled map whose entries occur ``copies`` times."""
        slack = mul_up(self.slack, copies)
        scaled_lower = max(0.0, sub_down(lower, slack))
        return Bracket(
            unscale_down(scaled_lower, self.exponent), unscale_up(add_up(upper, slack), self.exponent), method
        )


def scale(tensor: Tensor) -> Scaled:
    """Return the tensor in float64 on the CPU, its largest magnitude brought to [1/2, 1) by a power of two.

    Raises:
        ValueError: If the tensor is not dense, real, floating-point and finite.
        InputError: If this thread flushes subnormal numbers to zero.

    Example:
        >>> scaled = scale(torch.tensor([3.0, -12.0]))
        >>> scaled.values.tolist(), scaled.exponent
        ([0.1875, -0.75], 4)
    """
    exact = exact_float64(tensor)
    exponent = math.frexp(max(map(abs, _extremes(exact))))[1]
    half = -exponent // 2  # in two steps: 2.0**1074 is not a float
    return Scaled((exact * 2.0**half).mul_(2.0 ** (-exponent - half)), exponent)


def exact_float64(tensor: Tensor) -> Tensor:
    """Return the stored numbers in float64 on the CPU, detached.

    Raises:
        ValueError: If the tensor is not dense, real, floating-point and finite.
        InputError: If this thread flushes subnormal numbers to zero.
    """
    if tensor.dtype not in FLOATS or tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError(f"expected a dense float16, bfloat16, float32 or float64 tensor, got {tensor.dtype}")
    if not float(torch.tensor(sys.float_info.min, dtype=torch.float64) / 4.0) > 0.0:
        raise InputError("expected gradual underflow, got flush-to-zero; call torch.set_flush_denormal(False)")
    exact = tensor.detach().to(device="cpu", dtype=torch.float64)
    if not all(map(math.isfinite, _extremes(exact))):
        raise ValueError("expected finite numbers, got NaN or infinity")
    return exact


def _extremes(values: Tensor) -> tuple[float, float]:
    """Return the least and the largest entry, both NaN where one is: one pass, no copy."""
    low, high = torch.aminmax(values) if values.numel() else (0.0, 0.0)
    return float(low), float(high)


def unscale_up(value: float, exponent: int) -> float:
    """Return at least ``value * 2**exponent``; infinity beyond the float range."""
    try:
        product = math.ldexp(value, exponent)
    except OverflowError:
        return math.inf
    return product if math.ldexp(product, -exponent) == value else up(product)


def unscale_down(value: float, exponent: int) -> float:
    """Return at most ``value * 2**exponent``, for a non-negative value."""
    try:
        product = math.ldexp(value, exponent)
    except OverflowError:
        return sys.float_info.max
    return product if math.ldexp(product, -exponent) == value else max(0.0, down(product))
