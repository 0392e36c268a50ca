r"""The Gram matrix of a whole convolution, without its matrix.

Let S_d[j, a, x] = 1 where output j reads input x through tap a, in spatial dimension d, and A the matrix of one group.
Then A^T A factorises over the dimensions,

    (A^T A)[(c, x), (c', x')] = sum over a, a' of  Q[c, a, c', a'] prod_d P_d[a_d, a'_d, x_d, x'_d],
    Q = sum_o K[o, c, a] K[o, c', a'],      P_d[a, a', x, x'] = sum_j S_d[j, a, x] S_d[j, a', x'],

and A A^T likewise with sums over c and x. The cost is far below that of the product of the matrices, and a side of 4096
is reached in about a second. Rounding: a path from the weights to an entry passes at most co + sum_d (taps_d^2 + 1)
operations, so the error is at most that gamma times |A|^T |A|, where |A| adds the magnitudes of weights that meet; its
norm is at most ||A||_1 ||A||_inf. Zeros of P add exactly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certify.norms.cholesky import Grams
from certify.norms.conv_sums import column_sum_limits, row_sum_limits
from certify.norms.geometry import Axis, Convolution
from certify.norms.scaling import UNDERFLOW
from certify.rounding import gamma_up, mul_up


def sides(conv: Convolution) -> tuple[int, int]:
    """Return the numbers of rows and columns of the matrix of one group."""
    _, co, ci = conv.kernel.shape[:3]
    rows = co * math.prod(axis.known_outputs for axis in conv.axes)
    return rows, ci * math.prod(axis.known_size for axis in conv.axes)


def convolution_gram(conv: Convolution) -> Grams:
    """Return each group's smaller Gram matrix, ``[G, n, n]``: of the inputs ``(c, x)`` or of the outputs ``(o, j)``."""
    rows, columns = sides(conv)
    by_inputs = columns <= rows
    matrices = _contract(_channel_products(conv.kernel, by_inputs), [_meetings(axis, by_inputs) for axis in conv.axes])
    summed = conv.kernel.shape[1 if by_inputs else 2]
    order = summed + sum(axis.taps**2 + 2 for axis in conv.axes) + 2
    products = mul_up(row_sum_limits(conv)[1], column_sum_limits(conv)[1])
    underflow = mul_up(float(min(rows, columns)), float(conv.kernel.numel()) ** 2, UNDERFLOW)
    return Grams(matrices, mul_up(gamma_up(order), products) + underflow)


def _channel_products(kernel: Tensor, by_inputs: bool) -> Tensor:
    """Return Q as ``[G, n, taps..., n, taps...]``."""
    groups, co, ci = kernel.shape[:3]
    taps = kernel.shape[3:]
    flat = kernel.reshape(groups, co, -1) if by_inputs else kernel.transpose(1, 2).reshape(groups, ci, -1)
    kept = ci if by_inputs else co
    return (flat.mT @ flat).reshape(groups, kept, *taps, kept, *taps)


def _meetings(axis: Axis, by_inputs: bool) -> Tensor:
    """Return P of one axis: ``[taps, taps, n, n]``."""
    table = axis.sources
    reads = torch.zeros(*table.shape, axis.known_size + 1, dtype=torch.float64)
    reads.scatter_(2, table.where(table >= 0, axis.known_size)[:, :, None], 1.0)
    reads = reads[:, :, : axis.known_size]
    left = reads.permute(1, 2, 0) if by_inputs else reads.permute(1, 0, 2)  # [taps, n, summed]
    return torch.einsum("axj,byj->abxy", left, left)


def _contract(products: Tensor, meetings: list[Tensor]) -> Tensor:
    dims = len(meetings)
    for done, meeting in enumerate(meetings):
        # [G, n, taps left..., n, taps left..., places done...]: contract the first tap of either side
        second = 2 + (dims - done) + 1
        products = torch.tensordot(products, meeting, dims=([2, second], [0, 1]))
    # [G, n, n, x_1, x_1', ..., x_d, x_d'] -> [G, (n, x...), (n', x'...)]
    first = [1, *(3 + 2 * d for d in range(dims))]
    order = [0, *first, *(place + 1 for place in first)]
    side = math.prod(products.shape[place] for place in first)
    return products.permute(order).reshape(products.shape[0], side, side)
