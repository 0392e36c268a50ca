"""Randomized smoothing: noise laws, sampler, procedure and run store."""

from certify.smoothing.header import RunHeader
from certify.smoothing.laws import LAWS, law_name, make_law
from certify.smoothing.loop import SmoothingProgress
from certify.smoothing.noise import NoiseLaw
from certify.smoothing.opening import earlier_seeds, open_store, store_path
from certify.smoothing.procedure import (
    Certificate,
    Procedure,
    certify_counts,
    check_settings,
    make_tables,
    plan_procedure,
    select_class,
)
from certify.smoothing.run import is_complete, run_smoothing, smoothing_events
from certify.smoothing.store import Store

__all__ = [
    "LAWS",
    "Certificate",
    "NoiseLaw",
    "Procedure",
    "RunHeader",
    "SmoothingProgress",
    "Store",
    "certify_counts",
    "check_settings",
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
]
