"""An architecture as a TOML file: a list of layers, data only.

    input_shape = [3, 32, 32]                # one input, without the batch
    classes = ["airplane", "automobile"]     # optional; default "0" ... "K-1"
    mean = [0.485, 0.456, 0.406]             # optional, with std: (x - mean) / std comes first
    std = [0.225, 0.225, 0.225]
    range = [0.0, 1.0]                       # optional; default [0, 1] with mean and std, else unchecked
    space = "pixels"                         # optional, in words

    [[layer]]
    type = "conv2d"                          # a type of `certify.loading.layers`, keys are PyTorch's arguments
    in_channels = 3
    out_channels = 16
    kernel_size = 3
    padding = 1

    [[layer]]
    type = "residual"                        # main(x) + shortcut(x)
    name = "block"

      [[layer.main]]
      type = "conv2d"
      name = "conv1"                         # its weight is the tensor block.conv1.weight
      in_channels = 16
      out_channels = 16
      kernel_size = 3
      padding = 1

      [[layer.shortcut]]                     # optional; default: x itself
      type = "identity"

``name`` is the path of the layer's tensors in the file, dots included. It defaults to the layer's position among all
layers of its list, counted from 0, as `torch.nn.Sequential` counts; inside a residual block to ``main.0``,
``main.1``, ..., ``shortcut.0``, ... . Names inside a block count from the block's name. Layers run in the order listed.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from certify.errors import InputError
from certify.files import read_file_once
from certify.loading.architecture import Architecture, parse_facts
from certify.loading.layers import make_layer

MAX_TOML_BYTES = 2**22
MAX_LAYERS = 4_000
MAX_NESTING = 8


class _Chain(nn.Module):
    """Runs its layers one after the other; they live below it, at the paths of their tensors in the file."""

    def __init__(self) -> None:
        super().__init__()
        self._order: tuple[str, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        return _run(self, self._order, x)


class _Residual(nn.Module):
    """Adds two branches whose layers live below it; an empty shortcut is the identity."""

    def __init__(self) -> None:
        super().__init__()
        self._main: tuple[str, ...] = ()
        self._shortcut: tuple[str, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        return _run(self, self._main, x) + _run(self, self._shortcut, x)


def _run(root: nn.Module, order: Sequence[str], x: Tensor) -> Tensor:
    for path in order:
        x = root.get_submodule(path)(x)
    return x


def read_layer_list(path: str | Path) -> Architecture:
    """Return the network a TOML file declares, on the meta device: its parameters wait for the weights.

    Raises:
        InputError: If the file is not TOML of this form; the message names the layer.
    """
    data = read_file_once(path, limit=MAX_TOML_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    return parse_layer_list(data, name=str(path), source=f"layers {Path(path).name} sha256={digest}")


def parse_layer_list(data: bytes, *, name: str, source: str) -> Architecture:
    r"""Return the network declared by the bytes of a TOML file; see `read_layer_list`.

    Example:
        >>> text = b'input_shape = [2]\nlayer = [{type = "linear", in_features = 2, out_features = 3}]'
        >>> architecture = parse_layer_list(text, name="arch.toml", source="example")
        >>> {name: list(tensor.shape) for name, tensor in architecture.module.state_dict().items()}
        {'0.weight': [3, 2], '0.bias': [3]}
    """
    try:
        plain = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: expected a TOML list of layers, got: {error}") from error
    rows = plain.pop("layer", None)
    facts = parse_facts(plain, name=name)
    with torch.device("meta"):
        module = _Chain()
        module._order = _add_layers(module, rows, "", name)
    return Architecture(module, facts, source)


def _add_layers(root: nn.Module, rows: object, prefix: str, where: str, depth: int = 0) -> tuple[str, ...]:
    if not isinstance(rows, list | tuple) or not 1 <= len(rows) <= MAX_LAYERS:
        raise InputError(f"{where}: expected a list of 1 to {MAX_LAYERS:,} layers, got {type(rows).__name__}")
    if depth > MAX_NESTING:
        raise InputError(f"{where}: expected residual blocks nested at most {MAX_NESTING} deep")
    return tuple(_add_layer(root, row, f"{prefix}{position}", where, depth) for position, row in enumerate(rows))


def _add_layer(root: nn.Module, row: object, position: str, where: str, depth: int) -> str:
    if not isinstance(row, dict):
        raise InputError(f"{where}: layer {position}: expected a table, got {type(row).__name__}")
    arguments = dict(row)
    path, kind = arguments.pop("name", position), arguments.pop("type", None)
    here = f"{where}: layer {position} ({path!r:.100})"
    if not isinstance(kind, str):
        raise InputError(f'{here}: expected a type, such as type = "linear"')
    if kind == "residual":
        _place(root, path, _residual(arguments, here, depth), here)
    else:
        _place(root, path, make_layer(kind, arguments, here), here)
    return str(path)


def _residual(arguments: Mapping[str, Any], where: str, depth: int) -> nn.Module:
    if not {"main"} <= arguments.keys() <= {"main", "shortcut"}:
        raise InputError(f"{where}: residual takes main and optionally shortcut, got {sorted(arguments)!s:.200}")
    block = _Residual()
    block._main = _add_layers(block, arguments["main"], "main.", where, depth + 1)
    if "shortcut" in arguments:
        block._shortcut = _add_layers(block, arguments["shortcut"], "shortcut.", where, depth + 1)
    return block


def _place(root: nn.Module, path: object, module: nn.Module, where: str) -> None:
    """Put a module at a dotted path below ``root``, with plain containers between."""
    parts = path.split(".") if isinstance(path, str) else [""]
    if not all(part.isascii() and part.replace("_", "").replace("-", "").isalnum() for part in parts):
        raise InputError(f"{where}: expected a name of letters, digits, '_', '-' and dots")
    parent = root
    for part in parts[:-1]:
        if part not in dict(parent.named_children()):
            _attach(parent, part, nn.Module(), where)
        parent = parent.get_submodule(part)
        if type(parent) is not nn.Module:
            raise InputError(f"{where}: its name lies inside another layer; rename one of them")
    _attach(parent, parts[-1], module, where)


def _attach(parent: nn.Module, name: str, module: nn.Module, where: str) -> None:
    if name in dict(parent.named_children()):
        raise InputError(f"{where}: its name is taken by another layer; rename one of them")
    try:
        parent.add_module(name, module)
    except KeyError as error:  # names of nn.Module's own attributes
        raise InputError(f"{where}: the name {name!r} is reserved; use another") from error
