"""The self-describing model file: weights as in any safetensors file, the graph as JSON in its header.

Metadata keys, all strings:

================  ==================================================================================================
certify.version   the version of `certify` that wrote it
certify.graph     the graph, `Graph.to_json`; its tensors are exactly the tensors of the file
certify.input     ``{"shape": [...], "range": [low, high] or null, "space": "..."}``, shape without the batch
certify.classes   a list of class names, one for each logit
================  ==================================================================================================

Such a file needs no user code to be certified. A safetensors file without these keys holds *weights only*: that
outcome is a value, since the norm of every weight can still be bounded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from certify._version import __version__
from certify.errors import InputError
from certify.files import read_file_once, write_file_atomically
from certify.graph import Graph
from certify.loading.formats import SUPPORTED, refuse_other_formats
from certify.loading.model import Model, check_input_space
from certify.loading.safetensors_rules import LENGTH_BYTES, METADATA_KEY, Header, check_safetensors
from certify.results import InputSpace, dump_json, load_json

_T = TypeVar("_T")

MAX_MODEL_BYTES = 2**35
_NAMES = {torch.float32: "F32", torch.float64: "F64", torch.bool: "BOOL"}
_LITTLE = {torch.float32: "<f4", torch.float64: "<f8", torch.bool: "|b1"}
PREFIX = "certify."
KEYS = frozenset({"certify.version", "certify.graph", "certify.input", "certify.classes"})
VERSION = re.compile(r"[0-9][0-9A-Za-z.+!-]{0,63}")
COUNTER = re.compile(r"(.*\.)?num_batches_tracked")

UNKNOWN_ARCHITECTURE = (
    "the file holds weights only, so its architecture is unknown; write it with certify.save(module, ...), or name the"
    " architecture with --arch FILE.toml, --arch pkg.module:factory or --arch file.py:factory"
    " (a config.json of Hugging Face or timm is not read yet)"
)


@dataclass(frozen=True, eq=False)
class WeightsOnly:
    """The outcome "weights without an architecture": the float tensors of the file, and why there is no network."""

    tensors: Mapping[str, Tensor]
    path: str
    sha256: str
    reason: str = UNKNOWN_ARCHITECTURE


def is_counter(name: str) -> bool:
    """Return whether a tensor is a counter of training steps, which no evaluation reads and no rule needs.

    Example:
        >>> is_counter("layer1.bn.num_batches_tracked"), is_counter("layer1.bn.running_mean")
        (True, False)
    """
    return COUNTER.fullmatch(name) is not None


def read_model_file(path: str | Path) -> Model | WeightsOnly:
    """Return the model in a safetensors file, or its weights when the file does not describe itself.

    The file is read once; the hash and the model are of the same bytes.

    Raises:
        InputError: If the file is no safetensors file, breaks a rule of `certify.loading.safetensors_rules`, or its
            graph, input space and classes do not belong together.
        NoRuleError: If an operation could mix the examples of a batch.
    """
    refuse_other_formats(path)
    return parse_model_file(read_file_once(path, limit=MAX_MODEL_BYTES), path=str(path))


def parse_model_file(data: bytes, *, path: str) -> Model | WeightsOnly:
    """Return what the bytes of a model file hold; see `read_model_file`."""
    header = check_safetensors(data, name=path)
    digest = hashlib.sha256(data).hexdigest()
    tensors = _load_tensors(data, path)
    described = {key for key in header.metadata if key.startswith(PREFIX)}
    if not described:
        return WeightsOnly(tensors, path, digest)
    if described != KEYS:
        raise InputError(f"{path}: expected the metadata keys {sorted(KEYS)}, got {sorted(described)}; save it again")
    return _describe(header, tensors, path, digest)


def write_model_file(path: str | Path, graph: Graph, input: InputSpace, classes: tuple[str, ...]) -> None:  # noqa: A002
    """Write a self-describing model file, atomically, after reading back what is written.

    Raises:
        InputError: If the parts do not belong together, a weight is not finite, or the path cannot be written.
        NoRuleError: If an operation could mix the examples of a batch.

    Example:
        >>> import tempfile
        >>> from certify.graph import trace
        >>> graph = trace(torch.nn.Linear(3, 2), (3,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_model_file(f"{folder}/model.safetensors", graph, InputSpace((3,)), ("no", "yes"))
        ...     model = read_model_file(f"{folder}/model.safetensors")
        >>> model.classes, model.graph.operations == graph.operations
        (('no', 'yes'), True)
    """
    if Path(path).suffix.lower() != SUPPORTED:
        raise InputError(f"expected an output file *{SUPPORTED}, got {str(path)!r}; no other name is read again")
    check_input_space(input, graph.input_shape)
    metadata = {
        "certify.version": __version__,
        "certify.graph": graph.to_json(),
        "certify.input": dump_json(input),
        "certify.classes": dump_json(classes),
    }
    data = _pack(graph.tensors, metadata)
    parse_model_file(data, path=str(path))
    write_file_atomically(path, data)


def _pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file that depend on the content only; the library orders metadata at random."""
    header: dict[str, object] = {METADATA_KEY: metadata}
    parts, end = [], 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):  # wide ones first: all aligned
        tensor = tensors[name].detach().cpu().contiguous()
        parts.append(tensor.numpy().astype(_LITTLE[tensor.dtype], copy=False).tobytes())
        begin, end = end, end + len(parts[-1])
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = dump_json(header).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return b"".join([len(text).to_bytes(LENGTH_BYTES, "little"), text, *parts])


def _load_tensors(data: bytes, path: str) -> dict[str, Tensor]:
    try:
        loaded: dict[str, Tensor] = safetensors.torch.load(data)
    except SafetensorError as error:
        raise InputError(f"{path}: expected a safetensors file, got {error}") from error
    return {name: loaded[name] for name in sorted(loaded) if not is_counter(name)}


def _describe(header: Header, tensors: Mapping[str, Tensor], path: str, digest: str) -> Model:
    metadata = header.metadata
    if not VERSION.fullmatch(metadata["certify.version"]):
        raise InputError(f"{path}: expected certify.version to be a version, got {metadata['certify.version']!r:.100}")
    space = _convert(metadata["certify.input"], InputSpace, f"{path}: certify.input")
    classes = _convert(metadata["certify.classes"], tuple[str, ...], f"{path}: certify.classes")
    graph = Graph.from_json(metadata["certify.graph"], tensors, name=f"{path}: certify.graph")
    source = f"self-describing safetensors, certify {metadata['certify.version']}"
    return Model(graph, space, classes, source, path, digest)


def _convert(text: str, kind: type[_T], name: str) -> _T:
    plain = load_json(text, name=name)
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{name}: {error}") from error
