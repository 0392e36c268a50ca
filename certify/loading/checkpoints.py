"""Writing and reading models: a module becomes a self-describing file, a file becomes a Model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from certify.errors import InputError, NoRuleError
from certify.loading.architecture import Architecture, describe, fill, parse_facts
from certify.loading.factory import call_factory, is_factory
from certify.loading.layer_list import read_layer_list
from certify.loading.model import Model
from certify.loading.model_file import WeightsOnly, read_model_file, write_model_file


def save(
    module: nn.Module,
    path: str | Path,
    *,
    input_shape: Sequence[int],
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    range: tuple[float, float] | None = None,  # noqa: A002 - the name of the key in the file
    space: str | None = None,
) -> None:
    """Write a network as a self-describing safetensors file, which can be certified without its code.

    The file holds the network as it computes in evaluation mode; the module itself is not changed. Radii certified for
    the file are in the space of its input, *before* the normalisation that ``mean`` and ``std`` put in.

    Args:
        module: Takes one batch ``[N, *input_shape]`` and returns logits ``[N, K]``.
        path: The file to write; replaced as a whole.
        input_shape: Shape of one input, without the batch.
        classes: K class names; default "0" ... "K-1".
        mean: Per channel, in the space of the data; given with ``std``.
        std: Per channel, not zero.
        range: Lowest and highest value of an input; data outside are refused later. Default [0, 1] when ``mean`` and
            ``std`` are given, else unchecked.
        space: The input's space in words; default "pixels" for images in [0, 1], else "input".

    Raises:
        InputError: If the arguments do not fit the network, a weight is not finite or not float32 or float64, or the
            path cannot be written.
        NoRuleError: If the network has an operation outside the vocabulary; the message names it and its module.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(nn.Sequential(nn.Linear(3, 2)), f"{folder}/model.safetensors", input_shape=(3,))
        ...     load(f"{folder}/model.safetensors").classes
        ('0', '1')
    """
    facts = parse_facts(
        {
            "input_shape": tuple(input_shape),
            "classes": classes,
            "mean": None if mean is None else tuple(float(value) for value in mean),
            "std": None if std is None else tuple(float(value) for value in std),
            "range": range,
            "space": space,
        },
        name=str(path),
    )
    write_model_file(path, *describe(Architecture(module, facts)))


def load(path: str | Path, *, arch: str | Path | None = None) -> Model:
    """Return the model in a safetensors file.

    Args:
        path: A self-describing file; or a file of weights, when ``arch`` names their network.
        arch: ``FILE.toml``, ``file.py:factory`` or ``pkg.module:factory``. The last two run code.

    Raises:
        InputError: If a file is missing or breaks a rule, or weights and network do not fit.
        NoRuleError: If the file holds weights only and ``arch`` is not given, or the network cannot be traced.
    """
    found = read_model(path, arch=arch)
    if isinstance(found, WeightsOnly):
        raise NoRuleError(f"{path}: {found.reason}")
    return found


def read_model(path: str | Path, *, arch: str | Path | None = None) -> Model | WeightsOnly:
    """Return the model in a file, or the weights alone when nothing says which network they belong to; see `load`."""
    found = read_model_file(path)
    if arch is None:
        return found
    if isinstance(found, Model):
        raise InputError(f"{path}: the file describes its architecture itself; leave out {str(arch)!r}")
    architecture = read_architecture(arch)
    _fill_from(found, architecture)
    graph, space, classes = describe(architecture)
    return Model(graph, space, classes, f"safetensors, {architecture.source}", str(path), found.sha256)


def export(factory: str | Path, path: str | Path, *, weights: str | Path | None = None) -> None:
    """Build a network and write it as a self-describing file.

    Args:
        factory: ``file.py:factory`` or ``pkg.module:factory`` (runs that code), or ``FILE.toml`` with ``weights``.
        path: The file to write.
        weights: A safetensors file of weights to put into the network; default: those it was built with.

    Raises:
        InputError: If the factory, the weights or the path are not what they must be.
        NoRuleError: If the network cannot be traced into the vocabulary.
    """
    architecture = read_architecture(factory)
    if weights is not None:
        found = read_model_file(weights)
        if isinstance(found, Model):
            raise InputError(f"{weights}: the file describes itself already; certify it as it is")
        _fill_from(found, architecture)
    elif any(parameter.is_meta for parameter in architecture.module.parameters()):
        raise InputError(f"{factory}: a list of layers has no weights; name their file with --weights")
    write_model_file(path, *describe(architecture))


def read_architecture(name: str | Path) -> Architecture:
    """Return the network that ``FILE.toml``, ``file.py:factory`` or ``pkg.module:factory`` names.

    Raises:
        InputError: If the name has another form, or what it names is not as it must be.
    """
    text = str(name)
    if text.endswith(".toml"):
        return read_layer_list(text)
    if is_factory(text):
        return call_factory(text)
    raise InputError(f"expected FILE.toml, file.py:factory or pkg.module:factory as architecture, got {text!r}")


def _fill_from(weights: WeightsOnly, architecture: Architecture) -> None:
    try:
        fill(architecture.module, weights.tensors)
    except InputError as error:
        raise InputError(f"{weights.path} and {architecture.source}: {error}") from error
