r"""Deterministic l1 certificates of 8-bit images: every shift of a splitting of the pixel values is evaluated.

q = 255, pixels are integers 0..q (seen by networks as x / q), K the number of shifts, o_i a fixed offset of each
coordinate i. Shift j of 0..K-1 cuts the line of coordinate i at j + 1/2 + o_i + K Z, into *cells* of K integers. The
network f sees of every pixel a function of its cell alone; n_k(x) is the number of the K shifts at which f answers k,
and the *splitting classifier* is g(x) = argmax_k n_k(x). Nothing in it is random: K evaluations of f give n_k exactly.

**Theorem** (A. Levine, S. Feizi, *Improved, deterministic smoothing for l1 certified robustness*, ICML 2021, arXiv
2103.10834: their DSSN; here with its constants on the grid). For images x, x' of integers let D = ||x' - x||_1 in
levels. Then |n_k(x') - n_k(x)| <= D for every k, invalid outputs included. So if class A is ahead
of every other by G = n_A(x) - max_{k != A} n_k(x) > 0, then g(x') = A, without a tie, for every 8-bit image x' with

    D < G / 2,    that is    ||x' - x||_1 / q < R = G / (2 q).

*Proof*. Let x_i < x'_i. Some cut of shift j lies between them exactly when one of the x'_i - x_i half-integers
x_i + 1/2, ..., x'_i - 1/2 is j + 1/2 + o_i modulo K. These are consecutive, so that they meet min(x'_i - x_i, K)
residues, and each residue is that of exactly one j: **coordinate i separates x and x' at exactly min(|x_i - x'_i|, K)
of the K shifts**, whatever o_i is. At every other shift both pixels have the same cell. So at all but at most D shifts
every coordinate has the same cell, f gets the same input and gives the same answer. Of the shifts that are left each
takes at most one vote from A and gives at most one to another class: n_A(x') >= n_A(x) - D, n_k(x') <= n_k(x) + D, and
A stays ahead as long as 2 D < G. []

*The border*. At 2 D = G the votes may be tied, and which class wins is no matter of robustness: the ball is open, and
no rule for ties is relied on. Where A is not ahead (G <= 0) nothing is certified. D is an integer, so that R = G / (2q)
says all that the votes prove: D <= (G - 1) / 2. The bound is reached: f that answers whether a pixel's cell begins
above a level loses one vote with each level (the tests have it).

*Domain*. x' is on the grid of 8-bit images. A real x' half a level away can already lie behind a cut.

**What f sees of a cell** is its midpoint: of the cell lo..lo + K - 1 the law hands on the sum of both ends, an integer,
and the network gets it divided by 2q, rounded once. The proof asks for a function of the cell and nothing else; which
one, and how its value is rounded, is part of the classifier. Midpoints are not clipped to 0..q, so that they name their
cell: whatever else a network is to see of it (the paper clips the cell first) can be its own first layer. And they are
at most K / 2 levels from the pixel, as far as uniform noise goes, so that networks made for that see what they know.

**Offsets** decide which cuts of different coordinates come together. Any fixed integers are sound: they may depend on
the seed of the run, never on x. The SHA-256 of the UTF-8 JSON array [seed, "split-255", m] is four little-endian
numbers of 8 bytes; modulo K they are the offsets of the coordinates 4 m to 4 m + 3.

*Sigma*. Uniform noise of half-width w = sigma sqrt 3 has cells of 2 w; K is the integer nearest to 2 w q, half-width K
/ 510, and the midpoint less the pixel has the standard deviation sqrt((K^2 - 1) / 12) / q. Over the K shifts the cut of
each coordinate is uniform, and all coordinates share one number, up to offsets: shares n_k / K move by at most ||x' -
x||_1 / (2 w), as there.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certify.results import dump_json
from certify.results.shifts import LEVELS, nearest_shifts
from certify.rounding import down
from certify.stats.arguments import check_integer, check_sigma

MOST_SHIFTS, MOST_COORDINATES = 2**18, 2**22
LAW = "split-255"


def split_shifts(sigma: float) -> int:
    """Return K, the number of shifts at a sigma: the integer nearest to 510 sigma sqrt 3.

    Raises:
        ValueError: If sigma is too small for one shift, or so large that there would be more than 2^18.

    Example:
        >>> split_shifts(0.25), split_shifts(0.5)
        (221, 442)
    """
    shifts = nearest_shifts(check_sigma(sigma))
    if 1 <= shifts <= MOST_SHIFTS:
        return shifts
    raise ValueError(
        f"sigma: expected {0.5 / (2 * LEVELS * 3**0.5):.5f} to {MOST_SHIFTS / (2 * LEVELS * 3**0.5):.1f} for splitting "
        f"of 8-bit pixels, got {sigma!r}; sigma is stated in [0, 1] pixels"
    )


@lru_cache(maxsize=4)
def split_offsets(seed: int, dimension: int, shifts: int) -> NDArray[np.int64]:
    """Return o_i, the offset of each coordinate in the order of the flat image, ``[dimension]``; read-only.

    Example:
        >>> first = split_offsets(0, 4, 221)
        >>> first.tolist() == split_offsets(0, 9, 221)[:4].tolist(), bool((first < 221).all())
        (True, True)
    """
    check_integer(shifts, "shifts", 1, MOST_SHIFTS)
    check_integer(dimension, "dimension", 1, MOST_COORDINATES)
    texts = (dump_json([seed, LAW, place]) for place in range(-(-dimension // 4)))
    numbers = np.frombuffer(b"".join(hashlib.sha256(text.encode()).digest() for text in texts), dtype="<u8")
    found = (numbers[:dimension] % np.uint64(shifts)).astype(np.int64)
    found.flags.writeable = False
    return found


def offsets_sha256(seed: int, dimension: int, shifts: int) -> str:
    """Return the SHA-256 of the offsets as the JSON array of their numbers, by which a statement names them."""
    return hashlib.sha256(dump_json(split_offsets(seed, dimension, shifts).tolist()).encode()).hexdigest()


def cell_sums(
    pixels: NDArray[Any], shifts: NDArray[np.int64], offsets: NDArray[np.int64], number: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return what the network sees times 510: the sum of the first and the last level of every pixel's cell.

    Args:
        pixels: Integers 0..255, ``[*input_shape]``.
        shifts: The j of each row, ``[rows]``.
        offsets: The o_i, ``[*input_shape]``.
        number: K, the number of shifts.
        dtype: Signed integers that hold 510 + 3 K.

    Returns:
        Integers of that type, ``[rows, *input_shape]``.

    Example:
        Cells of 100 levels, cut between 9 and 10, 109 and 110, 209 and 210: -90..9, 10..109, 110..209, 210..309.

        >>> zero = np.zeros(4, dtype=np.int64)
        >>> cell_sums(np.array([0, 9, 10, 255], dtype=np.uint8), np.array([9]), zero, 100, np.dtype("i2")).tolist()
        [[-81, -81, 119, 519]]
    """
    column = shifts.astype(dtype).reshape(-1, *[1] * pixels.ndim)
    levels = pixels.astype(np.int64)
    place = (levels - offsets - 1) % number  # of the pixel in its cell at shift 0; one less at each further shift
    found: NDArray[Any] = (2 * (levels - place) + (number - 1)).astype(dtype) + dtype.type(2) * column
    found -= (column > place.astype(dtype)) * dtype.type(2 * number)
    return found


def split_radius(ahead: int) -> float:
    """Return R = G / 510 for votes that are ``ahead`` by G, rounded down; 0 where nothing is certified.

    Raises:
        ValueError: If ``ahead`` is no integer of a number of shifts.

    Example:
        >>> split_radius(255), split_radius(0), split_radius(-3)
        (0.5, 0.0, 0.0)
    """
    lead = check_integer(ahead, "ahead", -MOST_SHIFTS, MOST_SHIFTS)
    if not lead > 0:
        return 0.0
    exact = Fraction(lead, 2 * LEVELS)
    nearest = float(exact)
    return nearest if Fraction(nearest) <= exact else down(nearest)
