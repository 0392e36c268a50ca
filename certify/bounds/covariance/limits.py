"""How large the registers of a plan may become before a correlation, or exactness, is given up for memory."""

from __future__ import annotations

import math

from certify.bounds.covariance.steps import Sides, frequency_counts

MOST_ROWS = 6000  # of a dense register: a factorisation of one such matrix takes some seconds on one core
MOST_JOINT_BYTES = 2**29  # of a register that holds more than the rows it is made for
MOST_PHASES = 2**26  # of one flattened image: a gigabyte
MOST_ENTRIES = 2**27  # of a matrix that is made for one operation: a gigabyte
MOST_BYTES = 6.5e9  # that a plan may need at once, by an estimate made before they are allocated


def fits(sides: Sides, rows: int) -> bool:
    """Tell whether a register of so many rows is not too large to hold values together that could be apart.

    Example:
        >>> fits((), MOST_ROWS), fits((), MOST_ROWS + 1), fits((64, 64), 100), fits((64, 64), 200)
        (True, False, True, False)
    """
    number = 16 if sides else 8
    held = math.prod(frequency_counts(sides)) * rows**2 * number <= MOST_JOINT_BYTES
    return held and (bool(sides) or rows <= MOST_ROWS)
