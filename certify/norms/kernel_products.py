r"""Gram iteration on the kernel itself: bounds of every input size at once, without frequencies.

With K_0 = K and K_(i+1)[c, c', d] = sum over o, a of K_i[o, c, a] K_i[o, c', a + d] (the full cross-correlation), the
symbol of K_(i+1) is D_i(w)^* D_i(w) up to transposition. So with M = sup ||D(w)||,

    M = (sup ||D_t||)^(1/2^t) <= (max_c sum over c', d of |K_t[c, c', d]|)^(1/2^t),

because D_t(w) is Hermitian and its norm at most its largest row sum. M bounds the convolution for every size, with zero
padding and with circular padding that keeps the size. One step is the bound of almost-orthogonal layers. The kernel
grows to 2^t (k - 1) + 1 taps a side and the cost sixteenfold per step in two dimensions, hence at most three steps:
this is a cross-check of `certify.norms.gram_conv`, by sums over taps where that one has frequencies.

Reference: B. Delattre, Q. Barthelemy, A. Allauzen, Spectral Norm of Convolutional Layers with Circular and Zero
Paddings, arXiv 2402.00240, Theorem 1; B. Prach, C. Lampert, Almost-Orthogonal Layers, arXiv 2208.03160 (one step).
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from certify.norms.geometry import Convolution, Geometry, describe
from certify.norms.gram import Iterate, at_least_float32, halved_to_one
from certify.norms.products import MAPS
from certify.norms.torus import symbol_of

MOST_STEPS = 3


def kernel_product_bound(kernel: Tensor, steps: int = 2, **geometry: Unpack[Geometry]) -> Tensor:
    """Return the row-sum bound of a convolution after ``steps`` kernel products: differentiable, not a certificate.

    In exact arithmetic at least the supremum M of the symbol, hence the l2 norm for every input size. Groups are blocks
    side by side: the largest counts.

    Soundness: none in floats, as for `certify.norms.gram_bound`.

    Args:
        kernel: ``[out, in / groups, *taps]``, 1 to 3 tap dimensions; ``[in, out / groups, *taps]`` if transposed.
        steps: t, 1 to 3.
        **geometry: As the arguments of `certify.norms.enclose_conv`; zero padding, or circular that keeps the size.

    Returns:
        A tensor without dimensions, on the device of ``kernel``.

    Raises:
        ValueError: If ``steps`` is not 1, 2 or 3, the arguments do not fit together, or the padding copies inputs.

    Example:
        >>> [float(kernel_product_bound(torch.tensor([[[1.0, 1.0]]]), steps)) for steps in (1, 2, 3)]
        [2.0, 2.0, 2.0]
    """
    if steps not in range(1, MOST_STEPS + 1):
        raise ValueError(f"expected 1 to {MOST_STEPS} steps, got {steps}: the kernel doubles in size with each")
    conv = describe(at_least_float32(kernel), None, **geometry)
    if conv.mode not in ("zeros", "circular"):
        raise ValueError(f"expected zero or circular padding, got {conv.mode!r}; multiply by `pad_upper` instead")
    iterate = _start(conv)
    for _ in range(steps):
        iterate = _multiplied(iterate)
    sums = iterate.values.abs().flatten(2).sum(2)
    return iterate.unroll(sums).amax()


def _start(conv: Convolution) -> Iterate:
    """Return the stride-1 kernels ``[G, m, n, *taps]`` with n <= m, divided by a power of two for all."""
    with torch.device(conv.kernel.device):
        kernel = symbol_of(conv).kernel
    values, exponent = _normalised(kernel if kernel.shape[2] <= kernel.shape[1] else kernel.transpose(1, 2))
    return Iterate(values, (exponent,))


def _multiplied(iterate: Iterate) -> Iterate:
    """Return the kernels ``[G, n, n, *taps]`` of D^* D."""
    kernels = iterate.values.transpose(1, 2)
    groups, n, _, *taps = kernels.shape
    filters = kernels.flatten(0, 1)  # [G n, m, *taps]
    images = kernels.transpose(0, 1).flatten(1, 2)  # [n, G m, *taps]
    with torch.autocast(kernels.device.type, enabled=False):
        product = MAPS[len(taps)](images, filters, padding=[k - 1 for k in taps], groups=groups)
    values, exponent = _normalised(product.reshape(n, groups, n, *product.shape[2:]).transpose(0, 1))
    return Iterate(values, (*iterate.exponents, exponent))


def _normalised(kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the kernels divided by one power of two 2^e, and e."""
    values, exponent = halved_to_one(kernels.flatten(1))
    return values.reshape(kernels.shape), exponent
