"""Every argument of every function: NaN, infinities, wrong kinds and wrong ranges are refused, in words."""

import inspect
import math
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy

import certify.stats as stats
from certify.errors import SoundnessError
from certify.stats import selftest

GOOD_CALLS = {
    "failure_upper": {"k": 5, "n": 10, "alpha": 0.05},
    "success_lower": {"k": 5, "n": 10, "alpha": 0.05},
    "success_upper": {"k": 5, "n": 10, "alpha": 0.05},
    "radius_l2": {"sigma": 0.5, "failure_upper_a": 0.1, "upper_b": 0.1},
    "split_alpha": {"alpha": 0.05},
    "smallest_n": {"alpha": 0.05, "ratio": 1.0},
    "draw_grid": {"cap": 1000},
    "sample_plan": {"n0": 4, "cap": 1000, "price": 1e-4, "alpha": 0.05},
    "noise_charge": {"n": 1000, "dimension": 3072, "levels": 3060},
    "charged_alpha": {"alpha": 0.05, "charge": 1e-5},
    "false_certificates_quantile": {"n": 100, "alpha": 0.05, "rho": 0.05},
    "expected_false_upper": {"n": 100, "alpha": 0.05},
    "alpha_for_all": {"n": 100, "alpha": 0.05},
    "population_limits": {"count": 50, "n": 100, "confidence": 0.95, "alpha": 0.05},
    "population_requirement": {"n": 100, "target": 0.5, "confidence": 0.95, "alpha": 0.05},
    "list_requirement": {"n": 100, "target": 0.5, "alpha": 0.05, "rho": 0.05},
    "smallest_population_sample": {"target": 0.5, "confidence": 0.95, "alpha": 0.05},
    "look_grid": {"cap": 1000},
    "sequential_test": {"ratio": 1.0, "alpha": 0.05, "beta": 0.05, "cap": 300},
    "is_certified_anytime": {"k": 5, "n": 10, "ratio": 1.0, "alpha": 0.05},
    "quantile_ranks": {"n": 100, "p": 0.5, "ratio": 0.5, "alpha": 0.05},
    "compare_paired": {"won": 5, "lost": 4, "examples": 100, "delta": 0.05},
    "smallest_margin": {"examples": 100, "delta": 0.05},
    "mean_shift_upper": {"total": 500, "squares": 300, "n": 10, "delta": 0.05},
}
NOT_CALLS_OF_NUMBERS = {
    *("BOUNDS", "GEOMETRIES", "Geometry", "RadiusMap", "converted_radius", "inclusion_factor", "needed_radius"),
    *("Operation", "PairedDifference", "RadiusBound", "Requirement", "SequentialTest", "self_test"),
    *("anytime_radius", "certified_by_holm", "class_buckets", "crossing", "is_not_inferior", "operate"),
    *("radius_bound", "top_k_radius", "top_k_radius_of_bounds"),  # of counts, or of what another call returned
    *("MAPS", "ScoreMap", "Slopes", "VOTES", "draw_sizes", "plan_scores", "score_bounds", "score_candidates"),
    *("score_radius", "score_slopes", "votes_worth"),
    *("class_radius", "difference_radius", "largest_radius_upper", "mean_upper", "radius_ladder"),  # of checked numbers
    "smoothed_lipschitz_upper",
}
INTEGERS = {"k", "n", "cap", "n0", "dimension", "levels", "count", "won", "lost", "examples"}
BAD_NUMBERS = [math.nan, np.float32("nan"), math.inf, -math.inf, -1, -1e-300, "0.3", None, True, 1j, 10**12]
LEGAL = [("sigma", 10**12), ("dimension", 10**12), ("levels", 10**12)]
ARGUMENTS = [(name, argument) for name, call in GOOD_CALLS.items() for argument in call]


def test_every_function_has_a_case_for_each_required_argument():
    assert set(stats.__all__) == set(GOOD_CALLS) | NOT_CALLS_OF_NUMBERS
    for name, call in GOOD_CALLS.items():
        parameters = inspect.signature(getattr(stats, name)).parameters.values()
        assert {p.name for p in parameters if p.default is p.empty} == set(call)


