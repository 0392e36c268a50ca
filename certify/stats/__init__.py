"""Bounds on one probability from counts, certified radii, sample plans, and intervals over examples; no torch.

The functions take integers and floats. Words: ``alpha`` is the probability that one certificate is false, ``n`` the
counted draws, ``k`` the votes for the selected class, ``sigma`` the noise level in the space of the radius.
"""

from certify.stats.anytime import anytime_radius, is_certified_anytime
from certify.stats.charge import charged_alpha, noise_charge
from certify.stats.clopper_pearson import failure_upper, success_lower, success_upper
from certify.stats.comparison import PairedDifference, compare_paired, is_not_inferior, smallest_margin
from certify.stats.empirical_bernstein import mean_shift_upper, mean_upper, score_bounds
from certify.stats.geometry import GEOMETRIES, Geometry
from certify.stats.holm import certified_by_holm
from certify.stats.inclusion import converted_radius, inclusion_factor, needed_radius
from certify.stats.ladder import largest_radius_upper, radius_ladder
from certify.stats.lipschitz_radius import class_radius, difference_radius, smoothed_lipschitz_upper
from certify.stats.order_statistics import quantile_ranks
from certify.stats.plan import draw_grid, sample_plan
from certify.stats.populations import (
    Requirement,
    alpha_for_all,
    expected_false_upper,
    false_certificates_quantile,
    list_requirement,
    population_limits,
    population_requirement,
    smallest_population_sample,
)
from certify.stats.radius import BOUNDS, RadiusBound, RadiusMap, class_buckets, radius_l2, smallest_n, split_alpha
from certify.stats.recursion import Operation, crossing, operate
from certify.stats.score_plan import VOTES, ScoreMap, draw_sizes, plan_scores, score_candidates, votes_worth
from certify.stats.score_radius import MAPS, Slopes, score_radius, score_slopes
from certify.stats.selftest import self_test
from certify.stats.sequential import SequentialTest, look_grid, sequential_test
from certify.stats.top_k import radius_bound, top_k_radius, top_k_radius_of_bounds

__all__ = [
    "BOUNDS",
    "GEOMETRIES",
    "MAPS",
    "VOTES",
    "Geometry",
    "Operation",
    "PairedDifference",
    "RadiusBound",
    "RadiusMap",
    "Requirement",
    "ScoreMap",
    "SequentialTest",
    "Slopes",
    "alpha_for_all",
    "anytime_radius",
    "certified_by_holm",
    "charged_alpha",
    "class_buckets",
    "class_radius",
    "compare_paired",
    "converted_radius",
    "crossing",
    "difference_radius",
    "draw_grid",
    "draw_sizes",
    "expected_false_upper",
    "failure_upper",
    "false_certificates_quantile",
    "inclusion_factor",
    "is_certified_anytime",
    "is_not_inferior",
    "largest_radius_upper",
    "list_requirement",
    "look_grid",
    "mean_shift_upper",
    "mean_upper",
    "needed_radius",
    "noise_charge",
    "operate",
    "plan_scores",
    "population_limits",
    "population_requirement",
    "quantile_ranks",
    "radius_bound",
    "radius_l2",
    "radius_ladder",
    "sample_plan",
    "score_bounds",
    "score_candidates",
    "score_radius",
    "score_slopes",
    "self_test",
    "sequential_test",
    "smallest_margin",
    "smallest_n",
    "smallest_population_sample",
    "smoothed_lipschitz_upper",
    "split_alpha",
    "success_lower",
    "success_upper",
    "top_k_radius",
    "top_k_radius_of_bounds",
    "votes_worth",
]
