r"""Bounds of convolutions by symbols on grids: circular, zero-padded, and of any size.

**Circular** padding, stride s a divisor of n, at most n / s outputs: the rows of the circular convolution on the
torus of side n, some of them. Equal to its norm, the largest ||D'|| on the grid of side n / s, when all rows are
there (D' is the symbol of the polyphase kernel).

**Zero padding, known size.** Embed the input in a torus of side N = s N'. Output j reads the positions
``s j + d a - before``; if ``N >= n + before`` and ``N >= n + overhang`` (the positions read past the end), those
outside the input fall on zeros of the torus, and if ``N' >= outputs``, the outputs are distinct rows. So the map is a
compression of the circular one, and its norm at most ``max ||D'||`` on *any* such grid, also one moved by half a step
(multiplying tap a by e^(-i theta.a) conjugates the map by a unitary). The smallest such N' is best as a rule; the
next ones are tried where they are cheap. N = n is not enough: taps [-1, 2, -1], n = 5: 3.618 < 3.732.

**Any size.** With kernel sides k_d and a grid of sides N_d > k_d - 1, any shift,

    sup_w ||D(w)||  <=  max over the grid ||D||  /  prod_d cos(pi (k_d - 1) / (2 N_d)),                          (S)

and the supremum M bounds every zero-padded convolution and every circular one that returns its input's size.
*Proof.* Take unit x, y and a phase with f(w_1) = Re(e^(i t) e^(i (k_1 - 1) w_1 / 2) y^* D(w) x) equal to M at the
maximum; f is a trigonometric sum of frequencies at most tau = (k_1 - 1) / 2 with |f| <= M, so by Bernstein and Szego
f'^2 + tau^2 f^2 <= tau^2 M^2, and arccos(f / M) grows by at most tau per unit. The next grid point is within pi /
N_1: ||D|| >= M cos(tau pi / N_1) there. Maximise again over w_2 on that line, and repeat with the next axis. [] M
does not change with dilation, so the undilated kernel serves. A kernel of side 1 needs one frequency.

Reference: the size-free bound follows G. Szego, Orthogonal Polynomials, Theorem 1.22.2 applied per axis; grids for
circular convolutions go back to H. Sedghi, V. Gupta, P. Long, The Singular Values of Convolutional Layers,
arXiv 1805.10408, Theorem 6.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from certify.norms.geometry import Axis, Convolution
from certify.norms.products import adjoint
from certify.norms.symbol import Grid, Peak, Symbol, grid_limits, operations, polyphase, unit_roots
from certify.rounding import div_up, down, mul_up, sqrt_up

# About twenty seconds of one core, five for a grid of (S), three for grids that only might improve on the first.
MOST_OPERATIONS = 7.0e11
MOST_SIZE_FREE_OPERATIONS = 2.0e11
MOST_EXTRA_OPERATIONS = 1.0e11
LEAST_WARM_STEPS, WARM_STEPS = 4, 15  # for a lower bound, from the wave that a torus suggests
LEAST_EXTRA_CHANNELS = 128  # below, one torus more doubles the time,
FREE_OPERATIONS = 1.0e8  # except where that is a few milliseconds
LEAST_GAIN = 1e-4  # what another grid must gain to be worth its proof
DENSITIES = (32, 16, 8, 6, 4)  # grid points per kernel side of (S): factors 1.002, 1.01, 1.04, 1.07, 1.17 for two axes


class Bound(NamedTuple):
    """A proved upper bound and the name of its proof."""

    upper: float
    method: str


def symbol_of(conv: Convolution) -> Symbol:
    """Return the symbol of a convolution, of its polyphase kernel where it is strided."""
    dilations = tuple(axis.dilation for axis in conv.axes)
    if not conv.strided:
        return Symbol(conv.kernel, dilations)
    return Symbol(polyphase(conv.kernel, tuple(axis.stride for axis in conv.axes), dilations), (1,) * len(dilations))


def torus_upper(conv: Convolution) -> tuple[Bound, Peak] | None:
    """Return the bound of a zero-padded convolution of known size and its peak, or None if it would take too long."""
    symbol = symbol_of(conv)
    least = [least_side(axis) for axis in conv.axes]
    grids = [_grid(symbol, [side + more for side in least], halved) for more, halved in _VARIANTS]
    if operations(symbol, grids[0]) > MOST_OPERATIONS:
        return None
    first = grid_limits(symbol, grids[0])
    best = Bound(first.upper, name_of(conv, f"torus {grids[0]}"))
    spent = 0.0
    pays = min(symbol.kernel.shape[1:3]) >= LEAST_EXTRA_CHANNELS or operations(symbol, grids[0]) <= FREE_OPERATIONS
    for grid in grids[1:] if pays else ():
        spent += operations(symbol, grid)
        limit = best.upper * (1.0 - LEAST_GAIN)
        if spent <= MOST_EXTRA_OPERATIONS and grid.size > 1:
            upper = grid_limits(symbol, grid, limit, first.peak.turns).upper
            best = min(best, Bound(upper, name_of(conv, f"torus {grid}")))
    return best, first.peak


def least_torus(conv: Convolution) -> tuple[Symbol, Grid]:
    """Return the symbol of a zero-padded convolution of known size and the smallest grid that holds it."""
    symbol = symbol_of(conv)
    return symbol, _grid(symbol, [least_side(axis) for axis in conv.axes], halved=False)


def plane_wave(conv: Convolution, peak: Peak) -> Tensor:
    r"""Return the input ``[G, ci, *size]`` that a peak of the symbol suggests: its wave, faded out at the borders.

    An input v e^(-i w.j) at the pixels s j + r - before of phase r has the output D(w) v e^(-i w.j); where D(w) is
    wide, the peak's vector belongs to D(w)^T and the wave is one of outputs, which the adjoint map takes back.
    """
    groups, co, ci = conv.kernel.shape[:3]
    by_inputs = ci * math.prod(axis.stride for axis in conv.axes) <= co
    vector = peak.vector.to(torch.complex128)
    vector = vector * vector[vector.abs().argmax()].conj()  # its real part shall not vanish
    steps = [axis.stride if by_inputs else 1 for axis in conv.axes]
    wave = (vector if by_inputs else vector.conj()).reshape(-1, *steps)
    for place, (axis, step, turns) in enumerate(zip(conv.axes, steps, peak.turns, strict=True)):
        size = axis.known_size if by_inputs else axis.known_outputs
        pixels = torch.arange(size) + (axis.before if by_inputs else 0)
        fading = torch.sin(math.pi * torch.arange(1, size + 1, dtype=torch.float64) / (size + 1))
        factor = torch.polar(fading, -2.0 * math.pi * turns * (pixels // step).double())
        wave = wave.index_select(1 + place, pixels % step) * factor.reshape(-1, *[1] * (len(steps) - 1 - place))
    spread = torch.zeros(groups, *wave.shape, dtype=torch.float64)
    spread[peak.group] = wave.real
    return spread if by_inputs else adjoint(conv, conv.kernel, spread)


def warm_steps(conv: Convolution) -> int:
    """Return how many steps from a plane wave cost about as much as the torus."""
    one = 4.0 * conv.kernel.numel() * math.prod(axis.known_outputs for axis in conv.axes)
    return min(WARM_STEPS, max(LEAST_WARM_STEPS, int(operations(*least_torus(conv)) / one)))


_VARIANTS = ((0, False), (0, True), (1, False), (1, True), (2, False))


def least_side(axis: Axis) -> int:
    """Return the least side N' of the torus that holds a zero-padded convolution along one axis.

    Outputs that read only zeros are left out first, so that padding beyond the kernel does not count.

    Example:
        >>> from certify.norms.geometry import Axis
        >>> least_side(Axis(3, 1, 1, 1, 1, "zeros", 5, 5)), least_side(Axis(3, 2, 1, 1, 1, "zeros", 8, 4))
        (6, 5)
    """
    touched = (axis.sources >= 0).any(1).nonzero().flatten()
    if not len(touched):
        return 1
    first, last = int(touched[0]), int(touched[-1])
    before = axis.before - axis.stride * first
    end = axis.stride * (last - first) + axis.reach - before
    outside = max(before, end - axis.known_size, 0)
    return max(math.ceil((axis.known_size + outside) / axis.stride), last - first + 1)


def circular_limits(conv: Convolution) -> tuple[float, Bound] | None:
    """Return the limits of a circular convolution whose outputs are distinct rows of one on a torus, or None.

    The lower limit is 0 where rows are missing; None also where the grid would take too long.
    """
    if not fits_torus(conv):
        return None
    symbol = symbol_of(conv)
    grid = _grid(symbol, [axis.known_size // axis.stride for axis in conv.axes], halved=False)
    if operations(symbol, grid) > MOST_OPERATIONS:
        return None
    lower, upper, _ = grid_limits(symbol, grid)
    complete = all(axis.known_outputs * axis.stride == axis.known_size for axis in conv.axes)
    name = "circular symbol, exact grid" if complete else f"circular symbol, torus {grid}"
    return lower if complete else 0.0, Bound(upper, name_of(conv, name))


def fits_torus(conv: Convolution) -> bool:
    """Return whether a circular convolution's outputs are distinct rows of one on the torus of its input."""
    if not conv.sized:
        return all(axis.stride == 1 and axis.before + axis.after == axis.reach - 1 for axis in conv.axes)
    return all(
        axis.known_size % axis.stride == 0 and axis.known_outputs * axis.stride <= axis.known_size for axis in conv.axes
    )


