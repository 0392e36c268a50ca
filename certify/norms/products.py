r"""A convolution as a map: its products, and the lower bound they prove.

The products run as direct sums (PyTorch has no transformed convolution for float64 on the CPU), so an output of
``ci * taps`` terms errs by at most that gamma times the same convolution of the magnitudes. Padding copies, exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from certify.norms.conv_gram import sides
from certify.norms.geometry import Axis, Convolution, wrap
from certify.norms.vectors import lanczos, product_lower, start_vector

MAPS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
ADJOINTS = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
STEPS = 40


def apply(conv: Convolution, kernel: Tensor, x: Tensor) -> Tensor:
    """Return the image ``[G, co, *outputs]`` of ``x`` ``[G, ci, *size]`` under a kernel of the geometry of ``conv``."""
    axes = conv.axes
    pads = [width for axis in reversed(axes) for width in (axis.before, axis.after + axis.stride)]
    if conv.mode != "zeros":
        pads = [width for axis in reversed(axes) for width in (axis.before, axis.after)]
    mode = "constant" if conv.mode == "zeros" else conv.mode
    padded = functional.pad(x.flatten(0, 1)[None], pads, mode=mode)
    image = MAPS[len(axes)](
        padded,
        kernel.flatten(0, 1),
        stride=tuple(axis.stride for axis in axes),
        dilation=tuple(axis.dilation for axis in axes),
        groups=kernel.shape[0],
    )
    kept: Tensor = image[0].reshape(*kernel.shape[:2], *image.shape[2:])
    for place, axis in enumerate(axes):
        kept = kept.narrow(2 + place, 0, axis.known_outputs)
    return kept


def adjoint(conv: Convolution, kernel: Tensor, y: Tensor) -> Tensor:
    """Return the image ``[G, ci, *size]`` of ``y`` ``[G, co, *outputs]`` under the adjoint map."""
    groups, _, ci = kernel.shape[:3]
    spread = ADJOINTS[len(conv.axes)](
        y.flatten(0, 1)[None],
        kernel.flatten(0, 1),
        stride=tuple(axis.stride for axis in conv.axes),
        dilation=tuple(axis.dilation for axis in conv.axes),
        groups=groups,
    )
    x = spread[0].reshape(groups, ci, *spread.shape[2:])
    for place, axis in enumerate(conv.axes):
        x = _unpad(axis, x, 2 + place)
    return x


def _unpad(axis: Axis, x: Tensor, dim: int) -> Tensor:
    """Add up what the positions of the padded input along one dimension hold for the inputs that they copy."""
    if axis.mode == "zeros":
        first = min(axis.before, x.shape[dim])
        kept = x.narrow(dim, first, min(axis.known_size, x.shape[dim] - first))
        missing = list(kept.shape)
        missing[dim] = axis.known_size - kept.shape[dim]
        return torch.cat([kept, kept.new_zeros(missing)], dim) if missing[dim] else kept
    copied = wrap(torch.arange(x.shape[dim]) - axis.before, axis.known_size, axis.mode)
    shape = list(x.shape)
    shape[dim] = axis.known_size
    return x.new_zeros(shape).index_add_(dim, copied, x)


def vector_lower(conv: Convolution, x: Tensor) -> float:
    """Return the lower bound that the input ``x`` ``[G, ci, *size]`` proves."""
    kernel = conv.kernel
    product = apply(conv, kernel, x)
    return product_lower(product, apply(conv, kernel.abs(), x.abs()), x, kernel[0, 0].numel())


def candidate(
    conv: Convolution, guess: Tensor | None = None, *, steps: int = STEPS, tolerance: float = 1e-4, polish: int = 0
) -> Tensor:
    """Estimate the top right singular vector ``[G, ci, *size]`` by Lanczos steps on the smaller side.

    Args:
        conv: The convolution.
        guess: An input to start from, a random one if None.
        steps: The most steps in float32.
        tolerance: Of their residual, relative to the Ritz value.
        polish: Steps in float64 from what the others found.
    """
    rows, columns = sides(conv)
    kernel = conv.kernel.to(torch.float32)
    if guess is None:
        start = start_vector(1, conv.kernel.shape[0] * min(rows, columns), dtype=torch.float32)
    else:
        single = guess.to(torch.float32)
        start = (single if columns <= rows else apply(conv, kernel, single)).reshape(1, -1)
    vector = lanczos(_normal_map(conv, kernel), start, steps, tolerance=tolerance)[1].double()
    if polish:
        vector = lanczos(_normal_map(conv, conv.kernel), vector, polish)[1]
    inputs, outputs = _shapes(conv)
    return vector.reshape(inputs) if columns <= rows else adjoint(conv, conv.kernel, vector.reshape(outputs))


def _shapes(conv: Convolution) -> tuple[tuple[int, ...], tuple[int, ...]]:
    groups, co, ci = conv.kernel.shape[:3]
    inputs = (groups, ci, *(axis.known_size for axis in conv.axes))
    return inputs, (groups, co, *(axis.known_outputs for axis in conv.axes))


def _normal_map(conv: Convolution, kernel: Tensor) -> Callable[[Tensor], Tensor]:
    """Return A^T A or A A^T, whichever is smaller, as a map of vectors ``[1, n]``."""
    rows, columns = sides(conv)
    inputs, outputs = _shapes(conv)
    if columns <= rows:
        return lambda v: adjoint(conv, kernel, apply(conv, kernel, v.reshape(inputs))).reshape(1, -1)
    return lambda v: apply(conv, kernel, adjoint(conv, kernel, v.reshape(outputs))).reshape(1, -1)
