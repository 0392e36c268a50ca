"""The header of a run store: everything that can change a count, so that two runs never mix."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from msgspec import UNSET, UnsetType

from certify._version import __version__
from certify.results import SmoothingSettings, dump_json, load_json
from certify.smoothing.noise_source import CPU_SOURCE
from certify.smoothing.readings import Reading


@dataclass(frozen=True)
class RunHeader:
    """What a run is: model, data, settings, and the programs that compute it.

    ``model_sha256`` is the hash of the file of weights, ``network_sha256`` that of the network they were put into: one
    file serves several architectures, and none of their counts. ``noise_law`` is the name of the law in use,
    ``noise_source`` that of the generator (`certify.smoothing.noise_source`); ``program`` says in words how the network
    is run when that can change the last bits of its logits (folded, compiled). ``reading`` is the name of what is read
    from its outputs, absent for plain votes.
    """

    model_sha256: str
    data_sha256: str
    settings: SmoothingSettings
    classes: int
    noise_law: str
    network_sha256: str = ""
    device_kind: str = "cpu"
    noise_source: str = CPU_SOURCE
    program: str = "eager"
    reading: str | UnsetType = UNSET
    tool: str = __version__
    torch: str = field(default_factory=lambda: str(torch.__version__))
    numpy: str = np.__version__

    def text(self) -> str:
        """Return the header as strict JSON, one text per header."""
        return dump_json(self)

    def digest(self) -> str:
        """Return the sha256 of the text.

        Example:
            >>> header = RunHeader("m", "d", SmoothingSettings(sigma=0.5), 10, "gaussian-255")
            >>> other = RunHeader("m", "d", SmoothingSettings(sigma=0.25), 10, "gaussian-255")
            >>> header.digest() != other.digest()
            True
        """
        return hashlib.sha256(self.text().encode()).hexdigest()

    def fields(self) -> dict[str, Any]:
        """Return the header as the plain values of its text, settings flattened to ``settings.sigma`` and so on."""
        return flatten(load_json(self.text(), name="header"))


def header_name(reading: Reading) -> str | UnsetType:
    """Return the reading as it stands in a header: votes, which every run had before there were others, are absent."""
    return UNSET if reading.name == "votes" else reading.name


def flatten(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings as one, with dotted names.

    Example:
        >>> flatten({"a": 1, "b": {"c": 2}})
        {'a': 1, 'b.c': 2}
    """
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": deep for inner, deep in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def differing_fields(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Return the fields in which two flat headers differ, as words.

    Example:
        >>> differing_fields({"seed": 0, "n": 5}, {"seed": 1, "n": 5})
        'seed: 1 in the store, 0 asked for'
    """
    names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    return "; ".join(f"{name}: {theirs.get(name)} in the store, {ours.get(name)} asked for" for name in names)
