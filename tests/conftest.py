"""One thread per test process, and no search for garbage where there is none.

The suite runs in as many processes as there are cores, and torch would start more threads in each. Modules and items
live to the end: looking through them for garbage, again and again as they grow, is a third of the time of collecting.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
