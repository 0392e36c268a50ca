"""From counts to certificates: what abstains, what is refused, and radii that never exceed a known one."""

import math

import mpmath
import numpy as np
import pytest
import torch

from certify.errors import InputError
from certify.examples import Dataset, Example
from certify.results import SmoothingSettings
from certify.smoothing import certify_counts, make_law, make_tables, plan_procedure, select_class
from certify.stats import BOUNDS, charged_alpha
from tests.smoothing.toy_runs import CLASSES, dataset, run

BOUND_NAMES = sorted(BOUNDS)


def procedure(dimension=6, **settings):
    chosen = SmoothingSettings(**({"sigma": 0.25} | settings))
    return plan_procedure(chosen, classes=CLASSES, law=make_law(chosen, eight_bit=True), dimension=dimension)


def certify(selection, estimation, bound="two-interval", sigma=0.5):
    return certify_counts(selection, estimation, bound=bound, alpha=0.001, sigma=sigma)


@pytest.mark.parametrize("bound", BOUND_NAMES)
def test_the_class_is_that_of_the_pilot_alone(bound):
    assert certify([5, 1, 0, 0], [1, 999, 0, 0], bound).predicted is None
    assert certify([1, 5, 0, 0], [1, 999, 0, 0], bound).predicted == 1


@pytest.mark.parametrize("bound", BOUND_NAMES)
@pytest.mark.parametrize(
    "estimation, words",
    [
        ([0, 500, 500, 0], "class 1 500"),
        ([500, 500, 0, 0], "class 1 500"),
        ([450, 0, 0, 550], "invalid outputs 550"),
        ([0, 0, 0, 1000], "invalid outputs 1000"),
        ([1, 0, 0, 0], "class 1 0"),
        ([505, 495, 0, 0], "does not prove a positive radius"),
    ],
)
def test_abstentions_say_why(bound, estimation, words):
    found = certify([128, 0, 0, 0], estimation, bound)
    assert (found.predicted, found.radius) == (None, 0.0)
    assert words in found.reason


@pytest.mark.parametrize("bound", BOUND_NAMES)
def test_an_invalid_winner_of_the_pilot_abstains(bound):
    found = certify([60, 4, 0, 64], [1000, 0, 0, 0], bound)
    assert (found.predicted, found.radius) == (None, 0.0)
    assert "64 of 128 outputs were not finite" in found.reason
    assert procedure().draws_after([60, 4, 0, 64]) == 0


