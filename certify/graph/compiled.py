"""A module compiled by `torch.compile`: one program, for one number of rows.

The compiler fuses operations and orders sums in its own way, so the compiled network rounds differently and is another
base classifier than the uncompiled one: it is compiled when that was asked for, never silently, and a run names it.
A program is made for one shape. So that a run has a single one, each batch goes through it: padded with zeros to its
number of rows, or split. It is made at the first call: a finished run that is read back compiles nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certify.errors import InputError


@dataclass(eq=False)
class CompiledModule:
    """A module as a function of batches of any length; its program takes ``rows`` of them at a time.

    Raises:
        InputError: From the first call, if the module cannot be compiled here.
    """

    module: nn.Module
    rows: int
    _program: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return torch.cat([self._part(part) for part in torch.split(x.contiguous(), self.rows)])

    def _part(self, x: Tensor) -> Tensor:
        padded = torch.cat([x, x.new_zeros((self.rows - len(x), *x.shape[1:]))]) if len(x) < self.rows else x
        if self._program is None:
            self._program = _compile(self.module, padded)
        return self._program(padded)[: len(x)]


def _compile(module: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the compiled program, after its first call, which makes it."""
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":  # then torch.compile returns what runs uncompiled
        raise InputError("expected a compiler that works, got TORCHDYNAMO_DISABLE; unset it, or leave --compile out")
    program: Callable[[Tensor], Tensor] = torch.compile(module, fullgraph=True, dynamic=False)
    try:
        program(x)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise InputError(
            f"expected a network that torch.compile can compile here, got: {reason}; it needs a C++ compiler for the "
            "CPU and Triton for a GPU: install one, or leave --compile out"
        ) from error
    return program
