r"""The Gram iteration: the spectral norm of matrices by squaring, differentiable, on any device.

Let G be ``[..., p, r]`` with r <= p (transposed if need be), singular values sigma_1 >= ... >= sigma_r, G_0 = G and
G_(i+1) = G_i^* G_i. The eigenvalues of A = G_t (t >= 1) are sigma_i^(2^t), so in exact arithmetic

    upper:  sigma_1 <= b_t = ||G_t||_F^(1/2^t),    the Schatten norm of G of order 2^(t+1), falling with t,
            sigma_1 <= w_t = (c + sqrt((r - 1) / r) ||A - c I||_F)^(1/2^t) <= b_t,    c = tr A / r,
    lower:  sigma_1 >= (||A||_F^2 / tr A)^(1/2^t) >= r^(-1/2^(t+1)) b_t.

*Proof.* sum l_i^2 <= l_1 sum l_i gives the lower end, tr A <= sqrt(r) ||A||_F its second half. For w_t let
d_i = l_i - c: they sum to 0, so d_1^2 = (d_2 + ... + d_r)^2 <= (r - 1) (||d||^2 - d_1^2), which is
d_1 <= sqrt((r - 1) / r) ||d||, and ||d|| = ||A - c I||_F; by Cauchy and Schwarz the sum is at most ||A||_F. [] In this
form nothing cancels: w_t is exact, up to rounding, where all singular values are equal, as in orthogonal layers.

*Convergence.* ln(b_t / sigma_1) = 2^-(t+1) ln(sum (sigma_i / sigma_1)^(2^(t+1))): at least squared per step where
sigma_1 is simple, only halved where it has multiplicity m, from ln(m) / 2.

*Gradient.* d b_t / dG = U diag(sigma^(s-1)) V^* / b_t^(s-1), s = 2^(t+1): autograd through the iteration gives it.

*Scaling.* Each iterate is divided by the power of two 2^e that brings its largest magnitude to [1/2, 1), so
||G_i|| = sqrt(2^(e_(i+1)) ||G_(i+1)||) for the divided ones, and b_t is unrolled from the inside,

    b_t = 2^e_0 sqrt(2^e_1 sqrt(2^e_2 ... sqrt(2^e_t ||G_t||_F))):

every number stays near 1, whatever the scale of G and however many steps. (The gradient passes the scale of G itself,
so it loses digits where the weights are near the smallest normal float.) Zero blocks have value 0 and gradient 0.

*What the numbers are.* Floats: they fall below the exact norm on every second matrix in float64 (by ulps) and in
float32 (by up to 1e-7), more under TF32. So nothing here is named an upper bound; `certify.norms.gram_proof` carries
the rounding errors and proves one.

Reference: B. Delattre, Q. Barthelemy, A. Araujo, A. Allauzen, Efficient Bound of Lipschitz Constant for Convolutional
Layers by Gram Iteration, arXiv 2305.16173, Theorems 1 and 3; H. Wolkowicz, G. Styan, Bounds for eigenvalues using
traces, Linear Algebra and its Applications 29 (1980), Theorem 2.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_STEPS = 60  # b_60 exceeds sigma_1 by less than one ulp; more would only let gradients underflow
STEPS = 6


@dataclass(frozen=True, eq=False)
class GramEstimate:
    """Two estimates around the norms of a batch: bounds in exact arithmetic, computed in floats, never certificates."""

    lower_estimate: Tensor
    upper_estimate: Tensor
    steps: int


@dataclass(frozen=True, eq=False)
class Iterate:
    """G_t of a batch divided by powers of two: ``values`` ``[..., p, r]``, and e_0, ..., e_t, each ``[...]``."""

    values: Tensor
    exponents: tuple[Tensor, ...]

    @property
    def squared(self) -> Iterate:
        """The next iterate."""
        product, exponent = halved_to_one(self.values.mH @ self.values)
        return Iterate(product, (*self.exponents, exponent))

    def unroll(self, size: Tensor) -> Tensor:
        """Return s with s^(2^t) = ``size`` in the units of G: 0 where ``size`` is 0, with gradient 0."""
        zero = size == 0
        value = torch.where(zero, 1.0, size)
        for exponent in reversed(self.exponents[1:]):
            value = (value * torch.exp2(exponent)).sqrt()
        return torch.where(zero, 0.0, times_power_of_two(value, self.exponents[0]))


def gram_bound(weight: Tensor, steps: int = STEPS) -> Tensor:
    r"""Return b_t for each matrix of a batch: a differentiable bound for training, not a certificate.

    b_t = ||G_t||_F^(1/2^t) with G_0 = ``weight``, G_(i+1) = G_i^* G_i: at least the spectral norm in exact arithmetic,
    because a Gram matrix squares the spectrum and the Frobenius norm dominates the spectral one.

    Soundness: none in floats (see the module's text). Gates use `certify.norms.enclose`.
    Reference: arXiv 2305.16173, Theorem 1; 2402.00240, Section 3.

    Args:
        weight: ``[..., p, q]``, real or complex; float16 and bfloat16 are computed in float32, autocast or not.
        steps: t. One more squares the excess, or halves it where the largest singular value is repeated.

    Returns:
        ``[...]`` on the device of ``weight``; differentiable, and a map of `torch.func.vmap`. NaN stays NaN.

    Raises:
        ValueError: If ``weight`` is no batch of floating-point matrices, or ``steps`` is negative.

    Example:
        >>> A = torch.diag(torch.tensor([3.0, 4.0]))
        >>> [round(float(gram_bound(A, steps)), 4) for steps in range(5)]
        [5.0, 4.2846, 4.048, 4.0025, 4.0]
    """
    iterate = iterate_gram(weight, steps)
    return iterate.unroll(_frobenius(iterate.values))


def gram_estimate(weight: Tensor, steps: int = STEPS) -> GramEstimate:
    """Return estimates from both sides for each matrix of a batch: min(b_t, w_t), and the trace quotient.

    Args:
        weight: ``[..., p, q]``, real or complex, finite.
        steps: t; at t = 0 the two are ||G||_F and ||G||_F / sqrt(r).

    Raises:
        ValueError: As `gram_bound`, and if an entry is NaN or infinite.

    Example:
        >>> found = gram_estimate(torch.diag(torch.tensor([3.0, 4.0])), steps=3)
        >>> round(float(found.lower_estimate), 3), round(float(found.upper_estimate), 3)
        (3.958, 4.0)
    """
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("expected finite numbers, got NaN or infinity")
    iterate = iterate_gram(weight, steps)
    lower, upper = _ends(iterate)
    return GramEstimate(lower, upper, steps)


def iterate_gram(weight: Tensor, steps: int) -> Iterate:
    """Return G_t of each matrix, at most `MOST_STEPS` steps.

    Raises:
        ValueError: If ``weight`` is no batch of floating-point matrices, or ``steps`` is negative.
    """
    if weight.ndim < 2:
        raise ValueError(f"expected matrices [..., p, q], got shape {tuple(weight.shape)}")
    if steps < 0:
        raise ValueError(f"expected a number of steps of at least 0, got {steps}")
    G = weight if weight.is_complex() else at_least_float32(weight)
    G = G if G.shape[-1] <= G.shape[-2] else G.mH
    if not min(G.shape[-2:]):
        G = G.new_zeros(*G.shape[:-2], 1, 1)
    with torch.autocast(G.device.type, enabled=False):
        values, exponent = halved_to_one(G)
        iterate = Iterate(values, (exponent,))
        for _ in range(min(steps, MOST_STEPS)):
            iterate = iterate.squared
    return iterate


def at_least_float32(weight: Tensor) -> Tensor:
    """Return the same numbers in float32 or float64.

    Raises:
        ValueError: If they are not real floating-point numbers.
    """
    if not weight.is_floating_point():
        raise ValueError(f"expected floating-point numbers, got {weight.dtype}")
    return weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight


def halved_to_one(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return matrices ``[..., p, q]`` divided by 2^e, their largest magnitude in [1/2, 1), and e ``[...]``."""
    exponent = torch.frexp(values.detach().abs().amax((-2, -1))).exponent
    exponent = exponent.to(values.real.dtype if values.is_complex() else values.dtype)
    return times_power_of_two(values, -exponent[..., None, None]), exponent


def times_power_of_two(values: Tensor, exponent: Tensor) -> Tensor:
    """Return ``values`` times 2^e, in two steps: 2^e itself may be no float."""
    half = torch.floor(exponent / 2.0)
    return values * torch.exp2(half) * torch.exp2(exponent - half)


def _ends(iterate: Iterate) -> tuple[Tensor, Tensor]:
    A, r = iterate.values, iterate.values.shape[-1]
    frobenius = _frobenius(A)
    if len(iterate.exponents) == 1:
        return iterate.unroll(frobenius / math.sqrt(r)), iterate.unroll(frobenius)
    trace = A.diagonal(dim1=-2, dim2=-1).sum(-1)
    trace = trace.real if A.is_complex() else trace
    centre = trace / r
    spread = _frobenius(A - centre[..., None, None] * torch.eye(r, dtype=A.dtype, device=A.device))
    moments = centre + math.sqrt((r - 1) / r) * spread
    lower = frobenius.square() / torch.where(trace == 0, 1.0, trace)
    return iterate.unroll(lower), iterate.unroll(torch.minimum(frobenius, moments))


def _frobenius(values: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values, dim=(-2, -1))
    return norm
