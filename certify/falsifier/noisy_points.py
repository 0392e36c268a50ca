r"""Inputs near a smoothed certificate where the noisy vote is likely to be lost. A guess; `noisy_votes` decides.

The vote g(x) = argmax_k P(f(x + noise) = k) has no gradient, its soft form has: with m noisy copies of an input and p
the mean of their softmax outputs, steps go up along the gradient of -log p_y (expectation over transformations), as in
SmoothAdv: H. Salman et al., Provably robust deep learning via adversarially trained smoothed classifiers, NeurIPS 2019,
arXiv:1906.04584, Section 2.2. The noise of the guess is Gaussian under every law, with its standard deviation.

On a grid of 8-bit pixels the certificate speaks of grid points alone. The way found is then stretched or shortened
until its rounding to the grid lies strictly inside the ball, in integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.bounds.evaluated import exact_point
from certify.bounds.steepest import Box, Network, differentiate
from certify.examples import Example
from certify.falsifier.balls import Balls
from certify.falsifier.exactly import exact_example, is_inside, is_nearer
from certify.results import SmoothingNorm

STRETCHES = 40
LONGEST = 1.3  # rounding to the grid may shorten a step
ORDERS: Mapping[SmoothingNorm, int] = {"l1": 1, "l2": 2}


def lose_vote(
    network: Network, balls: Balls, labels: Tensor, *, sigma: float, steps: int, noises: int, seed: int
) -> Tensor:
    """Return, per ball, the input where the noisy copies give the class the smallest mean probability.

    Args:
        network: Inputs to logits, differentiable, float64 in and out.
        balls: The certificates.
        labels: Their classes.
        sigma: Standard deviation of the noise.
        steps: Gradient steps; step k of K is 2 (1 - k/K) / 3 of the radius.
        noises: Noisy copies per step.
        seed: Of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    points = balls.centres
    for step in range(steps):
        shape = (len(points), noises, *points.shape[1:])
        noise = sigma * torch.randn(shape, generator=generator, dtype=torch.float64)
        gradient = torch.cat([_gradient(network, *each) for each in zip(points, noise, labels, strict=True)])
        points = balls.descend(points, gradient, 2.0 * (1.0 - step / steps) / 3.0)
    return points


def _gradient(network: Network, point: Tensor, noise: Tensor, label: Tensor) -> Tensor:
    """Return the gradient of log p_y at one input, ``[1, *input_shape]``."""
    x = point.detach().clone().requires_grad_()
    found = network(x + noise).softmax(1).mean(0)[label].clamp_min(1e-300).log()
    return differentiate(found, x).unsqueeze(0)


def placed(
    example: Example, point: Tensor, radius: float, box: Box, *, on_grid: bool, norm: SmoothingNorm = "l2"
) -> Example | None:
    """Return the input as an example strictly inside ball and domain, or None when there is none on that way.

    Args:
        example: The certified example.
        point: The input found, float64 ``[*input_shape]``.
        radius: The certified radius.
        box: The declared range.
        on_grid: Whether the certificate speaks of 8-bit grid points alone.
        norm: That of the radius.

    Example:
        >>> image = Example(0, "a", 0, np.array([100, 100], dtype=np.uint8))
        >>> placed(image, torch.tensor([0.9, 100 / 255]).double(), 3 / 255, None, on_grid=True).stored.tolist()
        [102, 100]
    """
    stored = _nearest_on_grid(example, point, radius, norm) if on_grid else point.detach().double().numpy()
    if stored is None:
        return None
    found = Example(example.index, f"{example.id} attacked", example.label, stored)
    if not is_inside(torch.from_numpy(found.values()), box):
        return None
    exact = exact_example(found) if on_grid else exact_point(torch.from_numpy(found.values()))
    return found if is_nearer(exact_example(example), exact, radius, norm) else None


def _nearest_on_grid(example: Example, point: Tensor, radius: float, norm: SmoothingNorm) -> NDArray[np.uint8] | None:
    """Return the first rounding strictly inside the ball of the way stretched by `LONGEST` and less."""
    order = ORDERS[norm]
    start = example.stored.astype(np.float64)
    way = 255.0 * point.detach().double().numpy() - start
    way *= min(1.0, 255.0 * radius / max(float(np.linalg.norm(way.ravel(), ord=order)), 1e-300))
    for k in range(STRETCHES, 0, -1):
        pixels = np.clip(np.rint(start + LONGEST * k / STRETCHES * way), 0, 255).astype(np.int64)
        apart = int((np.abs(pixels - example.stored.astype(np.int64)) ** order).sum())
        if apart and Fraction(apart) < (255 * Fraction(radius)) ** order:
            return pixels.astype(np.uint8)
    return None
