r"""Losses that train a network towards certificates. Values of them are targets, never certificates.

Notation: logits F ``[N, K]``, label y, margins m_j = F_y - F_j, constants L_yj of the differences F_y - F_j (sqrt(2) L
for a network of Lipschitz constant L; L_body ||w_y - w_j|| per pair), a radius rho; an example is *certified at rho*
iff m_j > rho L_yj for all j != y.

**Statement.** Both cross-entropies below, CE of the shifted logits, are at least ln 2 at every example that is not
certified at rho. So the share of examples that are not is at most the mean loss over (temperature) ln 2, on the data
it was computed on.

*Proof.* Such an example has a j with F_y - rho L_yj <= F_j: after the shift some logit is at least that of the label,
so its softmax is at most 1/2 and CE = -ln of it at least ln 2, whatever the temperature. []
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from certify.layers.pairs import certified_radii


def margin_cross_entropy(
    logits: Tensor, labels: Tensor, *, radius: float, lipschitz: float | Tensor = 1.0, temperature: float = 1.0
) -> Tensor:
    """Return temperature * CE((F - sqrt(2) L rho e_y) / temperature): the label's logit must win by its margin.

    A small temperature stops rewarding margins beyond the radius sooner.

    Args:
        logits: ``[N, K]``.
        labels: ``[N]``.
        radius: rho, in the units of the input.
        lipschitz: L of all logits together.
        temperature: Positive.

    Returns:
        The mean, without dimensions.

    Example:
        >>> logits, label = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
        >>> margin_cross_entropy(logits, label, radius=0.7072).item() > math.log(2.0)  # certified up to 1 / sqrt(2)
        True
    """
    shift = math.sqrt(2.0) * lipschitz * radius
    shifted = logits - shift * F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return temperature * F.cross_entropy(shifted / temperature, labels)


def pairwise_cross_entropy(
    logits: Tensor, labels: Tensor, *, radius: float, pair_constants: Tensor, temperature: float = 1.0
) -> Tensor:
    """Return temperature * CE((F_j + rho L_yj) / temperature): each other class gets the lead it could gain.

    Args:
        logits: ``[N, K]``.
        labels: ``[N]``.
        radius: rho, in the units of the input.
        pair_constants: L_yj ``[K, K]``, 0 on the diagonal (`certify.layers.pair_distances` times the body's constant).
        temperature: Positive.

    Returns:
        The mean, without dimensions; differentiable in the constants too.

    Example:
        >>> logits, label = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
        >>> constants = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
        >>> round(pairwise_cross_entropy(logits, label, radius=0.5, pair_constants=constants).item(), 4)  # ln 2
        0.6931
    """
    shifted = logits + radius * pair_constants[labels]
    return temperature * F.cross_entropy(shifted / temperature, labels)


def certificate_hinge(logits: Tensor, labels: Tensor, *, radius: float, pair_constants: Tensor) -> Tensor:
    """Return the mean of max(0, rho - min_j m_j / L_yj): 0 iff every example of the batch is certified at rho.

    Example:
        >>> logits, label = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
        >>> constants = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
        >>> certificate_hinge(logits, label, radius=0.75, pair_constants=constants).item()
        0.25
    """
    return torch.relu(radius - certified_radii(logits, pair_constants, labels)).mean()


def with_abstention(logits: Tensor, *, radius: float, pair_constants: Tensor) -> Tensor:
    """Return the logits with one more: it is the largest iff the predicted class is not certified at ``radius``.

    The new logit is max over j != c of F_j + rho L_cj, c the *predicted* class (the label is not read). Where it equals
    the largest of the others there is no certificate either: count a tie as an abstention.

    Example:
        >>> constants = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
        >>> with_abstention(torch.tensor([[1.0, 0.0]]), radius=0.25, pair_constants=constants).tolist()
        [[1.0, 0.0, 0.5]]
    """
    chosen = logits.argmax(1)
    reached = logits + radius * pair_constants[chosen]
    own = F.one_hot(chosen, logits.shape[1]).bool()
    extra = reached.masked_fill(own, -torch.inf).amax(1, keepdim=True)
    return torch.cat([logits, extra], dim=1)
