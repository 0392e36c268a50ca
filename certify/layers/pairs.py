r"""The last layer of a classifier, where each pair of classes has a Lipschitz constant of its own.

If the body in front of the last layer is L-Lipschitz, the difference of logits F_y - F_j is L ||w_y - w_j||-Lipschitz,
so the class y at x is certified within

    R = min over j != y of (F_y - F_j) / (L ||w_y - w_j||),

which is never below the radius (F_y - F_j) / (sqrt(2) L ||W||) of the whole layer, as ||w_y - w_j|| <= sqrt(2) ||W||.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from certify.layers.effective import EffectiveLinear


def pair_distances(weight: Tensor) -> Tensor:
    """Return ||w_y - w_j|| of all pairs of rows ``[K, K]``: differentiable, for training; 0 on the diagonal.

    Example:
        >>> pair_distances(torch.tensor([[3.0, 0.0], [0.0, 4.0]])).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    differences = weight.unsqueeze(1) - weight.unsqueeze(0)
    squares = differences.square().sum(-1)
    zero = squares == 0.0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squares).sqrt())


class ClassLayer(EffectiveLinear):
    """The last layer with rows of norm 1, bounded per pair of classes: ||w_y - w_j|| <= 2, and near sqrt(2) mostly.

    Example:
        >>> layer = ClassLayer(4, 3)
        >>> bool(((layer.effective_weight.norm(dim=1) - 1.0).abs() < 1e-6).all())
        True
    """

    @property
    def effective_weight(self) -> Tensor:
        """W with its rows divided by their norms ``[classes, in]``."""
        return F.normalize(self.weight, dim=1)

    @property
    def pair_constants(self) -> Tensor:
        """||w_y - w_j|| ``[classes, classes]`` of the effective weight."""
        return pair_distances(self.effective_weight)


def certified_radii(logits: Tensor, pair_constants: Tensor, classes: Tensor | None = None) -> Tensor:
    """Return min over j of (F_c - F_j) / L_cj for each row: a target for training, not a certificate.

    Args:
        logits: ``[N, K]``.
        pair_constants: L_cj ``[K, K]``, body included.
        classes: c ``[N]``; the largest logit's when None.

    Returns:
        ``[N]``; negative where another logit is larger.

    Example:
        >>> certified_radii(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0], [4.0, 0.0]])).item()
        0.5
    """
    chosen = logits.argmax(1) if classes is None else classes
    margins = logits.gather(1, chosen.unsqueeze(1)) - logits
    constants = pair_constants[chosen]
    own = F.one_hot(chosen, logits.shape[1]).bool()
    return torch.where(own, torch.inf, margins / torch.where(own, 1.0, constants)).amin(1)
