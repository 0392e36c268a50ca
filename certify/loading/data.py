"""Data become examples: the reader follows from the name, the selection is deterministic, each value is checked.

=====================================  =============================================================================
folder with ``x.npy``                  arrays (`certify.loading.arrays`)
any other folder                       class folders of images (`certify.loading.image_folder`)
``.npy``, ``.npz``, ``.safetensors``   arrays
``*idx3-ubyte``, ``*idx3-ubyte.gz``    MNIST's format (`certify.loading.binary`)
``.bin``                               CIFAR's binary format
``.csv``                               a table (`certify.loading.table`)
=====================================  =============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from certify.errors import InputError
from certify.examples import Dataset, Example
from certify.loading.arrays import read_npy_pair, read_npz, read_safetensors_data
from certify.loading.binary import is_idx, read_cifar, read_idx
from certify.loading.image_folder import read_image_folder
from certify.loading.source import Request, Row, Source
from certify.loading.table import read_table
from certify.results import InputSpace

DTYPES = (np.uint8, np.float32, np.float64)

Reader: TypeAlias = Callable[[Path, Request], Source]

READERS: Mapping[str, Reader] = MappingProxyType(
    {
        ".npy": read_npy_pair,
        ".npz": read_npz,
        ".safetensors": read_safetensors_data,
        ".bin": read_cifar,
        ".csv": read_table,
    }
)


def read_data(
    path: str | Path,
    *,
    input: InputSpace,  # noqa: A002 - the word of the file format
    classes: tuple[str, ...],
    label: str | None = None,
    skip: int = 0,
    limit: int | None = None,
) -> Dataset:
    r"""Return the selected examples of a file or folder, in a fixed order.

    8-bit data stay integers (the network sees pixel/255); float arrays keep their dtype; tables are float64. Only the
    selected examples are decoded and checked.

    Args:
        path: A file or folder in one of the formats of this module.
        input: The model's input: shape and declared range.
        classes: The model's class names; the position of a name is its label.
        label: Name of the label column of a table; default: the last column.
        skip: How many examples to leave out at the start.
        limit: How many examples to take at most; default: all.

    Raises:
        InputError: If the format is unknown, a file is damaged, a label is outside the classes, a value is not finite
            or outside the declared range, or nothing is selected. The message names the file and the example.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "data.csv").write_text("height,width,kind\n1,2,bee\n3,4,ant\n")
        ...     data = read_data(f"{folder}/data.csv", input=InputSpace((2,)), classes=("ant", "bee"), skip=1)
        >>> data.selection, data.examples[0].label, data.examples[0].stored.tolist()
        ('rows 1-1 of 2', 0, [3.0, 4.0])
    """
    if skip < 0 or (limit is not None and limit < 1):
        raise InputError(f"expected skip >= 0 and limit >= 1, got skip {skip} and limit {limit}")
    request = Request(input, classes, label)
    source = _reader(Path(path), request)(Path(path), request)
    stop = source.count if limit is None else min(source.count, skip + limit)
    if source.count == 0:
        raise InputError(f"{path}: expected at least one example, got none")
    if skip >= stop:
        raise InputError(f"{path}: expected examples behind the first {skip}, got {source.count} in all")
    examples = tuple(_example(position, source.read(position), request, str(path)) for position in range(skip, stop))
    return Dataset(examples, source.count, _selection(source, skip, stop))


def _reader(path: Path, request: Request) -> Reader:
    if not path.exists():
        raise InputError(f"expected data, got nothing at {str(path)!r}; check the path")
    if path.is_dir():
        reader: Reader | None = read_npy_pair if (path / "x.npy").is_file() else read_image_folder
    else:
        reader = read_idx if is_idx(path.name) else READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"expected a folder of class folders, or a file {', '.join(READERS)} or *idx3-ubyte[.gz], got {str(path)!r}"
        )
    if request.label is not None and reader is not read_table:
        raise InputError(f"{path}: a label column can be named for .csv tables only; leave {request.label!r} out")
    return reader


def _selection(source: Source, start: int, stop: int) -> str:
    if (start, stop) == (0, source.count):
        return f"all {source.count}"
    order = f" ({source.order})" if source.order else ""
    return f"{source.noun} {start}-{stop - 1} of {source.count}{order}"


def _example(position: int, row: Row, request: Request, name: str) -> Example:
    example = Example(position, row.id, row.label, np.ascontiguousarray(row.stored))
    _check_example(example, request.input, request.classes, f"{name}: {row.id}")
    return example


def check_dataset(dataset: Dataset, *, input: InputSpace, classes: tuple[str, ...]) -> None:  # noqa: A002 - as above
    """Refuse examples that no reader makes: a data set can also be put together by hand.

    Raises:
        InputError: If there is no example, two have one id, they are not in the order of their indices, or one has
            another shape or dtype than the model's input, a label outside the classes, a value that is not finite or
            outside the declared range.

    Example:
        >>> data = Dataset((Example(0, "a", 1, np.array([0.5, 3.0])),), total=1, selection="all 1")
        >>> check_dataset(data, input=InputSpace((2,)), classes=("no", "yes"))
        >>> check_dataset(data, input=InputSpace((2,), range=(0.0, 1.0)), classes=("no", "yes"))
        Traceback (most recent call last):
        certify.errors.InputError: a: expected values in [0.0, 1.0], got 0.5 to 3.0; scale the data
    """
    if not len(dataset):
        raise InputError("expected at least one example, got none")
    ids, previous = set(), -1
    for example in dataset:
        if example.id in ids or not example.index > previous:
            raise InputError(f"{example.id}: expected ids that differ and rising indices, got index {example.index}")
        _check_example(example, input, classes, example.id)
        ids.add(example.id)
        previous = example.index


def _check_example(example: Example, space: InputSpace, classes: tuple[str, ...], where: str) -> None:
    if not 0 <= example.label < len(classes):
        raise InputError(f"{where}: expected a label from 0 to {len(classes) - 1}, got {example.label}")
    if example.stored.dtype not in DTYPES or example.stored.shape != space.shape:
        found = f"{example.stored.dtype} of shape {list(example.stored.shape)}"
        raise InputError(f"{where}: expected uint8, float32 or float64 of shape {list(space.shape)}, got {found}")
    _check_values(example, space, where)


def _check_values(example: Example, space: InputSpace, where: str) -> None:
    if example.eight_bit:
        if space.range not in (None, (0.0, 1.0)):
            raise InputError(
                f"{where}: 8-bit data stand for pixel/255 in [0, 1], but the model declares {list(space.range)};"
                " save it with range (0, 1) and its normalisation as mean and std, or give the data as floats"
            )
        return
    if not bool(np.isfinite(example.stored).all()):
        raise InputError(f"{where}: expected finite values, got NaN or infinity")
    least, most = float(example.stored.min()), float(example.stored.max())
    if space.range is not None and not (space.range[0] <= least and most <= space.range[1]):
        raise InputError(f"{where}: expected values in {list(space.range)}, got {least} to {most}; scale the data")
