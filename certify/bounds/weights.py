"""The rows of a file that has weights but no architecture: each tensor as the linear map it most likely is.

Nothing is composed: without a graph there is no bound of the network. Stride, groups, dilation and input size are
unknown, and the bound of a convolution here holds for all of them, with zero or circular padding of the same size: a
stride drops outputs, groups keep blocks of the map, dilation does not change the supremum of the symbol. A transposed
convolution is the adjoint of one. The lower end depends on the geometry and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from certify.bounds.facts import check_finite
from certify.norms import enclose, enclose_conv
from certify.results import LayerRow


def weight_rows(tensors: Mapping[str, Tensor]) -> tuple[LayerRow, ...]:
    """Return one row per tensor: l2 bounds of matrices and kernels, the others without a norm.

    Raises:
        InputError: If a tensor is not finite.

    Example:
        >>> rows = weight_rows({"fc.weight": torch.eye(3), "fc.bias": torch.zeros(3)})
        >>> [(row.name, row.upper is not None) for row in rows]
        [('fc.weight', True), ('fc.bias', False)]
    """
    check_finite(tensors)
    return tuple(_weight_row(name, tensor) for name, tensor in tensors.items())


def _weight_row(name: str, tensor: Tensor) -> LayerRow:
    upper, lower, kind, method = _bound(tensor)
    return LayerRow(name=name, kind=kind, shape=tuple(tensor.shape), upper=upper, lower=lower, method=method)


def _bound(tensor: Tensor) -> tuple[float | None, float | None, str, str]:
    if not tensor.is_floating_point():
        return None, None, "tensor", f"no norm: {str(tensor.dtype).removeprefix('torch.')} is not a floating type"
    if tensor.dim() == 2:
        found = enclose(tensor.to(torch.float64))
        return found.upper, found.lower, "matrix", found.method
    if 3 <= tensor.dim() <= 5:
        found = enclose_conv(tensor.to(torch.float64), None)
        return found.upper, None, "kernel", f"{found.method}; any size, stride, groups; zero or circular padding"
    return None, None, "tensor", f"no norm: {tensor.dim()} dimensions"
