r"""The norms of pooling, padding and upsampling.

**Average pooling** is a tensor product of one matrix per dimension (the number of averaged pixels is a product of
counts, also at the border), so each of its norms is the product of theirs: ||A (x) B|| = ||A|| ||B|| in l1, l2 and
linf. The entries 1/count are rounded; both ends absorb that, since the norms of non-negative matrices are monotone in
them.

**Max pooling** moves by at most the largest move inside each window: ||y' - y||^2 <= sum over windows max |x' - x|^2,
which counts an input once per window that holds it. So its Lipschitz constant in l2 is at most the root of the largest
such count, in l1 the count, in linf 1.

**Padding** and **nearest upsampling** copy inputs: the l2 norm is the root of the largest number of copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor

from certify.norms.dense import enclose
from certify.norms.geometry import MODES, PaddingMode, padding_copies
from certify.norms.row_sums import enclose_l1, enclose_linf
from certify.results import Bracket
from certify.rounding import U64, div_down, div_up, mul_down, mul_up, sqrt_up

PNorm: TypeAlias = Literal["l1", "l2", "linf"]
_MATRIX_NORMS: dict[str, Callable[[Tensor], Bracket]] = {"l1": enclose_l1, "l2": enclose, "linf": enclose_linf}


def enclose_avg_pool(
    input_size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    *,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
    norm: PNorm,
) -> Bracket:
    """Return the bracket of the norm of average pooling on a known size.

    Args:
        input_size: The spatial sizes.
        kernel: Window per dimension; ``stride`` and ``padding`` (on either side) likewise.
        stride: Step per dimension.
        padding: Zeros on either side per dimension, at most half the window.
        ceil_mode: Whether windows may start before the end and stick out.
        count_include_pad: Whether the padding counts among the averaged pixels.
        divisor: ``divisor_override``: divides the sum instead of the count.
        norm: "l1", "l2" or "linf".

    Raises:
        ValueError: If the arguments do not fit together.

    Example:
        >>> found = enclose_avg_pool((8, 8), (2, 2), (2, 2), (0, 0), ceil_mode=False, count_include_pad=True,
        ...                          divisor=None, norm="l2")
        >>> found.lower <= 0.5 <= found.upper <= 0.5 * (1 + 1e-13)
        True
    """
    if not len(input_size) == len(kernel) == len(stride) == len(padding):
        raise ValueError(f"expected one entry per dimension, got {input_size}, {kernel}, {stride}, {padding}")
    windows = [_windows(*dim, ceil_mode) for dim in zip(input_size, kernel, stride, padding, strict=True)]
    rows = zip(windows, input_size, padding, strict=True)
    matrices = [
        _matrix([(low, high, _count(low, high, n, p, count_include_pad, divisor)) for low, high in spans], n)
        for spans, n, p in rows
    ]
    product = _product([_MATRIX_NORMS[norm](matrix) for matrix in matrices])
    return product if divisor is None else _divided(product, divisor)


def enclose_adaptive_avg_pool(input_size: Sequence[int], output_size: Sequence[int], *, norm: PNorm) -> Bracket:
    """Return the bracket of the norm of adaptive average pooling (see `enclose_avg_pool`).

    Example:
        >>> found = enclose_adaptive_avg_pool((4, 4), (1, 1), norm="l2")
        >>> found.lower <= 0.25 <= found.upper <= 0.25 * (1 + 1e-13)
        True
    """
    matrices = [_adaptive_matrix(*sizes, norm) for sizes in zip(input_size, output_size, strict=True)]
    return _product([_MATRIX_NORMS[norm](matrix) for matrix in matrices])


def _adaptive_matrix(n: int, outputs: int, norm: PNorm) -> Tensor:
    """Return a matrix ``[windows, n]`` with the norm of adaptive pooling along a dimension: equal rows are one row.

    A row that occurs m times counts once in linf, m times in the column sums of l1, and like sqrt(m) times itself in
    l2, since A^T A is the same. Entries are within 3 u of their exact value.
    """
    if n < 1 or outputs < 1:
        raise ValueError(f"expected sizes of at least 1, got {n} to {outputs}")
    index = torch.arange(outputs)
    ends = torch.stack([index * n // outputs, -(-(index + 1) * n // outputs)], 1)
    windows, copies = torch.unique(ends, dim=0, return_counts=True)
    times = {"l1": copies.double(), "l2": copies.double().sqrt(), "linf": torch.ones(len(copies)).double()}[norm]
    low, high = windows[:, :1], windows[:, 1:]
    inside = (torch.arange(n) >= low) & (torch.arange(n) < high)
    matrix: Tensor = inside.double() * (times[:, None] / (high - low))
    return matrix


def max_pool_upper(kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], *, norm: PNorm) -> float:
    """Return an upper bound of the Lipschitz constant of max pooling, for every size; attained on large inputs.

    An input is in at most ``ceil(k / (s / gcd(s, d)))`` windows per dimension.

    Example:
        >>> [max_pool_upper((k, k), (s, s), (1, 1), norm="l2") for k, s in ((2, 2), (3, 2), (3, 1))]
        [1.0, 2.0, 3.0]
    """
    counts = (math.ceil(k / (s // math.gcd(s, d))) for k, s, d in zip(kernel, stride, dilation, strict=True))
    return _copies_upper(math.prod(counts), norm)


def adaptive_max_pool_upper(input_size: Sequence[int], output_size: Sequence[int], *, norm: PNorm) -> float:
    """Return an upper bound of the Lipschitz constant of adaptive max pooling: windows per input, counted.

    Example:
        >>> adaptive_max_pool_upper((6, 6), (3, 3), norm="l2"), adaptive_max_pool_upper((7, 7), (3, 3), norm="l1")
        (1.0, 4.0)
    """
    counts = []
    for n, outputs in zip(input_size, output_size, strict=True):
        spans = _adaptive_windows(n, outputs)
        counts.append(max(sum(low <= x < high for low, high in spans) for x in range(n)))
    return _copies_upper(math.prod(counts), norm)


def pad_upper(input_size: Sequence[int], padding_pairs: Sequence[Sequence[int]], mode: str, *, norm: PNorm) -> float:
    """Return the norm of a padding, rounded up: by the largest number of copies of one input. Constants copy nothing.

    Args:
        input_size: The sizes of the padded dimensions.
        padding_pairs: (before, after) per dimension; negative entries crop.
        mode: "constant", "zeros", "reflect", "replicate" or "circular".
        norm: "l1", "l2" or "linf".

    Raises:
        ValueError: If the mode is unknown, or a reflection or a turn is longer than the input.

    Example:
        >>> pad_upper((8,), [(2, 2)], "replicate", norm="l1"), pad_upper((8, 8), [(1, 1)] * 2, "reflect", norm="l2")
        (3.0, 2.0)
    """
    inner = "zeros" if mode == "constant" else mode
    if inner not in MODES:
        raise ValueError(f"expected a padding mode of constant, {', '.join(MODES)}, got {mode!r}")
    copies = 1
    for size, (before, after) in zip(input_size, padding_pairs, strict=True):
        most = {"circular": size, "reflect": size - 1}.get(inner, math.inf)
        if max(before, after) > most or size + before + after < 1:
            raise ValueError(f"expected a {mode} padding of at most {most} for size {size}, got {(before, after)}")
        copies *= padding_copies(size, before, after, cast(PaddingMode, inner))
    return _copies_upper(copies, norm)


def upsample_nearest_upper(scale: Sequence[int], *, norm: PNorm) -> float:
    """Return the norm of nearest-neighbour upsampling by whole factors per dimension, rounded up.

    Example:
        >>> upsample_nearest_upper((2, 2), norm="l2"), upsample_nearest_upper((2, 3), norm="linf")
        (2.0, 1.0)
    """
    if any(factor < 1 for factor in scale):
        raise ValueError(f"expected factors of at least 1, got {tuple(scale)}")
    return _copies_upper(math.prod(scale), norm)


def _copies_upper(copies: int, norm: PNorm) -> float:
    if copies == 0:
        return 0.0
    root = math.isqrt(copies)
    exact = float(root) if root * root == copies else sqrt_up(float(copies))
    return {"l1": float(copies), "l2": exact, "linf": 1.0}[norm]


def _windows(n: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> list[tuple[int, int]]:
    """Return the windows [low, high) of a pooling dimension, before they are cut at the borders."""
    if min(n, kernel, stride) < 1 or not 0 <= 2 * padding <= kernel:
        raise ValueError(f"expected sizes of at least 1 and padding within half the window, got {(n, kernel, padding)}")
    span = n + 2 * padding - kernel
    outputs = (-(-span // stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (outputs - 1) * stride >= n + padding:
        outputs -= 1  # a window that would start in the padding on the right is dropped
    if outputs < 1:
        raise ValueError(f"expected a window within the padded input, got window {kernel} on size {n}")
    return [(j * stride - padding, j * stride - padding + kernel) for j in range(outputs)]


def _adaptive_windows(n: int, outputs: int) -> list[tuple[int, int]]:
    if n < 1 or outputs < 1:
        raise ValueError(f"expected sizes of at least 1, got {n} to {outputs}")
    return [(i * n // outputs, -(-(i + 1) * n // outputs)) for i in range(outputs)]


def _count(low: int, high: int, n: int, padding: int, include_pad: bool, divisor: int | None) -> int:
    if divisor is not None:
        return 1
    if include_pad:
        return min(high, n + padding) - low
    return min(high, n) - max(low, 0)


def _matrix(windows: list[tuple[int, int, int]], n: int) -> Tensor:
    """Return the matrix of windows [low, high) with their divisors, ``[outputs, n]``, entries rounded to nearest."""
    matrix = torch.zeros(len(windows), n, dtype=torch.float64)
    for row, (low, high, count) in zip(matrix, windows, strict=True):
        row[max(low, 0) : max(min(high, n), 0)] = 1.0 / count
    return matrix


def _product(brackets: list[Bracket]) -> Bracket:
    """Return the product, with room for the rounded entries of each factor."""
    lower, upper = 1.0, 1.0
    for bracket in brackets:
        lower = mul_down(lower, mul_down(bracket.lower, 1.0 - 4.0 * U64))
        upper = mul_up(upper, bracket.upper, 1.0 + 4.0 * U64)
    return Bracket(lower, upper, "product over dimensions")


def _divided(bracket: Bracket, divisor: int) -> Bracket:
    if divisor < 1:
        raise ValueError(f"expected a divisor of at least 1, got {divisor}")
    return Bracket(div_down(bracket.lower, divisor), div_up(bracket.upper, divisor), bracket.method)
