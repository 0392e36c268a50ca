"""Proved Lipschitz bounds of whole networks, and certificates from margins."""

from certify.bounds.analysis import Analysis, analyse
from certify.bounds.certificates import certify_example, certify_examples
from certify.bounds.covariance.place import WORTHWHILE, SearchPlace
from certify.bounds.floor import SteepPlace, data_floor, jacobian_floor, steepest_place
from certify.bounds.limits import limit_sentence
from certify.bounds.logits import LogitFacts, logit_facts
from certify.bounds.network_lower import network_lower
from certify.bounds.slope_climb import slope_floor
from certify.bounds.treatable import unbounded_near_examples, unbounded_operations
from certify.bounds.weights import weight_rows
from certify.bounds.work import cores_worthwhile

__all__ = [
    "WORTHWHILE",
    "Analysis",
    "LogitFacts",
    "SearchPlace",
    "SteepPlace",
    "analyse",
    "certify_example",
    "certify_examples",
    "cores_worthwhile",
    "data_floor",
    "jacobian_floor",
    "limit_sentence",
    "logit_facts",
    "network_lower",
    "slope_floor",
    "steepest_place",
    "unbounded_near_examples",
    "unbounded_operations",
    "weight_rows",
]
