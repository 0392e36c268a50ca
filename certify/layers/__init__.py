"""Layers that are 1-Lipschitz by construction, for training.

A construction is a reason why a layer should be 1-Lipschitz in real arithmetic; it is no certificate. The certificate
comes from the stored numbers: `certify.save` computes the effective weights once and writes plain layers, and
`certify lipschitz` proves what these are, blocks `x - W^T S act(W x + b)` included.
"""

from certify.layers.convolution import LipschitzConv2d
from certify.layers.linear import LipschitzLinear
from certify.layers.orthogonal import CayleyLinear, cayley
from certify.layers.pairs import ClassLayer, pair_distances
from certify.layers.rescaling import LAWS, NormRescaling, RowRescaling, make_rescaling, row_scales
from certify.layers.residual import LipschitzResidual, LipschitzResidualConv2d
from certify.layers.shaping import MaxMin, PadChannels, ScaledAvgPool2d

__all__ = [
    "LAWS",
    "CayleyLinear",
    "ClassLayer",
    "LipschitzConv2d",
    "LipschitzLinear",
    "LipschitzResidual",
    "LipschitzResidualConv2d",
    "MaxMin",
    "NormRescaling",
    "PadChannels",
    "RowRescaling",
    "ScaledAvgPool2d",
    "cayley",
    "make_rescaling",
    "pair_distances",
    "row_scales",
]
