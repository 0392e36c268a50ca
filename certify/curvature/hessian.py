"""Products with the Hessian of the mean cross-entropy over all parameters of a network, on one fixed batch.

By double backward, through `curvlinops` (F. Dangel et al., arXiv 2501.19183; install ``certify-nn[curvature]``). For
ReLU networks it is the Hessian almost everywhere, which misses the kinks; the gap of the smoothed loss does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from certify.errors import InputError

ROWS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class HessianProducts:
    """v -> H v for float64 vectors ``[size]``, V -> H V for matrices ``[size, k]``, whose columns run side by side."""

    operator: Any
    size: int
    dtype: torch.dtype
    device: torch.device

    def __call__(self, v: Tensor) -> Tensor:
        """Return H v, or H V."""
        with _deprecations_of_others():
            product: Tensor = self.operator @ v.to(self.device, self.dtype)
        return product.detach().double().cpu()


@contextmanager
def _deprecations_of_others() -> Iterator[None]:
    """Keep back warnings that torch.jit is deprecated, which packages below use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def require_curvlinops() -> None:
    """Return when Hessian products can be made here; asked before anything long is begun.

    Raises:
        InputError: If curvlinops is not installed.
    """
    try:
        with _deprecations_of_others():
            import curvlinops  # noqa: F401 - whether it is there
    except ImportError as error:
        raise InputError(
            'expected curvlinops for the Hessian of all parameters, got none; pip install "certify-nn[curvature]"'
        ) from error


def hessian_of(
    module: nn.Module, inputs: Tensor, labels: Tensor, *, rows_at_once: int = ROWS_AT_ONCE
) -> HessianProducts:
    """Return products with the Hessian of a network's mean cross-entropy on a batch, in evaluation mode.

    Args:
        module: The network, in evaluation mode, on the device and in the dtype of the inputs; its parameters that
            require gradients are the variables.
        inputs: ``[N, ...]``.
        labels: ``[N]``.
        rows_at_once: Inputs side by side; products are sums over these micro-batches.

    Raises:
        InputError: If curvlinops is not installed, the module is in training mode, or has no parameters.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False).double().eval()
        >>> H = hessian_of(layer, torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0]))
        >>> H(torch.ones(4, dtype=torch.float64)).tolist()  # an input of zeros leaves no curvature
        [0.0, 0.0, 0.0, 0.0]
    """
    require_curvlinops()
    with _deprecations_of_others():
        from curvlinops import HessianLinearOperator
    variables = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if module.training or not variables:
        raise InputError("expected a module in evaluation mode with parameters that require gradients")
    starts = range(0, len(inputs), rows_at_once)
    batches = [(inputs[at : at + rows_at_once], labels[at : at + rows_at_once]) for at in starts]
    operator = HessianLinearOperator(
        module, nn.CrossEntropyLoss(), variables, batches, check_deterministic=False, progressbar=False
    )
    size = sum(parameter.numel() for parameter in variables)
    return HessianProducts(operator, size, variables[0].dtype, variables[0].device)
