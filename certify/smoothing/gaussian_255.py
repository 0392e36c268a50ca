r"""The law ``gaussian-255``: Gaussian noise rounded to whole pixel levels, drawn exactly. Float-sound for 8-bit data.

**What is certified.** Let x be an image of integers 0..255 and s = 255 sigma. For integer x, round(x + s g) = x + Z
with Z = round(s g), g standard normal, so the network sees z = x + Z, an integer vector, as z / 255. Z has

    P(Z <= k) = Phi((k + 1/2) / s)        for every integer k, independently in every coordinate.

With F the network as run, division by 255 and all its rounding included, f = F o (/ 255) o round is a function of its
real input and Cohen's theorem (J. Cohen et al., *Certified adversarial robustness via randomized smoothing*, ICML
2019, arXiv:1902.02918, Theorem 1) applies to f, noise s g and every 8-bit image x'. No rounding of a noisy input is
left out (`integer_law`).

**How Z is drawn.** T_k = floor(Phi((k + 1/2) / s) 2^63) for k = -K..K-1 with K = ceil(12 s) (`thresholds`), as
`two_level_table` says: each of the 2K + 1 point probabilities is off by less than 2^-63, and the mass outside +-12
sigma is below 4e-33, so the total variation distance is less than (2K + 1)/2 * 2^-63 + 4e-33 <= 2K * 2^-63 in each
coordinate. That is `levels` = 2K, in units of 2^-63; the procedure subtracts draws x coordinates x levels x 2^-63 from
alpha. (An event under the drawn law has at most the probability under the ideal law plus the distance of the laws,
which adds over independent coordinates and draws.)
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import mpmath
import numpy as np
from numpy.typing import NDArray

from certify.errors import InputError
from certify.smoothing.integer_law import IntegerLaw
from certify.smoothing.two_level_table import IntegerSampler, integer_sampler

TAIL = 12
DIGITS = 40
MAX_REACH = 2**17


def reach(sigma: float) -> int:
    """Return K = ceil(12 * 255 * sigma), the largest |Z| that is drawn.

    Raises:
        InputError: If sigma is so large that the table would not pay, or not positive.
    """
    if not 0 < sigma <= MAX_REACH / (255 * TAIL):
        raise InputError(
            f"expected 0 < sigma <= {MAX_REACH / (255 * TAIL):.1f} for 8-bit pixels (1 is the full range), got {sigma};"
            " sigma is stated in [0, 1] pixels"
        )
    return math.ceil(Fraction(sigma) * 255 * TAIL)


def thresholds(sigma: float) -> NDArray[np.int64]:
    """Return T_k = floor(Phi((k + 1/2) / (255 sigma)) 2^63) for k = -K..K-1, computed with 40 digits.

    Example:
        >>> T = thresholds(0.25)
        >>> len(T) == 2 * reach(0.25) and bool((np.diff(T) >= 0).all())
        True
    """
    half = reach(sigma)
    lower, upper = [], []
    with mpmath.workdps(DIGITS):
        scale = mpmath.sqrt(2) * 255 * mpmath.mpf(sigma)
        for k in range(half):
            argument = (k + mpmath.mpf("0.5")) / scale
            # From 7 on the tail is below 2^-63: both floors are known, and mpmath overflows on huge arguments.
            tail = mpmath.erfc(argument) / 2 if argument < 7 else mpmath.mpf(0)
            lower.append(int(mpmath.floor(tail * 2**63)))
            upper.append(min(2**63 - 1, int(mpmath.floor((1 - tail) * 2**63))))
    return np.array(lower[::-1] + upper, dtype=np.int64)


@lru_cache(maxsize=8)
def integer_gaussian(sigma: float) -> IntegerSampler:
    """Return the sampler of the rounded Gaussian of standard deviation ``255 * sigma``; cached per sigma."""
    return integer_sampler(thresholds(sigma))


def gaussian_255(sigma: float) -> IntegerLaw:
    """Return integer-rounded Gaussian noise on 8-bit pixels.

    Raises:
        InputError: If sigma is out of range.

    Example:
        >>> from certify.examples import Example
        >>> from certify.smoothing.addresses import BlockRequest, block_generator
        >>> image = Example(index=0, id="a", label=0, stored=np.full((1, 2, 2), 200, dtype=np.uint8))
        >>> request = BlockRequest(image, "selection", 0, 128)
        >>> noisy = gaussian_255(0.25).draw(request, block_generator(0, request, "gaussian-255"))
        >>> noisy.rows.shape, noisy.rows.dtype
        ((128, 1, 2, 2), dtype('int16'))
    """
    words = "Gaussian noise rounded to whole 1/255 levels, drawn exactly (float-sound on 8-bit inputs)"
    return IntegerLaw("gaussian-255", words, sigma, integer_gaussian(sigma))
