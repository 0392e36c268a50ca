r"""Bounds of relus, from the side on which they would bend first.

A relu whose input is positive at the centre stays on its line as long as the *lower* bound is not negative, one whose
input is negative as long as the *upper* bound is not positive; its other bound then matters to nothing. So the decisive
bound of every row is made first, and the other one only for rows that may bend; any valid bound stands for the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def bounds_by_sides(
    z: Tensor, at: Tensor, size: Tensor, lower: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return l <= z_k <= u of some rows on a ball, ``[B, n]`` each; close ones where a relu of them may bend.

    Args:
        z: The values at the centres ``[B, m]``, which only choose the order.
        at: The rows ``[n]``.
        size: At least their size on the ball ``[B, m]``.
        lower: From signs ``[B, r]`` and rows ``[r]`` to proved lower bounds ``[B, r]`` of the signed values.

    Example:
        >>> asked = []
        >>> def lower(signs, rows):
        ...     asked.append(rows.tolist())
        ...     return signs * torch.tensor([[5.0, 0.5]])[:, rows] - 1.0
        >>> bounds_by_sides(torch.tensor([[5.0, 0.5]]), torch.arange(2), torch.full((1, 2), 9.0), lower)
        (tensor([[ 4.0000, -0.5000]]), tensor([[9.0000, 1.5000]]))
        >>> asked
        [[0, 1], [1]]
    """
    signs, size = torch.where(z[:, at] > 0.0, 1.0, -1.0).to(z.dtype), size[:, at]
    first = lower(signs, at)
    second = -size
    again = (~(first >= 0.0)).any(0).nonzero().flatten()
    if len(again):
        second[:, again] = lower(-signs[:, again], at[again])
    positive = signs > 0.0
    return torch.where(positive, first, second), -torch.where(positive, second, first)
