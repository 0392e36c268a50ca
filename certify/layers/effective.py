"""Layers that train one weight and compute with another: their *effective* weight, which is what is stored.

`materialised()` gives the plain layer with the effective weight; `certify.save` calls it for every part of a network
that has it, so that the file holds numbers to be proved, and no construction to be believed. Scales are computed in the
weight's own dtype while training, and in float64 in evaluation mode.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


class EffectiveLinear(nn.Linear):
    """`torch.nn.Linear` that computes with `effective_weight`."""

    @property
    def effective_weight(self) -> Tensor:
        """The weight it computes with ``[out, in]``."""
        return self.weight

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name of nn.Linear
        """Return the effective weight times x, plus b."""
        return F.linear(input, self.effective_weight, self.bias)

    def materialised(self) -> nn.Linear:
        """Return the plain layer that computes the same."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        return store(plain, self.effective_weight, self.bias)


class EffectiveConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that computes with `effective_weight`."""

    @property
    def effective_weight(self) -> Tensor:
        """The kernel it computes with ``[out, in / groups, *taps]``."""
        return self.weight

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name of nn.Conv2d
        """Return the convolution by the effective kernel, plus b."""
        found: Tensor = self._conv_forward(input, self.effective_weight, self.bias)
        return found

    def materialised(self) -> nn.Conv2d:
        """Return the plain convolution that computes the same."""
        names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        geometry: dict[str, Any] = {name: getattr(self, name) for name in names}
        plain = nn.Conv2d(self.in_channels, self.out_channels, bias=self.bias is not None, **geometry)
        return store(plain, self.effective_weight, self.bias)


def store(layer: Layer, weight: Tensor, bias: Tensor | None) -> Layer:
    """Return the layer with these numbers stored as its own, in their dtype."""
    with torch.no_grad():
        layer.weight = nn.Parameter(weight.detach().clone())
        layer.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach().clone()))
    return layer


def precise(weight: Tensor, *, training: bool) -> Tensor:
    """Return the weight in the dtype its scales are computed in: its own for training, float64 for what is stored."""
    return weight if training else weight.double()
