r"""The pre-activations at the centre of a ball, with the error of their computation, entry by entry.

The chain is run in float64 at the stored x; the real centre x* differs from it by u |x| per entry where pixels were
rounded to nearest, not at all otherwise. Let z, h be the computed values, z*, h* the real ones of the real weights, e
the bound of |h* - h| per entry and t one of ||h* - h||_2. With n the columns of a layer, theta and theta_b its errors
of weight and bias (`layers`),

    local = gamma_{n+4} (|W| |h| + |b|) + theta |W| |h| + theta_b,
    |z* - z|  <=  local + min( (1 + theta) |W| e,  r t ),            r_j = the l2 norm of row j of W*,
    ||z* - z||_2  <=  min( ||that||_2,  ||W*||_2 t + ||local||_2 ),

by |fl(W h + b) - (W h + b)| <= gamma_{n+1} (|W| |h| + |b|) in any order of summation, and Cauchy-Schwarz. The second
bounds keep the error from growing with || |W| || where the network itself does not. An activation multiplies entry j by
its largest slope on [z_j - e_j, z_j + e_j], and adds the error of evaluating it (`activations.evaluation_error`).

Every bound is a sum of products of non-negative floats with far fewer than 2^30 roundings, so a factor 1 + 2^-20 puts
it above its real value; what underflows is below 2^-1074 per operation and is added.
Reference: N. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, Section 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.local.activations import evaluation_error
from certify.bounds.local.layers import Chain, Layer
from certify.bounds.magnitudes import row_l2_upper
from certify.rounding import SMALLEST, U64, gamma_up

GROWN = 1.0 + 2.0**-20


@dataclass(frozen=True, eq=False)
class Centres:
    """A batch of centres: per layer k, z_k and h_k as computed in float64, each ``[B, m_k]``, and their errors.

    ``|z*_k - z_k| <= z_error_k`` and ``|h*_k - h_k| <= h_error_k`` entry by entry, for the real values at the real
    centres; ``|x* - x| <= x_error``, x being ``[B, n]``, flattened.
    """

    x: Tensor
    x_error: Tensor
    z: tuple[Tensor, ...]
    z_error: tuple[Tensor, ...]
    h: tuple[Tensor, ...]
    h_error: tuple[Tensor, ...]


def centres_of(chain: Chain, x: Tensor, *, rounded_input: bool) -> Centres:
    """Return the centres of a batch of stored inputs with the errors of all their activations.

    Args:
        chain: The network.
        x: Stored inputs, float64 ``[B, *input_shape]``.
        rounded_input: Whether the real centres are only the nearest to these floats (8-bit pixels divided by 255).

    Raises:
        ValueError: If ``x`` is not float64.

    Example:
        >>> from certify.bounds.local.activations import IDENTITY
        >>> from certify.bounds.local.layers import Segment
        >>> third = torch.full((1, 3), 1.0 / 3.0, dtype=torch.float64)
        >>> layer = Layer(3, third[0, :1], torch.zeros(1), 0.0, (Segment(0, 1, IDENTITY, "y"),), dense=third)
        >>> found = centres_of(Chain((layer,), (3,)), third, rounded_input=False)
        >>> 0.0 < float(found.z_error[0]) < 1e-14
        True
    """
    if x.dtype != torch.float64:
        raise ValueError(f"expected float64 inputs, got {x.dtype}")
    start = x.flatten(1)
    h, e = start, (U64 * GROWN) * start.abs() + SMALLEST if rounded_input else torch.zeros_like(start)
    t = row_l2_upper(e)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for layer in chain.layers:
        z = layer.forward(h)
        local = _rounding(layer, h)
        z_error = GROWN * (local + torch.minimum(_spread(layer, e), layer.row_norms("l2") * t[:, None]))
        t = GROWN * torch.minimum(row_l2_upper(z_error), layer.gain * t + row_l2_upper(local))
        h = layer.activate(z)
        e, t = _through_activation(layer, z, h, z_error, t)
        found.append((z, z_error, h, e))
    zs, z_errors, hs, h_errors = zip(*found, strict=True)
    x_error = (U64 * GROWN) * start.abs() + SMALLEST if rounded_input else torch.zeros_like(start)
    return Centres(start, x_error, zs, z_errors, hs, h_errors)


def _rounding(layer: Layer, h: Tensor) -> Tensor:
    """Return the local error of z = W h + b, entry by entry."""
    size, gamma = layer.magnitude(h.abs()), gamma_up(layer.columns + 4.0)
    tiny = 4.0 * layer.columns * SMALLEST
    return GROWN * ((gamma + layer.error) * size + gamma * layer.bias.abs() + layer.bias_error) + tiny


def _spread(layer: Layer, e: Tensor) -> Tensor:
    """Return (1 + theta) |W| e."""
    return layer.magnitude(e) * (1.0 + layer.error) + layer.columns * SMALLEST


def _through_activation(layer: Layer, z: Tensor, h: Tensor, z_error: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the errors behind the activation: entry by entry, and in l2."""
    if layer.is_linear:
        return z_error, t
    a, b = layer.local_slopes(z - GROWN * z_error, z + GROWN * z_error)
    steepest = torch.maximum(a.abs(), b.abs())
    evaluated = layer.join(lambda one: evaluation_error(one.activation, z[..., one.rows], h[..., one.rows]))
    e = GROWN * (steepest * z_error + evaluated) + SMALLEST
    norm = torch.minimum(row_l2_upper(e), steepest.amax(1) * t + row_l2_upper(evaluated))
    return e, GROWN * norm
