r"""Certified radii around examples: search in single precision, prove in double precision, one certificate per class.

The chosen class y keeps its lead over class j at distance rho <= ball_j of the example while v_j - s_j rho is positive;
with the error e of the deployed program on top, every input within

    R = min_j min( ball_j, (v_j - e) / s_j )        (rounded down)

is classified as y. Which method bounds which class is free: linear relaxation, the recursion at any layer, or a gain
over all inputs. What the search finds is never trusted; a radius whose proof comes out much smaller is searched again
in double precision, and the proof of linear relaxation alone is always there to fall back on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from certify.bounds.local.centres import Centres as Proved
from certify.bounds.local.centres import centres_of
from certify.bounds.local.layers import Chain
from certify.bounds.local.lines import Bounds, Relaxation
from certify.bounds.local.patches import patches_of
from certify.bounds.local.push_proof import Front
from certify.bounds.local.recursion_proof import Certificate, prove_bounds, prove_trial, proved_stretch
from certify.bounds.local.search import EFFORTS, Effort, Found, search
from certify.bounds.local.starts import Centres, fresh
from certify.bounds.local.trial import EVERYWHERE, LINES, Trial, run_trial
from certify.results import Effort as EffortWord
from certify.results import Norm
from certify.rounding import sub_down

MOST_ROWS = 2**13  # of a hidden layer, for the recursion
MUCH_WORK, MOST_WORK = 2.0**35, 2.0**38  # sum of cubes of the rows of all hidden layers but the first
BATCH_ENTRIES = 2**20  # of one ellipsoid per layer, over a batch
DEEP = 3  # hidden layers from which on cuts are tried
CLOSE = 0.98  # part of the radius found that a proof must reach, else it is searched again in double precision
HUGE = 2.0**100  # the ball of a network without activations
NOTHING = torch.zeros(1, 0)
AFFINE = Trial(NOTHING, NOTHING, NOTHING, NOTHING)
WORDS = {EVERYWHERE: "global pairs", LINES: "local lines"}


@dataclass(frozen=True, eq=False)
class LocalNetwork:
    """A chain, and what its certificates share: the norm, the effort and matrices of the first layer.

    Example:
        >>> from certify.bounds.local.activations import IDENTITY
        >>> from certify.bounds.local.layers import Layer, Segment
        >>> W = torch.tensor([[3.0, -4.0], [0.0, 0.0]], dtype=torch.float64)
        >>> zeros = torch.zeros(2, dtype=torch.float64)
        >>> layer = Layer(2, zeros, zeros, 0.0, (Segment(0, 2, IDENTITY, "y"),), dense=W)
        >>> x = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
        >>> found = LocalNetwork(Chain((layer,), (2,))).certify(x, torch.tensor([0]))
        >>> 0.3999999 < min(one.radius for one in found[0]) <= 0.4
        True
    """

    chain: Chain
    norm: Norm = "l2"
    effort: EffortWord = "default"

    @property
    def settings(self) -> Effort:
        """The effort: with fewer trials of the recursion where layers are large, and none where they are too large."""
        effort, rows = EFFORTS[self.effort], [layer.rows for layer in self.chain.layers[:-1]]
        work = float(sum(size**3 for size in rows[1:]))
        if not rows or max(rows) > MOST_ROWS or work > MOST_WORK:
            return replace(effort, trials=0)
        if work > MUCH_WORK:
            return replace(effort, chase=min(effort.chase, 4), trials=min(effort.trials, 5))
        return effort

    @property
    def cuts(self) -> tuple[int, ...]:
        """The layers of functionals beside the last hidden one."""
        hidden = len(self.chain.layers) - 1
        return tuple(range(1, hidden - 1)) if hidden >= DEEP else ()

    @property
    def batch(self) -> int:
        """How many examples are searched at once."""
        widest = max((layer.rows for layer in self.chain.layers[:-1]), default=1)
        return max(1, min(64, BATCH_ENTRIES // widest**2))

    @cached_property
    def front(self) -> Front:
        """The first layer, on l2 balls."""
        windows = [layer.window for layer in self.chain.layers[:2]]
        return Front(self.chain.layers[0], None, patches_of(*windows) if len(windows) == 2 else None)

    def gram(self, dtype: torch.dtype) -> Tensor | None:
        """Return W_1 W_1^T for searches, where it is small."""
        if self.front.in_factors:
            return None
        return self._single if dtype == torch.float32 else self.front.matrix[0]

    @cached_property
    def _single(self) -> Tensor:
        return self.front.matrix[0].to(torch.float32)

    def bounds(self, centres: Proved, eps: float) -> list[Bounds]:
        """Return proved bounds of all hidden layers on an l2 ball around one centre, with the recursion's first trial.

        Raises:
            ValueError: If the network is one for balls in linf.
        """
        if self.norm != "l2":
            raise ValueError(f"expected a network for balls in l2, got one for {self.norm}")
        y = centres.z[-1].argmax(1)
        searched = _Batch(self, centres, y, None).searched(torch.float64)
        trial = run_trial(searched, searched.margins.new_tensor([eps]), fresh(searched, ()), ())
        return prove_bounds(self.chain, self.front, centres, eps, trial)

    def certify(
        self, x: Tensor, chosen: Tensor, *, rounded_input: bool = False, gains: Tensor | None = None
    ) -> list[list[Certificate]]:
        """Return, per example, a certificate of the chosen class against every other one, in order of the classes.

        The radius of an example is the least `Certificate.radius`; an example with a margin that is not positive, or
        not finite, has a certificate of radius 0.

        Args:
            x: Examples, float64 ``[B, *input_shape]``.
            chosen: The classes that the network gives them ``[B]``.
            rounded_input: Whether the real examples are only the nearest to these floats (8-bit pixels over 255).
            gains: Proved gains of the margins over all inputs ``[B, classes - 1]``, infinite where unknown.
        """
        found: list[list[Certificate]] = []
        for part in torch.split(torch.arange(len(x)), self.batch):
            proved = centres_of(self.chain, x[part], rounded_input=rounded_input)
            some = None if gains is None else gains[part]
            batch = _Batch(self, proved, chosen[part], some)
            found.extend(batch.certify())
        return found


class _Batch:
    """Examples that are searched together."""

    def __init__(self, network: LocalNetwork, proved: Proved, chosen: Tensor, gains: Tensor | None) -> None:
        self.network, self.proved, self.chosen, self.gains = network, proved, chosen, gains
        classes = network.chain.outputs
        self.others = torch.tensor([[j for j in range(classes) if j != c] for c in chosen.tolist()])

    def certify(self) -> list[list[Certificate]]:
        """Return the certificates of every example."""
        with torch.no_grad():
            if len(self.network.chain.layers) == 1:  # no ball matters
                return [self._prove(n, Found(0.0, HUGE, AFFINE)) for n in range(len(self.chosen))]
            if self.network.norm == "linf":
                return self._certify_class_by_class()
            found = search(self.searched(torch.float32), self.network.settings, self.network.cuts)
            return [self._certify_one(n, one) for n, one in enumerate(found)]

    def _certify_class_by_class(self) -> list[list[Certificate]]:
        """Return certificates by linear relaxation, then by a recursion of its own for each class that limits a radius.

        In linf every class has a P_0 of its own, so it is searched alone, and may be certified on another ball.
        """
        centres, settings = self.searched(torch.float32), self.network.settings
        best = [self._prove(n, one) for n, one in enumerate(search(centres, replace(settings, trials=0), ()))]
        tried: list[set[int]] = [set() for _ in best]
        while settings.trials:
            pairs = [(n, min(range(len(row)), key=lambda j: row[j].radius)) for n, row in enumerate(best)]
            pairs = [(n, j) for n, j in pairs if j not in tried[n] and best[n][j].v > 0.0]
            if not pairs:
                break
            alone = centres.choose_margins(torch.tensor(pairs))
            for (n, j), found in zip(pairs, search(alone, settings, self.network.cuts), strict=True):
                tried[n].add(j)
                if found.trial is not None and found.trial.relative is not None:
                    best[n][j] = max(best[n][j], self._prove_alone(n, j, found, found.trial), key=lambda c: c.radius)
        return best

    def _prove_alone(self, n: int, j: int, found: Found, trial: Trial) -> Certificate:
        """Return the certificate of one margin of an example."""
        chain, one = self.network.chain, _only(self.proved, n)
        front = replace(self.network.front, stretch=proved_stretch(trial.relative))
        chosen = int(self.chosen[n])
        return prove_trial(chain, front, one, chosen, found.eps, trial, self.network.norm, [j])[j]

    def _certify_one(self, n: int, found: Found) -> list[Certificate]:
        """Prove what was found; fall back on a search in double precision, then on linear relaxation alone."""
        best = self._prove(n, found)
        hopeful = min(one.v for one in self._everywhere(n, _only(self.proved, n))) > 0.0
        if hopeful and (found.trial is None or not _radius(best) >= CLOSE * found.radius):
            again = search(
                self.searched(torch.float64).choose(torch.tensor([n])), self.network.settings, self.network.cuts
            )[0]
            best = max(best, self._prove(n, again), key=_radius)
        if found.lines is not None and not _radius(best) >= found.lines.radius * CLOSE:
            best = max(best, self._prove(n, found.lines), key=_radius)
        return best

    def _prove(self, n: int, found: Found) -> list[Certificate]:
        """Return the certificates of one example on the ball found, or with what is known over all inputs."""
        one = _only(self.proved, n)
        everywhere = self._everywhere(n, one)
        if found.trial is None:
            return everywhere
        front = None if found.trial.relative is None else self.network.front
        chain, chosen = self.network.chain, int(self.chosen[n])
        proved = prove_trial(chain, front, one, chosen, found.eps, found.trial, self.network.norm)
        return [max(pair, key=lambda c: c.radius) for pair in zip(proved, everywhere, strict=True)]

    def _everywhere(self, n: int, one: Proved) -> list[Certificate]:
        """Return the certificates by gains over all inputs; of radius 0 where there are none."""
        z, error = one.z[-1][0], one.z_error[-1][0]
        y = int(self.chosen[n])
        low = torch.nextafter(z[y] - error[y], z[y] - torch.inf)
        high = torch.nextafter(z + error, z + torch.inf)[self.others[n]]
        v = torch.nextafter(low - high, high - torch.inf).tolist()
        s = [torch.inf] * len(v) if self.gains is None else self.gains[n].tolist()
        return [Certificate(*pair, EVERYWHERE, torch.inf) for pair in zip(v, s, strict=True)]

    def searched(self, dtype: torch.dtype) -> Centres:
        """Return the batch as searches need it."""
        last, z, y = self.network.chain.layers[-1], self.proved.z, self.chosen
        rows = last.matrix[y][:, None] - last.matrix[self.others]
        offsets = last.bias[y][:, None] - last.bias[self.others]
        margins = z[-1].gather(1, y[:, None]) - z[-1].gather(1, self.others)
        lines = Relaxation(self.network.chain, tuple(one.to(dtype) for one in z), self.network.norm)
        wanted = self.network.settings.trials and self.network.norm == "l2"
        gram = self.network.gram(dtype) if wanted else None
        everywhere = None if self.gains is None else self.gains.to(dtype)
        return Centres(lines, rows.to(dtype), offsets.to(dtype), margins.to(dtype), gram, everywhere)


def limiting(certificates: Sequence[Certificate], error: float) -> tuple[int, Certificate]:
    """Return the certificate with the smallest radius once every margin has lost ``error``, and its place.

    Among radii of 0 it is the one with the smallest margin.
    """

    def key(place: int) -> tuple[float, float]:
        one = certificates[place]
        return replace(one, v=sub_down(one.v, error)).radius, one.v

    place = min(range(len(certificates)), key=key)
    return place, certificates[place]


def word(certificate: Certificate) -> str:
    """Return how a certificate was proved, in words.

    Example:
        >>> word(Certificate(1.0, 1.0, LINES, 0.5)), word(Certificate(1.0, 1.0, 2, 0.5))
        ('local lines', 'local recursion')
    """
    return WORDS.get(certificate.layer, "local recursion")


def _radius(certificates: Sequence[Certificate]) -> float:
    return min((one.radius for one in certificates), default=0.0)


def _only(proved: Proved, n: int) -> Proved:
    at = slice(n, n + 1)
    parts = (tuple(part[at] for part in parts) for parts in (proved.z, proved.z_error, proved.h, proved.h_error))
    return Proved(proved.x[at], proved.x_error[at], *parts)
