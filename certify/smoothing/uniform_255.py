r"""The law ``uniform-255``: uniform noise on whole pixel levels, drawn exactly. Float-sound for 8-bit data, in l1.

Z is uniform on the integers -m..m, independently in every coordinate; the network sees x + Z as (x + Z) / 255
(`integer_law`). `certify.stats.uniform` has m as a function of sigma, and the theorem: the smoothed class stays for
every 8-bit image x' with ||x' - x||_1 < w (a - b), w = (m + 1/2) / 255.

**How Z is drawn.** P(Z <= k) = (k + m + 1) / (2m + 1), so T_k = floor((k + m + 1) 2^63 / (2m + 1)) for k = -m..m-1, by
`two_level_table`. The total variation distance is below (2m + 1)/2 * 2^-63 <= 2m * 2^-63 in each coordinate (m >= 1):
`levels` = 2m, charged to alpha as for Gaussian noise. No rejection and no modulus: a block has a fixed shape.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from certify.errors import InputError
from certify.smoothing.integer_law import IntegerLaw
from certify.smoothing.two_level_table import IntegerSampler, integer_sampler
from certify.stats.uniform import grid_half_width, grid_steps


def uniform_thresholds(steps: int) -> NDArray[np.int64]:
    """Return T_k = floor((k + m + 1) 2^63 / (2m + 1)) for k = -m..m-1, m = ``steps``.

    Example:
        >>> uniform_thresholds(1).tolist() == [2**63 // 3, 2**64 // 3]
        True
    """
    side = 2 * steps + 1
    return np.array([(j << 63) // side for j in range(1, side)], dtype=np.int64)


@lru_cache(maxsize=8)
def integer_uniform(steps: int) -> IntegerSampler:
    """Return the sampler of the uniform law on -steps..steps; cached."""
    return integer_sampler(uniform_thresholds(steps))


def uniform_255(sigma: float) -> IntegerLaw:
    """Return uniform noise on whole levels of 8-bit pixels.

    Raises:
        InputError: If sigma is out of range.

    Example:
        >>> law = uniform_255(0.25)
        >>> law.sampler.half, law.levels
        (110, 220)
    """
    try:
        steps, width = grid_steps(sigma), grid_half_width(sigma)
    except ValueError as error:
        raise InputError(str(error)) from error
    words = (
        f"uniform noise on the whole 1/255 levels -{steps}..{steps} (half-width {2 * steps + 1}/510), drawn exactly "
        "(float-sound on 8-bit inputs)"
    )
    return IntegerLaw("uniform-255", words, width, integer_uniform(steps))
