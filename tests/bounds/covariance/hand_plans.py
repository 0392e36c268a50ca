"""Plans written by hand, of every kind of step; the same recursion on materialised matrices, by explicit inverses."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from certify.bounds.covariance.spectrum import half_spectrum
from certify.bounds.covariance.steps import (
    Activate,
    Bounded,
    Flatten,
    Fold,
    Join,
    Linear,
    Mask,
    Plan,
    Pool,
    Start,
)

NONE = torch.tensor([], dtype=torch.int64)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def slopes(count: int, lower: float = 0.0, upper: float = 1.0) -> dict[str, Tensor]:
    ones = torch.ones(count, dtype=torch.float64)
    return {"lower": lower * ones, "upper": upper * ones}


def dense_chain(weights: list[Tensor], lower: float = 0.0, upper: float = 1.0, norm: str = "l2") -> Plan:
    steps = [Start((), weights[0].shape[1])]
    for weight in weights:
        steps.append(Linear(len(steps) - 1, (), NONE, weight[None].double()))
        if weight is not weights[-1]:
            steps.append(Activate(len(steps) - 1, (), **slopes(len(weight), lower, upper)))
    return Plan(tuple(steps), norm)


def symbol(kernel: Tensor, sides: tuple[int, ...], padding: int, dilation: int = 1) -> Tensor:
    """The symbol of a cross-correlation, ``[F, m, n]``, from its kernel ``[m, n, k...]``."""
    total = 0
    for index in itertools.product(*(range(k) for k in kernel.shape[2:])):
        offset = torch.tensor([dilation * i - padding for i in index])
        angle = (2 * math.pi * half_spectrum(sides).double() / torch.tensor(sides) * offset).sum(1)
        total = (
            total
            + kernel[(..., *index)] * torch.polar(torch.ones_like(angle), angle).to(torch.complex128)[:, None, None]
        )
    return total


def flatten_matrix(weight: Tensor, sides: tuple[int, ...]) -> Tensor:
    """A(w) = sum_x W[:, :, x] exp(i w.x) from W ``[m, n, pixels...]``."""
    return symbol(weight, sides, 0)


def residual_dense() -> Plan:
    g = torch.Generator().manual_seed(3)
    random = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64) / 2  # noqa: E731
    d, h = 4, 5
    lower = torch.cat((torch.ones(d), torch.zeros(h))).double()
    identity = torch.eye(d, dtype=torch.float64)
    return Plan(
        (
            Start((), d),
            Linear(0, (), torch.arange(d), random(1, h, d)),
            Activate(1, (), lower, torch.ones(d + h, dtype=torch.float64)),
            Linear(2, (), NONE, torch.cat((identity, random(d, h)), 1)[None]),
            Activate(3, (), tensor(0, -0.2, 0.5, 0.3), tensor(1, 1, 0.5, 0.9)),
            Linear(4, (), NONE, random(1, 3, d)),
        )
    )


def spatial(kind: str, norm: str = "l2") -> Plan:
    """A small convolutional plan on a torus of 6 x 4 (fine) and 3 x 2 (behind the stride)."""
    g = torch.Generator().manual_seed(7)
    random = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64) / math.sqrt(shape[1] * 4)  # noqa: E731
    fine, coarse = (6, 4), (3, 2)
    first = Linear(0, fine, NONE, symbol(random(3, 2, 3, 3), fine, 1))
    steps = [Start(fine, 2, 12 if norm == "linf" else 1), first, Activate(1, fine, **slopes(3, -0.1, 1.0))]
    joint = torch.cat((symbol(random(2, 3, 1, 1), fine, 0), symbol(random(3, 3, 3, 3), fine, 1)), 1)
    steps.append(Linear(2, fine, NONE, joint))
    steps.append(Fold(3, coarse, (2, 2)))
    lower, upper = tensor(1, 1, 0, 0, 0), tensor(1, 1, 1, 1, 1)
    steps.append(Activate(4, coarse, lower, upper))
    steps.append(
        Linear(
            5,
            coarse,
            torch.tensor([0, 1]),
            symbol(torch.cat((torch.zeros(2, 2, 2, 2), random(2, 3, 2, 2)), 1), coarse, 0),
        )
    )
    if kind == "mask":
        steps.append(Mask(6, coarse, torch.tensor([2, 3])))
    elif kind == "pool":
        steps.append(Pool(6, coarse, 4, 0.9))
    elif kind == "bounded":
        steps.append(Bounded(6, coarse, 4, 1.5))
    elif kind == "join":
        steps.append(Linear(6, coarse, NONE, symbol(random(2, 4, 2, 1), coarse, 0)))
        steps.append(Activate(7, coarse, **slopes(2)))
        steps.append(Join(8, 6, coarse))
    at = len(steps) - 1
    n = 6 if kind == "join" else 4
    steps.append(Flatten(at, coarse, flatten_matrix(random(5, n, 2, 2), coarse)))
    steps.append(Activate(at + 1, (), **slopes(5)))
    steps.append(Linear(at + 2, (), NONE, random(1, 3, 5)))
    return Plan(tuple(steps), norm)


def materialise(blocks: Tensor, sides: tuple[int, ...]) -> np.ndarray:
    """The real block-circulant matrix of a symbol, rows ordered (pixel, channel); dense matrices as they are."""
    if not sides:
        return blocks[0].real.numpy()
    pixels = np.array(list(itertools.product(*(range(side) for side in sides))))
    whole = whole_spectrum(blocks.numpy(), sides)
    differences = pixels[:, None] - pixels[None]
    angles = 2 * np.pi * np.einsum("xyd,wd->xyw", differences / np.array(sides), pixels)
    matrix = np.einsum("xyw,wmn->xmyn", np.exp(1j * angles), whole) / len(pixels)
    assert np.abs(matrix.imag).max() < 1e-10
    m, n = blocks.shape[1:]
    return matrix.real.reshape(len(pixels) * m, len(pixels) * n)


def whole_spectrum(blocks: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    """All frequencies from the stored half: P(-w) = conj P(w)."""
    kept = (*sides[:-1], sides[-1] // 2 + 1)
    whole = []
    for index in itertools.product(*(range(side) for side in sides)):
        if index[-1] < kept[-1]:
            whole.append(blocks[np.ravel_multi_index(index, kept)])
        else:
            mirrored = tuple(-i % side for i, side in zip(index, sides, strict=True))
            whole.append(blocks[np.ravel_multi_index(mirrored, kept)].conj())
    return np.array(whole)


def recursion(plan: Plan, multipliers: dict[int, Tensor]) -> list[np.ndarray]:
    """Every register as one real matrix over all pixels and rows, from the formulas as they are written."""
    made: list[np.ndarray] = []
    for position, step in enumerate(plan.steps):
        made.append(_STEPS[type(step)](plan, step, made, multipliers.get(position)))
    return made


def _pixels(sides: tuple[int, ...]) -> int:
    return math.prod(sides)


def _start(plan, step, made, q):
    diagonal = np.ones(step.rows) if q is None else 1 / q.numpy()
    return np.diag(np.tile(diagonal, _pixels(step.sides)))


def _linear(plan, step, made, _):
    P, count = made[step.source], _pixels(step.sides)
    n = len(P) // count
    blocks = step.matrix.expand(plan.frequencies(step.source), -1, -1)
    G = materialise(blocks, step.sides).reshape(count, -1, count, n)
    keep = np.einsum("xy,kn->xkyn", np.eye(count), np.eye(n)[step.keep.numpy()])
    W = np.concatenate((keep, G), 1).reshape(-1, count * n)
    return W @ P @ W.T


def _fold(plan, step, made, _):
    fine = plan.steps[step.source].sides
    P = made[step.source].reshape(_pixels(fine), len(made[step.source]) // _pixels(fine), _pixels(fine), -1)
    grid = (
        np.arange(_pixels(fine)).reshape(fine)[tuple(slice(None, None, stride) for stride in step.strides)].reshape(-1)
    )
    picked = P[grid][:, :, grid]
    return picked.reshape(len(grid) * picked.shape[1], -1)


def _bracket(M, lower, upper, rows, D):
    B, C = np.diag((lower + upper) / 2), np.diag((upper - lower) / 2)[:, rows]
    K = D - M[np.ix_(rows, rows)]
    assert np.linalg.eigvalsh(K).min() > 0
    return B @ (M + M[:, rows] @ np.linalg.inv(K) @ M[rows]) @ B + C @ D @ C.T


def _activate(plan, step, made, D):
    count = _pixels(step.sides)
    lower, upper = np.tile(step.lower.numpy(), count), np.tile(step.upper.numpy(), count)
    rows = np.flatnonzero(lower < upper)
    D = np.zeros((0, 0)) if D is None else np.diag(np.tile(D.numpy(), count))
    return _bracket(made[step.source], lower, upper, rows, D)


def _mask(plan, step, made, D):
    M, count = made[step.source], _pixels(step.sides)
    n = len(M) // count
    lower = np.ones(n)
    lower[step.rows.numpy()] = 0
    rows = (np.arange(count)[:, None] * n + step.rows.numpy()).reshape(-1)
    return _bracket(M, np.tile(lower, count), np.ones(n * count), rows, np.kron(np.eye(count), D.numpy()))


def _pool(plan, step, made, delta):
    count = _pixels(plan.steps[step.source].sides)
    assert np.linalg.eigvalsh(np.diag(np.tile(delta.numpy(), count)) - made[step.source]).min() > 0
    return step.overlap * step.slope**2 * np.diag(np.tile(delta.numpy(), _pixels(step.sides)))


def _flatten(plan, step, made, _):
    P, sides = made[step.source], step.source_sides
    n = len(P) // _pixels(sides)
    whole = whole_spectrum(step.matrix.numpy(), sides)
    pixels = np.array(list(itertools.product(*(range(side) for side in sides))))
    angles = -2 * np.pi * pixels @ (pixels / np.array(sides)).T
    W = np.einsum("xw,wmn->mxn", np.exp(1j * angles), whole).real / len(pixels)
    return W.reshape(len(W), -1)[:, : len(pixels) * n] @ P @ W.reshape(len(W), -1).T


def _bounded(plan, step, made, _):
    top = 1.0 if step.source is None else np.linalg.eigvalsh(made[step.source]).max()
    return step.gain**2 * top * np.eye(step.rows * _pixels(step.sides))


def _join(plan, step, made, t):
    t, count = float(t), _pixels(step.sides)
    first, second = (made[s].reshape(count, -1, count, len(made[s]) // count) for s in (step.first, step.second))
    n, m = first.shape[1], second.shape[1]
    whole = np.zeros((count, n + m, count, n + m))
    whole[:, :n, :, :n], whole[:, n:, :, n:] = (1 + t) * first, (1 + 1 / t) * second
    return whole.reshape(count * (n + m), -1)


_STEPS = {
    Start: _start,
    Linear: _linear,
    Fold: _fold,
    Activate: _activate,
    Mask: _mask,
    Pool: _pool,
    Flatten: _flatten,
    Bounded: _bounded,
    Join: _join,
}

PLANS = {
    "dense": lambda: dense_chain([torch.ones(3, 2), torch.arange(9.0).reshape(3, 3) / 9 - 0.4, torch.ones(2, 3) / 2]),
    "dense linf": lambda: dense_chain([torch.arange(6.0).reshape(3, 2) / 3 - 0.7, torch.ones(2, 3) / 2], norm="linf"),
    "dense, slopes [-0.5, 0.7]": lambda: dense_chain([torch.eye(3) + 0.3, torch.ones(1, 3)], -0.5, 0.7),
    "residual dense": residual_dense,
    "spatial": lambda: spatial("plain"),
    "spatial linf": lambda: spatial("plain", "linf"),
    "spatial mask": lambda: spatial("mask"),
    "spatial pool": lambda: spatial("pool"),
    "spatial bounded": lambda: spatial("bounded"),
    "spatial join": lambda: spatial("join"),
}
