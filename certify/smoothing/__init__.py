"""Randomized smoothing: noise laws, sampler, procedure and run store."""

from certify.smoothing.certificate import Certificate, select_class
from certify.smoothing.classification import Classification
from certify.smoothing.header import RunHeader
from certify.smoothing.laws import LAWS, law_name, make_law
from certify.smoothing.loop import SmoothingProgress
from certify.smoothing.noise import NoiseLaw
from certify.smoothing.opening import earlier_runs, earlier_seeds, open_store, store_path
from certify.smoothing.procedure import (
    Procedure,
    certify_counts,
    check_settings,
    make_tables,
    plan_procedure,
)
from certify.smoothing.readings import Piece, Reading
from certify.smoothing.run import check_data, is_complete, run_smoothing, smoothing_events, task_events
from certify.smoothing.store import Store
from certify.smoothing.tasks import Drawn, Task

__all__ = [
    "LAWS",
    "Certificate",
    "Classification",
    "Drawn",
    "NoiseLaw",
    "Piece",
    "Procedure",
    "Reading",
    "RunHeader",
    "SmoothingProgress",
    "Store",
    "Task",
    "certify_counts",
    "check_data",
    "check_settings",
    "earlier_runs",
    "earlier_seeds",
    "is_complete",
    "law_name",
    "make_law",
    "make_tables",
    "open_store",
    "plan_procedure",
    "run_smoothing",
    "select_class",
    "smoothing_events",
    "store_path",
    "task_events",
]
