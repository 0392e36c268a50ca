"""How a value of the network is held while a plan is written: as rows of a register, as a map of it, or by its gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from certify.bounds.covariance.maps import Map


@dataclass(frozen=True, eq=False)
class View:
    """A value that is a linear map of a register, as long as no step is needed for it.

    On a torus the value stands on every ``strides``-th pixel of the register's torus (``()`` when dense). ``clean``: it
    is zero outside its true pixels, so that a padded convolution may read it; else what is there is arbitrary.
    """

    register: int
    map: Map
    strides: tuple[int, ...] = ()
    clean: bool = True


@dataclass(frozen=True, eq=False)
class Flat:
    """Plain rows that are a linear map of the pixels of an image, or of weighted means of them.

    The columns of ``map`` are channels times ``windows`` ``[P, pixels]`` (None: each pixel for itself), whose weights
    are known up to a relative error. ``sizes`` are the image's.
    """

    view: View
    sizes: tuple[int, ...]
    map: Map
    windows: Tensor | None = None
    relative: float = 0.0

    @property
    def register(self) -> int:
        """The register of the image."""
        return self.view.register


@dataclass(frozen=True, eq=False)
class Behind:
    """A view behind an activation with slopes of at most ``slope``, which the max pool that reads it takes along."""

    view: View
    slope: float

    @property
    def register(self) -> int:
        """The register of the view."""
        return self.view.register


@dataclass(frozen=True)
class Lost:
    """A value known by its gain from the input alone, since no register can hold it."""


@dataclass(frozen=True)
class Read:
    """A value that everything has read; what it was held by need not be kept."""


Held: TypeAlias = View | Flat | Behind | Lost | Read