def unstrided_upper(conv: Convolution) -> Bound | None:
    """Return a bound of any circular convolution of known size: that of all its rows, times their repetition.

    Output j is row ``s j mod n`` of the circular convolution of stride 1, up to the shift of the padding.
    """
    symbol = Symbol(conv.kernel, tuple(axis.dilation for axis in conv.axes))
    grid = _grid(symbol, [axis.known_size for axis in conv.axes], halved=False)
    if operations(symbol, grid) > MOST_OPERATIONS:
        return None
    repeated = math.prod(_repetition(axis) for axis in conv.axes)
    return Bound(
        mul_up(grid_limits(symbol, grid).upper, sqrt_up(float(repeated))), f"circular symbol, {repeated} x rows"
    )


def _repetition(axis: Axis) -> int:
    period = axis.known_size // math.gcd(axis.known_size, axis.stride)
    return math.ceil(axis.known_outputs / period)


def size_free_limits(conv: Convolution) -> tuple[float, Bound] | None:
    """Return limits of the supremum M of ||D'|| by (S), or None if even a coarse grid would take too long."""
    symbol = Symbol(symbol_of(conv).kernel, (1,) * len(conv.axes))
    taps = symbol.kernel.shape[3:]
    for density in DENSITIES:
        grid = Grid(tuple(max(1, density * (k - 1)) for k in taps))
        limit = MOST_SIZE_FREE_OPERATIONS if density > min(DENSITIES) else MOST_OPERATIONS
        if operations(symbol, grid) <= limit:
            lower, upper, _ = grid_limits(symbol, grid)
            for side, k in zip(grid.sides, taps, strict=True):
                upper = div_up(upper, cosine_lower(k, side))
            return lower, Bound(upper, name_of(conv, f"size-free grid {grid} (S)"))
    return None


def cosine_lower(taps: int, side: int) -> float:
    """Return at most cos(pi (taps - 1) / (2 side)), which must be positive: side > taps - 1.

    Example:
        >>> cosine_lower(2, 3) <= 0.75**0.5 <= cosine_lower(2, 3) + 1e-15
        True
    """
    return 1.0 if taps == 1 else down(float(unit_roots(4 * side)[taps - 1].real))


def _grid(symbol: Symbol, sides: list[int], halved: bool) -> Grid:
    # a symbol that does not depend on an axis needs one frequency there
    flat = [1 if taps == 1 else side for taps, side in zip(symbol.kernel.shape[3:], sides, strict=True)]
    return Grid(tuple(flat), halved)


def name_of(conv: Convolution, method: str) -> str:
    """Return the name of a method, with the polyphase step where there is one."""
    return f"polyphase {method}" if conv.strided else method
