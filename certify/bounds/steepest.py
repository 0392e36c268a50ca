r"""Where a network is steepest: a search for inputs with large Jacobian norms. Estimates only, nothing here is proved.

The Jacobian of a ReLU network is constant around almost every input, so its norm has no gradient to follow. A
*difference quotient* over a finite distance has one: with p, q = x +- h v and u the dual vector of f(p) - f(q),

    ||f(p) - f(q)|| / ||p - q||  =  u.(f(p) - f(q)) / (2 h ||v||)

is raised by v along J(p)^T u + J(q)^T u (one step of the power method on the mean Jacobian of the segment) and by x
along J(p)^T u - J(q)^T u. Both need the same one gradient, of p and q side by side. h shrinks from half the distance of
two typical inputs to almost 0, and the quotient becomes ||J(x)||, by then that of a steep place.

Dual vectors, by norm: in l2 u = d / ||d|| and v = g / ||g||; in linf u is the signed unit vector of the largest entry
of d, and v = sign(g), scaled. ||J^T u||_2 (l2) and ||J^T u||_1 (linf) are then at most the operator norm of J.

Reference: the power method for operator norms is D. Boyd, The power method for l^p norms, Linear Algebra and its
Applications 9 (1974).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from certify.errors import InputError
from certify.results import Norm

Network: TypeAlias = Callable[[Tensor], Tensor]
Box: TypeAlias = tuple[float, float] | None
Stay: TypeAlias = Callable[[Tensor], Tensor]

NEAREST = 1e-3  # the last distance and step of an ascent, in units of the first


@dataclass(frozen=True, eq=False)
class Segments:
    """Pairs of inputs x +- h v, ``[B, *input_shape]``, with the quotient of each ``[B]``."""

    x: Tensor
    v: Tensor
    half: float
    quotients: Tensor

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The two inputs of every pair."""
        return self.x + self.half * self.v, self.x - self.half * self.v


def unit_directions(x: Tensor, seed: int) -> Tensor:
    """Return a random direction of l2 norm 1 for each input of a batch; a function of shape and seed."""
    generator = torch.Generator().manual_seed(seed)
    return _unit(torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype), torch.zeros_like(x))


def random_inputs(count: int, shape: tuple[int, ...], *, box: Box, seed: int) -> Tensor:
    """Return random inputs: uniform in the box, else standard normal."""
    generator = torch.Generator().manual_seed(seed)
    if box is None:
        return torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    low, high = box
    return low + (high - low) * torch.rand(count, *shape, generator=generator, dtype=torch.float64)


def typical_distance(points: Tensor) -> float:
    """Return a typical l2 distance of two inputs: the median over neighbours in the batch, else the length of one."""
    apart = (points - points.roll(1, 0)).flatten(1).norm(dim=1) if len(points) > 1 else points.flatten(1).norm(dim=1)
    found = float(apart.median()) if len(apart) else 0.0
    return found if 0.0 < found < math.inf else 1.0


def everywhere(x: Tensor) -> Tensor:
    """Return the inputs as they are: where an ascent may go when nothing limits it."""
    return x


def inside(box: Box) -> Stay:
    """Return what brings inputs back into a box."""
    return everywhere if box is None else lambda x: x.clamp(*box)


def ascend(
    network: Network, x: Tensor, *, norm: Norm, distance: float, steps: int, stay: Stay = everywhere, seed: int = 0
) -> Segments:
    """Return pairs of inputs with large difference quotients near the given ones.

    Args:
        network: Batched inputs to outputs, differentiable.
        x: Where to start, ``[B, *input_shape]``.
        norm: The norm of the quotients.
        distance: The typical l2 distance of two inputs; the pairs begin that far apart, and end `NEAREST` times it.
        steps: Gradients taken.
        stay: What brings x back to where it may be.
        seed: Of the first directions.

    Raises:
        InputError: If PyTorch cannot differentiate the network.

    Example:
        >>> corner = torch.tensor([[-0.5, 0.0]], dtype=torch.float64)  # flat here; 3 (x + y) is steep for x + y > 0
        >>> found = ascend(lambda x: 3.0 * x.sum(1, keepdim=True).relu(), corner, norm="l2", distance=4.0, steps=60)
        >>> round(float(found.quotients[0]), 6) == round(3.0 * 2**0.5, 6)
        True
    """
    v = unit_directions(x, seed)
    half = distance / 2.0
    for step in range(steps):
        shrink = NEAREST ** (step / max(1, steps - 1))
        half = distance / 2.0 * shrink
        rising, tilting, _ = _both_ends(network, x, v, half, norm)
        v = input_direction(rising, v, norm)
        x = stay(x + 0.2 * distance * shrink * _unit(tilting, torch.zeros_like(x)))
    return Segments(x, v, half, _both_ends(network, x, v, half, norm)[2])


