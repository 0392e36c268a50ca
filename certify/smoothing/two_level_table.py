r"""Integer noise drawn exactly: any law on -m..m whose cumulative probabilities are rounded to multiples of 2^-63.

A law is its *thresholds*: T_k = floor(P(Z <= k) 2^63) for k = -m..m-1. With u uniform on 0..2^63-1,
Z = #{k : T_k <= u} - m has P(Z <= k) = P(u < T_k) = T_k 2^-63, within 2^-63 below P(Z <= k): each of the 2m + 1 point
probabilities is off by less than 2^-63, the law by less than (2m + 1)/2 2^-63 in total variation.

**The two-level table.** A search for every coordinate costs some 50 ns. Instead the top 16 bits v of u index a table of
2^16 entries. Entry v stands for u in [v 2^47, (v + 1) 2^47). When no threshold separates its ends, #{T_k <= u} is
the same for all of them, because it is monotone in u: the table holds Z. Otherwise the entry is *open*, the
remaining 47 bits w are drawn, and u = v 2^47 + w is searched. v and w are independent and uniform, so u is uniform,
and Z is the same function of u as by plain search, which merely does not look at w where w does not matter: **the
distribution is the same, exactly**. The low bits of the open coordinates are drawn in their order after all top bits,
both from the block's generator, so a block is a function of its key.

The search must not mix dtypes: numpy compares uint64 with int64 in float64, and a distance of 2^-63 becomes 2^-53.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOP_BITS = 16
LOW_BITS = 63 - TOP_BITS


def search(T: NDArray[np.int64], u: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return #{k : T_k <= u} for every entry of u, compared as integers.

    Raises:
        TypeError: If either array is not int64: a mixed search would compare in float64.

    Example:
        >>> T, u = np.array([2**62 + 1]), np.array([2**62, 2**62 + 1])
        >>> search(T, u).tolist()
        [0, 1]
    """
    if T.dtype != np.int64 or u.dtype != np.int64:
        raise TypeError(f"expected int64 thresholds and draws, got {T.dtype} and {u.dtype}")
    return np.searchsorted(T, u, side="right").astype(np.int64)


def first_level(T: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return, for each value of the top 16 bits, Z at the start of its range, and whether the entry is open."""
    first = np.arange(2**TOP_BITS, dtype=np.int64) << LOW_BITS
    low, high = search(T, first), search(T, first + (2**LOW_BITS - 1))
    return low - len(T) // 2, low != high


@dataclass(frozen=True, eq=False)
class IntegerSampler:
    """The sampler of Z: thresholds and table. ``open_mark`` stands in the table where it is open."""

    T: NDArray[np.int64]
    table: NDArray[Any]
    open_mark: int

    @property
    def levels(self) -> int:
        """The number of thresholds, 2m."""
        return len(self.T)

    @property
    def half(self) -> int:
        """m, the largest |Z|."""
        return len(self.T) // 2

    @cached_property
    def below(self) -> NDArray[np.int32]:
        """#{k : T_k <= v 2^47} for each value v of the top bits."""
        return search(self.T, np.arange(2**TOP_BITS, dtype=np.int64) << LOW_BITS).astype(np.int32)

    def draw(self, bits: np.random.Philox, count: int) -> tuple[NDArray[Any], NDArray[np.uint64]]:
        """Return ``count`` independent Z and the raw words that hold their top bits (four to a word)."""
        words = bits.random_raw(-(-count // 4))
        top = words.astype("<u8", copy=False).view("<u2")[:count]
        values = self.table.take(top)
        still_open = np.flatnonzero(values == self.open_mark)
        low = (bits.random_raw(still_open.size) >> np.uint64(64 - LOW_BITS)).astype(np.int64)
        u = (top[still_open].astype(np.int64) << LOW_BITS) | low
        values[still_open] = search(self.T, u) - self.half
        return values, words

    def on_device(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return the function from uniform int64 u in 0..2^63-1 on a device to Z = #{k : T_k <= u} - m, as int32.

        Raises:
            TypeError: From the function, if u is not int64: a mixed search would compare in float64.

        Example:
            >>> u = torch.tensor([2**62 - 1, 2**62, 2**63 - 1])
            >>> integer_sampler(np.array([2**62, 2**63 - 1])).on_device(torch.device("cpu"))(u).tolist()
            [-1, 0, 1]
        """
        T, half = torch.from_numpy(self.T).to(device), self.half

        def find(u: Tensor) -> Tensor:
            if u.dtype != torch.int64:
                raise TypeError(f"expected int64 draws, got {u.dtype}")
            return torch.searchsorted(T, u, right=True, out_int32=True).sub_(half)

        return find


def integer_sampler(T: NDArray[np.int64], largest: int = 255) -> IntegerSampler:
    """Return the sampler of a law by its 2m thresholds; Z plus a pixel of at most ``largest`` fits its integers.

    Example:
        A fair coin on {-1, 0, 1} that never shows 1.

        >>> sampler = integer_sampler(np.array([2**62, 2**63 - 1]))
        >>> sorted({*sampler.draw(np.random.Philox(key=1), 100)[0].tolist()})
        [-1, 0]
    """
    bits = 16 if len(T) // 2 + largest < 2**15 else 32  # the mark of an open entry is no value either
    mark = -(2 ** (bits - 1))
    values, still_open = first_level(T)
    return IntegerSampler(T, np.where(still_open, mark, values).astype(f"int{bits}"), mark)
