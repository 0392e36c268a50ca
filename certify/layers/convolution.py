"""A 1-Lipschitz convolution: output channel o divided by r_o."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from certify.layers.effective import EffectiveConv2d, precise
from certify.layers.rescaling import inverse_or_zero, make_rescaling, per_row


class LipschitzConv2d(EffectiveConv2d):
    """`torch.nn.Conv2d` whose output channels are divided by scales that make it 1-Lipschitz in l2.

    For zero padding of any amount, circular padding that keeps the size, and any stride, dilation and groups
    (`certify.layers.rescaling` says why).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps a side.
        stride: As in `torch.nn.Conv2d`.
        padding: As in `torch.nn.Conv2d`.
        dilation: As in `torch.nn.Conv2d`.
        groups: As in `torch.nn.Conv2d`.
        bias: Whether there is a b.
        padding_mode: "zeros" or "circular".
        law: "aol", "sll", "sr", "spectral", or a module from a weight and its groups to its row scales.

    Raises:
        ValueError: If the padding copies inputs (reflect, replicate), or is circular and changes the size.

    Example:
        >>> from certify.norms import enclose_conv
        >>> layer = LipschitzConv2d(2, 4, 3, padding=1, law="aol").eval()
        >>> 0.3 < enclose_conv(layer.effective_weight, (8, 8), padding=1).upper <= 1.0001
        True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "circular"] = "zeros",
        law: str | nn.Module = "sr",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        refuse_copying(self)
        nn.init.orthogonal_(self.weight)
        self.rescaling = make_rescaling(law, out_channels)

    @property
    def effective_weight(self) -> Tensor:
        """The kernel with its output channels divided, ``[out, in / groups, *taps]``."""
        weight = precise(self.weight, training=self.training)
        scales = inverse_or_zero(self.rescaling(weight, self.groups))
        return (per_row(scales, weight) * weight).to(self.weight.dtype)


def refuse_copying(conv: nn.Conv2d) -> None:
    """Refuse the padding for which row sums of a kernel bound nothing.

    Raises:
        ValueError: If inputs are copied: reflect or replicate padding, or circular padding that enlarges the image.
    """
    if conv.padding_mode not in ("zeros", "circular"):
        raise ValueError(
            f"expected zero or circular padding, got {conv.padding_mode!r}, which copies inputs: a 1-Lipschitz kernel"
            " has a larger norm with it; use zeros"
        )
    spans = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    amounts = [2 * amount for amount in conv.padding if isinstance(amount, int)]
    if conv.padding_mode == "circular" and conv.padding != "same" and (not amounts or amounts != spans):
        raise ValueError(
            f"expected circular padding that keeps the size ({spans} in all), got {conv.padding!r} a side: with more,"
            " rows are repeated; with less, use zeros"
        )