def jacobian_gains(
    network: Network, x: Tensor, v: Tensor, *, norm: Norm, half: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Return, per input, a value at most the norm of its Jacobian, and the direction it is attained in.

    The power method: u is the dual vector of f(x + half v) - f(x - half v), v that of g = J(x)^T u, and the value is
    the size of the last g, whatever u is, so that a ``half`` across a kink costs tightness alone. Not a number: 0.

    Raises:
        InputError: If PyTorch cannot differentiate the network.
    """
    gains = torch.zeros(len(x), dtype=x.dtype)
    for _ in range(steps):
        with torch.no_grad():
            up, down = network(torch.cat([x + half * v, x - half * v])).flatten(1).chunk(2)
        g = _gradient(network, x, output_dual(up - down, norm))
        gains = torch.maximum(gains, torch.nan_to_num(vector_size(g, norm), nan=0.0, posinf=0.0))
        v = input_direction(g, v, norm)
    return gains, v


def _both_ends(network: Network, x: Tensor, v: Tensor, half: float, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Return J(p)^T u + J(q)^T u, J(p)^T u - J(q)^T u and the quotient of each pair."""
    ends = torch.cat([x + half * v, x - half * v]).requires_grad_()
    outputs = network(ends).flatten(1)
    up, down = outputs.detach().chunk(2)
    u = output_dual(up - down, norm)
    at_p, at_q = differentiate((torch.cat([u, u]) * outputs).sum(), ends).chunk(2)
    lengths = 2.0 * half * (v.flatten(1).norm(dim=1) if norm == "l2" else v.flatten(1).abs().amax(1))
    rises = (u * (up - down)).sum(1)
    return at_p + at_q, at_p - at_q, torch.nan_to_num(rises / lengths, nan=0.0, posinf=0.0)


def _gradient(network: Network, x: Tensor, u: Tensor) -> Tensor:
    point = x.detach().clone().requires_grad_()
    return differentiate((network(point).flatten(1) * u).sum(), point)


def differentiate(value: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of a scalar; 0 where it does not depend on x.

    Raises:
        InputError: If PyTorch cannot differentiate an operation with such attributes.
    """
    if not value.requires_grad:
        return torch.zeros_like(x)
    try:
        (gradient,) = torch.autograd.grad(value, x, allow_unused=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"expected a network that PyTorch can differentiate, got: {reason}") from error
    return torch.zeros_like(x) if gradient is None else gradient


def output_dual(d: Tensor, norm: Norm) -> Tensor:
    """Return u with u.d = ||d|| and dual norm 1, per row of ``[B, K]``."""
    if norm == "l2":
        return _unit(d, torch.zeros_like(d))
    largest = d.abs().argmax(1, keepdim=True)
    return torch.zeros_like(d).scatter_(1, largest, d.gather(1, largest).sign())


def input_direction(g: Tensor, before: Tensor, norm: Norm) -> Tensor:
    """Return v of l2 norm 1 along the dual vector of each row of g; ``before`` where g is 0 or not finite."""
    return _unit(g if norm == "l2" else g.sign(), before)


def vector_size(g: Tensor, norm: Norm) -> Tensor:
    """Return the dual norm of each row of J^T u, ``[B]``: a value at most ||J|| when u has dual norm 1."""
    rows = g.flatten(1)
    if norm == "linf":
        return rows.abs().sum(1)
    largest = rows.abs().amax(1)  # first: squares of large and small numbers are infinite and 0
    scale = torch.where((largest > 0.0) & torch.isfinite(largest), largest, 1.0)
    lengths: Tensor = scale * (rows / scale.unsqueeze(1)).norm(dim=1)
    return lengths


def _unit(t: Tensor, otherwise: Tensor) -> Tensor:
    """Return each row scaled to l2 norm 1; rows that are 0 or not finite become ``otherwise``."""
    largest = _per_row(t.flatten(1).abs().amax(1), t)
    usable = (largest > 0.0) & torch.isfinite(largest)
    scaled = t / torch.where(usable, largest, 1.0)  # first: squares of subnormals are 0
    lengths = _per_row(scaled.flatten(1).norm(dim=1), t)
    return torch.where(usable, scaled / lengths, otherwise)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))
