"""What the law of the noise makes of bounds on probabilities: the norm, the scale and the radius of a certificate.

A law's *scale* is what its radii are proportional to: the standard deviation of Gaussian noise (`radius`), the
half-width of uniform noise (`uniform`). Two laws of one family, the float64 and the integer one, differ in their scale
at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from certify.results import SmoothingNorm
from certify.rounding import down
from certify.stats.arguments import check_sigma
from certify.stats.radius import RadiusMap, radius_l2
from certify.stats.uniform import grid_half_width, half_width, radius_l1

BELOW = 1.0 - 2.0**-52  # for the rounding of sigma times the scale of a coordinate


def _scaled(sigma: float) -> float:
    """Return sigma, lowered so that every product of sigma and a scale is at least as large, rounding included."""
    return down(check_sigma(sigma) * BELOW)


@dataclass(frozen=True)
class Geometry:
    """The certificates of one noise law.

    ``family`` names the null of the sequential test, ``scale`` takes sigma, ``radius`` the scale and the bounds
    q_A >= 1 - p_A and b >= p_B.
    """

    family: str
    norm: SmoothingNorm
    scale: Callable[[float], float]
    radius: RadiusMap


GEOMETRIES: Mapping[str, Geometry] = MappingProxyType(
    {
        "gaussian": Geometry("gaussian", "l2", check_sigma, radius_l2),
        "gaussian-255": Geometry("gaussian", "l2", check_sigma, radius_l2),
        "gaussian-diagonal": Geometry("gaussian", "weighted-l2", _scaled, radius_l2),
        "gaussian-diagonal-255": Geometry("gaussian", "weighted-l2", _scaled, radius_l2),
        "uniform": Geometry("uniform", "l1", half_width, radius_l1),
        "uniform-255": Geometry("uniform", "l1", grid_half_width, radius_l1),
    }
)
"""By name of the noise law."""
