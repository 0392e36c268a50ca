r"""Attacks on Lipschitz constants: pairs of inputs whose outputs differ more than a bound allows.

||f(p) - f(q)|| <= L ||p - q|| must hold for pairs of examples, and for pairs that gradients have made steep
(`certify.bounds.steepest`): there the quotient at a small distance is the norm of the Jacobian. The same for the
difference of two logits and the constant of that pair of classes, and inside one ball for the constant of that ball.

Quotients are ranked in floating point. The steepest few are decided exactly (`exactly`): with both passes' errors taken
off the numerator and the distance rounded up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.steepest import Network, Stay, ascend, everywhere
from certify.results import Norm

DECIDED = 3  # steepest pairs of each kind that are looked at exactly
LENGTHS = (1.0, 1e-3)  # of each ascended pair, in units of the one the ascent ends with


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of inputs, ``[P, *input_shape]`` each, in float64, and the difference of their outputs ``[P, K]``."""

    p: Tensor
    q: Tensor
    change: Tensor

    def __len__(self) -> int:
        return len(self.p)

    def distances(self, norm: Norm) -> Tensor:
        """Return ||p - q|| per pair; pairs of equal inputs are infinitely far apart, for they show nothing."""
        apart = vector_norms((self.p - self.q).flatten(1), norm)
        return torch.where(apart > 0.0, apart, torch.inf)

    def split(self, parts: int) -> Iterator[Pairs]:
        """Yield the pairs of equal parts of the starts that pairs were ascended from, each at all `LENGTHS`."""
        ends = (self.p, self.q, self.change)
        rounds = [each.reshape(len(LENGTHS), parts, -1, *each.shape[1:]) for each in ends]
        for k in range(parts):
            yield Pairs(*(each[:, k].flatten(0, 1) for each in rounds))

    def steepest(self, norm: Norm) -> Tensor:
        """Return the indices of the pairs with the largest quotients."""
        return largest(vector_norms(self.change, norm) / self.distances(norm))

    def steepest_between(self, first: int, second: int, norm: Norm) -> Tensor:
        """Return the indices of the pairs with the largest quotients of the difference of two logits."""
        return largest((self.change[:, first] - self.change[:, second]).abs() / self.distances(norm))


def vector_norms(rows: Tensor, norm: Norm) -> Tensor:
    """Return the norm of every row."""
    return rows.norm(dim=1) if norm == "l2" else rows.abs().amax(1)


def largest(quotients: Tensor) -> Tensor:
    """Return the indices of the largest few; NaN counts as 0."""
    return torch.nan_to_num(quotients, nan=0.0).topk(min(DECIDED, len(quotients))).indices


def pairs_of(network: Network, p: Tensor, q: Tensor) -> Pairs:
    """Return pairs with the difference of their outputs, by a float64 network."""
    with torch.no_grad():
        return Pairs(p, q, (network(p) - network(q)).flatten(1))


def steepest_examples(points: Tensor, outputs: Tensor, norm: Norm) -> Pairs:
    """Return, for each example, the pair with the other one that it is steepest towards.

    Args:
        points: Examples ``[B, *input_shape]``.
        outputs: Their outputs ``[B, K]``.
        norm: The norm of the quotients.
    """
    power = 2.0 if norm == "l2" else torch.inf
    apart = torch.cdist(points.flatten(1), points.flatten(1), power)
    apart = torch.where(apart > 1e-6 * apart.max(), apart, torch.inf)  # cdist cancels for near examples
    other = torch.nan_to_num(torch.cdist(outputs, outputs, power) / apart, nan=0.0).argmax(1)
    return Pairs(points, points[other], outputs - outputs[other])


def ascended_pairs(
    search: Network,
    exact: Network,
    starts: Tensor,
    *,
    norm: Norm,
    distance: float,
    steps: int,
    stay: Stay = everywhere,
    seed: int = 0,
) -> Pairs:
    """Return pairs ascended to from the starts, at two lengths each, both ends brought back by ``stay``.

    Args:
        search: The network whose quotients are raised, in the dtype of ``starts``.
        exact: The float64 network.
        starts: Where to begin, ``[B, *input_shape]``.
        norm: The norm of the quotients.
        distance: The l2 distance the pairs begin with.
        steps: Gradients taken.
        stay: What brings an input back to where it may be.
        seed: Of the first directions.
    """
    found = ascend(search, starts, norm=norm, distance=distance, steps=steps, stay=stay, seed=seed)
    x, v = found.x.double(), found.v.double()
    halves = [length * found.half for length in LENGTHS]
    p, q = (torch.cat([stay(x + sign * half * v) for half in halves]) for sign in (1.0, -1.0))
    return pairs_of(exact, p, q)


def tightest_classes(pairs: Pairs, uppers: Tensor, count: int, norm: Norm) -> Iterator[tuple[int, int]]:
    """Yield the pairs of classes whose constant is nearest to a quotient already seen."""
    distances = pairs.distances(norm).reshape(-1, 1, 1)
    seen = ((pairs.change.unsqueeze(2) - pairs.change.unsqueeze(1)).abs() / distances).amax(0)
    ratios = torch.nan_to_num(torch.triu(seen / uppers, diagonal=1), nan=0.0, posinf=0.0)
    classes = len(uppers)
    for index in ratios.flatten().argsort(descending=True, stable=True)[:count].tolist():
        if index // classes < index % classes:
            yield index // classes, index % classes


def differences_of(network: Network, classes: Sequence[tuple[int, int]], starts: int) -> Callable[[Tensor], Tensor]:
    """Return the network of one output, logit i minus logit j: of ``classes`` in turn, each for ``starts`` inputs.

    A batch may hold several rounds of all of them.

    Example:
        >>> difference = differences_of(lambda x: x, [(0, 1), (2, 0)], 1)
        >>> difference(torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]])).flatten().tolist()
        [-1.0, 4.0]
    """
    chosen = torch.tensor(classes).repeat_interleave(starts, 0)

    def difference(x: Tensor) -> Tensor:
        logits = network(x)
        both = logits.gather(1, chosen.repeat(len(x) // len(chosen), 1))
        return both[:, :1] - both[:, 1:]

    return difference


def joined(parts: Sequence[Pairs]) -> Pairs:
    """Return all pairs as one."""
    return Pairs(*(torch.cat([getattr(part, name) for part in parts]) for name in ("p", "q", "change")))
