"""One thread per test process, the package imported in the ordinary way, and no search for garbage where there is none.

The suite runs in as many processes as there are cores, and torch would start more threads in each. Modules and items
live to the end: looking through them for garbage, again and again as they grow, is a third of the time of collecting.

pytest imports a file that it collects by its path. Where that file was not imported before, but importing its package
imports it, the module exists twice: a test that replaces something in the one changes nothing in the other. So each
file of the package is imported by its name first, whichever folders are asked for.
"""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Generator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

ROOT = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without searching for garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collect_file(file_path: Path) -> None:
    """Import a file of the package by its name; pytest then finds it imported."""
    if file_path.suffix != ".py" or not file_path.is_relative_to(ROOT / "certify") or file_path.stem == "__main__":
        return
    parts = file_path.relative_to(ROOT).with_suffix("").parts
    importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
