"""The dumb second computation: exact comparisons of norms (python-flint), and matrices by impulses."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from flint import fmpz, fmpz_mat, fmpz_poly
from torch import Tensor
from torch.nn import functional


class ExactNorm:
    """Decides ||A|| <= s and ||A|| >= s exactly, for a float64 matrix A and a float s.

    With C = A^T A in integers, all eigenvalues of C are at most t iff the polynomial det((x + t) I - C) has no negative
    coefficient: its roots are real.
    """

    def __init__(self, A: Tensor) -> None:
        rows = [[Fraction(entry) for entry in row] for row in A.to(torch.float64).tolist()]
        if len(rows) < len(rows[0]):
            rows = [list(column) for column in zip(*rows, strict=True)]
        self.denominator = math.lcm(*(entry.denominator for row in rows for entry in row))
        M = fmpz_mat([[int(entry * self.denominator) for entry in row] for row in rows])
        self.polynomial = (M.transpose() * M).charpoly()

    @classmethod
    def of_gram(cls, H: Tensor) -> ExactNorm:
        """Of any A with A^T A = H."""
        self = cls.__new__(cls)
        rows = [[Fraction(entry) for entry in row] for row in H.tolist()]
        self.denominator = math.lcm(*(entry.denominator for row in rows for entry in row))
        factor = self.denominator**2
        self.polynomial = fmpz_mat([[int(entry * factor) for entry in row] for row in rows]).charpoly()
        return self

    def _shifted(self, s: float) -> list[fmpz]:
        t = (Fraction(s) * self.denominator) ** 2
        # roots scaled by the denominator of t: q^n p(x / q + t)
        q, n = t.denominator, self.polynomial.degree()
        scaled = fmpz_poly([coefficient * q ** (n - k) for k, coefficient in enumerate(self.polynomial.coeffs())])
        return scaled(fmpz_poly([t.numerator, 1])).coeffs()

    def at_most(self, s: float) -> bool:
        """Whether ||A|| <= s."""
        return math.isinf(s) or all(coefficient >= 0 for coefficient in self._shifted(s))

    def at_least(self, s: float) -> bool:
        """Whether ||A|| >= s: not (||A|| < s), and strictly below means no zero coefficient either."""
        return not all(coefficient > 0 for coefficient in self._shifted(s))

    def float_below(self) -> float:
        """The largest float strictly below the norm, by bisection over floats."""
        low, high = 0.0, 1.0
        while self.at_most(high) is False:
            low, high = high, 2.0 * high
        while math.nextafter(low, math.inf) < high:
            middle = low + (high - low) / 2.0
            low, high = (low, middle) if self.at_most(middle) else (middle, high)
        return low


def impulses(kernel: Tensor, size: tuple[int, ...], **geometry) -> Tensor:
    """The matrix of a convolution module, column by column, in float64."""
    inputs = kernel.shape[0] if geometry.get("transposed") else kernel.shape[1] * geometry.get("groups", 1)
    basis = torch.eye(inputs * math.prod(size), dtype=torch.float64).reshape(-1, inputs, *size)
    return forward(kernel.to(torch.float64), basis, **geometry).flatten(1).T


def forward(
    kernel, x, *, stride=1, padding=0, dilation=1, groups=1, padding_mode="zeros", transposed=False, output_padding=0
):
    """The module as PyTorch runs it."""
    dims = kernel.ndim - 2
    if transposed:
        function = getattr(functional, f"conv_transpose{dims}d")
        return function(
            x, kernel, stride=stride, padding=padding, output_padding=output_padding, groups=groups, dilation=dilation
        )
    widths = (padding,) * dims if isinstance(padding, int) else padding
    pairs = [(width, width) if isinstance(width, int) else width for width in widths]
    flat = [width for pair in reversed(pairs) for width in pair]
    padded = functional.pad(x, flat, mode="constant" if padding_mode == "zeros" else padding_mode)
    return getattr(functional, f"conv{dims}d")(padded, kernel, stride=stride, dilation=dilation, groups=groups)
