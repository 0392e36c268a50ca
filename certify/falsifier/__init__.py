"""Attacks on the certificates of a run before its report leaves. What they find is a bug of this tool.

An attack proposes an input; an exact check decides. Nothing an attack does not find raises a certificate.
"""

from certify.falsifier.lipschitz import OFF, falsify_lipschitz
from certify.falsifier.noisy_scores import falsify_scores
from certify.falsifier.smoothing import falsify_smoothing

__all__ = ["OFF", "falsify_lipschitz", "falsify_scores", "falsify_smoothing"]
