"""Deterministic l1 splitting: every shift of the pixel cells is evaluated, and the votes certify by themselves.

`certify.stats.splitting` has the theorem and its proof. Here are the law, which hands on the cells of shift j as row j
of the estimation (in blocks of `BLOCK_DRAWS`, like draws), and the certificate of the counts. The votes are those of
the network on fixed numbers: of a pixel at shift j it sees the midpoint s / 510 of its cell, with an integer s divided
once in the floats it runs in, a function of the cell. No noise is drawn and no float is added to a pixel, so that the
certificate holds for the program as run, on the grid of 8-bit images.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from msgspec import UNSET
from numpy.typing import NDArray
from torch import Tensor

from certify.errors import InputError
from certify.examples import Example
from certify.results import SmoothingSettings, dump_json
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest
from certify.smoothing.certificate import Certificate, select_class
from certify.smoothing.noise import NoisyRows, RawNoise, fill_by_rows
from certify.stats.splitting import LAW, MOST_COORDINATES, cell_sums, split_offsets, split_radius, split_shifts


@dataclass(frozen=True)
class SplitLaw:
    """The cells of every shift, at one sigma, with the offsets of one seed; see `NoiseLaw`.

    Example:
        >>> law = SplitLaw(0.25, seed=0)
        >>> law.shifts, 255 * law.scale
        (221, 110.5)
    """

    name: ClassVar[str] = LAW
    float_sound: ClassVar[bool] = True
    levels: ClassVar[int] = 0
    raw: ClassVar[RawNoise] = "integers"

    sigma: float
    seed: int

    @cached_property
    def shifts(self) -> int:
        """K, the number of shifts, and of levels in a cell."""
        try:
            return split_shifts(self.sigma)
        except ValueError as error:
            raise InputError(str(error)) from error

    @property
    def scale(self) -> float:
        """Half a cell, about sigma sqrt 3: no radius is larger."""
        return self.shifts / 510

    @property
    def row_dtype(self) -> np.dtype[Any]:
        """The integers that the sums of cells fit in; in float32 they are exact."""
        return np.dtype(np.int16 if self.shifts <= 2**13 else np.int32)

    @property
    def words(self) -> str:
        """The law as the report describes it."""
        return (
            f"no noise: midpoints of cells of {self.shifts} levels of 1/255 (half-width {self.shifts}/510) at all "
            f"{self.shifts} shifts, offsets of seed {self.seed}; deterministic (float-sound on 8-bit inputs)"
        )

    def draw(self, request: BlockRequest, bits: np.random.Philox) -> NoisyRows:  # noqa: ARG002 - as in every law
        """Return the cells of `BLOCK_DRAWS` shifts, from that of the block on; behind the last come the first again.

        The fingerprint is that of the address: two blocks of a run never have the same.

        Raises:
            InputError: If the example does not hold 8-bit pixels.
        """
        _refuse_floats(request.example)
        pixels = request.example.stored
        first = request.block * BLOCK_DRAWS
        shifts = np.arange(first, first + BLOCK_DRAWS) % self.shifts
        offsets = split_offsets(self.seed, math.prod(pixels.shape), self.shifts).reshape(pixels.shape)
        return NoisyRows(cell_sums(pixels, shifts, offsets, self.shifts, self.row_dtype), _mark(request))

    def fill(self, request: BlockRequest, key: NDArray[np.uint64], inputs: Tensor) -> str:
        """Write the inputs of a block, and return its fingerprint."""
        return fill_by_rows(self, request, key, inputs)

    def on_device(self, device: torch.device) -> Callable[[Tensor, Sequence[BlockRequest]], Tensor]:
        """Return the function from any numbers, and the requests, to the same cells on the device."""

        def rows(raw: Tensor, requests: Sequence[BlockRequest]) -> Tensor:  # noqa: ARG001 - nothing is random
            bits = np.random.Philox()
            return torch.from_numpy(np.stack([self.draw(request, bits).rows for request in requests])).to(device)

        return rows

    def inputs(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return s / 510: in float64 for a float64 network, else in float32 and then cast. s itself is exact."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        # By a number of the host CUDA divides in two roundings: it multiplies with the reciprocal.
        return rows.to(wide).div_(torch.full((), 510.0, dtype=wide, device=rows.device)).to(dtype)


def certify_split(votes: Sequence[int]) -> Certificate:
    """Return the certificate of the votes of all shifts, ``[classes + 1]``, the last of them invalid outputs.

    Example:
        >>> certify_split([238, 204, 0]), certify_split([200, 200, 42]).predicted
        (Certificate(predicted=0, radius=0.0666..., reason='', decisions=()), None)
    """
    selected = select_class(votes)
    if selected is None:
        return Certificate(None, 0.0, f"invalid outputs win: {votes[-1]} of {sum(votes)} outputs were not finite")
    rival = max((k for k in range(len(votes)) if k != selected), key=lambda k: (votes[k], -k))
    radius = split_radius(votes[selected] - votes[rival])
    if not radius > 0.0:
        name = "invalid outputs" if rival == len(votes) - 1 else f"class {rival}"
        return Certificate(
            None, 0.0, f"no class certified: class {selected} and {name} have {votes[rival]} of {sum(votes)} votes each"
        )
    return Certificate(selected, radius)


def split_checks(settings: SmoothingSettings) -> Iterator[tuple[bool, str, object]]:
    """Yield what must hold of the settings of deterministic splitting: whether it does, what is expected, what came."""
    asked = f"with {settings.noise} noise"
    try:
        shifts, words = split_shifts(settings.sigma), ""
    except ValueError as error:
        shifts, words = settings.n, str(error)
    yield not words, f"a sigma {asked} that gives a number of shifts ({words})", settings.sigma
    yield settings.alpha == 0.0, f"no alpha {asked}: its certificates never fail; leave it out", settings.alpha
    yield settings.n0 == 0, f"no n0 {asked}: it has no pilot; leave it out", settings.n0
    yield settings.n == shifts, f"no n {asked} but all {shifts} shifts of its sigma; leave it out", settings.n
    yield settings.procedure == "fixed", f"no other procedure {asked} than fixed: all shifts", settings.procedure
    yield settings.price == 1e-5, f"no price {asked}: all shifts are evaluated; leave it out", settings.price
    yield settings.bound == "two-interval", f"no bound {asked}: its counts are exact; leave it out", settings.bound
    yield not settings.at, f"no asked radii {asked}: all shifts measure every radius exactly", list(settings.at)
    yield not settings.float_noise, f"no float noise {asked}: it is proved on 8-bit pixels alone", True
    yield settings.scales is UNSET, f"no scales {asked}: cells are equal in all coordinates", "some"
    yield settings.task is UNSET, f"no task {asked} but that of the winning class", settings.task
    yield settings.scores is UNSET, f"hard scores {asked}", settings.scores


def refuse_many_coordinates(dimension: int) -> None:
    """Return when inputs of so many coordinates have offsets.

    Raises:
        InputError: If there are too many.
    """
    if not dimension <= MOST_COORDINATES:
        raise InputError(
            f"expected inputs of at most {MOST_COORDINATES:,} coordinates for noise split, got {dimension:,}; use "
            "--noise uniform for certificates in l1"
        )


def _refuse_floats(example: Example) -> None:
    if not example.eight_bit:
        raise InputError(f"{example.id}: expected 8-bit pixels for the law {LAW}, got {example.stored.dtype}")


def _mark(request: BlockRequest) -> str:
    example = request.example
    address = [LAW, example.id, example.hash, request.purpose, request.block]
    return hashlib.sha256(dump_json(address).encode()).hexdigest()
