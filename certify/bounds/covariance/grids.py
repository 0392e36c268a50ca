r"""Which values are images, and the sides of the torus each of them stands on.

Values that are computed from one another by convolutions, pools and operations pixel by pixel form a *family*: value v
stands on every ``step``-th pixel of the family's own torus of sides N, so on a torus of sides N / step. N is the least
multiple of all steps on which every value fits, and every reading finds the zeros it expects outside
(`certify.bounds.covariance.readings`); a larger torus would be sound as well. A value of which only a gain is used
(resampling, flattening, wrapping around) begins a family of its own.

Values without a spatial operation ahead of them are better held as plain rows; `image_dims` says which are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from certify.bounds.covariance.readings import Axis, reading_of
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
    steps: tuple[int, ...]


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
    """

    def __init__(self, facts: Facts, names: frozenset[str]) -> None:
        self._facts = facts
        self.dims = image_dims(facts)
        self._places: dict[str, Place] = {}
        self._needs: dict[str, tuple[int, ...]] = {}
        for operation in facts.graph:
            if operation.name in names:
                self._place(operation)
        self._sides = self._family_sides()

    def sides(self, name: str, dims: int) -> Sides | None:
        """Return the sides of the torus of a value with ``dims`` spatial axes, or None when it is no image."""
        place = self._places.get(name)
        if place is None or len(place.steps) != dims:
            return None
        return tuple(side // step for side, step in zip(self._sides[place.family], place.steps, strict=True))

    def _place(self, operation: Operation) -> None:
        shape = self._facts.shapes[operation.name]
        place = self._inherited(operation) or self._new(operation)
        if place is None:
            return
        self._places[operation.name] = place
        self._require(place, shape[-len(place.steps) :])

    def _new(self, operation: Operation) -> Place | None:
        dims = self.dims[operation.name]
        return Place(operation.name, (1,) * dims) if is_image(self._facts.shapes[operation.name], dims) else None

    def _inherited(self, operation: Operation) -> Place | None:
        """Return the place an operation's output takes from its inputs', when they agree."""
        read = [name for name in operation.inputs if name not in self._facts.independent]
        places = {self._places.get(name) for name in read}
        place = places.pop() if len(places) == 1 else None
        if place is None:
            return None
        dims = len(place.steps)
        if not is_image(self._facts.shapes[operation.name], dims):
            return None
        reading = reading_of(self._facts, operation, dims)
        if reading is not None:
            self._read(place, reading.axes)
            return _stepped(place, reading.strides)
        if operation.kind in ("conv", "max_pool", "avg_pool") and len(operation.integers("stride")) == dims:
            return _stepped(place, operation.integers("stride"))
        kept = operation.kind in POINTWISE and keeps_sizes(self._facts, operation, dims)
        return place if kept else None

    def _read(self, place: Place, axes: tuple[Axis, ...]) -> None:
        self._require(place, tuple(axis.need for axis in axes))

    def _require(self, place: Place, sizes: tuple[int, ...]) -> None:
        needed = tuple(size * step for size, step in zip(sizes, place.steps, strict=True))
        before = self._needs.get(place.family, needed)
        self._needs[place.family] = tuple(map(max, before, needed))

    def _family_sides(self) -> Mapping[str, Sides]:
        multiples: dict[str, tuple[int, ...]] = {}
        for place in self._places.values():
            before = multiples.get(place.family, place.steps)
            multiples[place.family] = tuple(map(math.lcm, before, place.steps))
        return {
            family: tuple(-(-need // step) * step for need, step in zip(needs, multiples[family], strict=True))
            for family, needs in self._needs.items()
        }


def _stepped(place: Place, strides: tuple[int, ...]) -> Place:
    return Place(place.family, tuple(a * b for a, b in zip(place.steps, strides, strict=True)))
