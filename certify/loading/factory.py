"""An architecture as code: a function without arguments that returns the network and its facts.

    def build():
        return nn.Sequential(...), {"input_shape": (3, 32, 32), "classes": ["cat", "dog"], "mean": [...], "std": [...]}

The second value holds keyword arguments of `certify.save`: ``input_shape`` is needed, the others are optional. Reading
such an architecture *runs the code*, with the rights of the user who named it. The hash of the file that holds the
factory goes into the source of the model, without its folder; modules that this file imports are not in that hash.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn

from certify.errors import CertifyError, InputError
from certify.files import read_file_once
from certify.loading.architecture import Architecture, Facts, parse_facts

MAX_CODE_BYTES = 2**24
CONVENTION = 'return module, {"input_shape": (3, 32, 32)}'


class _Source(importlib.abc.SourceLoader):
    """Loads a module from bytes that were already read and hashed; writes no cache."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data = path, data

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002 - the loader's interface
        return str(self.path)

    def get_data(self, path: str) -> bytes:  # noqa: ARG002 - the loader's interface
        return self.data


def is_factory(name: str) -> bool:
    """Return whether a name has the form of a factory, ``something:function``.

    Example:
        >>> is_factory("nets/arch.py:build"), is_factory("pkg.nets:build"), is_factory("arch.toml")
        (True, True, False)
    """
    where, colon, function = name.rpartition(":")
    dotted = where.endswith(".py") or all(part.isidentifier() for part in where.split("."))
    return bool(colon) and function.isidentifier() and dotted


def call_factory(name: str) -> Architecture:
    """Run the code that ``name`` points to and return the network it builds, with its facts.

    Modules beside ``file.py``, and modules in the working folder for ``pkg.module:factory``, can be imported while it
    runs; installed ones come first.

    Args:
        name: ``file.py:factory`` or ``pkg.module:factory``.

    Raises:
        InputError: If there is no such file, module or function, it raises, or it returns anything else.
    """
    where, _, function = name.rpartition(":")
    is_file = where.endswith(".py")
    with _importable(Path(where).resolve().parent if is_file else Path.cwd()), _blamed(name):
        module, data = _load_file(Path(where)) if is_file else _load_module(where)
        factory = getattr(module, function, None)
        if not callable(factory):
            raise InputError(f"expected a function {function!r} in {where!r}, got none; check the name")
        built = factory()
    network, facts = _unpack(built, name)
    label = f"{Path(where).name if is_file else where}:{function}"
    return Architecture(network, facts, f"factory {label} sha256={hashlib.sha256(data).hexdigest()}")


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules in a folder be imported, behind everything that is installed."""
    before = list(sys.path)
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _blamed(name: str) -> Iterator[None]:
    """Say of whatever the user's code raises where it did: it is no bug of this tool, and an exit of it no verdict."""
    try:
        yield
    except CertifyError:
        raise
    except (Exception, SystemExit) as error:  # code of the user can raise anything
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
        place = f", line {frames[-1].lineno} of {Path(frames[-1].filename).name}" if frames else ""
        raise InputError(
            f"{name}: expected code that builds a network, got {type(error).__name__}: {error}{place}"
        ) from error


def _load_file(path: Path) -> tuple[ModuleType, bytes]:
    data = read_file_once(path, limit=MAX_CODE_BYTES)
    spec = importlib.util.spec_from_loader(f"certify_factory_{path.stem}", _Source(path.resolve(), data))
    if spec is None or spec.loader is None:
        raise InputError(f"expected a Python file, got {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look a class's module up
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise InputError(f"cannot run {str(path)!r}: {error}") from error
    return module, data


def _load_module(name: str) -> tuple[ModuleType, bytes]:
    try:
        module = importlib.import_module(name)
    except (SyntaxError, ImportError) as error:
        raise InputError(f"cannot import {name!r}: {error}; name the file instead, as in path/file.py:build") from error
    if module.__file__ is None:
        raise InputError(f"expected the module {name!r} to have a file, got none")
    return module, read_file_once(module.__file__, limit=MAX_CODE_BYTES)


def _unpack(built: object, name: str) -> tuple[nn.Module, Facts]:
    pair = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    network, facts = pair
    if not isinstance(network, nn.Module) or not isinstance(facts, dict):
        kinds = ", ".join(type(part).__name__ for part in pair)
        raise InputError(f"{name}: expected a network and its facts ({CONVENTION}), got {kinds}")
    return network, parse_facts(facts, name=name)
