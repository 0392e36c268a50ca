"""Each relation between readings and certificates catches the number that breaks it, and lets rounding pass."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from certify.errors import BrokenCertificate
from certify.loading import load, read_data
from certify.report import curvature_checks, verify_report
from certify.report.curvature_checks import RELATIONS, contradictions
from certify.results import CurvatureReport, report_digest, seal
from certify.runs.batch_readings import Batch
from certify.runs.readings import CurvatureRun, start_curvature
from tests.curvature.tiny_runs import SETTINGS, folder, lipschitz, readings


def with_beside(report: CurvatureReport, place: int = 0, **changes: object) -> CurvatureReport:
    rows = list(report.beside)
    rows[place] = replace(rows[place], **changes)
    return replace(report, beside=tuple(rows))


def with_example(report: CurvatureReport, **changes: object) -> CurvatureReport:
    return replace(report, examples=(replace(report.examples[0], **changes), *report.examples[1:]))


def with_match(report: CurvatureReport, **changes: object) -> CurvatureReport:
    first, *rest = report.beside[0].matched
    return with_beside(report, matched=(replace(first, **changes), *rest))


def with_mean(report: CurvatureReport, value: float) -> CurvatureReport:
    layer = report.last_layer
    assert layer is not None
    return replace(report, last_layer=replace(layer, largest=replace(layer.largest, value=value)))


def steepest(report: CurvatureReport) -> float:
    return max(example.jacobian_spectral for example in report.examples)


# relation -> (a report in which just that fails, the same a hair's breadth within what rounding explains)
BROKEN: dict[str, tuple[Callable[[CurvatureReport], CurvatureReport], Callable[[CurvatureReport], CurvatureReport]]] = {
    "input gradient <= sqrt(2) L (2 L in linf)": (
        lambda r: with_beside(r, upper=max(e.input_gradient for e in r.examples) / math.sqrt(2.0) * 0.999, lower=0.0),
        lambda r: with_beside(r, upper=steepest(r), lower=0.0),
    ),
    "Jacobian norm <= L (sqrt(K) L in linf)": (
        lambda r: with_beside(r, upper=0.999 * steepest(r), lower=0.0),
        lambda r: with_beside(r, upper=(1.0 - 1e-12) * steepest(r), lower=0.0),
    ),
    "Jacobian norm <= constant of the ball around the example": (
        lambda r: with_match(r, local_upper=0.999 * r.examples[0].jacobian_spectral),
        lambda r: with_match(r, local_upper=(1.0 - 1e-12) * r.examples[0].jacobian_spectral),
    ),
    "deterministic radius <= distance of the nearest flip": (
        lambda r: with_example(r, flip_distance=0.999 * r.beside[0].matched[0].radius),
        lambda r: with_example(r, flip_distance=(1.0 - 1e-12) * r.beside[0].matched[0].radius),
    ),
    "class of a certified example = class read": (
        lambda r: with_match(r, predicted=(r.examples[0].predicted + 1) % 3),
        lambda r: r,
    ),
    "lower <= upper of the constant, across reports": (
        lambda r: with_beside(replace(r, beside=(r.beside[0], r.beside[0])), 1, lower=1.001 * r.beside[0].upper),
        lambda r: with_beside(r, lower=r.beside[0].upper),
    ),
    "last-layer eigenvalue <= ||a||^2 / 2": (
        lambda r: with_example(r, last_layer_largest=0.501 * r.examples[0].activation_square),
        lambda r: with_example(r, last_layer_largest=(0.5 + 1e-13) * r.examples[0].activation_square),
    ),
    "eigenvalue of the mean Hessian <= mean of the largest": (
        lambda r: with_mean(r, 1.001 * r.last_layer.largest_mean),
        lambda r: with_mean(r, (1.0 + 1e-13) * r.last_layer.largest_mean),
    ),
    "input gradient <= sqrt(2) Jacobian norm": (
        lambda r: with_example(r, jacobian_spectral=0.7 * r.examples[0].input_gradient),
        lambda r: with_example(r, jacobian_spectral=r.examples[0].input_gradient / math.sqrt(2.0) * (1.0 - 1e-13)),
    ),
}


def failing(report: CurvatureReport) -> set[str]:
    return {name for finding in contradictions(report) for name in RELATIONS if name in str(finding)}


def test_every_relation_has_a_case() -> None:
    assert BROKEN.keys() == RELATIONS.keys()


def test_a_true_report_breaks_none() -> None:
    assert failing(readings()) == set()


@pytest.mark.parametrize("name", RELATIONS)
def test_a_relation_fails_where_it_is_broken_and_only_there(name: str) -> None:
    broken, within = BROKEN[name]
    others = {"Jacobian norm <= L (sqrt(K) L in linf)"} if name.startswith("input gradient <= sqrt(2) L") else set()
    assert failing(broken(readings())) - others == {name}
    assert failing(within(readings())) == set()


@pytest.mark.parametrize("name", RELATIONS)
def test_verify_finds_it_in_a_report_that_was_sealed_again(name: str) -> None:
    report = seal(BROKEN[name][0](readings()))
    assert report.digest == report_digest(report)
    assert any(name in str(finding) for finding in verify_report(report))


@pytest.mark.parametrize(
    "name", ["deterministic radius <= distance of the nearest flip", "class of a certified example = class read"]
)
def test_a_class_that_leads_by_no_more_than_rounding_is_not_compared(name: str) -> None:
    assert failing(with_example(BROKEN[name][0](readings()), clear=False)) == set()


def test_a_number_that_is_none_fails() -> None:
    assert failing(with_beside(readings(), upper=math.nan))
    assert failing(with_example(readings(), input_gradient=math.nan))


def test_a_constant_in_linf_is_held_to_its_own_factors() -> None:
    report = with_beside(readings(), norm="linf", upper=1.0)
    scaled = [replace(e, input_gradient=1.9, jacobian_spectral=1.7, jacobian_frobenius=1.7) for e in report.examples]
    matched = tuple(replace(m, local_upper=None) for m in report.beside[0].matched)
    fitting = with_beside(replace(report, examples=tuple(scaled)), matched=matched)
    assert failing(fitting) == set()
    assert failing(replace(fitting, examples=tuple(replace(e, input_gradient=2.1) for e in scaled))) == {
        "input gradient <= sqrt(2) L (2 L in linf)"
    }
    steep = tuple(replace(e, jacobian_spectral=1.74) for e in scaled)
    assert failing(replace(fitting, examples=steep)) == {"Jacobian norm <= L (sqrt(K) L in linf)"}


def test_a_run_whose_readings_disprove_a_certificate_has_no_report() -> None:
    model = load(folder() / "model.safetensors")
    data = read_data(folder() / "data.npz", input=model.input, classes=model.classes)
    false = lipschitz()
    false = replace(false, network=replace(false.network, upper=0.1, lower=0.05), layers=())
    run = CurvatureRun(Batch(model, data, SETTINGS, "cpu"), (false,))
    with pytest.raises(BrokenCertificate, match="contradict each other in 7 places: example 0") as found:
        run.report(tuple(run.examples()))
    assert found.value.exit_code == 70
    assert len(found.value.evidence["contradictions"]) == 7


def test_without_a_relation_the_contradiction_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant of every relation: left out, nothing else finds what breaks it."""
    for name, (broken, _) in BROKEN.items():
        if name.startswith("input gradient <= sqrt(2) L"):
            continue  # a slope above L breaks the relation of the Jacobian too
        rest = {other: pairs for other, pairs in RELATIONS.items() if other != name}
        monkeypatch.setattr(curvature_checks, "RELATIONS", rest)
        assert list(contradictions(broken(readings()))) == [], name


def test_start_keeps_the_certificates_it_is_given() -> None:
    model = load(folder() / "model.safetensors")
    data = read_data(folder() / "data.npz", input=model.input, classes=model.classes)
    assert start_curvature(model, data, SETTINGS, beside=[lipschitz()]).beside == (lipschitz(),)