@pytest.mark.parametrize("radius", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_a_bound_that_is_not_positive_and_finite_never_certifies(monkeypatch, radius):
    monkeypatch.setattr("certify.smoothing.procedure.radius_bound", lambda *_: lambda *_: radius)
    assert certify([9, 0, 0, 0], [1000, 0, 0, 0], "broken").predicted is None


def test_pilot_ties_go_to_the_lowest_class():
    assert select_class([4, 4, 4, 4]) == 0
    assert select_class([3, 4, 4, 4]) == 1
    assert select_class([3, 3, 3, 4]) is None


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 0.5}, "alpha"),
        ({"alpha": math.nan}, "alpha"),
        ({"alpha": -0.1}, "alpha"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": -1.0}, "sigma"),
        ({"sigma": math.inf}, "sigma"),
        ({"n": 0}, "n of at least 1"),
        ({"n0": 0}, "n0 of at least 1"),
        ({"price": -1.0}, "price"),
        ({"price": math.nan}, "price"),
        ({"bound": "wilson"}, "bound"),
        ({"procedure": "peek"}, "procedure"),
        ({"noise": "laplace"}, "noise"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings, words):
    chosen = SmoothingSettings(**({"sigma": 0.25} | settings))
    law = make_law(SmoothingSettings(sigma=0.25), eight_bit=True)
    with pytest.raises(InputError, match=words):
        plan_procedure(chosen, classes=CLASSES, law=law, dimension=6)


@pytest.mark.parametrize("kind", ["planned", "fixed"])
@pytest.mark.parametrize("bound", BOUND_NAMES)
@pytest.mark.parametrize("alpha", [0.3, 0.001, 1e-30, 1e-60])
def test_too_few_draws_for_any_radius_name_the_least_that_works(alpha, bound, kind):
    options = {"alpha": alpha, "bound": bound, "procedure": kind, "float_noise": True}
    with pytest.raises(InputError, match="the smallest n that works is") as caught:
        procedure(n=1, **options)
    least = int(str(caught.value).rsplit(" ", 1)[1])
    assert procedure(n=least, **options)
    with pytest.raises(InputError, match=f"works is {least}"):
        procedure(n=least - 1, **options)


def test_rounding_that_costs_half_of_alpha_is_refused():
    with pytest.raises(InputError, match="half of alpha"):
        procedure(dimension=150_528, n=100_000, alpha=1e-6)
    assert procedure(dimension=150_528, n=100_000, alpha=1e-4)


def test_bounds_run_at_alpha_minus_the_charge():
    plan = procedure(dimension=3072, n=100_000, sigma=0.5)
    assert plan.charge >= 100_000 * 3072 * 3060 / 2**63 > 0.9 * plan.charge
    assert plan.alpha == charged_alpha(0.001, plan.charge) < 0.001
    tables = make_tables(plan, make_law(plan.settings, eight_bit=True))
    assert (tables.alpha_charged, tables.noise_law) == (plan.charge, "gaussian-255")
    votes = [90_000, 10_000, 0, 0]
    assert plan.certify(votes, votes) == certify_counts(votes, votes, bound="two-interval", alpha=plan.alpha, sigma=0.5)


def test_float_noise_has_no_charge():
    assert procedure(float_noise=True).alpha == 0.001


def test_planned_draws_follow_from_the_pilot_and_never_exceed_the_cap():
    planned = procedure(n=5000, n0=128)
    assert planned.plan is not None
    assert len(planned.plan) == 129
    assert max(planned.plan) <= 5000
    assert planned.draws_after([100, 20, 8, 0]) == planned.plan[100]
    assert procedure(n=5000, procedure="fixed").draws_after([100, 20, 8, 0]) == 5000
    assert procedure(n=5000, procedure="fixed").plan is None


@pytest.mark.parametrize("bound", BOUND_NAMES)
@pytest.mark.parametrize("kind", ["planned", "fixed"])
def test_a_half_space_is_never_certified_beyond_its_distance(tmp_path, bound, kind):
    """On integers, class 1 iff z_0 >= 128; smoothed by rounded noise the boundary is at 127.5 pixels."""
    pixels = [20, 100, 120, 126, 127, 128, 129, 140, 180, 255]
    examples = tuple(Example(i, f"{i}", 0, np.array([p, 255 - p], dtype=np.uint8)) for i, p in enumerate(pixels))
    data = Dataset(examples, total=len(pixels), selection="all")

    def half_space(x):
        score = torch.round(x[:, 0] * 255) - 127.5
        return torch.stack([-score, score, torch.full_like(score, -1e9)], dim=1)

    settings = SmoothingSettings(sigma=0.25, n=2000, bound=bound, procedure=kind)
    certified = 0
    for pixel, found in zip(pixels, run(tmp_path, data, settings, half_space), strict=True):
        if found.predicted is not None:
            certified += 1
            assert found.predicted == (pixel >= 128)
            assert found.radius <= abs(pixel - 127.5) / 255
    assert certified >= 6


def test_a_constant_network_has_the_largest_radius_of_n_votes(tmp_path):
    def constant(x):
        return torch.tensor([0.0, 0.0, -1.0]).expand(len(x), 3)  # a tie: class 0

    settings = SmoothingSettings(sigma=0.5, n=1000, procedure="fixed", bound="clopper-pearson")
    with mpmath.workdps(40):  # sigma Phi^-1(alpha^(1/n))
        p_lower = mpmath.power(mpmath.mpf(settings.alpha), mpmath.mpf(1) / 1000)
        largest = mpmath.mpf("0.5") * mpmath.sqrt(2) * mpmath.erfinv(2 * p_lower - 1)
    for found in run(tmp_path, dataset(2), settings, constant):
        assert found.counts.estimation == (1000, 0, 0, 0)
        assert found.predicted == 0
        assert 0.99999 * largest < found.radius <= largest


def test_a_network_of_nan_certifies_nothing(tmp_path):
    for found in run(tmp_path, dataset(2), classify=lambda x: torch.full((len(x), 3), torch.nan)):
        assert (found.predicted, found.radius, found.correct) == (None, 0.0, False)
        assert found.counts.selection == (0, 0, 0, 100)
        assert found.counts.n == 0
        assert "invalid output" in found.reason


def test_nan_on_some_draws_is_counted_and_competes(tmp_path):
    def sometimes(x):
        logits = torch.tensor([5.0, 0.0, 0.0]).repeat(len(x), 1)
        logits[torch.round(x[:, 0, 0] * 255) % 3 == 0] = torch.nan
        return logits

    for found in run(tmp_path, dataset(2), classify=sometimes):
        assert found.counts.estimation[-1] > found.counts.n // 4
        assert found.counts.estimation[1:3] == (0, 0)
        assert found.radius < 0.5 * 0.25 * 1.0  # as of a rival with a third of the votes, not of none
