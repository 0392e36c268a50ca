"""The activations of a chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from certify.graph.run import KERNELS


@dataclass(frozen=True, eq=False)
class Activation:
    """An activation: a kind of the vocabulary (or ``identity``), its attributes, and the slopes of `prelu` per row."""

    kind: str
    attributes: Mapping[str, object] = field(default_factory=dict)
    slopes: Tensor | None = None


IDENTITY = Activation("identity")


def evaluate(activation: Activation, z: Tensor) -> Tensor:
    """Return the activation of rows z ``[..., rows]``, in their dtype."""
    if activation.kind == IDENTITY.kind:
        return z
    if activation.slopes is not None:
        return torch.where(z > 0.0, z, z * activation.slopes.to(z.dtype))
    return KERNELS[activation.kind](z, **activation.attributes)
