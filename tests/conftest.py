"""One thread per test process: the suite runs in as many processes as there are cores, and torch would start more."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
