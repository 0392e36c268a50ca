r"""Noise of its own size in every coordinate: the scales of a run, fixed before any input is seen.

With D = diag(d_1, ..., d_n), d_i > 0, and noise of standard deviation sigma d_i in coordinate i, let u = D^-1 x. The
noise in u is N(0, sigma^2 I), so Cohen's theorem for u -> f(D u) gives a certificate for x: the class stays for

    ||D^-1 (x' - x)||_2 < R,        R = (sigma / 2) (Phi^-1(p_A) - Phi^-1(p_B)).

The set is an ellipsoid. It holds the l2 ball of radius R min d_i, and has the volume of an l2 ball of radius
R (prod d_i)^(1/n), which is how certificates at two choices of D may be compared: an estimate of size, no certificate.

*D belongs to the run, never to an input.* If it were chosen at each x, x and x' would have different smoothed
classifiers, and the certificate at x says nothing about the one at x' (M. Alfarra et al., arXiv:2012.04351, need a
memory of all past certificates to be sound). So the scales are one array of the shape of an input; its hash is part of
the settings, of the store's header and of the report.

*Rounding.* The noise has the standard deviation fl(sigma d_i): within 2^-53 of sigma d_i relatively, so the certificate
holds with the scale sigma (1 - 2^-52) (`certify.stats.GEOMETRIES`).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from certify.errors import InputError
from certify.examples import hash_array
from certify.results import Scales

WIDEST = 2.0**20  # of the largest scale to the smallest


def check_scales(scales: object, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the scales as a float64 array of the shape of one input.

    Raises:
        InputError: If they are not one array of that shape, of positive finite numbers within a factor of 2^20.

    Example:
        >>> check_scales([1, 2], (2,)).tolist()
        [1.0, 2.0]
    """
    if callable(scales):
        raise InputError(
            "scales: expected one array for all inputs, got a function; a noise level that depends on the input gives "
            "each input another smoothed classifier, and no certificate"
        )
    try:
        found = np.array(scales, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"scales: expected an array of numbers, got {type(scales).__name__}") from error
    if found.shape != tuple(shape):
        raise InputError(
            f"scales: expected the shape {tuple(shape)} of one input, the same array for every input, got "
            f"{found.shape}; scales of their own for each input give no certificate"
        )
    if not (np.isfinite(found).all() and (found > 0.0).all() and found.max() <= WIDEST * found.min()):
        raise InputError("scales: expected positive finite numbers within a factor of 2^20 of each other, got others")
    return found


def describe_scales(scales: NDArray[np.float64]) -> Scales:
    """Return what the settings of a run keep of its scales.

    Example:
        >>> found = describe_scales(np.array([1.0, 4.0]))
        >>> found.smallest, found.largest, found.geometric_mean
        (1.0, 4.0, 2.0)
    """
    return Scales(
        sha256=hash_array(scales),
        smallest=float(scales.min()),
        largest=float(scales.max()),
        geometric_mean=math.exp(float(np.log(scales).mean())),
    )
