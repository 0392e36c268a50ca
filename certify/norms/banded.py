r"""Verified upper bounds of large convolutions: a Cholesky factorisation inside the band of their Gram matrix.

Two pixels of a convolution share an output only when they are less than a kernel apart, so with the pixels in order,
first axis outermost and the channels of a pixel side by side, H ~ A^T A has a band of about (k - 1) rows of the image,
and so has its Cholesky factor: n w^2 operations and w^2 numbers held, for side n and half band w, against n^3 / 3 and
n^2. `is_proved_at_most` factorises

    M = -H off the diagonal,   M_jj = fl(fl(s2 - H_jj) - c),   s2 = s^2 rounded down,

block column by block column, each minus the products of the columns before it whose band reaches it. As for the dense
proof (`certify.norms.cholesky`), success proves ||A|| <= s once c is at least the sum of three terms:

- *Gram*: ||H - A^T A||_2 (`conv_gram.gram_error`).
- *Factorisation*: M = R^T R + E, and an entry of M takes part in at most w + 1 products, so |E_ij| <= gamma_{w+6}
  |r_i|^T |r_j| for the columns r of R, in any order of operations (Higham, Lemma 8.4), and E_ij = 0 outside the band.
  ||r_j||^2 <= M_jj / (1 - gamma) <= (s2 + error) / (1 - gamma) =: b. Hence ||E||_2 <= gamma n b by the Frobenius norm
  of |R|, and also ||E||_2 <= || |E| ||_inf <= gamma (2 w + 1) b, since a row of E has at most 2 w + 1 entries, each at
  most gamma b. The lesser counts.
- *Subtractions on the diagonal*: 3 u (s2 - H_jj) per entry, inside the order w + 6; *underflow* as in the dense proof.

Soundness: IEEE float64 with round-to-nearest in any order of summation, fused or not, exactly as there.

Reference: N. Higham, Accuracy and Stability of Numerical Algorithms (2nd ed.), Lemma 8.4 and Theorem 10.3;
S. M. Rump, Verification of positive definiteness, BIT 46 (2006), Theorem 2.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.norms.cholesky import ShiftTerms
from certify.norms.conv_gram import BandedGram, Columns
from certify.norms.scaling import UNDERFLOW
from certify.rounding import add_up, div_up, down, gamma_up, mul_down, mul_up, sqrt_up

# What the square of the candidate's norm may fall short by, relatively, attempt by attempt. A failure comes late in a
# factorisation, so long ones leave the first attempt out.
SLACKS = (1e-9, 1e-8, 1e-7, 1e-6, 1e-4)
LONG = 2.0e10  # operations


@dataclass(frozen=True, eq=False)
class Panel:
    """Columns of the factor that begin at row ``first`` and end at ``last``: ``[G, last - first, columns]``."""

    first: int
    last: int
    values: Tensor


def operations(band: BandedGram) -> float:
    """Return about how many operations a factorisation takes."""
    return band.groups * sum(float(c.stop - c.first) * float(c.last - c.first) ** 2 for c in band.columns)


def held_numbers(band: BandedGram) -> float:
    """Return about how many numbers are held at once."""
    return band.groups * 1.5 * float(band.width) ** 2


def prove_upper(band: BandedGram, lower: float) -> float:
    """Return a proved bound of ||A|| for all groups, just above a lower bound of it; infinity if every attempt fails.

    Example:
        >>> from certify.norms.geometry import describe
        >>> taps = torch.tensor([[[-1.0, 2.0, -1.0]]], dtype=torch.float64)
        >>> truth = 2 + 2 * math.cos(math.pi / 10)
        >>> truth <= prove_upper(BandedGram(describe(taps, (9,), padding=1)), truth) <= truth * (1 + 1e-8)
        True
    """
    square = mul_up(lower, lower)
    least = mul_up(1.05, add_up(*shift_terms(band, square)))
    for slack in SLACKS[operations(band) > LONG :]:
        attempt = sqrt_up(add_up(square, max(least, slack * square)))
        if is_proved_at_most(band, attempt):
            return attempt
    return math.inf


def shift_terms(band: BandedGram, s2: float) -> ShiftTerms:
    """Return the terms of the shift c that make a successful factorisation a proof of ||A||^2 <= s2."""
    gamma = gamma_up(band.width + 6)
    growth = div_up(gamma, down(1.0 - gamma)) if gamma < 0.5 else math.inf
    largest = add_up(s2, band.error)
    columns = float(min(band.side, 2 * band.width + 1))
    underflow = mul_up(4.0 * band.side, add_up(2.0 * band.side, mul_up(float(band.side), largest)), UNDERFLOW)
    return ShiftTerms(band.error, mul_up(growth, columns, largest), underflow)


def is_proved_at_most(band: BandedGram, s: float) -> bool:
    """Return whether ||A|| <= s is proved, for all groups; false also where merely the proof fails."""
    s2 = mul_down(s, s)
    shift = add_up(*shift_terms(band, s2))
    if not (s > 0.0 and shift < s2 < math.inf):
        return False
    panels: list[Panel] = []
    for columns in band.columns:
        panels = [panel for panel in panels if panel.last > columns.first]
        shifted = _shifted(band.lower(columns), s2, shift)
        if shifted is None:
            return False
        for panel in panels:
            _subtract(shifted, columns, panel)
        factor = _factorise(shifted)
        if factor is None:
            return False
        panels.append(Panel(columns.first, columns.last, factor))
    return True


def _shifted(H: Tensor, s2: float, shift: float) -> Tensor | None:
    """Return the block column of M, in place of that of H, or None where its diagonal is not positive."""
    M = H.neg_()
    diagonal = M.diagonal(dim1=1, dim2=2)
    diagonal.copy_((s2 + diagonal) - shift)
    return M if bool((diagonal > 0.0).all()) else None


def _subtract(shifted: Tensor, columns: Columns, panel: Panel) -> None:
    """Subtract, in place, the products of an earlier panel from the block column."""
    rows = panel.values[:, columns.first - panel.first :]
    width = min(columns.stop, panel.last) - columns.first
    for target, one in zip(shifted[:, : rows.shape[1], :width], rows, strict=True):
        target.addmm_(one, one[:width].mT, alpha=-1.0)


def _factorise(shifted: Tensor) -> Tensor | None:
    """Return the factor's block column, or None where the factorisation breaks down."""
    side = shifted.shape[2]
    top, info = torch.linalg.cholesky_ex(shifted[:, :side])
    if not (bool((info == 0).all()) and bool(torch.isfinite(top.diagonal(dim1=1, dim2=2)).all())):
        return None
    below = torch.linalg.solve_triangular(top.mT, shifted[:, side:], upper=True, left=False)
    return torch.cat([top, below], 1)
