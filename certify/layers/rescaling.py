r"""One positive number per output row (channel) that makes a layer 1-Lipschitz: T with W W^T <= T, T diagonal.

**Statement.** Let W be a matrix, q > 0 a vector, t >= 1, P = (W W^T)^(2^(t-1)) and

    T_i = ( sum_j |P_ij| q_j / q_i )^(2^(1-t)),    r_i = sqrt(T_i).

Then W W^T <= T in the order of symmetric matrices, so diag(1/r) W has norm at most 1.

*Proof.* diag(sum_j |P_ij| q_j / q_i) - P is similar, by diag(q), to a matrix that is diagonally dominant by rows with a
non-negative diagonal, and symmetric: by Gershgorin's theorem it is positive semidefinite, P <= diag(s). The map
x -> x^theta is operator monotone for 0 <= theta <= 1 (Loewner and Heinz): W W^T = P^theta <= diag(s)^theta = T for
theta = 2^(1-t). And ||diag(1/r) W||^2 = lambda_max(T^(-1/2) W W^T T^(-1/2)) <= 1. []

A row of zeros has r_i = 0; 1/0 := 0 there. t = 1, q = 1 is "aol", t = 1 with a learned q "sll", t > 1 "sr"; t to
infinity is division by the spectral norm, "spectral", for which r_i = s for any s >= ||W||.

**Convolutions.** P is a convolution too, by the kernel K_1[o, o', d] = sum over c, a of K[o, c, a] K[o', c, a + d], and
so on; the sums run over o' and d. They are those of the infinite convolution, which are at least those of every part of
it and of every periodic one: they hold for zero padding of any amount, for circular padding that keeps the size, and
for every stride and dilation (a stride drops rows, a dilation moves entries). They do *not* hold for padding that
copies inputs: a 3 x 3 mean has r = 1 and, with reflect padding at 6 x 6, norm 1.077. Groups are matrices side by side.

Sources: B. Prach, C. Lampert, arXiv 2208.03160 (aol); A. Araujo et al., arXiv 2303.03169 (sll); B. Delattre,
Q. Barthelemy, A. Allauzen, arXiv 2402.00240 (sr).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.norms import gram_bound, gram_bound_conv

CONVOLUTIONS: Mapping[int, Callable[..., Tensor]] = MappingProxyType({3: F.conv1d, 4: F.conv2d, 5: F.conv3d})
GRAM_STEPS = 8


def row_scales(weight: Tensor, steps: int = 1, *, log_q: Tensor | None = None, groups: int = 1) -> Tensor:
    """Return r_i = sqrt(T_i) of every output row: differentiable, for training.

    Soundness: ||diag(1/r) W|| <= 1 in exact arithmetic; in floats it may exceed 1 by rounding. Certificates use
    `certify.norms.enclose` on the stored weight.

    Args:
        weight: ``[rows, columns]``, or a kernel ``[rows, columns / groups, *taps]`` with 1 to 3 tap dimensions.
        steps: t; each doubles the exponent. A kernel grows to 2^t (k - 1) + 1 taps a side and each step costs about
            sixteen times the last in two dimensions.
        log_q: ln q ``[rows]``; None for q = 1.
        groups: Groups of the convolution.

    Returns:
        ``[rows]``; 0 for a row of zeros, with gradient 0.

    Raises:
        ValueError: If the shapes do not fit or ``steps`` is below 1.

    Example:
        >>> weight = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        >>> row_scales(weight).tolist(), row_scales(torch.ones(2, 2)).tolist()  # the norms are 4 and 2
        ([3.0, 4.0], [2.0, 2.0])
    """
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}")
    if (weight.dim() > 2 and weight.dim() not in CONVOLUTIONS) or weight.dim() < 2:
        raise ValueError(f"expected a matrix or a kernel with 1 to 3 tap dimensions, got shape {tuple(weight.shape)}")
    if weight.shape[0] % groups:
        raise ValueError(f"expected rows that {groups} groups divide, got {weight.shape[0]}")
    product, logarithm = weight, weight.new_zeros(())
    for _ in range(steps):
        size = product.detach().norm()
        size = torch.where(size > 0.0, size, 1.0)
        product = _times_own_adjoint(product / size, groups)
        logarithm = 2.0 * (logarithm + size.log())
    sums = _weighted_sums(product.abs().flatten(2).sum(2) if weight.dim() > 2 else product.abs(), log_q, groups)
    zero = sums == 0.0
    roots = ((torch.where(zero, 1.0, sums).log() + logarithm) / 2.0**steps).exp()
    return torch.where(zero, 0.0, roots)


def _times_own_adjoint(M: Tensor, groups: int) -> Tensor:
    """Return M M^T, or the kernel of a convolution times its adjoint, by groups: ``[rows, rows / groups, ...]``."""
    if M.dim() == 2:
        return M @ M.mT
    rows, columns, *taps = M.shape
    each = rows // groups
    side_by_side = M.reshape(groups, each, columns, *taps).transpose(0, 1).flatten(1, 2)
    found = CONVOLUTIONS[M.dim()](side_by_side, M, padding=[k - 1 for k in taps], groups=groups)
    return found.reshape(each, groups, each, *found.shape[2:]).transpose(0, 1).flatten(0, 1)


def _weighted_sums(sizes: Tensor, log_q: Tensor | None, groups: int) -> Tensor:
    """Return sum_j sizes_ij q_j / q_i for ``sizes`` ``[rows, rows / groups]``."""
    if log_q is None:
        return sizes.sum(1)
    each = log_q.reshape(groups, -1)
    ratios = (each.unsqueeze(1) - each.unsqueeze(2)).exp()  # [groups, i, j] = q_j / q_i
    return (sizes * ratios.flatten(0, 1)).sum(1)


class RowRescaling(nn.Module):
    """r_i by weighted row sums of a power of W W^T: laws "aol", "sll" and "sr".

    Args:
        rows: Output rows (channels) of the layer.
        steps: t.
        learned: Whether ln q is a parameter.
    """

    def __init__(self, rows: int, steps: int = 1, *, learned: bool = False) -> None:
        super().__init__()
        self.steps = steps
        self.log_q = nn.Parameter(torch.zeros(rows)) if learned else None

    def forward(self, weight: Tensor, groups: int = 1) -> Tensor:
        """Return r ``[rows]`` of a weight, in the dtype of the weight."""
        log_q = None if self.log_q is None else self.log_q.to(weight.dtype)
        return row_scales(weight, self.steps, log_q=log_q, groups=groups)


class NormRescaling(nn.Module):
    """r_i = s, one bound of the spectral norm from above for all rows, by the Gram iteration: law "spectral".

    Never a power iteration, which approaches the norm from below: a block normalised with 0.9 of the norm has constant
    1.469. For convolutions the bound holds for every size, with zero padding and circular padding that keeps the size.
    """

    def __init__(self, rows: int, steps: int = GRAM_STEPS) -> None:
        super().__init__()
        self.rows, self.steps = rows, steps

    def forward(self, weight: Tensor, groups: int = 1) -> Tensor:
        """Return r ``[rows]`` of a weight, in the dtype of the weight."""
        if weight.dim() == 2:
            norm = gram_bound(weight, self.steps)
        else:
            norm = gram_bound_conv(weight, None, steps=self.steps, groups=groups)
        return norm.expand(self.rows)


LAWS: Mapping[str, Callable[[int], nn.Module]] = MappingProxyType(
    {
        "aol": RowRescaling,
        "sll": lambda rows: RowRescaling(rows, learned=True),
        "sr": lambda rows: RowRescaling(rows, steps=2, learned=True),
        "spectral": NormRescaling,
    }
)


def make_rescaling(law: str | nn.Module, rows: int) -> nn.Module:
    """Return the rescaling of a law by name, or the module that was given.

    Raises:
        ValueError: If there is no such law.

    Example:
        >>> make_rescaling("aol", 2)(2.0 * torch.eye(2, dtype=torch.float64)).tolist()
        [2.0, 2.0]
    """
    if isinstance(law, nn.Module):
        return law
    if law not in LAWS:
        raise ValueError(f"expected a law of {', '.join(LAWS)} or a module, got {law!r}")
    return LAWS[law](rows)


def inverse_or_zero(r: Tensor) -> Tensor:
    """Return 1/r, and 0 where r = 0, with gradient 0 there.

    Example:
        >>> inverse_or_zero(torch.tensor([2.0, 0.0])).tolist()
        [0.5, 0.0]
    """
    zero = r == 0.0
    return torch.where(zero, 0.0, 1.0 / torch.where(zero, 1.0, r))


def per_row(r: Tensor, weight: Tensor) -> Tensor:
    """Return ``r`` ``[rows]`` shaped to multiply the rows of ``weight``."""
    return r.reshape(-1, *[1] * (weight.dim() - 1))
