"""A network as it is run: in one dtype on one device, batch norms folded; it can be sent to another process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor, fx

from certify.graph.blocked import blocked_module
from certify.graph.compiled import CompiledModule
from certify.graph.graph import Graph
from certify.graph.passes import fold_batch_norm
from certify.graph.run import to_module


@dataclass(frozen=True, eq=False)
class Program:
    """A function from a batch of inputs to outputs, for running a network, not for proving.

    Batch norms are folded into the layers before them in float64; the result is then rounded to ``dtype``. Inputs are
    cast to it. ``output_shape`` is that of one output, when it differs from the graph's. With ``compiled_rows`` the
    module is compiled, at the first call, for so many rows; see `certify.graph.compiled`. ``channels_last`` is another
    memory format of images and of the kernels of two-dimensional convolutions, in which many of these are faster. Else
    convolutions on the CPU in float32 are in layouts of their own; see `certify.graph.blocked`.

    Pickled is the graph, not what was made of it: what comes out elsewhere is made again from the same numbers.
    """

    graph: Graph
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    output_shape: tuple[int, ...] | None = None
    compiled_rows: int | None = None
    channels_last: bool = False

    def __post_init__(self) -> None:
        _ = self.module, self._evaluate  # made here, once, not by the first of several threads

    @cached_property
    def _folded(self) -> Graph:
        return fold_batch_norm(self.graph.to(torch.float64))

    @cached_property
    def module(self) -> fx.GraphModule:
        """The network as a PyTorch module, in eval mode."""
        folded: fx.GraphModule = to_module(self._folded, in_place=self.compiled_rows is None)
        folded.to(self.device, self.dtype).eval()
        for tensor in folded.buffers() if self.channels_last else ():
            if tensor.dim() == 4:
                tensor.data = tensor.contiguous(memory_format=torch.channels_last)
        return folded

    @cached_property
    def _evaluate(self) -> Callable[[Tensor], Tensor]:
        if self.compiled_rows is not None:
            return CompiledModule(self.module, self.compiled_rows)
        on_cpu = torch.device(self.device).type == "cpu" and self.dtype == torch.float32
        in_blocks = blocked_module(self._folded.to(torch.float32), self.module) if on_cpu else None
        plain: Callable[[Tensor], Tensor] = self.module.forward  # without PyTorch's way around hooks: there are none
        return plain if in_blocks is None or self.channels_last else in_blocks

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch of inputs, without gradients.

        Raises:
            InputError: If it shall be compiled and cannot be here.
        """
        if not torch.is_grad_enabled():
            return self._outputs(x)
        with torch.inference_mode():
            return self._outputs(x)

    def _outputs(self, x: Tensor) -> Tensor:
        inputs = x.to(self.device, self.dtype)
        if self.channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        found = self._evaluate(inputs)
        return found if self.output_shape is None else found.reshape(len(x), *self.output_shape)

    def __getstate__(self) -> dict[str, object]:
        """Return the fields alone."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
