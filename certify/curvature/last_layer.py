r"""The Hessian of the cross-entropy in the last weight, in closed form: no differentiation.

For z = W a + b, cross-entropy l, p = softmax(z) and C = diag(p) - p p^T, the Hessian of one example in the entries of W
(row by row) is the Kronecker product C x a a^T. *Reason*: dl = (p - e_y)^T dz, d^2 l = dz^T C dz, and dz = dW a is
linear in W. Hence, for each example,

- largest eigenvalue ||a||^2 lambda_max(C), where lambda_max(C) <= min(1/2, max_k p_k, 1 - ||p||^2): C is symmetric and
  has row sums of absolute values 2 p_k (1 - p_k) <= 1/2; C <= diag(p); and its trace is 1 - ||p||^2;
- trace ||a||^2 (1 - ||p||^2);
- gradient norm ||p - e_y|| ||a|| <= sqrt(2) ||a||.

Over N examples the mean loss has the mean of the traces, and a largest eigenvalue of at most the mean of the largest
ones (`mean_largest` computes it). An L-Lipschitz body has ||a(x)|| <= L ||x - x_0|| + ||a(x_0)||: bounding the body
bounds gradient and curvature of the last layer.

*Noise on the weight.* For Gaussian noise of standard deviation sigma on the entries of W,
l(W) <= E l(W + noise) <= l(W) + (sigma^2 / 2) ||a||^2 (`certify.layers.penalties` has the proof): ``decay_bound``.

*Rounding.* Where p is almost a unit vector, 1 - p_k and p - p^2 would cancel. So 1 - p_k is summed from the other
probabilities, and C u = C (u - u_y 1), y the likeliest class, is what is computed, since C 1 = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certify.curvature.spectrum import RitzValue, largest_eigenvalues


@dataclass(frozen=True, eq=False)
class LastLayerCurvature:
    """The closed forms of each example of a batch, float64 ``[N]``: formulas in floating point, of one batch's loss.

    ``largest`` and ``trace`` are of the Hessian in the last weight, ``gradient`` the norm of its gradient, ``squares``
    ||a||^2. ``decay_bound`` is a number of the whole batch: how much noise on the weight can add to its mean loss.
    """

    largest: Tensor
    trace: Tensor
    gradient: Tensor
    squares: Tensor
    decay_bound: float


def last_layer_curvature(
    activations: Tensor, logits: Tensor, labels: Tensor, *, sigma: float = 0.0
) -> LastLayerCurvature:
    """Return the curvature of the cross-entropy in the last weight, example by example.

    Args:
        activations: a ``[N, features]``, the inputs of the last layer.
        logits: ``[N, K]``.
        labels: ``[N]``.
        sigma: Standard deviation of the noise of ``decay_bound``.

    Raises:
        ValueError: If the shapes do not fit together.

    Example:
        >>> found = last_layer_curvature(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), torch.tensor([0]))
        >>> found.largest.item(), found.trace.item()  # p = (1/2, 1/2): C has the eigenvalues 0 and 1/2
        (12.5, 12.5)
    """
    if activations.dim() != 2 or logits.dim() != 2 or not len(activations) == len(logits) == len(labels) > 0:
        shapes = [tuple(t.shape) for t in (activations, logits, labels)]
        raise ValueError(f"expected activations [N, features], logits [N, K] and labels [N], got {shapes}")
    p = logits.double().softmax(1)
    squares = activations.double().square().sum(1)
    others = _others(p)
    C = -p.unsqueeze(2) * p.unsqueeze(1)
    C.diagonal(dim1=1, dim2=2).copy_(p * others)
    wrong = p.scatter(1, labels.unsqueeze(1), -others.gather(1, labels.unsqueeze(1)))
    return LastLayerCurvature(
        largest=squares * torch.linalg.eigvalsh(C)[:, -1],
        trace=squares * (p * others).sum(1),
        gradient=wrong.norm(dim=1) * squares.sqrt(),
        squares=squares,
        decay_bound=0.5 * sigma**2 * float(squares.mean()),
    )


def _others(p: Tensor) -> Tensor:
    """Return 1 - p_k as the sum of the other probabilities, ``[N, K]``."""
    nothing = torch.eye(p.shape[1], dtype=torch.bool, device=p.device)
    return p.unsqueeze(1).masked_fill(nothing, 0.0).sum(2)


def mean_largest(activations: Tensor, logits: Tensor, *, steps: int = 60, seed: int = 0) -> RitzValue:
    """Return the largest eigenvalue of the mean Hessian in the last weight, by Lanczos on its closed form.

    With V the shape of W: H V = mean over i of (p_i * u_i - p_i (p_i . u_i)) a_i^T, u_i = V a_i.

    Example:
        >>> a = torch.tensor([[3.0, 4.0]])
        >>> round(mean_largest(a, torch.zeros(1, 2)).value, 6)
        12.5
    """
    p, a = logits.double().softmax(1), activations.double()
    shape = (logits.shape[1], activations.shape[1])
    likeliest = p.argmax(1, keepdim=True)

    def product(v: Tensor) -> Tensor:
        u = a @ v.reshape(shape).mT
        u = u - u.gather(1, likeliest)
        weighted = p * u - p * (p * u).sum(1, keepdim=True)
        return (weighted.mT @ a / len(a)).reshape(-1)

    return largest_eigenvalues(product, shape[0] * shape[1], steps=steps, seed=seed)[0]
