"""A network whose outputs are no classes: numbers of a regression, or a map of logits of a segmentation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certify.errors import InputError
from certify.graph import Graph, Program, trace
from certify.loading.model import Model
from certify.results import InputSpace, ModelRecord


@dataclass(frozen=True, eq=False)
class Network:
    """A traced network of any output; ``sha256`` is the hash of its weights, ``output_shape`` without the batch.

    The graph ends in the flattened outputs, one row per input.
    """

    graph: Graph
    input: InputSpace
    output_shape: tuple[int, ...]
    source: str
    path: str
    sha256: str

    @property
    def record(self) -> ModelRecord:
        """The network as a report names it: without classes."""
        return ModelRecord(
            sha256=self.sha256, source=self.source, input=self.input, classes=(), parameters=self.graph.parameter_count
        )

    def predict(
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Callable[[Tensor], Tensor]:
        """Return the network as a function from a batch of inputs to outputs; see `certify.loading.Model.predict`."""
        return Program(self.graph, device, dtype, self.output_shape)


def trace_network(model: Model | nn.Module, input_shape: tuple[int, ...]) -> Network:
    """Return the network of a model file, or of a module in memory, which is traced and frozen as it computes now.

    Args:
        model: A loaded model, or a module that takes ``[N, *input_shape]``.
        input_shape: Shape of one input.

    Raises:
        InputError: If it is neither, or takes another shape.
        NoRuleError: If the module has an operation outside the vocabulary, or mixes examples of a batch.

    Example:
        >>> trace_network(nn.Linear(3, 5), (3,)).output_shape
        (5,)
    """
    if isinstance(model, Model):
        graph, space, source, path, sha256 = model.graph, model.input, model.source, model.path, model.sha256
    elif isinstance(model, nn.Module):
        graph = trace(nn.Sequential(model, nn.Flatten(1)), input_shape)
        space, source, path, sha256 = InputSpace(input_shape), "a module in memory, traced", "", graph.sha256
    else:
        raise InputError(f"expected a loaded model or a torch module for this task, got {type(model).__name__}")
    if space.shape != input_shape:
        raise InputError(f"expected examples of shape {list(space.shape)}, got {list(input_shape)}")
    shape = (len(model.classes),) if isinstance(model, Model) else _output_shape(model, input_shape)
    return Network(graph, space, shape, source, path, sha256)


def _output_shape(module: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the outputs of one input, which its graph has flattened."""
    kind = next((tensor.dtype for tensor in module.parameters()), torch.float32)
    with torch.no_grad():
        return tuple(copy.deepcopy(module).eval()(torch.zeros(1, *input_shape, dtype=kind)).shape[1:])
