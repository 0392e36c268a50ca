"""A 1-Lipschitz dense layer: x -> diag(1/r) W x + b."""

from __future__ import annotations

from torch import Tensor, nn

from certify.layers.effective import EffectiveLinear, precise
from certify.layers.rescaling import inverse_or_zero, make_rescaling, per_row


class LipschitzLinear(EffectiveLinear):
    """`torch.nn.Linear` with rows divided by scales that make it 1-Lipschitz in l2 (`certify.layers.rescaling`).

    Args:
        in_features: Columns of W.
        out_features: Rows of W.
        bias: Whether there is a b; it does not matter for the constant.
        law: "aol", "sll", "sr", "spectral", or a module from a weight to its row scales.

    Example:
        >>> from certify.norms import enclose
        >>> layer = LipschitzLinear(20, 10, law="sr").eval()
        >>> 0.5 < enclose(layer.effective_weight.detach()).upper <= 1.0001
        True
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, law: str | nn.Module = "sr") -> None:
        super().__init__(in_features, out_features, bias=bias)
        nn.init.orthogonal_(self.weight)
        self.rescaling = make_rescaling(law, out_features)

    @property
    def effective_weight(self) -> Tensor:
        """diag(1/r) W ``[out, in]``."""
        weight = precise(self.weight, training=self.training)
        return (per_row(inverse_or_zero(self.rescaling(weight)), weight) * weight).to(self.weight.dtype)
