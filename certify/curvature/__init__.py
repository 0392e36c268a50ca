"""Curvature of the loss over parameters, and sensitivity of the network to inputs: diagnostics, never certificates.

Everything is about one listed batch. A number is an exact formula computed in floating point (`last_layer`), an
estimate with its standard error or residual (`spectrum`, `trace`, `loss_gap`), or measured at points (`sensitivity`, a
lower bound of what is possible). Small curvature certifies nothing, and it is not even a property of the function: two
consecutive ReLU layers scaled by s and 1/s compute the same, with another Hessian.
"""

from certify.curvature.flips import flip_distances, leads_clearly
from certify.curvature.hessian import HessianProducts, hessian_of, require_curvlinops
from certify.curvature.last_layer import LastLayerCurvature, last_layer_curvature, mean_largest
from certify.curvature.loss_gap import smoothed_loss_gap
from certify.curvature.sensitivity import gradient_norms, jacobian_norms
from certify.curvature.spectrum import RitzValue, largest_eigenvalues
from certify.curvature.trace import MeanEstimate, hutch_plus_plus, hutchinson

__all__ = [
    "HessianProducts",
    "LastLayerCurvature",
    "MeanEstimate",
    "RitzValue",
    "flip_distances",
    "gradient_norms",
    "hessian_of",
    "hutch_plus_plus",
    "hutchinson",
    "jacobian_norms",
    "largest_eigenvalues",
    "last_layer_curvature",
    "leads_clearly",
    "mean_largest",
    "require_curvlinops",
    "smoothed_loss_gap",
]
