r"""What one functional behind an activation may lose, proved.

phi of a functional A, t = B A, g = (M t)_U, is t^T M t + g^T K^-1 g + sum C_j^2 A_j^2 D_j, where for any x, with
K' <= K, K' >= kappa I and r = g - K' x: g^T K^-1 g <= g^T x + x^T r + r^T r / kappa (see `elimination`, with one
column). An error dg of g costs sqrt(dg^T K^-1 dg) <= ||dg|| / sqrt(kappa) in the root.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certify.bounds.covariance.definite import equilibrate, relative_lower
from certify.bounds.covariance.domination import total
from certify.bounds.covariance.elimination import Slopes, residual_terms, slack_lower
from certify.bounds.covariance.rounded import quadratic_upper
from certify.bounds.local.centres import GROWN
from certify.bounds.local.recursion import relative_start, sizes
from certify.bounds.magnitudes import l2_upper, nextafter_up
from certify.rounding import SMALLEST, add_up, div_up, gamma_up, mul_up, sqrt_down, sqrt_up

MORE, MOST_ATTEMPTS = 1.02, 8  # multipliers that fail a proof are raised


def functional_upper(matrix: Tensor, c: Tensor, lower: Tensor, upper: Tensor, relative: Tensor, scale: float) -> float:
    """Return s with |c . T dz| <= s ||d|| for slopes T in [lower, upper]; infinity where nothing is proved.

    Args:
        matrix: M ``[1, p, p]`` of the rows.
        c: The functional as stored ``[p]``.
        lower: Its least slopes ``[p]``.
        upper: Its largest slopes ``[p]``.
        relative: Its relative multipliers ``[p]``.
        scale: Their scale.
    """
    slopes, rows = Slopes.between(lower, upper), (lower < upper).nonzero().flatten()
    t = slopes.centre * c
    stable = float(quadratic_upper(matrix, t[None], nextafter_up(t.abs())[None])[0, 0])
    radius = nextafter_up(slopes.radius[rows] * c[rows].abs())
    size = sizes(matrix[0].diagonal()[rows])
    D = scale * relative_start(slopes.centre[rows], slopes.radius[rows], size) * relative[rows]
    for _ in range(MOST_ATTEMPTS):
        inner = inner_upper(matrix, rows, D, t)
        if inner is not None:
            spread = nextafter_up(nextafter_up(radius * radius) * D)
            own = mul_up(_sum_up(spread), 1.0)
            return sqrt_up(add_up(stable, inner, own))
        D = D * MORE
    return math.inf


def inner_upper(matrix: Tensor, rows: Tensor, D: Tensor, t: Tensor) -> float | None:
    """Return at least g^T K^-1 g with g = (M t*)_U, t* within u |t| of t; None where K > 0 is not proved."""
    if not len(rows):
        return 0.0
    if not bool((D > 0.0).all()) or (scaled := equilibrate(slack_lower(matrix, rows, D))) is None:
        return None
    K, inverse = scaled
    kappa, (factor, info) = relative_lower(K), torch.linalg.cholesky_ex(K)
    if not kappa > 0.0 or bool(info.any()):
        return None
    block = matrix[0, rows]
    g = (block @ t) * inverse[0]
    g_error = GROWN * (gamma_up(len(t) + 4) * (block.abs() @ t.abs()) + len(t) * SMALLEST) * inverse[0]
    x = torch.cholesky_solve(g[None, :, None], factor)
    one = torch.ones(1, 1, dtype=torch.float64)
    r = float(total(residual_terms(K, g[None, :, None], x, one)))
    product = (g * x[0, :, 0]).sum()
    rounding = mul_up(gamma_up(len(rows) + 4), _sum_up((g * x[0, :, 0]).abs()))
    value = add_up(max(float(product), 0.0), rounding, mul_up(l2_upper(x), r), div_up(mul_up(r, r), kappa))
    root = add_up(sqrt_up(value), div_up(l2_upper(g_error), sqrt_down(kappa)))
    return mul_up(root, root)


def _sum_up(terms: Tensor) -> float:
    """Return at least the sum of non-negative terms."""
    return mul_up(float(terms.sum()), 1.0 + 2.0 * gamma_up(len(terms) + 8))
