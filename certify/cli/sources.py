"""Which model and which data a command works on: the argument, else the configuration, else the default."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from certify.cli.configuration import Configuration
from certify.errors import InputError, NoRuleError

if TYPE_CHECKING:
    from certify.loading import Model, WeightsOnly

DEFAULT_MODEL = Path("model.safetensors")


def model_path(given: Path | None, configuration: Configuration) -> Path:
    """Return the path of the model.

    Raises:
        InputError: If none is named and there is no ``./model.safetensors``.
    """
    if given is not None:
        return given
    if configuration.model is not None:
        return configuration.model
    if DEFAULT_MODEL.is_file():
        return DEFAULT_MODEL
    raise InputError(
        'expected a model: name it, put `model = "..."` into certify.toml, or run in a folder with model.safetensors'
    )


def data_path(given: Path | None, configuration: Configuration) -> Path:
    """Return the path of the data.

    Raises:
        InputError: If none is named.
    """
    chosen = given or configuration.data
    if chosen is None:
        raise InputError('expected data: name a file or folder, or put `data = "..."` into certify.toml')
    return chosen


def is_named(model: Path | None, data: Path | None, configuration: Configuration) -> bool:
    """Return whether a model and data are named anywhere: as arguments, in the configuration, or by default."""
    known_model = model is not None or configuration.model is not None or DEFAULT_MODEL.is_file()
    return known_model and (data is not None or configuration.data is not None)


def read_known_model(path: Path, arch: str | None) -> Model:
    """Return the model at a path.

    Raises:
        NoRuleError: If the file holds weights only.
    """
    from certify.loading import Model

    found = read_any(path, arch)
    if not isinstance(found, Model):
        raise NoRuleError(f"{path}: {found.reason}")
    return found


def read_any(path: Path, arch: str | None) -> Model | WeightsOnly:
    """Return the model at a path, or its weights alone; what a factory prints goes to stderr."""
    from certify.loading import read_model

    with redirect_stdout(sys.stderr):
        return read_model(path, arch=arch)
