r"""Which values are images, and the sides of the torus each of them stands on.

Values that are computed from one another by convolutions, pools and operations pixel by pixel form a *family*: value v
stands on every ``step``-th pixel of the family's own torus of sides N, so on a torus of sides N / step. N is the least
multiple of all steps on which every value fits, and every reading finds the zeros it expects outside
(`certify.bounds.covariance.readings`); a larger torus would be sound as well. A value whose covariance is the same at
every frequency (behind a max pool, or when only a gain is used) begins a family of its own, which keeps tori small,
until it is added to a value of another.

Values without a spatial operation ahead of them are better held as plain rows; `image_dims` says which are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from certify.bounds.covariance.readings import reading_of
from certify.bounds.covariance.steps import Sides
from certify.bounds.facts import Facts
from certify.bounds.slopes import ACTIVATIONS
from certify.graph import Operation

POINTWISE = ACTIVATIONS | {
    *("batch_norm", "normalize", "add", "sub", "mul", "div", "maximum", "minimum", "max_min", "sort", "softmax"),
    *("log_softmax", "layer_norm", "rms_norm", "group_norm", "instance_norm", "concat", "flip", "roll", "expand"),
    *("reshape", "permute", "slice"),
}
"""Kinds that keep an image on its torus, if they keep its sizes."""

WINDOWS: Mapping[str, Callable[[Operation], int]] = MappingProxyType(
    {
        **dict.fromkeys(("conv", "conv_transpose", "max_pool", "avg_pool"), lambda op: len(op.integers("stride"))),
        **dict.fromkeys(("adaptive_max_pool", "adaptive_avg_pool"), lambda op: len(op.integers("output"))),
        "upsample_nearest": lambda op: len(op.integers("scale")),
    }
)
"""Kinds that read images, and how many spatial axes they have."""


@dataclass(frozen=True)
class Place:
    """Where a value stands: the first value of its family, and its step on that torus per axis."""

    family: str
    steps: tuple[Fraction, ...]


def is_image(shape: tuple[int, ...], dims: int) -> bool:
    """Tell whether a value has channels and ``dims`` spatial axes with more than one pixel."""
    return 0 < dims <= len(shape) - 2 and math.prod(shape[-dims:]) > 1


def image_dims(facts: Facts) -> Mapping[str, int]:
    """Return how many spatial axes each value has for the operations ahead of it; 0 when none of them reads images."""
    found: dict[str, int] = {}
    for operation in reversed(facts.graph.operations):
        ahead = (_dims_for(facts, operation.name, reader, found) for reader in facts.graph.readers(operation.name))
        found[operation.name] = max(ahead, default=0)
    return found


def _dims_for(facts: Facts, name: str, reader: Operation, found: Mapping[str, int]) -> int:
    windows = WINDOWS.get(reader.kind)
    if windows is not None:
        dims = windows(reader)
    else:
        dims = found[reader.name]
        moves_pixels = reader.kind in ("pad", "slice")
        if not moves_pixels and not (reader.kind in POINTWISE and keeps_sizes(facts, reader, dims)):
            return 0
    return dims if is_image(facts.shapes[name], dims) else 0


def keeps_sizes(facts: Facts, operation: Operation, dims: int) -> bool:
    """Tell whether the last ``dims`` axes of an operation's inputs and output are the same pixels.

    An input that does not depend on the network's input may broadcast.
    """
    if dims == 0:
        return False
    shape = facts.shapes[operation.name]
    read = [facts.shapes[name] for name in operation.inputs if name not in facts.independent]
    if any(one[-dims:] != shape[-dims:] for one in read):
        return False
    if operation.kind == "permute":
        return operation.integers("dims")[-dims:] == tuple(range(len(shape) - dims, len(shape)))
    return True


class Grids:
    """The torus of every value that may be an image.

    Args:
        facts: The network.
        names: The values that matter.
        images: Whether there are images; else every value is plain rows, one for each of its entries.
    """

    def __init__(self, facts: Facts, names: frozenset[str], *, images: bool = True) -> None:
        self._facts = facts
        self.dims = image_dims(facts) if images else dict.fromkeys((op.name for op in facts.graph), 0)
        self._places: dict[str, Place] = {}
        self._joined: dict[str, Place] = {}  # a family that became part of another: the place of its own torus there
        self._wanted: list[tuple[Place, tuple[int, ...]]] = []
        for operation in facts.graph:
            if operation.name in names:
                self._place(operation)
        self._sides = self._family_sides()

    def sides(self, name: str, dims: int) -> Sides | None:
        """Return the sides of the torus of a value with ``dims`` spatial axes, or None when it is no image."""
        if name not in self._places or len(self._places[name].steps) != dims:
            return None
        place = self._now(self._places[name])
        return tuple(int(side / step) for side, step in zip(self._sides[place.family], place.steps, strict=True))

    def _now(self, place: Place) -> Place:
        """Return a place in the family that its own has become part of."""
        while place.family in self._joined:
            into = self._joined[place.family]
            place = Place(into.family, tuple(a * b for a, b in zip(place.steps, into.steps, strict=True)))
        return place

    def _place(self, operation: Operation) -> None:
        place = self._inherited(operation) or self._new(operation)
        if place is not None:
            self._places[operation.name] = place
            self._wanted.append((place, self._facts.shapes[operation.name][-len(place.steps) :]))

    def _new(self, operation: Operation) -> Place | None:
        dims = self.dims[operation.name]
        one = (Fraction(1),) * dims
        return Place(operation.name, one) if is_image(self._facts.shapes[operation.name], dims) else None

    def _inherited(self, operation: Operation) -> Place | None:
        """Return the place an operation's output takes from its inputs', when they agree."""
        facts = self._facts
        places = [self._places.get(name) for name in operation.inputs if name not in facts.independent]
        place = places[0] if places else None
        dims = 0 if place is None else len(place.steps)
        if place is None or not is_image(facts.shapes[operation.name], dims):
            return None
        reading = reading_of(facts, operation, dims)
        if reading is not None:
            self._wanted.append((place, tuple(axis.need for axis in reading.axes)))
            return _stepped(place, reading.strides)
        if operation.kind in ("conv", "max_pool", "avg_pool") and len(operation.integers("stride")) == dims:
            return Place(operation.name, (Fraction(1),) * dims)
        if operation.kind not in POINTWISE or not keeps_sizes(facts, operation, dims):
            return None
        return self._now(place) if all(self._agree(place, other) for other in places) else None

    def _agree(self, first: Place, other: Place | None) -> bool:
        """Tell whether two values stand on the same pixels, after joining their families if they are two."""
        if other is None or len(other.steps) != len(first.steps):
            return False
        a, b = self._now(first), self._now(other)
        if a.family != b.family:
            self._joined[b.family] = Place(a.family, tuple(x / y for x, y in zip(a.steps, b.steps, strict=True)))
        return self._now(other).steps == a.steps

    def _family_sides(self) -> Mapping[str, Sides]:
        multiples: dict[str, tuple[int, ...]] = {}
        needs: dict[str, tuple[Fraction, ...]] = {}
        for wanted, sizes in self._wanted:
            place = self._now(wanted)
            needed = tuple(size * step for size, step in zip(sizes, place.steps, strict=True))
            whole = tuple(step.numerator for step in place.steps)
            needs[place.family] = tuple(map(max, needs.get(place.family, needed), needed))
            multiples[place.family] = tuple(map(math.lcm, multiples.get(place.family, whole), whole))
        return {
            family: tuple(math.ceil(need / whole) * whole for need, whole in zip(found, multiples[family], strict=True))
            for family, found in needs.items()
        }


def _stepped(place: Place, strides: tuple[int, ...]) -> Place:
    return Place(place.family, tuple(a * b for a, b in zip(place.steps, strides, strict=True)))
