r"""1-Lipschitz residual blocks: x - 2 W^T T^-1 act(W x + b) with W W^T <= T and slopes of act in [0, 1].

`certify.bounds.gradient_steps` states and proves their constant, for the stored numbers: max(1, 2 c^2 - 1) with
c >= ||T^(-1/2) W||, plus what rounding left. With law "spectral" these are the convex potential layers (CPL) of arXiv
2110.12690, with "sll" the SDP-based layers of 2303.03169, with "sr" residual spectral rescaling of 2402.00240.

The second map is the exact adjoint of the first: the transposed matrix; the transposed convolution for zero padding;
for circular padding the flipped kernel with its channels swapped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from certify.layers.effective import precise, store
from certify.layers.rescaling import inverse_or_zero, make_rescaling, per_row

STEEP_BY_AT_MOST_1 = (nn.ReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU)


def refuse_other_slopes(activation: nn.Module) -> None:
    """Refuse an activation whose slopes are not known to lie in [0, 1].

    Raises:
        ValueError: As it says. GELU and SiLU leave [0, 1]; MaxMin has no slope per entry.

    Example:
        >>> refuse_other_slopes(nn.SiLU())
        Traceback (most recent call last):
        ValueError: expected an activation with slopes in [0, 1], such as ReLU, Sigmoid or Tanh, got SiLU()
    """
    known = isinstance(activation, STEEP_BY_AT_MOST_1)
    if isinstance(activation, nn.LeakyReLU):
        known = 0.0 <= activation.negative_slope <= 1.0
    if not known:
        raise ValueError(
            f"expected an activation with slopes in [0, 1], such as ReLU, Sigmoid or Tanh, got {activation}"
        )


class _Residual(nn.Module, ABC):
    """What both blocks share: the first map, its row scales, the activation, and the weight of the step back."""

    def __init__(self, first: nn.Linear | nn.Conv2d, law: str | nn.Module, activation: nn.Module | None) -> None:
        super().__init__()
        self.first = first
        nn.init.xavier_normal_(first.weight)
        self.rescaling = make_rescaling(law, len(first.weight))
        self.activation = nn.ReLU() if activation is None else activation
        refuse_other_slopes(self.activation)

    @property
    def step_weight(self) -> Tensor:
        """2 T^-1 W in the shape of W, whose adjoint is the second map."""
        weight = precise(self.first.weight, training=self.training)
        groups = self.first.groups if isinstance(self.first, nn.Conv2d) else 1
        inverse = inverse_or_zero(self.rescaling(weight, groups))
        return (2.0 * per_row(inverse * inverse, weight) * weight).to(self.first.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return x - 2 W^T T^-1 act(W x + b)."""
        return x - self.adjoint(self.activation(self.first(x)))

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Return the adjoint of the first map with the weight `step_weight`, applied to y."""


class LipschitzResidual(_Residual):
    """The dense block x - 2 W^T T^-1 act(W x + b), 1-Lipschitz in l2.

    Args:
        features: Size of x.
        hidden: Rows of W; as many as ``features`` when None.
        law: "aol", "sll", "sr", "spectral" (CPL), or a module from a weight to its row scales sqrt(T).
        activation: Entrywise with slopes in [0, 1]; ReLU when None.

    Raises:
        ValueError: If the activation's slopes are not known to lie in [0, 1].

    Example:
        >>> import torch
        >>> block, x = LipschitzResidual(6, 9).eval(), torch.randn(2, 6)
        >>> with torch.no_grad():
        ...     bool((block(x)[0] - block(x)[1]).norm() <= (x[0] - x[1]).norm() * 1.0001)
        True
    """

    def __init__(
        self,
        features: int,
        hidden: int | None = None,
        *,
        law: str | nn.Module = "sll",
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__(nn.Linear(features, features if hidden is None else hidden), law, activation)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the transposed `step_weight` times y ``[..., hidden]``."""
        return F.linear(y, self.step_weight.mT)

    def materialised(self) -> GradientStep:
        """Return the block of plain layers that computes the same."""
        rows, features = self.first.weight.shape
        second = store(nn.Linear(rows, features, bias=False), self.step_weight.mT, None)
        return GradientStep(self.first, self.activation, second)


