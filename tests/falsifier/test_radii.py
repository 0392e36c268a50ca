"""Attacks on certified radii: a wrong one is found and confirmed, a right one never, and nothing counts by accident."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from msgspec import UNSET
from msgspec.structs import replace

from certify.errors import BrokenCertificate, SoundnessError
from certify.examples import Example
from certify.falsifier import falsify_lipschitz
from certify.falsifier.attacked import Attacked
from certify.falsifier.balls import Balls
from certify.falsifier.exactly import is_inside, is_nearer
from certify.falsifier.flips import ddn, margins, pgd
from certify.falsifier.on_radii import confirm_flip
from certify.graph import Graph, run
from certify.results import Norm, dump_json
from tests.bounds.small_networks import Build
from tests.falsifier.broken_runs import (
    NORMS,
    affine,
    certified,
    claimed,
    convolutional,
    distances,
    images,
    inflated,
    points,
)

LEVELS = ("quick", pytest.param("full", marks=pytest.mark.slow))


@pytest.fixture(autouse=True)
def without_planted_networks(monkeypatch) -> None:
    """They have tests of their own, and take longer than the attacks on such small networks."""
    monkeypatch.setattr("certify.falsifier.lipschitz.check_canaries", lambda *_: 0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 5])
def test_an_affine_radius_too_large_by_five_percent_is_found(classes: int, norm: Norm, level: str) -> None:
    graph = affine(20, classes, seed=classes)
    examples = points(graph, 3)
    analysis, rows, settings = certified(graph, examples, norm=norm)
    exact = [exact_affine_radius(graph, example, norm) for example in examples]
    wrong = [claimed(row, 1.05 * radius) for row, radius in zip(rows, exact, strict=True)]
    with pytest.raises(BrokenCertificate) as caught:
        falsify_lipschitz(analysis, examples, wrong, settings, level=level)
    assert caught.value.exit_code == 70
    evidence = caught.value.evidence
    assert evidence["claim"] == "radius"
    assert exact[0] * (1 - 1e-9) <= evidence["distance"] <= evidence["radius"] == wrong[0].radius


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("norm", NORMS)
def test_the_exact_affine_radius_is_never_broken(norm: Norm, level: str) -> None:
    graph = affine(20, 4, seed=9)
    examples = points(graph, 6, seed=1)
    analysis, rows, settings = certified(graph, examples, norm=norm)
    for factor in (1.0, 1.0 - 1e-6):
        exact = [claimed(r, factor * exact_affine_radius(graph, e, norm)) for r, e in zip(rows, examples, strict=True)]
        assert falsify_lipschitz(analysis, examples, exact, settings, level=level).found == 0
    assert falsify_lipschitz(analysis, examples, rows, settings, level=level).found == 0


def exact_affine_radius(graph: Graph, example: Example, norm: Norm) -> float:
    weight, bias = graph.tensors["v1.weight"], graph.tensors["v1.bias"]
    logits = weight @ torch.from_numpy(example.values()) + bias
    label = int(logits.argmax())
    order = 2 if norm == "l2" else 1
    rays = [
        float((logits[label] - logits[j]) / torch.linalg.vector_norm(weight[label] - weight[j], order))
        for j in range(len(logits))
        if j != label
    ]
    return min(rays) * (1 - 1e-14)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eight_bit", [True, False])
def test_a_convolutional_radius_beyond_a_known_flip_is_found_and_the_evidence_holds(
    norm: Norm, eight_bit: bool
) -> None:
    graph = convolutional(seed=5)
    examples = (images if eight_bit else points)(graph, 12)
    analysis, rows, settings = certified(graph, examples, norm=norm)
    known = distances(graph, examples, norm)
    wrong = [claimed(row, 1.05 * d) if d < math.inf else row for row, d in zip(rows, known, strict=True)]
    box = (0.0, 1.0) if eight_bit else None
    with pytest.raises(BrokenCertificate, match="bug of certify") as caught:
        falsify_lipschitz(analysis, examples, wrong, settings, range=box)
    check_evidence(graph, caught.value, norm, box)


def check_evidence(graph: Graph, broke: SoundnessError, norm: Norm, box: tuple[float, float] | None) -> None:
    """From the JSON of the evidence alone, and by another way: Fractions of its own, and the network as it is."""
    evidence = json.loads(dump_json(broke.evidence))
    scale = 255 if evidence["eight_bit"] else 1
    x = [Fraction(round(v * 255), 255) if scale == 255 else Fraction(v) for v in evidence["input"]]
    y = [Fraction(v) for v in evidence["found"]]
    apart = [abs(a - b) for a, b in zip(x, y, strict=True)]
    nearer = max(apart) < Fraction(evidence["radius"]) if norm == "linf" else None
    assert nearer or sum(a * a for a in apart) < Fraction(evidence["radius"]) ** 2
    assert box is None or all(box[0] <= v <= box[1] for v in evidence["found"])
    point = torch.tensor(evidence["found"], dtype=torch.float64).reshape(1, *evidence["shape"])
    assert int(run(graph.to(torch.float64), point).argmax()) == evidence["other"] != evidence["label"]


@pytest.mark.parametrize("norm", NORMS)
def test_right_convolutional_certificates_survive(norm: Norm) -> None:
    graph = convolutional(seed=4)
    examples = images(graph, 10)
    analysis, rows, settings = certified(graph, examples, norm=norm)
    assert all(row.radius > 0.0 for row in rows)
    found = falsify_lipschitz(analysis, examples, rows, settings, range=(0.0, 1.0))
    assert found.found == 0
    assert "on 10 of 10 certified examples" in found.tried


@pytest.mark.parametrize("norm", NORMS)
def test_what_lies_outside_the_range_does_not_count(norm: Norm) -> None:
    b = Build(1)
    b.add("linear", weight=torch.tensor([[1.0], [0.0]]).double(), bias=torch.tensor([1.0, 0.0]).double())
    graph, example = b.graph(), Example(0, "0", 0, np.array([0.5]))
    analysis, (row,), settings = certified(graph, [example], norm=norm)
    wide = [replace(row, radius=100.0)]
    assert falsify_lipschitz(analysis, [example], wide, settings, range=(0.0, 1.0)).found == 0
    assert falsify_lipschitz(analysis, [example], wide, settings, range=(-1.0, 1.0)).found == 0  # a tie
    with pytest.raises(BrokenCertificate):
        falsify_lipschitz(analysis, [example], wide, settings, range=(-1.1, 1.0))


def attacked_line(stored: np.ndarray, box: tuple[float, float] | None = None) -> tuple[Attacked, Example]:
    """One number x against 0: class 0 where x is positive."""
    b = Build(1)
    b.add("linear", weight=torch.tensor([[1.0], [0.0]]).double())
    example = Example(0, "0", 0, stored)
    analysis, rows, settings = certified(b.graph(), [example])
    return Attacked(analysis, [example], rows, settings, box), example


def point(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("far", [0.25, 1.0])
def test_a_flip_at_exactly_the_radius_does_not_count(far: float) -> None:
    attacked, example = attacked_line(np.array([0.5]))
    found = point(0.5 - 0.5 - far)
    row = claimed(attacked.rows[0], 0.5 + far)
    assert confirm_flip(attacked, example, row, found) is None
    assert confirm_flip(attacked, example, replace(row, radius=math.nextafter(0.5 + far, 9.0)), found) is not None


def test_a_pixel_is_a_fraction_and_not_the_float_beside_it() -> None:
    attacked, example = attacked_line(np.array([85], dtype=np.uint8))  # 1/3
    third = float(Fraction(1, 3))
    assert Fraction(third) < Fraction(1, 3)
    found = point(-0.25)
    radius = third + 0.25  # in floats this is their distance; in truth it is a little more
    assert Fraction(radius) <= Fraction(1, 3) + Fraction(1, 4)
    assert confirm_flip(attacked, example, claimed(attacked.rows[0], radius), found) is None
    above = claimed(attacked.rows[0], math.nextafter(radius, 9.0))
    assert confirm_flip(attacked, example, above, found) is not None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_does_not_count(bad: float) -> None:
    attacked, example = attacked_line(np.array([0.5]))
    row = claimed(attacked.rows[0], 10.0)
    assert confirm_flip(attacked, example, row, point(bad)) is None
    assert confirm_flip(attacked, example, replace(row, radius=math.nan), point(-0.1)) is None
    assert confirm_flip(attacked, example, replace(row, predicted=None), point(-0.1)) is None


def test_the_class_that_is_certified_does_not_count() -> None:
    attacked, example = attacked_line(np.array([0.5]))
    row = claimed(attacked.rows[0], 10.0)
    assert confirm_flip(attacked, example, row, point(0.1)) is None
    assert confirm_flip(attacked, example, row, point(0.0)) is None  # a tie


def test_a_flip_within_its_own_forward_error_does_not_count() -> None:
    b = Build(1)
    far = torch.tensor([2.0**40], dtype=torch.float64)
    b.add("linear", weight=torch.tensor([[1.0]]).double(), bias=far)
    b.add("linear", weight=torch.tensor([[1.0], [0.0]]).double(), bias=torch.cat([-far, torch.zeros(1).double()]))
    example = Example(0, "0", 0, np.array([1.0]))
    analysis, rows, settings = certified(b.graph(), [example])
    attacked, row = Attacked(analysis, [example], rows, settings, None), claimed(rows[0], 10.0)
    near = point(-(2.0**-11))  # the spacing of floats at 2^40 is 2^-12: the pass itself is off by about as much
    assert float(run(b.graph(), near.unsqueeze(0))[0].diff()) > 0.0
    assert confirm_flip(attacked, example, row, near) is None
    assert confirm_flip(attacked, example, row, point(-0.1)) is not None


def absorbing() -> Graph:
    """(x + 2^26) - 2^26 against 0: in float32 every small x is absorbed, and the logits tie."""
    b = Build(1)
    far = torch.tensor([2.0**26], dtype=torch.float64)
    b.add("linear", weight=torch.tensor([[1.0]]).double(), bias=far)
    b.add("linear", weight=torch.tensor([[1.0], [0.0]]).double(), bias=torch.cat([-far, torch.tensor([1e-3]).double()]))
    return b.graph()


def test_a_radius_that_only_the_deployed_program_breaks_is_found() -> None:
    graph, example = absorbing(), Example(0, "0", 0, np.array([0.6]))
    analysis, (row,), settings = certified(graph, [example])
    assert 0.59 < row.radius < 0.6
    assert falsify_lipschitz(analysis, [example], [row], settings).found == 0
    analysis, (refused,), settings = certified(graph, [example], arithmetic="float32")
    assert refused.radius == 0.0
    with pytest.raises(BrokenCertificate, match="the program in float32") as caught:
        falsify_lipschitz(analysis, [example], [claimed(refused, row.radius)], settings)
    assert caught.value.evidence["logits"] == [0.0, pytest.approx(1e-3)]


@pytest.mark.parametrize("arithmetic", ["float64", "float32"])
@pytest.mark.parametrize("norm", NORMS)
def test_certificates_of_deployed_programs_survive(norm: Norm, arithmetic: str) -> None:
    for graph, box in ((convolutional(seed=6), (0.0, 1.0)), (affine(12, 4, seed=8), None)):
        examples = (points if box is None else images)(graph, 8)
        analysis, rows, settings = certified(graph, examples, norm=norm, arithmetic=arithmetic)
        assert sum(row.radius > 0.0 for row in rows) >= 6
        assert falsify_lipschitz(analysis, examples, rows, settings, range=box).found == 0


def test_an_output_that_is_no_number_is_not_the_certified_class() -> None:
    b = Build(1)
    b.add("linear", weight=torch.full((1, 1), 1e30, dtype=torch.float64))
    b.add("linear", weight=torch.tensor([[1e30], [0.0]], dtype=torch.float64))
    b.add("linear", weight=torch.tensor([[1e-60, 0.0], [0.0, 1.0]], dtype=torch.float64))
    example = Example(0, "0", 0, np.array([1.0]))
    analysis, rows, settings = certified(b.graph(), [example], arithmetic="float32")
    assert rows[0].radius == 0.0
    attacked = Attacked(analysis, [example], rows, settings, None)
    found = confirm_flip(attacked, example, claimed(rows[0], 0.5), point(0.9))
    assert found is not None
    assert "nan" in dump_json(found.evidence)


@pytest.mark.parametrize("norm", NORMS)
def test_overflow_and_flat_networks_neither_break_nor_stop_the_attack(norm: Norm) -> None:
    for weight in (1e200, 0.0, 1e-300):
        b = Build(2)
        b.add("linear", weight=torch.full((2, 2), weight, dtype=torch.float64), bias=torch.tensor([1.0, 0.0]).double())
        b.add("linear", weight=torch.eye(2, dtype=torch.float64))
        graph, example = b.graph(), Example(0, "0", 0, np.array([0.5, 0.5]))
        analysis, rows, settings = certified(graph, [example], norm=norm)
        huge = [claimed(rows[0], 1e300)]  # true: both logits move alike
        assert falsify_lipschitz(analysis, [example], rows, settings).found == 0
        assert falsify_lipschitz(analysis, [example], huge, settings).found == 0


def test_a_network_that_cannot_be_differentiated_is_attacked_as_far_as_possible_and_says_so() -> None:
    b = Build(2)
    b.add("celu", alpha=1e300)
    example = Example(0, "0", 0, np.array([0.5, 0.25]))
    analysis, rows, settings = certified(b.graph(), [example])
    assert "no attack by gradients" in falsify_lipschitz(analysis, [example], rows, settings).tried


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e5])
def test_scale_does_not_matter(scale: float) -> None:
    graph = affine(6, 3, seed=2)
    small = Graph(graph.operations, graph.output, graph.input_shape, {k: t / scale for k, t in graph.tensors.items()})
    small.tensors["v1.bias"].mul_(scale)
    example = Example(0, "0", 0, scale * points(graph, 1)[0].values())
    analysis, rows, settings = certified(small, [example])
    exact = exact_affine_radius(small, example, "l2")
    assert falsify_lipschitz(analysis, [example], rows, settings).found == 0
    with pytest.raises(BrokenCertificate):
        falsify_lipschitz(analysis, [example], [claimed(rows[0], 1.05 * exact)], settings)


def test_only_as_many_examples_as_the_budget_allows_are_attacked_spread_evenly(monkeypatch) -> None:
    from certify.falsifier import levels, lipschitz

    graph = affine(3, 2, seed=0)
    examples = points(graph, 60)
    analysis, rows, settings = certified(graph, examples)
    small = replace_budget(levels.LIPSCHITZ["quick"], 20_000.0)
    monkeypatch.setattr(lipschitz, "LIPSCHITZ", {"quick": small})
    tried = falsify_lipschitz(analysis, examples, rows, settings).tried
    count, of = (int(word) for word in tried.split(" radius on ")[1].split(" certified")[0].split(" of "))
    assert 8 <= count < of == sum(row.radius > 0 for row in rows)


def test_a_part_of_what_constants_certify_and_all_local_certificates_are_attacked() -> None:
    graph = convolutional(seed=4)
    examples = images(graph, 40)
    analysis, rows, settings = certified(graph, examples, method="product")
    assert all(row.ball is UNSET and row.radius > 0.0 for row in rows)
    mixed = [replace(row, ball=row.radius) if k % 2 else row for k, row in enumerate(rows)]
    for given, count in ((rows, 16), (mixed, 36), (rows[:9], 9)):
        tried = falsify_lipschitz(analysis, examples[: len(given)], given, settings).tried
        assert (
            f"on {count} of {len(given)} certified examples{', spread evenly' if count < len(given) else ''};" in tried
        )


def replace_budget(effort, budget):
    from dataclasses import replace as changed

    return changed(effort, budget=budget)


def test_off_does_nothing_and_says_so() -> None:
    graph = affine(4, 2, seed=1)
    examples = points(graph, 2)
    analysis, rows, settings = certified(graph, examples)
    found = falsify_lipschitz(analysis, examples, inflated(rows, 1e9), settings, level="off")
    assert (found.level, found.found) == ("off", 0)
    assert "nothing" in found.tried


def test_the_rows_must_be_those_of_the_examples() -> None:
    graph = affine(4, 2, seed=1)
    examples = points(graph, 2)
    analysis, rows, settings = certified(graph, examples)
    for wrong in (rows[::-1], rows[:1]):
        with pytest.raises(ValueError, match="in their order"):
            falsify_lipschitz(analysis, examples, wrong, settings)


def test_the_attack_is_a_function_of_its_arguments() -> None:
    graph = convolutional(seed=5)
    examples = points(graph, 8)
    analysis, rows, settings = certified(graph, examples, seed=3)
    known = distances(graph, examples, "l2")
    wrong = [claimed(row, 1.3 * min(d, 5.0)) for row, d in zip(rows, known, strict=True)]
    evidence = []
    for _ in range(2):
        torch.manual_seed(len(evidence))
        with pytest.raises(BrokenCertificate) as caught:
            falsify_lipschitz(analysis, examples, wrong, settings)
        evidence.append(caught.value.evidence)
    assert evidence[0] == evidence[1]


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("norm", NORMS)
def test_points_stay_in_ball_and_box(norm: Norm, box: tuple[float, float] | None) -> None:
    random = torch.Generator().manual_seed(0)
    centres = torch.rand(7, 2, 3, generator=random, dtype=torch.float64)
    balls = Balls(centres, torch.logspace(-3, 2, 7, dtype=torch.float64), norm, box)
    anywhere = centres + torch.randn(centres.shape, generator=random, dtype=torch.float64)
    anywhere[0, 0, 0] = math.nan
    for found in (balls.project(anywhere), balls.scattered(3), balls.outermost(balls.scattered(4), 1.0)):
        apart = torch.linalg.vector_norm((found - centres).flatten(1), 2 if norm == "l2" else math.inf, dim=1)
        assert bool((apart <= balls.reach.flatten() * (1 + 1e-12)).all())
        assert all(is_inside(each, box) for each in found)


@pytest.mark.parametrize("norm", NORMS)
def test_nearer_is_strict_and_exact(norm: Norm) -> None:
    x, y = [Fraction(1, 10), Fraction(0)], [Fraction(0), Fraction(0)]
    tenth = 0.1  # the float above 1/10
    assert is_nearer(x, y, tenth, norm)
    assert not is_nearer(x, y, math.nextafter(tenth, 0.0), norm)
    assert not is_nearer(x, x, 0.0, norm)
    assert not is_nearer(x, y, math.inf, norm)


def test_ddn_finds_a_nearer_input_than_it_was_sent_for() -> None:
    graph = affine(10, 3, seed=4)
    example = points(graph, 1)[0]
    exact = exact_affine_radius(graph, example, "l2")
    centre = torch.from_numpy(example.values()).unsqueeze(0)
    labels = run(graph, centre).argmax(1)
    balls = Balls(centre, torch.tensor([3.0 * exact], dtype=torch.float64), "l2")
    found = ddn(lambda x: run(graph, x), balls, labels, steps=60)
    assert float(margins(run(graph, found), labels)) < 0.0
    assert exact < float((found - centre).norm()) < 1.2 * exact
    met = pgd(lambda x: run(graph, x), balls, labels, steps=3, starts=1, seed=0)
    assert float(margins(run(graph, met), labels)) < 0.0
