"""The configuration file: ``certify.toml``, or ``[tool.certify]`` in ``pyproject.toml``, searched upward.

Paths in it are relative to it. Unknown keys are errors, since a misspelt key would silently gate nothing. Flags win
over the file. ``[smooth]``, ``[lipschitz]`` and ``[curvature]`` take the long flags of their command as keys.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from certify.errors import InputError
from certify.files import read_file_once
from certify.policy import Gate, parse_gates
from certify.results import CurvatureSettings, FalsifyLevel, LipschitzSettings, SmoothingSettings, refuse_other_words

MAX_BYTES = 2**20
NAMES = ("certify.toml", "pyproject.toml")
TOP_KEYS = frozenset({"model", "data", "arch", "store", "smooth", "lipschitz", "curvature", "gate"})
RUN_KEYS = frozenset({"device", "batch", "workers", "engine"})
ATTACK_KEYS = frozenset({"falsify"})
SEARCH_KEYS = frozenset({"device"})
OF_CHANCE = ("alpha", "n", "n0", "procedure", "price", "bound")  # what plays no part where nothing is random
Settings = TypeVar("Settings", SmoothingSettings, LipschitzSettings, CurvatureSettings)


@dataclass(frozen=True)
class Configuration:
    """What the configuration file says; empty when there is none. Paths are absolute or relative to the caller."""

    path: Path | None = None
    model: Path | None = None
    data: Path | None = None
    arch: str | None = None
    store: Path | None = None
    smooth: Mapping[str, Any] = field(default_factory=dict)
    lipschitz: Mapping[str, Any] = field(default_factory=dict)
    curvature: Mapping[str, Any] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()


def find_configuration(explicit: Path | None, start: Path | None = None) -> Configuration:
    """Return the configuration named on the command line, else the nearest one upward, else an empty one.

    Raises:
        InputError: If the file cannot be read, is no TOML, or has an unknown key or a wrong value.
    """
    if explicit is not None:
        return _read(explicit)
    folder = (start or Path.cwd()).resolve()
    for candidate in (folder, *folder.parents):
        for name in NAMES:
            path = candidate / name
            if os.path.isfile(path) and _section(path, _parse(path)) is not None:  # noqa: PTH113 - never raises
                return _read(path)
    return Configuration()


def _parse(path: Path) -> dict[str, Any]:
    data = read_file_once(path, limit=MAX_BYTES)
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: expected a TOML file, got {error}") from error


def _section(path: Path, parsed: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what a file says to certify; None for a ``pyproject.toml`` that says nothing."""
    if path.name != "pyproject.toml":
        return parsed
    tool = parsed.get("tool", {})
    section = tool.get("certify") if isinstance(tool, dict) else tool
    if section is not None and not isinstance(section, dict):
        raise InputError(f"{path}: expected [tool.certify] to be a table, got {section!r:.100}")
    return section


def _read(path: Path) -> Configuration:
    content = _section(path, _parse(path)) or {}
    _refuse_unknown(path, "", content, TOP_KEYS)
    tables = {name: _table(path, content, name) for name in ("smooth", "lipschitz", "curvature")}
    _refuse_unknown(path, "smooth", tables["smooth"], _keys(SmoothingSettings) | RUN_KEYS | ATTACK_KEYS)
    _refuse_unknown(path, "lipschitz", tables["lipschitz"], _keys(LipschitzSettings) | ATTACK_KEYS | SEARCH_KEYS)
    _refuse_unknown(path, "curvature", tables["curvature"], _keys(CurvatureSettings) | SEARCH_KEYS)
    return Configuration(
        path=path,
        model=_path(path, content, "model"),
        data=_path(path, content, "data"),
        arch=_arch(path, content),
        store=_path(path, content, "store"),
        smooth=tables["smooth"],
        lipschitz=tables["lipschitz"],
        curvature=tables["curvature"],
        gates=_gates(path, content),
    )


