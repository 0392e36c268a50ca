r"""The draws of the CPU in compiled code: the numbers of numpy's generators, bit for bit, several times as fast.

`kernels.c` is compiled when the program is installed on a machine with a C compiler. It is an accelerator and nothing
else: it makes the network inputs of a block that `NoiseLaw.draw` and `NoiseLaw.inputs` make, so that counts, stores and
reports are the same with it and without, and where it is missing these do the work. It holds

- Philox 4x64-10 under a key, in the order of ``numpy.random.Philox.random_raw``;
- integer noise by the table of two levels (`two_level_table`): the open entries take their low words in their order,
  and are searched from the first threshold that their entry leaves possible;
- normal noise by the ziggurat of ``numpy.random.Generator.standard_normal``. A word whose step lies below the sure part
  of its layer (98.8 % of words) is that step times the layer's width, with a sign; for every other word numpy's own
  compiled function is called on the same stream. Widths and sure parts are not copied from numpy's source: they are
  read off that function, by words that are chosen, the sure part by bisection.

**What it rests on.** It is loaded only from beside this file, and used only if it was compiled from the ``kernels.c``
beside it (by hash) and agrees, at the first use in each process, with numpy on thousands of numbers, which reach every
branch of both laws. An installation in which any of this fails draws with numpy.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.smoothing.two_level_table import IntegerSampler, integer_sampler

SOURCE = Path(__file__).with_name("kernels.c")
LIBRARY = Path(__file__).with_name("_kernels.so")
LAYERS = 256
BYTES, PLACE, NUMBER = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint64
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "certify_learn_layers": (PLACE, PLACE, PLACE),
    "certify_integer_inputs": (BYTES, PLACE, BYTES, NUMBER, NUMBER, PLACE, PLACE, NUMBER),
    "certify_normal_inputs": (
        *(BYTES, PLACE, PLACE, PLACE, ctypes.c_double),
        *(BYTES, NUMBER, NUMBER, PLACE, ctypes.c_int, PLACE, NUMBER),
    ),
}
TEST_ROWS, TEST_COLUMNS = 128, 97


class _TwoLevels(ctypes.Structure):
    """``two_levels`` of the C source."""

    _fields_ = (
        ("thresholds", ctypes.c_void_p),
        ("levels", ctypes.c_int64),
        ("table", ctypes.c_void_p),
        ("below", ctypes.c_void_p),
        ("open_mark", ctypes.c_int64),
    )


@dataclass(frozen=True, eq=False)
class Kernels:
    """The compiled draws; ``normal`` is numpy's function of one normal number, and the layers are read off it."""

    library: ctypes.CDLL
    normal: int
    widths: NDArray[np.float64]
    sure: NDArray[np.uint64]

    def integer_inputs(
        self, key: NDArray[np.uint64], sampler: IntegerSampler, pixels: NDArray[np.int16], inputs: Tensor, marks: int
    ) -> NDArray[np.uint64]:
        """Write (x + Z) / 255 for rows of independent Z into ``inputs``, and return the first raw words.

        Args:
            key: The key of the block.
            sampler: The law of Z, whose table is of int16; see `IntegerSampler.draw`.
            pixels: x, ``[*shape]``.
            inputs: ``[rows, *shape]`` in float32, contiguous.
            marks: How many words to return.

        Raises:
            ValueError: If the arrays are not of these types and shapes.
        """
        if pixels.dtype != np.int16 or sampler.table.dtype != np.int16:
            raise ValueError(f"expected pixels and a table of int16, got {pixels.dtype} and {sampler.table.dtype}")
        first = (ctypes.c_uint64 * marks)()
        self.library.certify_integer_inputs(
            key.tobytes(),
            ctypes.byref(_two_levels(sampler)),
            pixels.tobytes(),
            pixels.size,
            inputs.numel(),
            _address(inputs, pixels.shape, torch.float32),
            first,
            marks,
        )
        return np.ctypeslib.as_array(first)

    def normal_inputs(
        self, key: NDArray[np.uint64], scale: float, values: NDArray[np.float64], inputs: Tensor, marks: int
    ) -> NDArray[np.float64]:
        """Write x + scale g for rows of standard normal g into ``inputs``, and return the first of the g.

        Args:
            key: The key of the block.
            scale: The standard deviation.
            values: x, ``[*shape]``.
            inputs: ``[rows, *shape]`` in float32 or float64, contiguous; all is computed in float64.
            marks: How many numbers to return.

        Raises:
            ValueError: If the arrays are not of these types and shapes.
        """
        if values.dtype != np.float64:
            raise ValueError(f"expected values of float64, got {values.dtype}")
        first = (ctypes.c_double * marks)()
        self.library.certify_normal_inputs(
            key.tobytes(),
            self.normal,
            self.widths.ctypes.data,
            self.sure.ctypes.data,
            scale,
            values.tobytes(),
            values.size,
            inputs.numel(),
            _address(inputs, values.shape, torch.float32, torch.float64),
            inputs.dtype == torch.float64,
            first,
            marks,
        )
        return np.ctypeslib.as_array(first)


