"""Contradictions between numbers, and planted networks: broken code is caught, right code passes."""

import math

import numpy as np
import pytest
from msgspec.structs import replace

from certify.bounds import certificates
from certify.errors import BrokenCertificate
from certify.examples import Example
from certify.falsifier import falsify_lipschitz
from certify.falsifier.canaries import certify_alone, check_canaries
from certify.falsifier.consistency import check_consistency
from certify.graph import Graph
from certify.results import LayerRow, LipschitzExample, LipschitzSettings, NetworkBound, Norm
from tests.falsifier.broken_runs import NORMS, affine, certified, points


@pytest.mark.parametrize("arithmetic", ["exact", pytest.param("float64", marks=pytest.mark.slow), "float32"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_planted_networks_are_certified_as_they_must_be(norm: Norm, arithmetic: str) -> None:
    assert check_canaries(LipschitzSettings(norm=norm, arithmetic=arithmetic)) == 11


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("factor", [1.01, 2.0, 0.5, 0.0])
def test_a_radius_that_is_wrong_by_a_factor_is_caught(norm: Norm, factor: float) -> None:
    def wrong(graph: Graph, example: Example, settings: LipschitzSettings) -> LipschitzExample:
        row = certify_alone(graph, example, settings)
        return replace(row, radius=factor * row.radius)

    with pytest.raises(BrokenCertificate, match="affine"):
        check_canaries(LipschitzSettings(norm=norm), wrong)


def test_a_radius_for_ties_is_caught() -> None:
    def wrong(graph: Graph, example: Example, settings: LipschitzSettings) -> LipschitzExample:
        row = certify_alone(graph, example, settings)
        return replace(row, radius=max(row.radius, 1e-12))

    with pytest.raises(BrokenCertificate, match="tie"):
        check_canaries(LipschitzSettings(), wrong)


@pytest.mark.parametrize("norm", NORMS)
def test_a_certificate_for_nan_is_caught(norm: Norm) -> None:
    def wrong(graph: Graph, example: Example, settings: LipschitzSettings) -> LipschitzExample:
        plain = example if np.isfinite(example.stored).all() else replace_nan(example)
        tensors = {name: t.nan_to_num(nan=1.0) for name, t in graph.tensors.items()}
        return certify_alone(Graph(graph.operations, graph.output, graph.input_shape, tensors), plain, settings)

    with pytest.raises(BrokenCertificate, match="NaN"):
        check_canaries(LipschitzSettings(norm=norm), wrong)


def replace_nan(example: Example) -> Example:
    return Example(0, "0", 0, np.nan_to_num(example.stored, nan=1.0))


@pytest.mark.parametrize("broken", ["gain", "error"])
def test_a_bound_that_is_too_small_in_the_code_itself_is_caught(monkeypatch, broken: str) -> None:
    graph = affine(3, 2, seed=0)
    examples = points(graph, 2)
    analysis, rows, settings = certified(graph, examples)
    if broken == "gain":
        right = certificates.pair_gains_upper
        monkeypatch.setattr(certificates, "pair_gains_upper", lambda *a: [0.9 * gain for gain in right(*a)])
    else:
        settings = replace(settings, arithmetic="float32")  # the program that absorbs its input
        monkeypatch.setattr(certificates, "deployed_errors", lambda run, *_: dict.fromkeys(run.values, 0.0))
    with pytest.raises(BrokenCertificate, match="planted"):
        falsify_lipschitz(analysis, examples, rows, settings)


BOUND = NetworkBound(norm="l2", upper=2.0, lower=None, method="product", proved=True)
LAYER = LayerRow(name="a", kind="linear", shape=(), upper=1.0, lower=0.5, method="gram")


def rows_of(**changes: object) -> list[LipschitzExample]:
    graph = affine(3, 2, seed=0)
    _, rows, _ = certified(graph, points(graph, 1))
    return [replace(rows[0], **changes)]


@pytest.mark.parametrize(
    ("network", "layers", "changes"),
    [
        (replace(BOUND, lower=2.1), [LAYER], {}),
        (replace(BOUND, upper=math.nan), [LAYER], {}),
        (BOUND, [replace(LAYER, lower=1.1)], {}),
        (BOUND, [replace(LAYER, lower=math.nan)], {}),
        (BOUND, [replace(LAYER, upper=-1.0, lower=None)], {}),
        (BOUND, [LAYER], {"local_upper": 2.1}),
        (BOUND, [LAYER], {"local_upper": math.nan}),
        (BOUND, [LAYER], {"radius": math.nan}),
        (BOUND, [LAYER], {"radius": math.inf}),
        (BOUND, [LAYER], {"radius": -1.0}),
        (BOUND, [LAYER], {"radius": 1.0, "ball": 0.5}),
        (BOUND, [LAYER], {"radius": 1.0, "predicted": None}),
    ],
)
def test_contradictions_are_found(network, layers, changes) -> None:
    check_consistency(BOUND, [LAYER], rows_of())
    with pytest.raises(BrokenCertificate):
        check_consistency(network, layers, rows_of(**changes))


def test_what_is_missing_contradicts_nothing() -> None:
    none = replace(LAYER, upper=None, lower=None)
    check_consistency(replace(BOUND, upper=None), [none], rows_of(local_upper=None, radius=0.0, predicted=None))
    check_consistency(BOUND, [none], rows_of(local_upper=2.0, ball=1e9))