def _keys(settings: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(settings.__struct_fields__)


def _table(path: Path, content: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise InputError(f"{path}: expected [{name}] to be a table, got {table!r:.100}")
    return {key.replace("-", "_"): value for key, value in table.items()}


def _refuse_unknown(path: Path, table: str, content: Mapping[str, Any], known: frozenset[str]) -> None:
    unknown = sorted(content.keys() - known)
    if unknown:
        where = f"[{table}]" if table else "the top level"
        names = sorted(name.replace("_", "-") for name in known)
        raise InputError(f"{path}: unknown key {unknown[0]!r:.100} in {where}; expected one of {', '.join(names)}")


def _path(path: Path, content: Mapping[str, Any], key: str) -> Path | None:
    value = content.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value or "\0" in value:
        raise InputError(f"{path}: expected {key} to be a path, got {value!r:.100}")
    full = path.parent / value
    try:
        return full.resolve().relative_to(Path.cwd())
    except ValueError:
        return full


def _arch(path: Path, content: Mapping[str, Any]) -> str | None:
    """Return the layer list a configuration names; a factory runs code, which no file may ask for."""
    value = content.get("arch")
    if value is None:
        return None
    if not isinstance(value, str) or not value.endswith(".toml"):
        raise InputError(f"{path}: expected arch to be a FILE.toml, got {value!r:.100}; name factories with --arch")
    return str(path.parent / value)


def _gates(path: Path, content: Mapping[str, Any]) -> tuple[Gate, ...]:
    tables = content.get("gate", [])
    if not isinstance(tables, Sequence) or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{path}: expected [[gate]] tables, got {tables!r:.100}")
    try:
        return tuple(_beside(gate, path) for gate in parse_gates(tables))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _beside(gate: Gate, path: Path) -> Gate:
    """Return a gate whose baseline is found from where the command runs: its path is relative to the configuration."""
    return gate if gate.baseline is None else msgspec.structs.replace(gate, baseline=str(path.parent / gate.baseline))


def smoothing_settings(configuration: Configuration, flags: Mapping[str, Any]) -> SmoothingSettings:
    """Return the settings of a smoothing run: the file's, overridden by the flags that were given.

    Raises:
        InputError: If sigma is missing, or a value does not fit.
    """
    merged = _merged(configuration.smooth, flags, RUN_KEYS | ATTACK_KEYS)
    if "sigma" not in merged:
        raise InputError("expected --sigma, the standard deviation of the noise in the space of the data; got none")
    if merged.get("noise") == "split":
        merged = _without_chance(configuration, flags, merged)
    return _converted(merged, SmoothingSettings, "smooth", configuration)


def _without_chance(
    configuration: Configuration, flags: Mapping[str, Any], merged: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings of deterministic splitting; what a file says of chance is about its own, other noise.

    Raises:
        InputError: If something about chance is asked for beside ``split``.
    """
    given = {key for key, value in flags.items() if value is not None}
    beside = given | (configuration.smooth.keys() if configuration.smooth.get("noise") == "split" else set())
    for key in OF_CHANCE:
        if key in beside:
            raise InputError(
                f"smooth: expected noise split without {key}: all shifts are evaluated, and nothing in it is random; "
                "leave one out"
            )
    return {key: value for key, value in merged.items() if key not in OF_CHANCE}


def lipschitz_settings(configuration: Configuration, flags: Mapping[str, Any]) -> LipschitzSettings:
    """Return the settings of a Lipschitz run: the file's, overridden by the flags that were given.

    Raises:
        InputError: If a value does not fit.
    """
    merged = _merged(configuration.lipschitz, flags, ATTACK_KEYS | SEARCH_KEYS)
    settings = _converted(merged, LipschitzSettings, "lipschitz", configuration)
    if settings.local is not None and not 0.0 < settings.local < math.inf:
        raise InputError(f"lipschitz: expected --local to be a positive radius, got {settings.local}")
    return settings


def search_device(flag: str | None, configuration: Configuration) -> str:
    """Return where a Lipschitz run searches: the flag's word, else the table's, else auto."""
    return str(flag or configuration.lipschitz.get("device", "auto"))


def curvature_settings(configuration: Configuration, flags: Mapping[str, Any]) -> CurvatureSettings:
    """Return the settings of readings of curvature: the file's, overridden by the flags that were given.

    Raises:
        InputError: If a value does not fit.
    """
    merged = _merged(configuration.curvature, flags, SEARCH_KEYS)
    return _converted(merged, CurvatureSettings, "curvature", configuration)


def falsify_level(flag: str | None, table: Mapping[str, Any]) -> FalsifyLevel:
    """Return how hard certificates are attacked: the flag's word, else the table's, else quick.

    Raises:
        InputError: If the table has another word.
    """
    found = flag or table.get("falsify", "quick")
    for level in get_args(FalsifyLevel):
        if found == level:
            return level  # type: ignore[no-any-return]
    raise InputError(f"expected falsify to be one of {', '.join(get_args(FalsifyLevel))}, got {found!r:.100}")


def _merged(table: Mapping[str, Any], flags: Mapping[str, Any], left_out: frozenset[str]) -> dict[str, Any]:
    given = {key: value for key, value in flags.items() if value is not None}
    return {key: value for key, value in {**table, **given}.items() if key not in left_out}


def _converted(values: Mapping[str, Any], kind: type[Settings], name: str, configuration: Configuration) -> Settings:
    where = f" (flags, and [{name}] of {configuration.path})" if configuration.path else ""
    try:
        refuse_other_words(values, kind)
        settings = msgspec.convert(dict(values), kind)
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"{name}: {error}{where}") from error
    if not (settings.seed >= 0 and settings.skip >= 0 and (settings.limit is None or settings.limit >= 1)):
        got = f"seed {settings.seed}, skip {settings.skip} and limit {settings.limit}"
        raise InputError(f"{name}: expected seed >= 0, skip >= 0 and limit >= 1, got {got}{where}")
    return settings
