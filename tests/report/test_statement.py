import pytest
from msgspec.structs import replace

from certify.report import lipschitz_statement, smoothing_statement
from certify.report.statement import joint_statement
from tests.report.sample_reports import (
    BOUND,
    SAMPLES,
    SETTINGS,
    lipschitz_clean,
    lipschitz_report,
    smoothing_clean,
    smoothing_float_fixed,
    unbounded_network,
)


def test_a_lipschitz_statement_cannot_fail_by_chance():
    statement = lipschitz_clean().statement
    assert (statement.object, statement.domain, statement.failure_probability) == ("base", "real ball", 0.0)
    assert statement.arithmetic.startswith("exact")


def test_integer_noise_speaks_of_the_grid_and_the_smoothed_classifier():
    statement = smoothing_clean().statement
    assert (statement.object, statement.domain, statement.failure_probability) == ("smoothed", "grid", 0.001)
    assert "8-bit grid" in statement.text
    assert "without noise is promised nothing" in statement.text
    assert "not float-sound" not in statement.arithmetic


def test_float_noise_says_that_it_is_not_float_sound():
    statement = smoothing_float_fixed().statement
    assert statement.domain == "real ball"
    assert "not float-sound" in statement.arithmetic


@pytest.mark.parametrize("arithmetic", ["exact", "float64", "float32"])
def test_the_arithmetic_is_named_in_the_text_as_in_the_field(arithmetic):
    report = lipschitz_clean()
    settings = replace(report.settings, arithmetic=arithmetic)
    statement = lipschitz_statement(settings=settings, model=report.model, network=BOUND, examples=report.examples)
    assert statement.arithmetic.startswith(arithmetic)
    assert ("real-arithmetic" if arithmetic == "exact" else arithmetic) in statement.text


def test_without_a_proved_bound_nothing_is_certified():
    estimated = lipschitz_report(None, network=replace(BOUND, proved=False))
    for report in (unbounded_network(), estimated):
        assert report.statement.text.startswith("Nothing is certified")


def test_the_printed_network_bound_is_rounded_up():
    assert "at most 2.4692 times" in lipschitz_report(None).statement.text


@pytest.mark.parametrize("build", SAMPLES.values(), ids=SAMPLES)
def test_every_statement_names_model_and_space(build):
    report = build()
    assert report.model.sha256 in report.statement.text
    assert "pixels" in report.statement.text


@pytest.mark.parametrize("n, at_95, at_99", [(500, 2, 3), (1000, 3, 4), (10_000, 15, 18)])
def test_joint_statement_has_the_binomial_quantiles(n, at_95, at_99):
    text = joint_statement(n, 0.001)
    assert f"at most {at_95} with probability 0.95" in text
    assert f"at most {at_99} with probability 0.99" in text


def test_joint_statement_counts_and_splits_alpha():
    text = joint_statement(300, 0.001)
    assert "at most 0.3 false" in text
    assert "run at alpha 0.0000033333" in text  # 1e-3 / 300, rounded down


def test_statement_depends_on_the_number_of_examples_alone_when_smoothing():
    report = smoothing_clean()
    ten, none = (
        smoothing_statement(settings=SETTINGS, model=report.model, tables=report.tables, examples=n) for n in (10, 0)
    )
    assert replace(ten, joint="") == replace(none, joint="")
    assert none.joint == "no examples"
