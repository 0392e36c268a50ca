"""Defects of published smoothing code, and the test that kills each of them here.

`KILLED_BY` is number -> (defect, tests); a test below holds that each of those exists. What had no test of its own
elsewhere has it in this file.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from torch import nn

import certify
from certify.results import SmoothingSettings
from certify.stats import BOUNDS, failure_upper, is_certified_anytime, sequential_test
from certify.stats.sequential import log_ratio, null_probability

TESTS = Path(__file__).parent
HERE = "test_published_defects.py"
KILLED_BY = {
    1: ("the class is picked and bounded on the same counts",
        ["stats/test_whole_procedure.py::test_choosing_the_class_on_the_counted_draws_is_convicted"]),
    2: ("a fixed bound is looked at after every batch",
        ["stats/test_sequential.py::test_a_fixed_bound_after_every_look_would_break_the_level",
         "stats/test_sequential.py::test_a_fixed_bound_on_the_counts_at_the_stop_would_be_invalid"]),
    3: ("a sequential threshold of log(1 / (2 alpha))",
        [f"{HERE}::test_the_anytime_threshold_is_one_over_alpha"]),
    4: ("the null probability by norm.ppf(r / sigma)", [f"{HERE}::test_the_null_of_one_sigma"]),
    5: ("the best of hundreds of candidates, without their share of alpha",
        ["smoothing/test_soft_runs.py::test_one_candidate_reaches_the_estimation"]),
    6: ("both sides at alpha / K with a class chosen on the same data",
        ["stats/test_whole_procedure.py::test_spending_alpha_on_both_sides_of_a_chosen_class_is_convicted",
         "stats/test_radius_bounds.py::test_the_shares_of_alpha_add_up_to_alpha"]),
    7: ("the mean of variances within batches",
        ["stats/test_soft_scores.py::test_sums_of_squares_are_exact_or_above_and_do_not_depend_on_batches"]),
    8: ("bounds that are not clipped, and a NaN radius that is certified",
        [f"{HERE}::test_few_draws_abstain_without_a_nan",
         "stats/test_radius_bounds.py::test_a_bound_of_one_certifies_nothing_and_is_no_nan"]),
    9: ("no votes at all: beta.ppf is NaN, and NaN < 0.5 is false",
        ["stats/test_clopper_pearson_exact.py::test_no_votes_and_all_votes"]),
    10: ("radii printed to the nearest",
         ["report/test_formats.py::test_a_radius_just_below_a_quarter_never_prints_as_a_quarter"]),
    11: ("published logs whose radii their own alpha and n cannot give",
         ["report/test_log_reading.py::test_radii_above_what_the_stated_settings_allow_are_impossible"]),
    12: ("scipy.stats.binom_test, which is gone",
         ["stats/test_refusals.py::test_no_function_of_scipy_or_statsmodels_that_is_removed_or_inexact"]),
    13: ("no seed, a global generator",
         ["smoothing/test_addressed_noise.py::test_the_key_is_the_sha256_of_the_json_array"]),
    14: ("all noise of an example at once", ["smoothing/test_counts.py::test_few_blocks_are_held_at_a_time"]),
    15: ("noise after the preprocessor", [f"{HERE}::test_noise_is_added_before_the_normalisation"]),
    16: ("32 draws at alpha 0.001",
         ["stats/test_radius_bounds.py::test_a_sample_of_32_says_little_at_one_in_a_thousand",
          "smoothing/test_procedure.py::test_too_few_draws_for_any_radius_name_the_least_that_works"]),
    17: ("the same seed on every rank",
         ["smoothing/test_addressed_noise.py::test_the_first_noise_rows_of_all_blocks_are_distinct",
          "smoothing/test_store.py::test_one_noise_cannot_be_counted_twice"]),
    18: ("the constant that smoothing leaves, at half the range",
         ["stats/test_soft_scores.py::test_the_constant_that_smoothing_leaves"]),
    19: ("only the pilot's second class is bounded",
         ["stats/test_whole_procedure.py::test_bounding_only_the_rival_named_by_the_pilot_is_convicted"]),
    20: ("NaN logits vote for class 0",
         ["smoothing/test_procedure.py::test_a_network_of_nan_certifies_nothing",
          "smoothing/test_votes.py::test_one_logit_that_is_not_finite_makes_the_draw_invalid"]),
    21: ("hashed 64-bit seeds of which 32 bits are used",
         ["smoothing/test_addressed_noise.py::test_seeds_that_agree_in_the_low_32_bits_give_other_noise",
          "smoothing/test_addressed_noise.py::test_the_first_noise_rows_of_a_million_blocks_are_distinct"]),
    22: ("a batch of 0 hangs, and counts are thrown away",
         ["smoothing/test_durability.py::test_sizes_below_one_are_refused",
          "report/test_recertify.py::test_at_the_same_alpha_and_bound_the_radii_are_those_of_the_report"]),
}  # fmt: skip


@functools.cache
def functions_in(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("number", KILLED_BY)
def test_each_defect_has_its_test(number):
    for test in KILLED_BY[number][1]:
        file, _, name = test.partition("::")
        assert name in functions_in(file), test


def test_the_anytime_threshold_is_one_over_alpha():
    """Votes at which the ratio lies between 1 / (2 alpha) and 1 / alpha certify nothing."""
    alpha, (p0, q0), between = 0.001, null_probability(1.0), 0
    for n in range(20, 400):
        votes = np.arange(int(p0 * n) + 1, n + 1, dtype=float)
        found = np.exp(log_ratio(votes, np.full_like(votes, n), p0, q0))
        for k, ratio in zip(votes.astype(int).tolist(), found.tolist(), strict=True):
            between += 0.5 / alpha <= ratio < 0.999 / alpha
            assert is_certified_anytime(k, n, 1.0, alpha) <= (ratio >= 0.999 / alpha)
    assert between > 100


def test_the_null_of_one_sigma():
    assert sequential_test(1.0, 0.001, 0.001, 1000).p0 == pytest.approx(0.8413447460685429, rel=1e-12)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_few_draws_abstain_without_a_nan(bound, n):
    for votes in range(n + 1):
        radius = BOUNDS[bound]((votes, n - votes, 0), 0, 0.001, 0.5, (votes, n - votes, 0))
        assert radius <= 0.0  # which a NaN is not


def test_noise_is_added_before_the_normalisation(tmp_path, monkeypatch):
    """A plane behind a normalisation with deviation 1/4: with the noise added behind it, radii would be four times the
    distance."""
    monkeypatch.chdir(tmp_path)
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([-torch.ones(4), torch.ones(4)]) / 2)
        layer.bias.zero_()  # the plane of mean pixel 1/2
    certify.save(layer, "model.safetensors", input_shape=(4,), mean=(0.5,) * 4, std=(0.25,) * 4)
    np.savez("data.npz", x=np.full((1, 4), 153, dtype=np.uint8), y=np.array([1]))
    settings = SmoothingSettings(sigma=0.25, n=3000, procedure="fixed")
    (row,) = certify.smooth("model.safetensors", "data.npz", settings, batch=128, workers=1, falsify="off").examples
    distance = 2 * (153 / 255 - 0.5)
    assert row.predicted == 1
    assert 0.8 * distance < row.radius <= distance
    assert row.radius < 0.25 * -ndtri(failure_upper(3000, 3000, 0.001))
