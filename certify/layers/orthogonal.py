r"""Orthogonal dense layers by the Cayley transform.

**Statement.** Let A = U - U^T + V^T V with U ``[q, q]`` and V ``[p - q, q]``. Then

    Q = [ (I + A)^-1 (I - A) ;  -2 V (I + A)^-1 ]    ``[p, q]``

has orthonormal columns: Q^T Q = I. With V empty, Q is a rotation.

*Proof.* The symmetric part of I + A is I + V^T V >= I, so I + A is invertible, and its inverse commutes with I - A.
Q^T Q = I then says (I - A)^T (I - A) + 4 V^T V = (I + A)^T (I + A), that is 4 V^T V = 2 (A + A^T), as A was made. []

Source: A. Trockman, J. Z. Kolter, Orthogonalizing Convolutional Layers with the Cayley Transform, arXiv 2104.07167.
"""

from __future__ import annotations

import torch
from torch import Tensor

from certify.layers.effective import EffectiveLinear, precise


def cayley(parameters: Tensor) -> Tensor:
    """Return the orthonormal Q made of ``parameters`` = [U; V], ``[p, q]``; rows are orthonormal when p < q.

    Solved and returned in the dtype of the parameters (half precision is solved in float32); differentiable.

    Raises:
        ValueError: If ``parameters`` is no matrix.

    Example:
        >>> Q = cayley(torch.randn(5, 3, dtype=torch.float64))
        >>> bool((Q.T @ Q - torch.eye(3)).abs().max() < 1e-12)
        True
    """
    if parameters.dim() != 2:
        raise ValueError(f"expected a matrix, got shape {tuple(parameters.shape)}")
    if parameters.shape[0] < parameters.shape[1]:
        return cayley(parameters.mT).mT
    columns = parameters.shape[1]
    wide = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
    U, V = wide[:columns], wide[columns:]
    A, eye = U - U.mT + V.mT @ V, torch.eye(columns, dtype=wide.dtype, device=wide.device)
    both: Tensor = torch.linalg.solve(eye + A, torch.cat([eye - A, -2.0 * V]), left=False)  # X (I + A) = [I - A; -2 V]
    return both.to(parameters.dtype)


class CayleyLinear(EffectiveLinear):
    """`torch.nn.Linear` with an orthonormal weight: 1-Lipschitz in l2, and no direction is shrunk when square or tall.

    Example:
        >>> layer = CayleyLinear(4, 6).eval()
        >>> norms = torch.linalg.svdvals(layer.effective_weight.double())
        >>> bool((norms - 1.0).abs().max() < 1e-6)
        True
    """

    @property
    def effective_weight(self) -> Tensor:
        """The orthonormal Q ``[out, in]``."""
        return cayley(precise(self.weight, training=self.training)).to(self.weight.dtype)
