"""The norm of one linear map: proved brackets.

Tensors and geometry in, `certify.results.Bracket` or an upper bound out. Every number named upper, lower or a bracket
is proved for the stored weights in exact real arithmetic; float64 on the CPU, rounded outward.

The Gram iteration and `estimate` stand beside them: fast, differentiable, on any device, and named estimates or
training-time bounds, since floats fall below the truth. What can be proved from them has functions of its own.
"""

from certify.norms.convolution import THOROUGH_OPERATIONS, enclose_conv, enclose_conv_l1, enclose_conv_linf
from certify.norms.dense import enclose
from certify.norms.gains import (
    batch_norm_lower,
    batch_norm_scales,
    batch_norm_upper,
    normalization_upper,
    reciprocal_lower,
    reciprocal_upper,
)
from certify.norms.golub_kahan import (
    RitzEstimate,
    estimate,
    lower_from_products,
    lower_from_vector,
    lower_from_vector_conv,
    random_start_upper,
)
from certify.norms.gram import GramEstimate, gram_bound, gram_estimate
from certify.norms.gram_conv import gram_bound_conv, gram_estimate_conv
from certify.norms.gram_proof import gram_upper, gram_upper_conv
from certify.norms.kernel_products import kernel_product_bound
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
    "THOROUGH_OPERATIONS",
    "GramEstimate",
    "RitzEstimate",
    "adaptive_max_pool_upper",
    "batch_norm_lower",
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
    "estimate",
    "gram_bound",
    "gram_bound_conv",
    "gram_estimate",
    "gram_estimate_conv",
    "gram_upper",
    "gram_upper_conv",
    "kernel_product_bound",
    "lower_from_products",
    "lower_from_vector",
    "lower_from_vector_conv",
    "max_pool_upper",
    "normalization_upper",
    "pad_upper",
    "random_start_upper",
    "reciprocal_lower",
    "reciprocal_upper",
    "upsample_nearest_upper",
]