def _address(inputs: Tensor, shape: tuple[int, ...], *dtypes: torch.dtype) -> int:
    """Return where rows of a shape lie, after checking that they do: what is written there is not checked again."""
    fits = inputs.dtype in dtypes and inputs.shape[1:] == shape and inputs.is_contiguous()
    if not fits or inputs.device.type != "cpu":
        raise ValueError(
            f"expected contiguous rows of shape {shape} in {' or '.join(map(str, dtypes))} on the CPU, got "
            f"{list(inputs.shape)} in {inputs.dtype} on {inputs.device}"
        )
    return inputs.data_ptr()


@lru_cache(maxsize=64)
def _two_levels(sampler: IntegerSampler) -> _TwoLevels:
    """Return the law as the kernels take it; it keeps what it points to."""
    T, table, below = sampler.T, sampler.table, sampler.below
    law = _TwoLevels(T.ctypes.data, len(T), table.ctypes.data, below.ctypes.data, sampler.open_mark)
    law.kept = T, table, below  # these very arrays: a second thread may have given the sampler another `below`
    return law


@lru_cache(maxsize=1)
def kernels() -> Kernels | None:
    """Return the compiled draws, or None where this installation has none that agree with numpy.

    Example:
        >>> found = kernels()
        >>> found is None or found.widths.shape == (256,)
        True
    """
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.certify_source.restype = ctypes.c_char_p
        generator = importlib.util.find_spec("numpy.random._generator")
        normal = ctypes.CDLL(str(generator and generator.origin)).random_standard_normal
        if library.certify_source() != hashlib.sha256(SOURCE.read_bytes()).hexdigest().encode():
            return None
        for name, types in ARGUMENTS.items():  # an address that is passed as an int of 32 bits would be another
            function = getattr(library, name)
            function.argtypes, function.restype = types, None
    except (OSError, AttributeError):
        return None
    address = ctypes.cast(normal, ctypes.c_void_p).value or 0
    widths, sure = np.zeros(LAYERS), np.zeros(LAYERS, dtype=np.uint64)
    library.certify_learn_layers(address, widths.ctypes.data, sure.ctypes.data)
    found = Kernels(library, address, widths, sure)
    return found if _integers_agree(found) and _normals_agree(found) else None


def _integers_agree(found: Kernels) -> bool:
    """Whether integer noise is that of the two-level table, of a law with wide and narrow steps."""
    steps = (2 ** np.arange(8, 52, dtype=np.int64)).repeat(40).cumsum()  # below 2^58
    sampler = integer_sampler(np.concatenate([steps, 2**62 - steps[::-1], 2**62 + steps, 2**63 - 1 - steps[::-1]]))
    key, pixels = np.array([2, 3], dtype=np.uint64), np.arange(TEST_COLUMNS, dtype=np.int16)
    values, words = sampler.draw(np.random.Philox(key=key), TEST_ROWS * TEST_COLUMNS)
    expected = (values.reshape(TEST_ROWS, TEST_COLUMNS) + pixels).astype(np.float32) / np.float32(255)
    inputs = torch.zeros((TEST_ROWS, TEST_COLUMNS))
    first = found.integer_inputs(key, sampler, pixels, inputs, TEST_COLUMNS)
    return np.array_equal(inputs.numpy(), expected) and np.array_equal(first, words[:TEST_COLUMNS])


def _normals_agree(found: Kernels) -> bool:
    """Whether normal noise is that of numpy, in float64 and rounded to float32."""
    key, values = np.array([4, 5], dtype=np.uint64), np.linspace(0, 1, TEST_COLUMNS)
    normal = np.random.Generator(np.random.Philox(key=key)).standard_normal((TEST_ROWS, TEST_COLUMNS))
    expected = torch.from_numpy(normal * 0.37 + values)
    for dtype in (torch.float32, torch.float64):
        inputs = torch.zeros((TEST_ROWS, TEST_COLUMNS), dtype=dtype)
        first = found.normal_inputs(key, 0.37, values, inputs, TEST_COLUMNS)
        if not (torch.equal(inputs, expected.to(dtype)) and np.array_equal(first, normal[0])):
            return False
    return True
