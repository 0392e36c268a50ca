r"""How steep the network is at listed inputs: measured, so from below, and certificates of nothing.

For logits with Jacobian J and the cross-entropy l, grad_x l = J^T (p - e_y), so ||grad_x l|| <= sqrt(2) ||J|| <=
sqrt(2) L for an L-Lipschitz network: a gradient above sqrt(2) times a proved bound disproves it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def gradient_norms(predict: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
    """Return ||grad_x l|| of each example, float64 ``[N]``.

    Example:
        >>> W = torch.tensor([[1.0], [-1.0]])  # p = (1/2, 1/2) at 0: the gradient is -1/2 - 1/2
        >>> gradient_norms(lambda x: x @ W.T, torch.zeros(1, 1), torch.tensor([0])).item()
        1.0
    """
    x = inputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(predict(x), labels, reduction="sum")
        (gradients,) = torch.autograd.grad(loss, x)
    norms: Tensor = gradients.double().flatten(1).norm(dim=1)
    return norms


def jacobian_norms(predict: Callable[[Tensor], Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spectral and the Frobenius norm of the logits' Jacobian at each example, float64 ``[N]`` each.

    Example:
        >>> W = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        >>> [norm.item() for norm in jacobian_norms(lambda x: x @ W.T, torch.zeros(1, 2))]
        [4.0, 5.0]
    """
    x = inputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = predict(x)
        rows = [
            torch.autograd.grad(logits[:, k].sum(), x, retain_graph=True)[0].double().flatten(1)
            for k in range(logits.shape[1])
        ]
    J = torch.stack(rows, dim=1)
    gram = J @ J.mT  # [N, K, K]: small where the input is large
    return torch.linalg.eigvalsh(gram)[:, -1].clamp(min=0.0).sqrt(), J.flatten(1).norm(dim=1)