class LipschitzResidualConv2d(_Residual):
    """The convolutional block x - 2 W^T T^-1 act(W x + b), 1-Lipschitz in l2; the size stays.

    T and b are constant over positions, so that T commutes with the slopes of the activation. There is no stride: what
    leads back to the size of x would depend on that size.

    Args:
        channels: Channels of x.
        hidden: Channels of W x; as many as ``channels`` when None.
        kernel_size: Taps a side; odd for circular padding.
        dilation: As in `torch.nn.Conv2d`.
        groups: As in `torch.nn.Conv2d`; 1 for circular padding.
        padding_mode: "zeros" (padded by half of the kernel, rounded down, times the dilation) or "circular".
        law: As for `LipschitzResidual`.
        activation: As for `LipschitzResidual`.

    Raises:
        ValueError: If the padding copies inputs, or is circular and the kernel even or in groups, or the slopes of the
            activation are not known to lie in [0, 1].

    Example:
        >>> import torch
        >>> block, x = LipschitzResidualConv2d(3, 8).eval(), torch.randn(2, 3, 5, 5)
        >>> with torch.no_grad():
        ...     bool((block(x)[0] - block(x)[1]).norm() <= (x[0] - x[1]).norm() * 1.0001)
        True
    """

    def __init__(
        self,
        channels: int,
        hidden: int | None = None,
        kernel_size: int = 3,
        *,
        dilation: int = 1,
        groups: int = 1,
        padding_mode: Literal["zeros", "circular"] = "zeros",
        law: str | nn.Module = "sll",
        activation: nn.Module | None = None,
    ) -> None:
        refuse_geometry(kernel_size, groups, padding_mode)
        rows, amount = channels if hidden is None else hidden, dilation * (kernel_size // 2)
        geometry: dict[str, Any] = {"padding": amount, "dilation": dilation, "groups": groups}
        super().__init__(nn.Conv2d(channels, rows, kernel_size, padding_mode=padding_mode, **geometry), law, activation)
        self._geometry, self._circular = geometry, padding_mode == "circular"

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the adjoint of the first map with the kernel `step_weight`, applied to y ``[N, hidden, H, W]``."""
        kernel, geometry = self.step_weight, self._geometry
        if self._circular:
            wrapped = F.pad(y, [geometry["padding"]] * 4, mode="circular")
            return F.conv2d(wrapped, kernel.transpose(0, 1).flip(2, 3), dilation=geometry["dilation"])
        return F.conv_transpose2d(y, kernel, **geometry)

    def materialised(self) -> GradientStep:
        """Return the block of plain layers that computes the same."""
        kernel, first, geometry = self.step_weight, self.first, self._geometry
        rows, size, channels = kernel.shape[0], kernel.shape[-1], kernel.shape[1] * geometry["groups"]
        if self._circular:
            second = nn.Conv2d(rows, channels, size, bias=False, padding_mode="circular", **geometry)
            return GradientStep(first, self.activation, store(second, kernel.transpose(0, 1).flip(2, 3), None))
        transposed = nn.ConvTranspose2d(rows, channels, size, bias=False, **geometry)
        return GradientStep(first, self.activation, store(transposed, kernel, None))


def refuse_geometry(kernel_size: int, groups: int, padding_mode: str) -> None:
    """Refuse a first convolution whose adjoint is no convolution of the vocabulary.

    Raises:
        ValueError: If inputs are copied, or the padding is circular with an even kernel or with groups.
    """
    if padding_mode not in ("zeros", "circular"):
        raise ValueError(f"expected zero or circular padding, got {padding_mode!r}, which copies inputs; use zeros")
    if padding_mode == "circular" and kernel_size % 2 == 0:
        raise ValueError(f"expected an odd kernel with circular padding, got {kernel_size}: the size would change")
    if padding_mode == "circular" and groups > 1:
        raise ValueError(f"expected one group with circular padding, got {groups}; use zeros")


class GradientStep(nn.Module):
    """x - second(activation(first(x))): what a residual block is after training."""

    def __init__(self, first: nn.Module, activation: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.activation, self.second = first, activation, second

    def forward(self, x: Tensor) -> Tensor:
        """Return x - second(activation(first(x)))."""
        found: Tensor = x - self.second(self.activation(self.first(x)))
        return found
