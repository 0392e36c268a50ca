"""A plan's registers in plain floating point, straight from the definitions of the steps; random multipliers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

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
    Sides,
    Start,
    Step,
    frequency_counts,
)

Choose = Callable[[Step, list[Tensor]], Tensor]


def largest(P: Tensor) -> float:
    return float(torch.linalg.eigvalsh(P).max())


def frequencies(sides: Sides) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, frequency_counts(sides))))


def at(P: Tensor, sides: Sides, f: tuple[int, ...]) -> Tensor:
    """The block at any frequency, stored or not."""
    f = tuple(a % n for a, n in zip(f, sides, strict=True))
    counts = frequency_counts(sides)
    mirrored = f[-1] >= counts[-1]
    if mirrored:
        f = tuple(-a % n for a, n in zip(f, sides, strict=True))
    place = sum(a * math.prod(counts[i + 1 :]) for i, a in enumerate(f))
    return P[place].conj() if mirrored else P[place]


def registers(plan: Plan, choose: Choose) -> tuple[list[Tensor], dict[int, Tensor]]:
    made: list[Tensor] = []
    used: dict[int, Tensor] = {}
    for position, step in enumerate(plan.steps):
        sources = [made[i] for i in sources_of(step)]
        if is_free(step, plan):
            used[position] = choose(step, sources)
        made.append(next_register(plan, step, sources, used.get(position)))
    return made, used


def sources_of(step: Step) -> list[int]:
    if isinstance(step, Join):
        return [step.first, step.second]
    source = None if isinstance(step, Start) else step.source
    return [] if source is None else [source]


def is_free(step: Step, plan: Plan) -> bool:
    if isinstance(step, Activate):
        return bool(step.unstable.any())
    return isinstance(step, Mask | Pool | Join) or (isinstance(step, Start) and plan.norm == "linf")


def next_register(plan: Plan, step: Step, sources: list[Tensor], D: Tensor | None) -> Tensor:
    count = len(frequencies(step.sides)) if step.sides else 1
    dtype = torch.complex128 if step.sides else torch.float64
    match step:
        case Start():
            P = torch.eye(step.rows, dtype=dtype) if D is None else torch.diag(1 / D).to(dtype)
            return P.expand(count, -1, -1)
        case Linear():
            (P,) = sources
            keep = torch.eye(P.shape[1], dtype=dtype)[step.keep]
            G = torch.cat([keep.expand(count, -1, -1), step.matrix.expand(count, -1, -1)], 1)
            return G @ P @ G.mH
        case Fold():
            fine = plan.steps[step.source].sides
            offsets = list(itertools.product(*map(range, step.strides)))
            shift = [n // s for n, s in zip(fine, step.strides, strict=True)]
            return torch.stack(
                [
                    sum(
                        at(sources[0], fine, tuple(a + k * m for a, k, m in zip(f, offset, shift, strict=True)))
                        for offset in offsets
                    )
                    / len(offsets)
                    for f in frequencies(step.sides)
                ]
            )
        case Activate():
            return bracketed(sources[0], step.lower, step.upper, step.unstable.nonzero()[:, 0], D)
        case Mask():
            lower = torch.ones(sources[0].shape[1], dtype=torch.float64)
            lower[step.rows] = 0.0
            return bracketed(sources[0], lower, torch.ones_like(lower), step.rows, D)
        case Pool():
            return (step.overlap * step.slope**2 * torch.diag(D)).to(dtype).expand(count, -1, -1)
        case Flatten():
            sides = step.source_sides
            everywhere = itertools.product(*map(range, sides))
            blocks = [
                at(step.matrix, sides, f) @ at(sources[0], sides, f) @ at(step.matrix, sides, f).mH for f in everywhere
            ]
            return (sum(blocks) / math.prod(sides)).real[None]
        case Bounded():
            size = step.gain**2 * (1.0 if not sources else largest(sources[0]))
            return (size * torch.eye(step.rows, dtype=dtype)).expand(count, -1, -1)
        case Join():
            first, second = sources
            parts = zip((1 + D) * first, (1 + 1 / D) * second, strict=True)
            return torch.stack([torch.block_diag(*pair) for pair in parts])


def bracketed(M: Tensor, lower: Tensor, upper: Tensor, U: Tensor, D: Tensor | None) -> Tensor:
    B, C = (lower + upper) / 2, (upper - lower)[U] / 2
    if not len(U):
        return B[:, None] * M * B
    D = (torch.diag(D) if D.dim() == 1 else D).to(M.dtype)
    if bool(torch.linalg.cholesky_ex(D - M[:, U][:, :, U]).info.any()):
        raise ValueError("infeasible")
    P = B[:, None] * (M + M[:, :, U] @ torch.linalg.inv(D - M[:, U][:, :, U]) @ M[:, U]) * B
    P[:, U[:, None], U] += C[:, None] * D * C
    return (P + P.mH) / 2


def random_choice(random: torch.Generator, spread: float = 0.7) -> Choose:
    """Random feasible multipliers: D = F times a little more than the largest eigenvalue of F^-1/2 M F^-1/2."""

    def choose(step: Step, sources: list[Tensor]) -> Tensor:
        count = max([64, *(P.shape[1] for P in sources), *([step.rows] if isinstance(step, Start) else [])])
        normal = torch.randn(count + 1, generator=random, dtype=torch.float64)
        if isinstance(step, Join):
            return normal[:1].exp()
        if isinstance(step, Start):
            q = (spread * normal[: step.rows]).exp()
            return q / (step.pixels * q.sum()) * 0.999999
        M = sources[0]
        rows = step.unstable.nonzero()[:, 0] if isinstance(step, Activate) else torch.arange(M.shape[1])
        rows = step.rows if isinstance(step, Mask) else rows
        M = M[:, rows][:, :, rows]
        more = 1.000001 + float((2 * normal[-1]).exp())
        if isinstance(step, Mask):
            A = torch.randn(len(rows), len(rows), generator=random, dtype=torch.float64)
            F = A @ A.T + torch.eye(len(rows), dtype=torch.float64)
            root = torch.linalg.inv(torch.linalg.cholesky(F)).to(M.dtype)
            return F * (more * max(largest(root @ M @ root.mH), 1e-9))
        f = (spread * normal[: len(rows)]).exp()
        scaled = M / (f.sqrt()[:, None] * f.sqrt())
        return f * more * max(largest(scaled), 1e-9)

    return choose
