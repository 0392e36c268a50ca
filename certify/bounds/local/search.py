r"""Search for the ball on which the certificates reach furthest.

R(eps), the smallest ratio of all margins on the ball eps, gives the certified radius min(eps, R(eps)) for *every* eps,
so the search may stop anywhere and keeps the best it saw. R falls as eps grows, on deep networks over a cliff, and it
rises from trial to trial as the multipliers improve. With g = log(R / eps), a search goes in two phases:

- *chasing*, while the multipliers are still improving fast: eps moves half the way to R, on a log scale, or by regula
  falsi between the last two trials where one held and the other did not;
- *closing*: with lo = the largest eps with R >= eps and hi = the smallest with R < eps above it, eps grows until there
  is a hi, then regula falsi on g in log eps, every third step bisection, closes the gap.

Linear relaxation alone, which costs little, is searched first; the recursion starts beyond what it reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from certify.bounds.local.starts import Centres, fresh
from certify.bounds.local.trial import Trial, lines_trial, run_trial

START = 0.4  # of the distance at which the linearised margin is 0
ROUGH, BEYOND = 0.15, 1.3  # the gap at which relaxation stops where the recursion follows, and where that starts
LONGEST, WIDEST = 0.6, 0.8  # step of the chase, in log eps; part of the way between two trials
GROWTH, LEAP, FAR, SLOW, LEAST_STEP = 1.6, 8.0, 0.3, 1.5, 0.02
MOST_TRIALS, BISECT_EVERY = 12, 3
LATE = 2  # trials beyond the last one while R is still larger than eps


@dataclass(frozen=True)
class Effort:
    """How long to search: trials of the recursion in the chase and in all (0: none), and the gap at which it stops."""

    chase: int = 7
    trials: int = 10
    tolerance: float = 0.01


EFFORTS = {
    "fast": Effort(chase=0, trials=0),
    "default": Effort(),
    "max": Effort(chase=12, trials=24, tolerance=0.002),
}


@dataclass
class Interval:
    """The search of one centre: what was tried, as (eps, R), and what to try next.

    Example:
        >>> search = Interval(0.5, tolerance=0.01)
        >>> while not search.done:
        ...     _ = search.tell(2.0 - search.eps)
        >>> 0.99 < search.best <= 1.0
        True
    """

    eps: float
    tolerance: float
    most: int = MOST_TRIALS
    chase: int = 0
    best: float = 0.0
    tried: list[tuple[float, float]] = field(default_factory=list)
    closing: int = 0
    calm: int = 0
    once_more: bool = True
    last: tuple[float, float] = (0.0, 0.0)
    done: bool = False

    def tell(self, R: float) -> bool:
        """Take in the result of the trial at ``eps``, and return whether it is the best so far."""
        R = max(R, 0.0) if R == R else 0.0
        radius = min(self.eps, R)
        better = radius > self.best
        self.best = max(self.best, radius)
        g = math.log(min(max(R / self.eps, 1e-12), 1e12))
        self.most -= 1
        self.chase -= 1
        rising = g > 2.0 * self.tolerance and self.most > -LATE  # more is known to hold just beyond
        spent = self.most <= 0 and not rising
        if self.chase > 0:
            self._chase(g)
            self.done = self._settled(g) or spent
            return better
        self.tried.append((self.eps, g))
        self.eps = self._next()
        low, high = self._low(), self._high()
        closed = high is not None and high[0] <= max(self.best, low[0] if low else 0.0) * (1.0 + self.tolerance)
        self.once_more, last = not (closed and rising), closed and not (rising and self.once_more)
        self.done = last or spent or not 1e-30 < self.eps < 1e30
        return better

    def _chase(self, g: float) -> None:
        """Move half the way to R, or between this trial and the one before where R - eps changed its sign."""
        here, (eps, before) = self.eps, self.last
        self.last = (here, g)
        if (g > 0.0) != (before > 0.0) and (eps > here) == (g > 0.0):
            fraction = min(max(g / (g - before), 1.0 - WIDEST), WIDEST)
            self.eps = here * (eps / here) ** fraction
        else:
            self.eps = here * math.exp(min(max(g / 2.0, -LONGEST), LONGEST))

    def _settled(self, g: float) -> bool:
        """Tell whether the chase has come to rest."""
        self.calm = self.calm + 1 if abs(g) < self.tolerance else 0
        return self.calm >= 2

    def _low(self) -> tuple[float, float] | None:
        return max((pair for pair in self.tried if pair[1] >= 0.0), default=None)

    def _high(self) -> tuple[float, float] | None:
        """Return the smallest radius that failed, above the largest that held."""
        low = self._low()
        return min((pair for pair in self.tried if pair[1] < 0.0 and not (low and pair[0] < low[0])), default=None)

    def _next(self) -> float:
        low, high = self._low(), self._high()
        if high is None:
            eps, g = low if low else self.tried[-1]
            return eps * (min(max(GROWTH, math.exp(g / 2.0)), LEAP) if g > FAR else math.exp(max(SLOW * g, LEAST_STEP)))
        if low is None or low[0] < self.best * (1.0 - 1e-9):
            return self._below(high[0])
        self.closing += 1
        width = math.log(high[0] / low[0])
        fraction = 0.5 if self.closing % BISECT_EVERY == 0 else low[1] / (low[1] - high[1])
        return low[0] * math.exp(width * min(max(fraction, 0.1), 0.9))

    def _below(self, high: float) -> float:
        """Return a radius below ``high`` where none is known to hold that is as large as the best seen."""
        if self.best > 0.3 * high:
            return math.sqrt(self.best * high)
        return max(1.3 * self.best, 0.35 * high)


@dataclass(frozen=True, eq=False)
class Found:
    """The best trial of one centre: its radius, the ball it was made on, and what it needs to be made again.

    ``trial`` has a batch of one, None where a margin is not positive; ``lines`` is the best of linear relaxation alone.
    """

    radius: float
    eps: float
    trial: Trial | None
    lines: Found | None = None


def search(centres: Centres, effort: Effort, cuts: Sequence[int]) -> list[Found]:
    """Return the best trial of every centre of a batch.

    A centre whose margins are not all positive is not searched: its radius is 0.

    Args:
        centres: The batch.
        effort: How long.
        cuts: At which layers to cut (`trial`).
    """
    return _Searches(centres, effort, tuple(cuts)).run()


class _Searches:
    """A batch of searches that go on together, each at its own radius."""

    def __init__(self, centres: Centres, effort: Effort, cuts: tuple[int, ...]) -> None:
        self.centres, self.effort, self.cuts = centres, effort, cuts
        count = len(centres.margins)
        linearised = lines_trial(centres, centres.margins.new_zeros(count)).radius
        start = START * torch.where(torch.isfinite(linearised), linearised, _by_norms(centres))
        positive = (centres.margins > 0).all(1) & (start > 0)
        self.states = [Interval(float(s), self._lines_tolerance()) for s in start]
        self.found = [Found(0.0, 0.0, None)] * count
        self.places = [i for i in range(count) if bool(positive[i])]

    def run(self) -> list[Found]:
        self._go_on(self._lines)
        by_lines = list(self.found)
        if self.effort.trials:
            self.relative = fresh(self.centres, self.cuts)
            for i in self.places:
                start = BEYOND * (self.states[i].best or self.states[i].eps)
                self.states[i] = Interval(
                    start, self.effort.tolerance, self.effort.trials, self.effort.chase, self.states[i].best
                )
            self._go_on(self._recursion)
        return [replace(found, lines=lines) for found, lines in zip(self.found, by_lines, strict=True)]

    def _lines_tolerance(self) -> float:
        return ROUGH if self.effort.trials else self.effort.tolerance

    def _go_on(self, run: Callable[[Tensor, Tensor], Trial]) -> None:
        """Try radii until all searches are done."""
        while places := [i for i in self.places if not self.states[i].done]:
            eps = self.centres.margins.new_tensor([self.states[i].eps for i in places])
            trial = run(torch.tensor(places), eps)
            for n, (i, R) in enumerate(zip(places, trial.radius.tolist(), strict=True)):
                radius = self.states[i].eps
                if self.states[i].tell(R):
                    self.found[i] = Found(min(radius, R), radius, trial.choose(n))

    def _lines(self, places: Tensor, eps: Tensor) -> Trial:
        return lines_trial(self.centres.choose(places), eps)

    def _recursion(self, places: Tensor, eps: Tensor) -> Trial:
        trial = run_trial(self.centres.choose(places), eps, self.relative.choose(places), self.cuts)
        if trial.improved is not None:
            self.relative.put(places, trial.improved)
        return trial


def _by_norms(centres: Centres) -> Tensor:
    """Return a radius ``[B]`` to start from where all gradients are 0: the margin over a product of norms."""
    product = math.prod(max(layer.weight(torch.float64).norm().item(), 1e-30) for layer in centres.chain.layers[:-1])
    steepest = centres.rows.norm(dim=2).amax(1) * product
    return torch.nan_to_num(centres.margins.amin(1) / steepest, nan=0.0, posinf=1.0)
