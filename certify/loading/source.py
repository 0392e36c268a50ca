"""A source of examples before the model looks at them: how many, and each one on request.

Readers return a `Source`; `certify.loading.data` selects from it and checks what comes. Rows are read one at a time,
so that a limit decodes no more images than it asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from certify.errors import InputError
from certify.results import InputSpace

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Row:
    """One example as stored, already in the model's layout: its stable id, its label's index, its values."""

    id: str
    label: int
    stored: Array


@dataclass(frozen=True)
class Source:
    """``count`` rows in a fixed order; ``noun`` and ``order`` are its words for a selection: "images 0-9 of 360"."""

    count: int
    read: Callable[[int], Row]
    noun: str = "rows"
    order: str = ""


@dataclass(frozen=True)
class Request:
    """What a reader needs to know of the model: its input, its classes, and which column holds the label."""

    input: InputSpace
    classes: tuple[str, ...]
    label: str | None = None


def array_source(x: Array, y: Array, request: Request, name: str) -> Source:
    """Return the rows of an array of inputs ``[N, ...]`` and an array of labels ``[N]``; the row number is the id.

    Raises:
        InputError: If the dtypes, lengths or shapes do not fit each other or the model.
    """
    check_value_dtype(x, name)
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y):
        raise InputError(
            f"{name}: expected x of shape [N, ...] and y of shape [N], got {list(x.shape)} and {list(y.shape)}"
        )
    labels = label_indices(y, request.classes, name)
    arrange = arrangement(x.shape[1:], request.input.shape, eight_bit=x.dtype == np.uint8, name=name)

    def read(position: int) -> Row:
        return Row(str(position), int(labels[position]), arrange(native(x[position])))

    return Source(len(x), read)


def check_value_dtype(x: Array, name: str) -> None:
    """Refuse values that are neither 8-bit pixels nor float32 or float64.

    Raises:
        InputError: If the dtype is any other.
    """
    if native(x).dtype not in (np.uint8, np.float32, np.float64):
        raise InputError(
            f"{name}: expected x of dtype uint8 (pixels, taken as pixel/255), float32 or float64, got {x.dtype};"
            " convert it with astype"
        )


def native(x: Array) -> Array:
    """Return the same numbers in the machine's byte order."""
    return x.astype(x.dtype.newbyteorder("="), copy=False)


def label_indices(y: Array, classes: tuple[str, ...], name: str) -> Array:
    """Return labels as class indices; integers are indices already, text is matched to the class names.

    Raises:
        InputError: If the dtype is neither, or a text is no class name.
    """
    if y.dtype.kind in "iu":
        return y
    if y.dtype.kind != "U":
        raise InputError(f"{name}: expected labels y that are integers or class names, got dtype {y.dtype}")
    index = {class_name: position for position, class_name in enumerate(classes)}
    unknown = sorted(set(y.tolist()) - index.keys())
    if unknown:
        raise InputError(f"{name}: expected labels among the classes {some(classes)}, got {unknown[0]!r:.100}")
    return np.array([index[text] for text in y.tolist()], dtype=np.int64)


def arrangement(
    shape: tuple[int, ...], wanted: tuple[int, ...], *, eight_bit: bool, name: str
) -> Callable[[Array], Array]:
    """Return what brings one example of a stored shape into the model's input shape.

    Equal shapes stay as they are. With one channel there is one way to read ``[H, W]``, ``[1, H, W]`` or a plain list
    of H W values (row by row) as each other. 8-bit images ``[H, W, C]`` become ``[C, H, W]``; float arrays are never
    transposed. Nothing else is guessed.

    Raises:
        InputError: If the shapes do not fit.

    Example:
        >>> arrange = arrangement((2, 2, 3), (3, 2, 2), eight_bit=True, name="x.npy")
        >>> arrange(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))[0].tolist()
        [[0, 3], [6, 9]]
    """
    if shape == wanted:
        return lambda x: x
    if eight_bit and len(shape) == 3 == len(wanted) and (shape[2], *shape[:2]) == wanted:
        return lambda x: np.ascontiguousarray(x.transpose(2, 0, 1))
    if _one_channel(shape, wanted) or _one_channel(wanted, shape):
        return lambda x: x.reshape(wanted)
    hint = "; images are stored [C, H, W], or 8-bit [H, W, C]" if len(wanted) == 3 else ""
    raise InputError(f"{name}: expected examples of shape {list(wanted)}, the model's input, got {list(shape)}{hint}")


def _one_channel(flat: tuple[int, ...], full: tuple[int, ...]) -> bool:
    """Return whether ``full`` is ``flat`` with a channel dimension of one in front, or the same values unrolled."""
    if full == (1, *flat):
        return True
    image = full[1:] if len(full) == 3 and full[0] == 1 else full
    return len(flat) == 1 and len(image) == 2 and flat[0] == image[0] * image[1]


def some(names: tuple[str, ...]) -> str:
    """Return the first few names, for an error message."""
    return f"{list(names[:10])}" + (" ..." if len(names) > 10 else "")
