r"""Penalties to add to a training loss: pure functions of a callable and a batch. None of them is a certificate.

- *Gram penalty*: sum over layers of max(0, ln b_t(W)), b_t the Gram bound; the logarithm of the product bound where all
  b_t exceed 1. Its gradient is W (W^T W)^(2^t - 1) / b_t^(2^(t+1)); a weight of zeros has penalty and gradient 0.
- *Activation decay*, (sigma^2 / 2) mean ||a||^2 for the input a of the last layer. Statement: for the cross-entropy l
  and Gaussian noise Delta of standard deviation sigma on the entries of the last weight W,

      l(W)  <=  E l(W + Delta)  <=  l(W) + (sigma^2 / 2) ||a||^2,

  with ||a||^2 + 1 if the bias is perturbed too. *Proof.* xi = Delta a is N(0, sigma^2 ||a||^2 I). By Jensen's
  inequality E log sum_k exp(z_k + xi_k) <= log sum_k exp(z_k) E exp(xi_k) = logsumexp(z) + sigma^2 ||a||^2 / 2, and
  E (z_y + xi_y) = z_y. The lower half is convexity in W. [] It speaks of noise on one layer's weights and of the
  training loss: no bound of generalisation, none of robustness.
- *Input gradient*: mean ||grad_x l||^2. For networks with Jacobian J and cross-entropy, grad_x l = J^T (p - e_y), so
  ||grad_x l|| <= sqrt(2) ||J||.
- *Jacobian*: mean ||J||_F^2 = K E ||J^T v||^2 for v uniform on the unit sphere of R^K, estimated with a few v
  (J. Hoffman, D. Roberts, S. Yaida, arXiv 1908.02729).
- *Curvature*: mean ||grad_x l(x + h d) - grad_x l(x)||^2 / h^2 along d, the normalised sign of the gradient
  (S. Moosavi-Dezfooli et al., arXiv 1811.09716).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.norms import gram_bound, gram_bound_conv

GRAM_STEPS = 5


def gram_penalty(module: nn.Module, *, steps: int = GRAM_STEPS, threshold: float = 1.0) -> Tensor:
    """Return the sum of max(0, ln(b_t / threshold)) over the linear layers and convolutions of a module.

    Convolutions are bounded for every input size, with zero padding or circular padding that keeps the size.

    Args:
        module: Its `torch.nn.Linear` and `torch.nn.Conv1d` to ``Conv3d`` count.
        steps: t of the Gram iteration.
        threshold: Norms up to this are free.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> layer.weight = nn.Parameter(torch.diag(torch.tensor([torch.e, 1.0])))
        >>> round(gram_penalty(layer, steps=6).item(), 3)
        1.0
    """
    total = torch.zeros(())
    for part in module.modules():
        if isinstance(part, nn.Linear):
            total = total + _excess(gram_bound(part.weight, steps), threshold)
        elif isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            bound = gram_bound_conv(part.weight, None, steps=steps, groups=part.groups)
            total = total + _excess(bound, threshold)
    return total


def _excess(bound: Tensor, threshold: float) -> Tensor:
    above = bound > threshold
    return torch.where(above, torch.where(above, bound / threshold, 1.0).log(), 0.0)


def activation_decay(activations: Tensor, *, sigma: float, bias: bool = False) -> Tensor:
    """Return (sigma^2 / 2) mean ||a||^2: what Gaussian noise on the last weight can add to the mean cross-entropy.

    Args:
        activations: a ``[N, features]``, the input of the last layer.
        sigma: Standard deviation of the noise on each weight.
        bias: Whether the bias is perturbed too.

    Example:
        >>> activation_decay(torch.tensor([[3.0, 4.0]]), sigma=0.2).item()
        0.5
    """
    squares = activations.flatten(1).square().sum(1) + float(bias)
    return 0.5 * sigma**2 * squares.mean()


def input_gradients(predict: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor) -> Tensor:
    """Return grad_x of the cross-entropy of each example ``[N, ...]``, ready to be differentiated again."""
    inputs = x.detach().requires_grad_()
    loss = F.cross_entropy(predict(inputs), labels, reduction="sum")
    (gradients,) = torch.autograd.grad(loss, inputs, create_graph=True)
    return gradients


def input_gradient_penalty(predict: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor) -> Tensor:
    """Return mean ||grad_x l||^2.

    Example:
        >>> W = torch.tensor([[1.0], [-1.0]])  # at x = 0: p = 1/2 each, so the gradient is W^T (p - e_0) = -1
        >>> input_gradient_penalty(lambda x: x @ W.T, torch.zeros(1, 1), torch.tensor([0])).item()
        1.0
    """
    return input_gradients(predict, x, labels).flatten(1).square().sum(1).mean()


def jacobian_penalty(
    predict: Callable[[Tensor], Tensor], x: Tensor, *, directions: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Return an unbiased estimate of mean ||J||_F^2, J the Jacobian of the logits ``[K, ...]``.

    Example:
        >>> W = torch.eye(2)  # ||J||_F^2 = 2, and every direction says so
        >>> round(jacobian_penalty(lambda x: x @ W.T, torch.zeros(3, 2)).item(), 5)
        2.0
    """
    inputs = x.detach().requires_grad_()
    logits = predict(inputs)
    found = []
    for _ in range(directions):
        v = torch.randn(logits.shape, dtype=logits.dtype, device=logits.device, generator=generator)
        (pulled,) = torch.autograd.grad(logits, inputs, F.normalize(v, dim=1), create_graph=True, retain_graph=True)
        found.append(pulled.flatten(1).square().sum(1).mean())
    return logits.shape[1] * torch.stack(found).mean()


def curvature_penalty(predict: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor, *, step: float = 1.0) -> Tensor:
    """Return mean ||grad_x l(x + h d) - grad_x l(x)||^2 / h^2, d the normalised sign of the gradient, h = ``step``.

    Example:
        >>> flat = lambda x: torch.cat([x, -x], dim=1) * 0.0  # a constant loss is not curved
        >>> curvature_penalty(flat, torch.ones(2, 1), torch.tensor([0, 1])).item()
        0.0
    """
    here = input_gradients(predict, x, labels)
    signs = here.detach().sign().flatten(1)
    direction = F.normalize(signs, dim=1).reshape(x.shape)
    there = input_gradients(predict, x + step * direction, labels)
    return ((there - here).flatten(1).square().sum(1) / step**2).mean()
