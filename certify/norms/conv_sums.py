r"""The l1 and l-infinity norms of convolutions: their largest column and row sums, bracketed.

Row sum of output (o, j): ``sum over c, a of |K[o, c, a]|``, over the taps that read an input. Column sum of input
(c, x): ``sum over o, a of |K[o, c, a]| (number of outputs that read x through tap a)``, and both counts are products
over the spatial dimensions. For zero padding of a known size these are the sums of the matrix itself. Where other
paddings let one output read an input twice, the weights are added before the magnitude is taken, so the sums are
upper bounds; the lower ones then count the outputs that read no input twice.

For unknown size (any large one, zero padding): every row of K counts, and an input meets the taps of one residue class
modulo the stride, s i + r with all outputs: the largest class sum, times the copies made by other paddings.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certify.norms.geometry import Axis, Convolution
from certify.norms.row_sums import sum_limits


def row_sum_limits(conv: Convolution) -> tuple[float, float]:
    """Return proved limits of the l-infinity norm of a convolution with a scaled kernel."""
    per_tap = conv.kernel.abs().sum(2)  # [G, co, *taps]
    terms = per_tap[0, 0].numel() + conv.kernel.shape[2] + 1
    if not conv.sized:
        return sum_limits(float(per_tap.flatten(2).sum(2).max()), terms)
    read = [(axis.sources >= 0).to(torch.float64) for axis in conv.axes]
    distinct = [table[axis.distinct] for table, axis in zip(read, conv.axes, strict=True)]
    upper = sum_limits(_largest(per_tap, read), terms)[1]
    return sum_limits(_largest(per_tap, distinct), terms)[0], upper


def column_sum_limits(conv: Convolution) -> tuple[float, float]:
    """Return proved limits of the l1 norm of a convolution with a scaled kernel."""
    per_tap = conv.kernel.abs().sum(1)  # [G, ci, *taps]
    terms = per_tap[0, 0].numel() + conv.kernel.shape[1] + 2 * len(conv.axes) + 1
    if not conv.sized:
        classes = [_tap_classes(axis) for axis in conv.axes]
        lower, upper = sum_limits(_largest(per_tap, classes), terms)
        return lower, upper if conv.mode == "zeros" else sum_limits(upper * conv.copies, 2)[1]
    upper = sum_limits(_largest(per_tap, [axis.reads() for axis in conv.axes]), terms)[1]
    return sum_limits(_largest(per_tap, [axis.reads(axis.distinct) for axis in conv.axes]), terms)[0], upper


def _largest(per_tap: Tensor, weights: list[Tensor]) -> float:
    """Return the largest of the sums over taps weighted along each dimension by the rows ``[places, taps]``."""
    sums = per_tap
    for rows in weights:
        kinds = torch.unique(rows, dim=0) if len(rows) else rows
        if not len(kinds):
            return 0.0
        # the next tap dimension is always the third: those contracted went to the end
        sums = torch.tensordot(sums, kinds, dims=([2], [1]))
    return float(sums.max())


def _tap_classes(axis: Axis) -> Tensor:
    """Return which taps can read the same input: ``[classes, taps]``, one row per residue class."""
    period = axis.stride // math.gcd(axis.stride, axis.dilation)
    return (torch.arange(axis.taps) % period == torch.arange(period)[:, None]).to(torch.float64)
