"""The network a file of weights belongs to, when the file does not say: declared as layers, or built by a factory.

Three forms name it (`read_architecture`):

=====================  =============================================================================================
``FILE.toml``          a list of layers, data only (`certify.loading.layer_list`)
``file.py:factory``    runs that file and calls ``factory()`` in it
``pkg.module:factory`` imports that module and calls ``factory()`` in it
=====================  =============================================================================================

The last two run code, so they come from the command line or from a call only, never from the content of a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from torch import Tensor, nn

from certify.errors import InputError
from certify.graph import Graph, trace, value_shapes
from certify.loading.model_file import is_counter
from certify.results import InputSpace

MAX_ELEMENTS = 2**31


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a network does not know about itself: the keyword arguments of `certify.save`.

    ``input_shape`` is the shape of one input, without the batch. ``mean`` and ``std`` put ``(x - mean) / std`` in
    front of the network. ``classes`` defaults to 0 ... K-1, ``range`` to [0, 1] with mean and std, else unchecked.
    """

    input_shape: tuple[int, ...]
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    range: tuple[float, float] | None = None
    space: str | None = None


def parse_facts(plain: object, *, name: str) -> Facts:
    """Return the facts in a plain mapping.

    Args:
        plain: The fields of `Facts` by name, with lists or tuples.
        name: Where it comes from, for the error message.

    Raises:
        InputError: If a field is missing, unknown or of another type.

    Example:
        >>> parse_facts({"input_shape": [3, 32, 32]}, name="example").input_shape
        (3, 32, 32)
    """
    try:
        return msgspec.convert(plain, Facts)
    except msgspec.ValidationError as error:
        raise InputError(f"{name}: expected the keyword arguments of certify.save, got a mismatch: {error}") from error


@dataclass(frozen=True, eq=False)
class Architecture:
    """A network with its facts, and in words where they came from, with the hash of that file but not its folder."""

    module: nn.Module
    facts: Facts
    source: str = "module"


def describe(architecture: Architecture) -> tuple[Graph, InputSpace, tuple[str, ...]]:
    """Return the graph, the input space and the classes of a network whose weights are in place.

    Raises:
        InputError: If the facts do not fit the network.
        NoRuleError: If the network cannot be traced into the vocabulary.
    """
    module, facts = architecture.module, architecture.facts
    _check_facts(facts)
    graph = trace(module, facts.input_shape, mean=facts.mean, std=facts.std)
    unit = facts.mean is not None and facts.range is None
    value_range = (0.0, 1.0) if unit else facts.range
    image = value_range == (0.0, 1.0) and len(facts.input_shape) == 3
    space = InputSpace(facts.input_shape, value_range, facts.space or ("pixels" if image else "input"))
    classes = facts.classes
    if classes is None:
        logits = value_shapes(graph)[graph.output]
        classes = tuple(str(label) for label in range(logits[-1]))
    return graph, space, classes


def _check_facts(facts: Facts) -> None:
    shape = facts.input_shape
    if not shape or len(shape) > 8 or min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
        raise InputError(
            f"expected an input shape of 1 to 8 positive sizes, without the batch, got {list(shape)!s:.200}"
        )
    if (facts.mean is None) != (facts.std is None):
        raise InputError("expected mean and std together, got one of them")


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors of a file into a module: each tensor is used, each parameter and buffer filled.

    Counters such as ``num_batches_tracked`` are left out by name. Tensors that the module ties need one entry in the
    file, and equal ones when it has several. Nothing is cast or reshaped: the stored weights are what is certified.

    Args:
        module: The network; modified. Its parameters may be on the meta device.
        tensors: Name in the module's state dict to tensor.

    Raises:
        InputError: If a name is on one side only, or a shape or a kind of dtype differs.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 1)
        >>> fill(layer, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
        >>> layer(torch.ones(1, 2)).item()
        2.0
        >>> fill(layer, {"weight": torch.ones(1, 2)})
        Traceback (most recent call last):
        certify.errors.InputError: expected a tensor for every parameter, got none for ['bias']; ...
    """
    wanted = {name: value for name, value in module.state_dict(keep_vars=True).items() if not is_counter(name)}
    unused = sorted(tensors.keys() - wanted.keys())
    if unused:
        raise InputError(
            f"expected only tensors of the network, got {_some(unused)} beside them; the architecture is another one"
        )
    found = {name: _stored(name, names, wanted, tensors) for names in _tied(wanted) for name in names}
    missing = sorted(name for name, tensor in found.items() if tensor is None)
    if missing:
        raise InputError(
            f"expected a tensor for every parameter, got none for {_some(missing)}; the architecture is another one"
        )
    counters = {name: value for name, value in module.state_dict().items() if is_counter(name)}
    filled = {**{name: value.new_zeros((), device="cpu") for name, value in counters.items()}, **found}
    module.load_state_dict(filled, strict=True, assign=True)


def _tied(wanted: Mapping[str, Tensor]) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, value in wanted.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{name}: expected tensors in the network's state, got {type(value).__name__}")
        groups.setdefault(id(value), []).append(name)
    return list(groups.values())


def _stored(
    name: str, names: Sequence[str], wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> Tensor | None:
    present = [other for other in names if other in tensors]
    if not present:
        return None
    first = tensors[present[0]]
    for other in present[1:]:
        if not (tensors[other].dtype == first.dtype and tensors[other].equal(first)):
            raise InputError(f"expected tied tensors to agree, got different {present[0]!r} and {other!r}")
    if first.shape != wanted[name].shape:
        raise InputError(f"{name}: expected the shape {list(wanted[name].shape)}, got {list(first.shape)} in the file")
    if first.is_floating_point() != wanted[name].is_floating_point():
        raise InputError(f"{name}: expected a dtype like {wanted[name].dtype}, got {first.dtype} in the file")
    return first


def _some(names: Sequence[str]) -> str:
    return f"{list(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
