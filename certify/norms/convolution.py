r"""The norms of convolutions, with the geometry of a PyTorch module: one table of proofs per padding mode.

Groups are blocks of a block-diagonal map: the norm is the *largest* of theirs. A transposed convolution is the adjoint
of the convolution with the same tensor. Padding other than by zeros is a map of its own: ``||T Pad|| <= ||T||
||Pad||``, with ||Pad||^2 the largest number of copies of one input, and T the convolution without padding on the
padded size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Unpack

import torch
from torch import Tensor

from certify.norms import banded, conv_sums, dense
from certify.norms.cholesky import Proof, gram, prove_upper
from certify.norms.conv_gram import BandedGram, convolution_gram, sides
from certify.norms.deflation import near_limits
from certify.norms.geometry import Axis, Convolution, Geometry, Padding, describe
from certify.norms.products import adjoint, candidate, vector_lower
from certify.norms.row_sums import schur_upper
from certify.norms.scaling import Scaled, scale
from certify.norms.torus import (
    Bound,
    circular_limits,
    fits_torus,
    plane_wave,
    size_free_limits,
    symbol_of,
    torus_upper,
    unstrided_upper,
    warm_steps,
)
from certify.results import Bracket
from certify.rounding import mul_up, sqrt_up

MOST_DENSE_SIDE = 4096
MOST_DENSE_OPERATIONS = 3.0 * 4096**3
LEAST_BANDED_SIDE = 512  # smaller matrices are factorised whole
MOST_BANDED_OPERATIONS = 1.0e11  # one or two seconds on two cores
MOST_BANDED_NUMBERS = 1.5e8  # 1.2 GB
THOROUGH_OPERATIONS = 1.5e11  # a caller that allows this much wants the waves of a torus taken apart,
LEAST_DEFLATED_CHANNELS = 128  # which costs more than it gains with fewer channels
MOST_TABLE = 2**24  # numbers of the table of one axis: which places meet through which taps
CLOSE_STEPS, CLOSE_TOLERANCE, POLISH_STEPS = 300, 2e-6, 16  # of the candidate vector for an exact proof


def enclose_conv(
    kernel: Tensor,
    input_size: Sequence[int] | None,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    transposed: bool = False,
    output_padding: int | Sequence[int] = 0,
    most_operations: float = MOST_BANDED_OPERATIONS,
) -> Bracket:
    r"""Return a proved bracket of the l2 norm of a convolution, in exact arithmetic of the stored weights.

    The proof depends on the geometry, and ``method`` names it:

    - "dense Cholesky": matrices of side up to 4096, any padding; exact up to rounding;
    - "one matrix per patch, ...": kernels no wider than their stride, zero padding; likewise;
    - "circular symbol, exact grid": circular padding that keeps the size (or divides it by the stride); likewise;
    - "banded Cholesky": any padding but circular, where a factorisation inside the band of the Gram matrix
      (`certify.norms.banded`) costs less than the whole one and at most ``most_operations``; to 10^-8;
    - "torus 33x33": zero padding inside a torus (`certify.norms.torus`), in less time than the singular values of its
      blocks take in float32. For Gaussian kernels of side 3 the bound is 0.12 % above the norm with 64 channels at
      32 x 32, 0.55 % with 256 at 14 x 14 and 2.8 % with 512 at 7 x 7;
    - "torus 15x15 less waves": the same with the largest waves of the torus taken apart (`certify.norms.deflation`),
      from 128 channels on, if ``most_operations`` is at least `THOROUGH_OPERATIONS`: 0.19 % and 1.9 % in the last two
      cases, in two to three times the time;
    - "size-free grid 64x64 (S)": for every input size (``input_size`` None), and where a torus would be too large;
    - "... x padding": reflect, replicate and other circular padding, the bounds of both factors multiplied;
    - "unfolded kernel", "row and column sums": cheap and loose, where everything above would take too long.

    A bracket for unknown size holds the supremum over all sizes for zero padding, and ``upper`` holds for each size.

    Args:
        kernel: ``[out, in / groups, *taps]`` with 1 to 3 taps dimensions; ``[in, out / groups, *taps]`` if transposed.
        input_size: The spatial sizes of the input, or None for every size.
        stride: Of all dimensions, or one number each.
        padding: A number, one per dimension, or a pair (before, after) per dimension.
        dilation: As ``stride``.
        groups: The number of groups.
        padding_mode: "zeros", "circular", "reflect" or "replicate".
        transposed: Whether this is a transposed convolution.
        output_padding: Rows added at the end by a transposed convolution.
        most_operations: What a "banded Cholesky" may take, in floating-point operations; 10^11, the default, are a
            second or two. `THOROUGH_OPERATIONS` allow for the waves of a torus too. With 2e12 (half a minute on two
            cores, 1.5 GB) 512 channels at 7 x 7 are bracketed to 10^-8.

    Raises:
        ValueError: If the arguments do not fit together, or the kernel holds NaN or infinity.

    Example:
        >>> taps = torch.tensor([[[-1.0, 2.0, -1.0]]])
        >>> truth = 2 + 2 * math.cos(math.pi / 6)
        >>> found = enclose_conv(taps, (5,), padding=1)
        >>> found.lower <= truth <= found.upper <= truth * (1 + 1e-13), found.method
        (True, 'dense Cholesky')
        >>> 4 <= enclose_conv(taps, None, padding=1).upper <= 4.02
        True
    """
    scaled, conv = _scaled(
        kernel,
        input_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        transposed=transposed,
        output_padding=output_padding,
    )
    if conv is None:
        return Bracket(0.0, 0.0, "zero")
    rows, columns = conv_sums.row_sum_limits(conv)[1], conv_sums.column_sum_limits(conv)[1]
    bounds = [Bound(schur_upper(rows, columns), "row and column sums")]
    lower = 0.0
    for its_lower, bound in _ROUTES["any size" if not conv.sized else conv.mode](conv, most_operations):
        lower = max(lower, its_lower)
        bounds.append(bound)
    if conv.sized and not lower > 0.0:
        lower = vector_lower(conv, candidate(conv))
    return scaled.bracket(lower, *min(bounds), copies=_occurrences(conv))


def enclose_conv_linf(kernel: Tensor, input_size: Sequence[int] | None, **geometry: Unpack[Geometry]) -> Bracket:
    """Return a proved bracket of the l-infinity norm of a convolution: its largest row sum (see `enclose_conv`).

    Example:
        >>> found = enclose_conv_linf(torch.tensor([[[-1.0, 2.0, -1.0]]]), None, padding=1)
        >>> found.lower <= 4.0 <= found.upper <= 4.0 * (1 + 1e-14)
        True
    """
    scaled, conv = _scaled(kernel, input_size, **geometry)
    return _sums_bracket(scaled, conv, by_columns=geometry.get("transposed", False))


def enclose_conv_l1(kernel: Tensor, input_size: Sequence[int] | None, **geometry: Unpack[Geometry]) -> Bracket:
    """Return a proved bracket of the l1 norm of a convolution: its largest column sum (see `enclose_conv`).

    Example:
        >>> found = enclose_conv_l1(torch.tensor([[[-1.0, 2.0, -1.0]]]), None, padding=1, stride=2)
        >>> found.lower <= 2.0 <= found.upper <= 2.0 * (1 + 1e-14)
        True
    """
    scaled, conv = _scaled(kernel, input_size, **geometry)
    return _sums_bracket(scaled, conv, by_columns=not geometry.get("transposed", False))


def _scaled(
    kernel: Tensor, input_size: Sequence[int] | None, **geometry: Unpack[Geometry]
) -> tuple[Scaled, Convolution | None]:
    """Return the scaled kernel and its convolution, None if it is zero or empty."""
    scaled = scale(kernel)
    conv = describe(scaled.values, input_size, **geometry)
    return scaled, conv if scaled.values.numel() and bool(scaled.values.any()) else None


def _occurrences(conv: Convolution) -> float:
    """Return at least the norm of the map that one entry of the kernel makes, per unit: one shift after the padding."""
    return sqrt_up(float(conv.copies))


def _sums_bracket(scaled: Scaled, conv: Convolution | None, by_columns: bool) -> Bracket:
    if conv is None:
        return Bracket(0.0, 0.0, "zero")
    limits = conv_sums.column_sum_limits(conv) if by_columns else conv_sums.row_sum_limits(conv)
    return scaled.bracket(*limits, "column sums" if by_columns else "row sums", copies=float(conv.copies))


Found = Iterator[tuple[float, Bound]]


def _any_size(conv: Convolution, _: float) -> Found:
    """Bound every size at once: by (S), times the copies of a padding that is not covered by it."""
    factor = 1 if conv.mode == "zeros" or (conv.mode == "circular" and fits_torus(conv)) else conv.copies
    lower, bound = size_free_limits(conv) or (0.0, unfolded_upper(conv))
    yield lower, _times_padding(bound, factor)


def _zeros(conv: Convolution, most: float) -> Found:
    """Bound a zero-padded convolution: exactly, or in a torus, or for every size, or by its unfolded kernel."""
    if all(_reads_whole_patches(axis) for axis in conv.axes):
        yield _separate(conv)
    else:
        yield _exact(conv, most) or _less_waves(conv, most) or _torus(conv) or (0.0, _no_torus_upper(conv))


def _less_waves(conv: Convolution, most: float) -> tuple[float, Bound] | None:
    """Bound a convolution in a torus less its largest waves, where more than the usual work is allowed and it pays."""
    large = min(symbol_of(conv).kernel.shape[1:3]) >= LEAST_DEFLATED_CHANNELS
    return near_limits(conv) if most >= THOROUGH_OPERATIONS and large else None


def _torus(conv: Convolution) -> tuple[float, Bound] | None:
    """Bound a convolution in a torus, and from the wave that it suggests."""
    found = torus_upper(conv)
    if found is None:
        return None
    bound, peak = found
    start = plane_wave(conv, peak) if len(peak.vector) else None
    return vector_lower(conv, candidate(conv, start, steps=warm_steps(conv))), bound


def _circular(conv: Convolution, most: float) -> Found:
    exact = circular_limits(conv)
    if exact is not None and exact[0] > 0.0:
        yield exact
    elif _is_small(conv):
        yield _dense(conv)
    elif exact is not None:
        yield exact
    else:
        yield from _padded(conv, most)
        for bound in (unstrided_upper(conv), _free_upper(conv) if fits_torus(conv) else None):
            if bound is not None:
                yield 0.0, bound


def _padded(conv: Convolution, most: float) -> Found:
    """Bound a convolution with any padding: exactly, or as the padding followed by the convolution without it."""
    yield _exact(conv, most) or (0.0, _times_padding(_zeros_upper(conv.valid()), conv.copies))


_ROUTES: dict[str, Callable[[Convolution, float], Found]] = {
    "any size": _any_size,
    "zeros": _zeros,
    "circular": _circular,
    "reflect": _padded,
    "replicate": _padded,
}


def _exact(conv: Convolution, most: float) -> tuple[float, Bound] | None:
    """Bound a convolution exactly, by its whole Gram matrix or inside the band of that; None if neither is affordable.

    None also where the band's proof failed: the looser bounds then take over.
    """
    band = _affordable_band(conv, most)
    if band is None:
        return _dense(conv) if _is_small(conv) else None
    vector = candidate(conv, steps=CLOSE_STEPS, tolerance=CLOSE_TOLERANCE, polish=POLISH_STEPS)
    lower = vector_lower(conv, vector)
    upper = banded.prove_upper(band, lower)
    return (lower, Bound(upper, "banded Cholesky")) if upper < math.inf else None


def _affordable_band(conv: Convolution, most: float) -> BandedGram | None:
    """Return the banded Gram matrix where it is worth more than the whole one, and not too large."""
    tables = max(axis.taps**2 * max(axis.known_size, axis.known_outputs) ** 2 for axis in conv.axes)
    if min(sides(conv)) < LEAST_BANDED_SIDE or tables > MOST_TABLE or conv.mode == "circular":
        return None
    band = BandedGram(conv)
    operations = banded.operations(band)
    if operations > most or banded.held_numbers(band) > MOST_BANDED_NUMBERS:
        return None
    return None if _is_small(conv) and operations > band.groups * float(band.side) ** 3 / 3.0 else band


def _is_small(conv: Convolution) -> bool:
    side = min(sides(conv))
    return side <= MOST_DENSE_SIDE and conv.kernel.shape[0] * 3.0 * side**3 <= MOST_DENSE_OPERATIONS


def _dense(conv: Convolution) -> tuple[float, Bound]:
    proof = prove_upper(convolution_gram(conv))
    return vector_lower(conv, _input_vector(conv, proof)), Bound(proof.upper, "dense Cholesky")


def _reads_whole_patches(axis: Axis) -> bool:
    """Return whether outputs share no input, and the one in the middle reads no padding."""
    return axis.reach <= axis.stride and bool((axis.sources[axis.known_outputs // 2] >= 0).all())


def _separate(conv: Convolution) -> tuple[float, Bound]:
    """Bound a convolution whose outputs read separate patches: copies of one matrix ``[out, in * taps]``, some cut.

    The lower bound is that of one output in the middle, with the patch that its best output vector asks for.
    """
    A = conv.kernel.flatten(2)
    by_outputs = A.shape[1] < A.shape[2]
    proof = prove_upper(gram(A.mT if by_outputs else A))
    outputs = [axis.known_outputs for axis in conv.axes]
    middle = 0
    for count in outputs:
        middle = middle * count + count // 2
    y = torch.zeros(*A.shape[:2], math.prod(outputs), dtype=torch.float64)
    y[proof.index, :, middle] = proof.vector if by_outputs else A[proof.index] @ proof.vector
    x = adjoint(conv, conv.kernel, y.reshape(*A.shape[:2], *outputs))
    return vector_lower(conv, x), Bound(proof.upper, "one matrix per patch, dense Cholesky")


def _input_vector(conv: Convolution, proof: Proof) -> Tensor:
    """Return the candidate input ``[G, ci, *size]`` of a proof by the Gram matrix of one side of one group."""
    groups, co, ci = conv.kernel.shape[:3]
    rows, columns = sides(conv)
    by_inputs = columns <= rows
    places = [axis.known_size if by_inputs else axis.known_outputs for axis in conv.axes]
    vector = torch.zeros(groups, ci if by_inputs else co, *places, dtype=torch.float64)
    vector[proof.index] = proof.vector.reshape(vector.shape[1:])
    return vector if by_inputs else adjoint(conv, conv.kernel, vector)


def _zeros_upper(conv: Convolution) -> Bound:
    """Return the best affordable bound of a zero-padded convolution too large for its matrix."""
    found = torus_upper(conv)
    return _no_torus_upper(conv) if found is None else found[0]


def _no_torus_upper(conv: Convolution) -> Bound:
    return _free_upper(conv) or unfolded_upper(conv)


def _free_upper(conv: Convolution) -> Bound | None:
    free = size_free_limits(conv)
    return None if free is None else free[1]


def _times_padding(bound: Bound, copies: int) -> Bound:
    """Return the bound of a convolution after a padding that copies inputs so many times."""
    return bound if copies == 1 else Bound(mul_up(bound.upper, sqrt_up(float(copies))), f"{bound.method} x padding")


def unfolded_upper(conv: Convolution) -> Bound:
    """Return the norm of the kernel as a matrix ``[out, in * taps]``, times the root of how often an input is read.

    ``||y||^2 = sum over j ||K patch_j||^2 <= ||K||^2 sum over j ||patch_j||^2``, and the last sum counts an input once
    for each pair of output and tap that reads it.
    """
    reads = math.prod(axis.most_reads for axis in conv.axes)
    largest = max(dense.enclose(block.flatten(1)).upper for block in conv.kernel)
    return Bound(mul_up(largest, sqrt_up(float(reads))), "unfolded kernel")
