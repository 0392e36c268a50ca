"""The library calls that combine stages: what each command does, without printing.

A long run is an object that yields results as they are proved (`LipschitzRun.examples`, `SmoothingRun.events`), so that
whoever consumes it can draw a progress bar; `lipschitz` and `smooth` consume it whole. Options go down once, as one
frozen settings object, and are echoed whole into the report.
"""

from certify.runs.bounding import LipschitzRun, lipschitz, report_weights, start_lipschitz
from certify.runs.calls import smooth
from certify.runs.opening import STORE_FOLDER, bound_logits
from certify.runs.places import choose_device, choose_workers, search_place
from certify.runs.records import read_dataset
from certify.runs.sampling import COMPILED_ROWS, SmoothingRun, has_complete_run, has_run, start_smoothing

__all__ = [
    "COMPILED_ROWS",
    "STORE_FOLDER",
    "LipschitzRun",
    "SmoothingRun",
    "bound_logits",
    "choose_device",
    "choose_workers",
    "has_complete_run",
    "has_run",
    "lipschitz",
    "read_dataset",
    "report_weights",
    "search_place",
    "smooth",
    "start_lipschitz",
    "start_smoothing",
]
