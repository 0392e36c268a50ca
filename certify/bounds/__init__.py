"""Proved Lipschitz bounds of whole networks, and certificates from margins."""

from certify.bounds.analysis import Analysis, analyse
from certify.bounds.certificates import certify_example, certify_examples
from certify.bounds.floor import data_floor, jacobian_floor
from certify.bounds.limits import limit_sentence
from certify.bounds.logits import LogitFacts, logit_facts
from certify.bounds.slope_climb import slope_floor
from certify.bounds.treatable import unbounded_near_examples, unbounded_operations
from certify.bounds.weights import weight_rows

__all__ = [
    "Analysis",
    "LogitFacts",
    "analyse",
    "certify_example",
    "certify_examples",
    "data_floor",
    "jacobian_floor",
    "limit_sentence",
    "logit_facts",
    "slope_floor",
    "unbounded_near_examples",
    "unbounded_operations",
    "weight_rows",
]