@pytest.mark.parametrize("name", GOOD_CALLS)
def test_the_good_call_is_accepted_in_the_numbers_of_numpy_too(name):
    call = GOOD_CALLS[name]
    plain = getattr(stats, name)(**call)
    wrapped = {k: np.int64(v) if isinstance(v, int) else np.float64(v) for k, v in call.items()}
    assert getattr(stats, name)(**wrapped) == plain


def refused(name, argument, bad):
    """Return how one bad argument is refused; nothing where it is taken."""
    try:
        getattr(stats, name)(**{**GOOD_CALLS[name], argument: bad})
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name,argument", ARGUMENTS)
def test_one_bad_argument_is_refused_by_name(name, argument):
    for bad in BAD_NUMBERS:
        if (argument, bad) not in LEGAL:
            assert re.match(f"{argument}: expected .*, got .*; .", refused(name, argument, bad)), bad


@pytest.mark.parametrize("name,argument", [case for case in ARGUMENTS if case[1] in INTEGERS])
def test_what_only_looks_like_an_integer_is_refused(name, argument):
    for bad in (5.0, 5.5, Fraction(5), np.float64(5.0), "5"):
        assert f"{argument}: expected an integer" in refused(name, argument, bad), bad


@pytest.mark.parametrize("name,argument", [case for case in ARGUMENTS if case[1] in ("alpha", "rho")])
def test_an_error_probability_of_a_half_or_more_is_refused(name, argument):
    for bad in (0.5, 0.95, 1.0, 5, -0.001):
        assert f"{argument}: expected a probability of error" in refused(name, argument, bad), bad


@pytest.mark.parametrize("confidence", [0.5, 1.0, 0.05, 95])
def test_a_confidence_outside_its_range_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence: expected"):
        stats.population_limits(5, 10, confidence=confidence, alpha=0.0)


@pytest.mark.parametrize("k,n", [(11, 10), (-1, 10), (0, 0), (1, 10**9 + 1)])
def test_counts_outside_their_draws_are_refused(k, n):
    for bound in (stats.failure_upper, stats.success_lower, stats.success_upper):
        with pytest.raises(ValueError, match="expected an integer within"):
            bound(k, n, 0.05)


def test_the_start_up_check_passes():
    stats.self_test()


FACTORS = (1 - 1e-7, 1 + 1e-7, math.nan, 0.0, -1.0)


@pytest.mark.parametrize(
    ("name", "factor"),
    [*(("ndtri", factor) for factor in FACTORS), *(("betaincc", factor) for factor in FACTORS[1:3])],
)
def test_the_start_up_check_refuses_a_library_that_is_slightly_wrong(monkeypatch, name, factor):
    library = getattr(scipy.special, name)
    monkeypatch.setattr(scipy.special, name, lambda *arguments: library(*arguments) * factor)
    with pytest.raises(SoundnessError, match="install another release of scipy"):
        stats.self_test()


@pytest.mark.parametrize("factor", [1 - 1e-7, math.nan, 0.0, -1.0])
def test_a_wrong_quantile_of_the_library_is_not_relied_on(monkeypatch, factor):
    library = scipy.special.betainccinv
    monkeypatch.setattr(scipy.special, "betainccinv", lambda *arguments: library(*arguments) * factor)
    stats.self_test()


def test_the_start_up_check_refuses_the_wrong_side_however_near(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(selftest, "failure_upper", lambda k, n, alpha: stats.failure_upper(k, n, alpha) / (1 + 2e-8))
        with pytest.raises(SoundnessError, match=r"expected failure_upper\(100000, 100000, 0.001\)"):
            stats.self_test()
    monkeypatch.setattr(selftest, "radius_l2", lambda sigma, q, b: stats.radius_l2(sigma, q, b) + 5e-12)
    with pytest.raises(SoundnessError, match=r"expected radius_l2\(1, "):
        stats.self_test()


def test_import_is_light():
    heavy = {"torch", "statsmodels", "pandas", "scipy.special"}
    script = f"import sys, certify.stats; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_no_function_of_scipy_or_statsmodels_that_is_removed_or_inexact():
    sources = [path.read_text() for path in Path(stats.__file__).parent.glob("*.py")]
    assert len(sources) > 5
    for name in ("binom_test", "binomtest", "proportion_confint", "scipy.stats", "statsmodels"):
        assert not any(name in source for source in sources)
