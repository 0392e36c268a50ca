"""The norm of one linear map: proved brackets.

Tensors and geometry in, `certify.results.Bracket` or an upper bound out. Every number is proved for the stored weights
in exact real arithmetic; float64 on the CPU, rounded outward.
"""

from certify.norms.convolution import enclose_conv, enclose_conv_l1, enclose_conv_linf
from certify.norms.dense import enclose
from certify.norms.gains import batch_norm_scales, batch_norm_upper, normalization_upper, reciprocal_upper
from certify.norms.pooling import (
    adaptive_max_pool_upper,
    enclose_adaptive_avg_pool,
    enclose_avg_pool,
    max_pool_upper,
    pad_upper,
    upsample_nearest_upper,
)
from certify.norms.row_sums import enclose_l1, enclose_linf

__all__ = [
    "adaptive_max_pool_upper",
    "batch_norm_scales",
    "batch_norm_upper",
    "enclose",
    "enclose_adaptive_avg_pool",
    "enclose_avg_pool",
    "enclose_conv",
    "enclose_conv_l1",
    "enclose_conv_linf",
    "enclose_l1",
    "enclose_linf",
    "max_pool_upper",
    "normalization_upper",
    "pad_upper",
    "reciprocal_upper",
    "upsample_nearest_upper",
]
