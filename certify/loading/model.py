"""The Model: what every stage after loading works with. Nothing after this package knows a file format."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.errors import InputError
from certify.graph import Graph, Program, check_examples_apart, value_shapes
from certify.results import InputSpace, ModelRecord

MAX_CLASSES = 1_000_000


@dataclass(frozen=True, eq=False)
class Model:
    """A trained classifier: its graph, the space of its input, its classes, and where it came from.

    ``sha256`` is the hash of the file that holds the weights. ``source`` says in words which format and architecture
    that was, with the hash of the architecture when it stood in a file of its own; it never holds a folder. ``path``
    is for messages only.

    Raises:
        InputError: If graph, input space and classes do not belong together: another input shape, logits that are not
            as many as the classes, fewer than two classes, weights that are not float32 or float64.
        NoRuleError: If an operation could mix the examples of a batch.
    """

    graph: Graph
    input: InputSpace
    classes: tuple[str, ...]
    source: str
    path: str
    sha256: str

    def __post_init__(self) -> None:
        check_input_space(self.input, self.graph.input_shape)
        check_classes(self.classes)
        _check_weights(self.graph)
        check_examples_apart(self.graph)
        logits = value_shapes(self.graph)[self.graph.output]
        if logits != (1, len(self.classes)):
            raise InputError(
                f"expected logits of shape [1, {len(self.classes)}], one for each of the classes, got {list(logits)};"
                " name as many classes as the network has outputs"
            )

    @property
    def record(self) -> ModelRecord:
        """The model as a report names it."""
        return ModelRecord(
            sha256=self.sha256,
            source=self.source,
            input=self.input,
            classes=self.classes,
            parameters=self.graph.parameter_count,
        )

    def predict(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        compiled_rows: int | None = None,
        channels_last: bool = False,
    ) -> Callable[[Tensor], Tensor]:
        """Return the network as a function from a batch of inputs to logits; see `certify.graph.Program`.

        Args:
            device: Where it runs.
            dtype: The floating type of its weights and activations; inputs are cast to it.
            compiled_rows: Compile it for passes of so many rows; None: run it as it is.
            channels_last: The memory format of images and kernels.
        """
        return Program(self.graph, device, dtype, compiled_rows=compiled_rows, channels_last=channels_last)


def check_classes(classes: tuple[str, ...]) -> None:
    """Refuse a list of class names that cannot name the logits of a classifier.

    Raises:
        InputError: If there are fewer than two, a name is empty or not encodable as UTF-8, or two are the same.

    Example:
        >>> check_classes(("cat", "dog"))
        >>> check_classes(("cat",))
        Traceback (most recent call last):
        certify.errors.InputError: expected 2 to 1,000,000 classes, got 1; a single logit is no classifier here: ...
    """
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise InputError(
            f"expected 2 to {MAX_CLASSES:,} classes, got {len(classes)}; a single logit is no classifier here:"
            " export the network with one output for each class"
        )
    seen: set[str] = set()
    for name in classes:
        if not name or len(name) > 1000 or any("\ud800" <= character <= "\udfff" for character in name):
            raise InputError(f"expected class names of 1 to 1000 characters of valid Unicode, got {name!r:.100}")
        if name in seen:
            raise InputError(f"expected different class names, got {name!r} twice")
        seen.add(name)


def check_input_space(space: InputSpace, shape: tuple[int, ...]) -> None:
    """Refuse an input space that is not that of a graph with this input shape.

    Raises:
        InputError: If the shape is another one, or the range is not two finite numbers in order.
    """
    if space.shape != shape:
        raise InputError(f"expected the input shape {list(shape)} of the graph, got {list(space.shape)}")
    if space.range is not None and not (-math.inf < space.range[0] < space.range[1] < math.inf):
        raise InputError(f"expected a range [low, high] of finite numbers with low < high, got {list(space.range)}")


def _check_weights(graph: Graph) -> None:
    for name, tensor in graph.tensors.items():
        if tensor.dtype == torch.bool:
            continue  # the mask of an attention
        if tensor.dtype not in (torch.float32, torch.float64):
            raise InputError(f"tensor {name!r}: expected float32 or float64, got {tensor.dtype}; save module.float()")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"tensor {name!r}: expected finite numbers, got NaN or infinity; the training diverged")
