r"""The law ``gaussian-255``: Gaussian noise rounded to whole pixel levels, drawn exactly. Float-sound for 8-bit data.

**What is certified.** Let x be an image of integers 0..255 and s = 255 sigma. For integer x, round(x + s g) = x + Z
with Z = round(s g), g standard normal, so the network sees z = x + Z, an integer vector, as z / 255. Z has

    P(Z <= k) = Phi((k + 1/2) / s)        for every integer k, independently in every coordinate.

With F the network as run, division by 255 and all its rounding included, f = F o (/ 255) o round is a function of its
real input and Cohen's theorem (J. Cohen et al., *Certified adversarial robustness via randomized smoothing*, ICML
2019, arXiv:1902.02918, Theorem 1) applies to f, noise s g and every 8-bit image x'. No rounding of a noisy input is
left out: integers below 2^24 are exact in float32. z is not clipped to 0..255; a network may clip inside F.

**How Z is drawn.** T_k = floor(Phi((k + 1/2) / s) 2^63) for k = -K..K-1 with K = ceil(12 s) (`thresholds`), u uniform
on 0..2^63-1, and Z = #{k : T_k <= u} - K (`search`). Then P(Z <= k) = P(u < T_k) = T_k 2^-63 lies within 2^-63 below
Phi((k + 1/2) / s). The 2K + 1 point probabilities are differences of two such values, hence each is off by less than
2^-63, and the mass outside +-12 sigma is below 4e-33: the total variation distance is less than
(2K + 1)/2 * 2^-63 + 4e-33 <= 2K * 2^-63 in each coordinate. That is `levels` = 2K, in units of 2^-63; the procedure
subtracts draws x coordinates x levels x 2^-63 from alpha. (An event under the drawn law has at most the probability
under the ideal law plus the distance of the laws, which adds over independent coordinates and draws.)

**The two-level table.** A search for every coordinate costs some 50 ns. Instead the top 16 bits v of u index a table of
2^16 entries. Entry v stands for u in [v 2^47, (v + 1) 2^47). When no threshold separates its ends, #{T_k <= u} is
the same for all of them, because it is monotone in u: the table holds Z. Otherwise the entry is *open*, the
remaining 47 bits w are drawn, and u = v 2^47 + w is searched. v and w are independent and uniform, so u is uniform,
and Z is the same function of u as by plain search, which merely does not look at w where w does not matter: **the
distribution is the same, exactly**. The low bits of the open coordinates are drawn in their order after all top bits,
both from the block's generator, so a block is a function of its key.

The search must not mix dtypes: numpy compares uint64 with int64 in float64, and a distance of 2^-63 becomes 2^-53.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.errors import InputError
from certify.examples import Example
from certify.smoothing.addresses import BLOCK_DRAWS
from certify.smoothing.noise import NoisyRows, fingerprint

TAIL = 12
TOP_BITS = 16
LOW_BITS = 63 - TOP_BITS
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


def search(T: NDArray[np.int64], u: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return #{k : T_k <= u} for every entry of u, compared as integers.

    Raises:
        TypeError: If either array is not int64: a mixed search would compare in float64.

    Example:
        >>> T, u = np.array([2**62 + 1]), np.array([2**62, 2**62 + 1])
        >>> search(T, u).tolist()
        [0, 1]
    """
    if T.dtype != np.int64 or u.dtype != np.int64:
        raise TypeError(f"expected int64 thresholds and draws, got {T.dtype} and {u.dtype}")
    return np.searchsorted(T, u, side="right").astype(np.int64)


def first_level(T: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return, for each value of the top 16 bits, Z at the start of its range, and whether the entry is open."""
    first = np.arange(2**TOP_BITS, dtype=np.int64) << LOW_BITS
    low, high = search(T, first), search(T, first + (2**LOW_BITS - 1))
    return low - len(T) // 2, low != high


@dataclass(frozen=True, eq=False)
class IntegerGaussian:
    """The sampler of Z at one sigma: thresholds and table. ``open_mark`` stands in the table where it is open."""

    T: NDArray[np.int64]
    table: NDArray[Any]
    open_mark: int

    @property
    def half(self) -> int:
        """K, the largest |Z|."""
        return len(self.T) // 2

    def draw(self, bits: np.random.Philox, count: int) -> tuple[NDArray[Any], NDArray[np.uint64]]:
        """Return ``count`` independent Z and the raw words that hold their top bits (four to a word)."""
        words = bits.random_raw(-(-count // 4))
        top = words.astype("<u8", copy=False).view("<u2")[:count]
        values = self.table.take(top)
        still_open = np.flatnonzero(values == self.open_mark)
        low = (bits.random_raw(still_open.size) >> np.uint64(64 - LOW_BITS)).astype(np.int64)
        u = (top[still_open].astype(np.int64) << LOW_BITS) | low
        values[still_open] = search(self.T, u) - self.half
        return values, words


@lru_cache(maxsize=8)
def integer_gaussian(sigma: float) -> IntegerGaussian:
    """Return the sampler of the rounded Gaussian of standard deviation ``255 * sigma``; cached per sigma."""
    T = thresholds(sigma)
    # Z + 255 must fit beside the mark of an open entry.
    bits = 16 if len(T) // 2 + 255 < 2**15 else 32
    mark = -(2 ** (bits - 1))
    values, still_open = first_level(T)
    return IntegerGaussian(T, np.where(still_open, mark, values).astype(f"int{bits}"), mark)


class Gaussian255Law:
    """Integer-rounded Gaussian noise on 8-bit pixels; see `certify.smoothing.noise.NoiseLaw`.

    Raises:
        InputError: If sigma is out of range.

    Example:
        >>> from certify.smoothing.addresses import BlockRequest, block_generator
        >>> image = Example(index=0, id="a", label=0, stored=np.full((1, 2, 2), 200, dtype=np.uint8))
        >>> bits = block_generator(0, BlockRequest(image, "selection", 0, 128), "gaussian-255")
        >>> noisy = Gaussian255Law(0.25).draw(image, bits)
        >>> noisy.rows.shape, noisy.rows.dtype
        ((128, 1, 2, 2), dtype('int16'))
    """

    name = "gaussian-255"
    float_sound = True
    words = "Gaussian noise rounded to whole 1/255 levels, drawn exactly (float-sound on 8-bit inputs)"

    def __init__(self, sigma: float) -> None:
        self.sampler = integer_gaussian(sigma)
        self.levels = len(self.sampler.T)
        self.row_dtype = self.sampler.table.dtype

    def draw(self, example: Example, bits: np.random.Philox) -> NoisyRows:
        """Return x + Z for `BLOCK_DRAWS` draws, as integers.

        Raises:
            InputError: If the example does not hold 8-bit pixels.
        """
        if not example.eight_bit:
            raise InputError(f"{example.id}: expected 8-bit pixels for the law {self.name}, got {example.stored.dtype}")
        values, words = self.sampler.draw(bits, BLOCK_DRAWS * math.prod(example.stored.shape))
        rows = values.reshape(BLOCK_DRAWS, *example.stored.shape)
        rows += example.stored
        return NoisyRows(rows, fingerprint(words))

    def inputs(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return z / 255: in float64 for a float64 network, else in float32 and then cast. z itself is exact."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return rows.to(wide).div_(255.0).to(dtype)
