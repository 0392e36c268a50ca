r"""Multipliers in closed form, read off the registers on the way forward: one pass, no search.

For an activation with the matrix M on its rows U that have a range of slopes, and for each of a few shapes F > 0,

    D = 2 l F,  l = max over frequencies of lmax(F^{-1/2} M_UU F^{-1/2}),   F_c = (max over frequencies of M_cc)^g.

D - M_UU >= l F > 0, so all of them are feasible. With g = 0 and slopes [0, 1] this is the closed form of ECLipsE-Fast,
P = l^2 (2 l I - M)^{-1} (Xu and Sivaranjani, NeurIPS 2024, arXiv 2404.04375); g = 1/4 and 1/2 give rows of
small variance smaller multipliers, which helps where channels differ. The shape "product" is

    D_j = lmax(M) (1 + |B_j| / C_j),   for which   P <= lmax(M) diag(max(|a_j|, |b_j|)^2):

the bracket increases with M, M <= lmax(M) I, and for M = m I and this D its entries are
B^2 (m + m^2 / (D - m)) + C^2 D = m (B^2 + |B| C + C^2 + |B| C) = m (|B| + C)^2. So that chain never exceeds the product
of norms and slopes (up to the slack that keeps B = 0 feasible).

A crop has the shape F = Mbar^(2 g), Mbar the mean of M over frequencies: where M is the same at all frequencies,
g = 1/2 loses nothing. Max-pooling takes the least delta = l F; a join t = sqrt(lmax(P_w) / lmax(P_v)), which gives the
square of the sum of both norms; and linf the q with the least trace of the first matrix, q_j ~ the norm of column j.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from certify.bounds.covariance.moves import full
from certify.bounds.covariance.spectrum import largest_value, mean
from certify.bounds.covariance.steps import Activate, Join, Linear, Mask, Multipliers, Plan, Pool, Start
from certify.bounds.covariance.trial import Pass, Trial

Shape: TypeAlias = float | Literal["product"]
SHAPES: tuple[Shape, ...] = (0.0, 0.25, 0.5, "product")

TINY = 2.0**-20
SLACK = 1 + 1e-9
WIDER = 1.02


def closed_forms(plan: Plan) -> Iterator[Multipliers]:
    """Yield the multipliers of every shape that is feasible for the plan."""
    trial = Trial(plan)
    for shape in SHAPES:
        made = start(trial, shape)
        if made.feasible:
            yield made.multipliers


def start(trial: Trial, shape: Shape) -> Pass:
    """Return the forward pass with the closed form of one shape at every step."""
    return trial.run(lambda position, read: multiplier(trial, position, read, shape), lean=True)


def multiplier(trial: Trial, position: int, read: tuple[Tensor, ...], shape: Shape) -> Tensor:
    """Return the closed form of one step.

    Args:
        trial: The plan.
        position: A step with a multiplier.
        read: The registers it reads.
        shape: The exponent g, or "product".
    """
    step = trial.plan.steps[position]
    return _FORMS[type(step)](trial, step, tuple(full(register) for register in read), shape)


def _of_activation(trial: Trial, step: Activate, read: tuple[Tensor, ...], shape: Shape) -> Tensor:
    U = step.unstable
    M = read[0] if bool(U.all()) else read[0][:, U][:, :, U]
    if shape == "product":
        lower, upper = trial.cast(step.lower[U]), trial.cast(step.upper[U])
        share = ((upper + lower).abs() / (upper - lower)).clamp(min=TINY)
        whole = read[0] if len(M) > 1 or M.shape[-1] < read[0].shape[-1] else M
        return (_positive(largest_value(whole)) * SLACK) * (1 + share)
    return _scaled(M, shape, 2.0)


def _scaled(M: Tensor, power: float, factor: float) -> Tensor:
    """Return factor l F for the diagonal shape F_c = (max of M_cc)^power."""
    if power == 0:
        return M.real.new_full((M.shape[-1],), factor * _positive(largest_value(M)))
    entries = M.diagonal(dim1=1, dim2=2).real.amax(0)
    shape = entries.clamp(min=_positive(float(entries.max())) * TINY) ** power
    root = shape.rsqrt()
    return shape * (factor * _positive(largest_value(root[:, None] * M * root)))


def _positive(value: float) -> float:
    return max(value, 1e-200)


def _of_crop(trial: Trial, step: Mask, read: tuple[Tensor, ...], shape: Shape) -> Tensor:
    M = read[0][:, step.rows[:, None], step.rows]
    average = mean(M.real, trial.weights_of(step.sides))
    values, vectors = torch.linalg.eigh(average)
    power = 0.0 if shape == "product" else 2 * shape
    powers = values.clamp(min=_positive(float(values[-1])) * TINY) ** power
    root = (vectors * powers.rsqrt()).to(M.dtype)
    scale = 2 * _positive(largest_value(root.mH @ M @ root))
    crop: Tensor = (vectors * (scale * powers)) @ vectors.mT
    return crop


def _of_pool(_trial: Trial, _step: Pool, read: tuple[Tensor, ...], shape: Shape) -> Tensor:
    M = read[0]
    delta = _scaled(M, 0.0 if shape == "product" else shape, SLACK)
    while bool(torch.linalg.cholesky_ex(torch.diag(delta).to(M.dtype) - M)[1].any()):
        delta = delta * WIDER
    return delta


def _of_join(_trial: Trial, _step: Join, read: tuple[Tensor, ...], _shape: Shape) -> Tensor:
    first, second = (_positive(largest_value(register)) for register in read)
    return read[0].real.new_tensor([(second / first) ** 0.5])


def _of_start(trial: Trial, step: Start, _read: tuple[Tensor, ...], _shape: Shape) -> Tensor:
    position = trial.plan.steps.index(step)
    q = trial.weights_of(()).new_ones(step.rows)
    for reader in trial.plan.steps:
        if isinstance(reader, Linear) and reader.source == position:
            matrix = trial.cast(reader.matrix)
            squares = mean(matrix.abs().square().sum(1), trial.weights_of(step.sides))
            q = squares.sqrt().clamp(min=_positive(float(squares.max()) ** 0.5) * TINY)
    return q / (step.pixels * q.sum())


_FORMS: Mapping[type, Callable[[Trial, Any, tuple[Tensor, ...], Shape], Tensor]] = MappingProxyType(
    {Start: _of_start, Activate: _of_activation, Mask: _of_crop, Pool: _of_pool, Join: _of_join}
)
