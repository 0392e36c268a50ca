"""Attacks on smoothed certificates: lost votes are proved lost, right certificates survive, chance is allowed for."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from certify.errors import BrokenCertificate
from certify.examples import Dataset, Example
from certify.falsifier import falsify_smoothing, noisy_rules
from certify.falsifier.balls import Balls
from certify.falsifier.noisy_points import lose_vote, placed
from certify.falsifier.noisy_rules import check_counts, check_planted
from certify.falsifier.noisy_votes import prove_lost, vote_counts
from certify.graph import Graph, run
from certify.results import Counts, SmoothingExample, SmoothingSettings
from certify.smoothing import RunHeader, certify_counts, law_name, make_law, open_store, plan_procedure, run_smoothing
from certify.smoothing.votes import base_classifier
from certify.stats import false_certificates_quantile
from tests.bounds.small_networks import Build
from tests.smoothing.toy_runs import dataset, predict, votes_by_hand
from tests.smoothing.toy_runs import run as toy_run

SETTINGS = SmoothingSettings(sigma=0.25, n=2000, n0=128)
PIXELS = 12


UNIFORM = replace(SETTINGS, noise="uniform")
"""The radii of these are in l1."""


def half_space(seed: int = 0) -> Graph:
    """Two classes split by a plane through the middle of the pixels: the smoothed radius is the distance to it."""
    b = Build(PIXELS, seed=seed)
    normal = b.normal(PIXELS)
    rows = torch.stack([normal, -normal])
    b.add("linear", weight=rows, bias=-0.5 * rows.sum(1))
    return b.graph()


def predictor(graph: Graph):
    single = graph.to(torch.float32)
    return lambda x: run(single, x.float())


def some(count: int, eight_bit: bool, seed: int = 1) -> list[Example]:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, PIXELS)).astype(np.uint8)
    stored = pixels if eight_bit else pixels / 255.0
    return [Example(k, str(k), 0, stored[k]) for k in range(count)]


def certified(graph: Graph, examples: list[Example], settings: SmoothingSettings, folder) -> list[SmoothingExample]:
    data = Dataset(tuple(examples), total=len(examples), selection="all")
    law = law_name(settings, eight_bit=data.eight_bit)
    header = RunHeader("toy", data.sha256, settings, classes=2, noise_law=law)
    with open_store(folder, header) as store:
        return list(run_smoothing(predictor(graph), data, classes=2, settings=settings, store=store, batch=128))


def distance(graph: Graph, example: Example, order: float = 2) -> float:
    """To the plane, in l2; in the norm whose dual has this order."""
    weight, bias = (graph.tensors[f"v1.{role}"] for role in ("weight", "bias"))
    normal, x = weight[0] - weight[1], torch.from_numpy(example.values())
    return abs(float(normal @ x + bias[0] - bias[1])) / float(normal.norm(p=order))


@pytest.mark.parametrize("settings", [SETTINGS, UNIFORM], ids=["gaussian", "uniform"])
@pytest.mark.parametrize("eight_bit", [True, False])
def test_right_certificates_survive(settings: SmoothingSettings, eight_bit: bool, tmp_path) -> None:
    graph, examples = half_space(), some(12, eight_bit)
    rows = certified(graph, examples, settings, tmp_path)
    assert sum(row.radius > 0 for row in rows) >= 6
    found = falsify_smoothing(predictor(graph), graph, examples, rows, settings, classes=2, range=(0.0, 1.0))
    assert (found.level, found.found) == ("quick", 0)
    assert ": 0 lost" in found.tried


@pytest.mark.parametrize("on_grid", [True, False])
def test_an_input_is_placed_inside_the_ball_of_the_norm(on_grid: bool) -> None:
    """Two coordinates moved by 60 levels: at distance 120 in l1, and 85 in l2."""
    image = np.array([100, 100], dtype=np.uint8)
    example = Example(0, "a", 0, image if on_grid else image / 255.0)
    point, radius = torch.tensor([160.0, 160.0]).double() / 255.0, 100.0 / 255.0
    inside = placed(example, point, radius, None, on_grid=on_grid, norm="l2")
    assert inside is not None
    shorter = placed(example, point, radius, None, on_grid=on_grid, norm="l1")
    if not on_grid:
        assert shorter is None  # in real numbers an input is taken as it is
        return
    moved = np.abs(shorter.stored.astype(int) - 100)
    assert 90 <= moved.sum() < 100


def test_l1_radii_end_before_the_nearest_input_of_the_other_class(tmp_path) -> None:
    """By symmetry of the noise the smoothed vote of a half-space changes at the plane."""
    graph, examples = half_space(), some(40, False)
    rows = certified(graph, examples, UNIFORM, tmp_path)
    assert {row.norm for row in rows} == {"l1"}
    shares = [row.radius / distance(graph, x, torch.inf) for row, x in zip(rows, examples, strict=True) if row.radius]
    assert len(shares) >= 20
    assert max(shares) < 1.0


@pytest.mark.parametrize(("settings", "order"), [(SETTINGS, 2), (UNIFORM, torch.inf)], ids=["gaussian", "uniform"])
@pytest.mark.parametrize("eight_bit", [True, False])
def test_radii_beyond_the_true_ones_are_proved_false(settings, order, eight_bit: bool, tmp_path, monkeypatch) -> None:
    graph, examples = half_space(), some(16, eight_bit)
    rows = certified(graph, examples, settings, tmp_path)
    wrong = [
        replace(row, radius=distance(graph, example, order) + 0.12 * (1 if order == 2 else 3))
        if row.radius > 0
        else row
        for row, example in zip(rows, examples, strict=True)
    ]
    monkeypatch.setattr("certify.falsifier.smoothing.check_counts", lambda *_: None)
    with pytest.raises(BrokenCertificate, match="chance allows") as caught:
        falsify_smoothing(predictor(graph), graph, examples, wrong, settings, classes=2, range=(-1.0, 2.0))
    evidence = caught.value.evidence
    assert len(evidence["lost"]) > evidence["allowed"] >= 1
    for lost in evidence["lost"]:
        check_lost(graph, lost, eight_bit, 1 if order == torch.inf else 2)


def check_lost(graph: Graph, lost: dict, eight_bit: bool, order: int) -> None:
    scale = Fraction(1, 255) if eight_bit else Fraction(1)
    x, y = ([Fraction(v) * scale for v in lost[key]] for key in ("input", "found"))
    assert sum(abs(a - b) ** order for a, b in zip(x, y, strict=True)) < Fraction(lost["radius"]) ** order
    assert not eight_bit or all(isinstance(v, int) and 0 <= v <= 255 for v in lost["found"])
    point = torch.tensor([[float(v) for v in y]], dtype=torch.float64)
    assert int(run(graph, point).argmax()) == lost["rival"] != lost["label"]  # the smoothed class of a half-space
    assert lost["rival_lower"] > lost["upper"]


def test_as_many_losses_as_chance_allows_break_nothing(tmp_path, monkeypatch) -> None:
    graph, examples = half_space(), some(16, True)
    rows = certified(graph, examples, SETTINGS, tmp_path)
    allowed = false_certificates_quantile(len(rows), SETTINGS.alpha, 1e-6)
    far = [k for k, row in enumerate(rows) if row.radius > 0][:allowed]
    wrong = [
        replace(row, radius=distance(graph, example) + 0.15) if k in far else row
        for k, (row, example) in enumerate(zip(rows, examples, strict=True))
    ]
    monkeypatch.setattr("certify.falsifier.smoothing.check_counts", lambda *_: None)
    found = falsify_smoothing(predictor(graph), graph, examples, wrong, SETTINGS, classes=2)
    assert found.found == 0
    assert f"{allowed} lost" in found.tried


def test_the_attack_is_a_function_of_its_arguments(tmp_path, monkeypatch) -> None:
    graph, examples = half_space(), some(10, True)
    rows = certified(graph, examples, SETTINGS, tmp_path)
    wrong = [replace(row, radius=row.radius + 1.0) if row.radius > 0 else row for row in rows]
    monkeypatch.setattr("certify.falsifier.smoothing.check_counts", lambda *_: None)
    evidence = []
    for _ in range(2):
        torch.manual_seed(len(evidence))
        with pytest.raises(BrokenCertificate) as caught:
            falsify_smoothing(predictor(graph), graph, examples, wrong, SETTINGS, classes=2)
        evidence.append(caught.value.evidence)
    assert evidence[0] == evidence[1]


def line(threshold: float) -> tuple:
    """Class 1 where the first pixel is at least the threshold, as a base classifier in float64."""

    def above(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([threshold - x[:, 0], x[:, 0] - threshold], 1)

    return base_classifier(above, classes=2, device="cpu", dtype="float64")


@pytest.mark.parametrize(("pixel", "lost"), [(10, True), (60, True), (127, False), (200, False)])
def test_a_lost_vote_is_proved_only_where_it_is_lost_clearly(pixel: int, lost: bool) -> None:
    example = Example(0, "0", 1, np.array([pixel, 0], dtype=np.uint8))
    law = make_law(SmoothingSettings(sigma=0.5), eight_bit=True)
    found = prove_lost(line(0.5), law, example, 1, pilot=128, draws=512, seed=0)
    assert (found is not None) == (lost or (pixel == 100 and found is not None))
    if found is not None:
        assert (found.label, found.rival) == (1, 0)
        assert found.rival_votes > found.votes
        assert found.votes + found.rival_votes == found.draws == 512


def test_invalid_outputs_can_win() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, :1] < 0.5, torch.nan, 1.0) * torch.tensor([[0.0, 1.0]]).double()

    classifier = base_classifier(broken, classes=2, device="cpu", dtype="float64")
    example = Example(0, "0", 1, np.array([0, 0], dtype=np.uint8))
    law = make_law(SmoothingSettings(sigma=0.25), eight_bit=True)
    found = prove_lost(classifier, law, example, 1, pilot=128, draws=512, seed=0)
    assert found is not None
    assert found.rival == 2


def test_votes_are_counted_like_by_hand() -> None:
    example = dataset(1).examples[0]
    classifier = base_classifier(predict, classes=3, device="cpu", dtype="float64")
    law = make_law(SETTINGS, eight_bit=True)
    from certify.smoothing.addresses import block_generator, block_requests

    expected = np.zeros(4, dtype=np.int64)
    for request in block_requests(example, "estimation", 300):
        rows = law.draw(request, block_generator(7, request, law.name)).rows
        expected += np.bincount(votes_by_hand(rows)[: request.draws], minlength=4)
    assert vote_counts(classifier, law, example, "estimation", 300, 7) == expected.tolist()


@pytest.mark.parametrize("radius", [0.5 / 255, 1.0 / 255, 1.5 / 255, 3 / 255, 0.2])
def test_what_is_placed_on_the_grid_is_strictly_inside_the_ball(radius: float) -> None:
    random = np.random.default_rng(3)
    for k in range(20):
        example = Example(0, "0", 0, random.integers(0, 256, (3, 4)).astype(np.uint8))
        point = torch.from_numpy(example.values() + random.standard_normal((3, 4)) * radius)
        found = placed(example, point, radius, (0.0, 1.0), on_grid=True)
        if found is None:
            assert radius <= 1.5 / 255, k
            continue
        apart = sum((int(a) - int(b)) ** 2 for a, b in zip(found.stored.flat, example.stored.flat, strict=True))
        assert 0 < Fraction(apart, 255**2) < Fraction(radius) ** 2
        assert found.stored.dtype == np.uint8
        assert found.id != example.id


def test_a_radius_of_one_level_holds_no_other_image() -> None:
    example = Example(0, "0", 0, np.array([7], dtype=np.uint8))
    inside = np.nextafter(1 / 255, 0.0)  # below 1/255: the neighbours are outside, or exactly on the sphere
    assert placed(example, torch.tensor([1.0]).double(), float(inside), None, on_grid=True) is None
    assert placed(example, torch.tensor([1.0]).double(), 1.01 / 255, None, on_grid=True) is not None


def test_a_point_outside_range_or_ball_or_no_number_is_not_placed() -> None:
    example = Example(0, "0", 0, np.array([0.5]))
    for value, radius in ((1.2, 1.0), (0.75, 0.25), (float("nan"), 1.0)):
        assert placed(example, torch.tensor([value]).double(), radius, (0.0, 1.0), on_grid=False) is None
    assert placed(example, torch.tensor([0.7]).double(), 0.25, (0.0, 1.0), on_grid=False) is not None


def test_the_noisy_gradient_goes_towards_the_other_class() -> None:
    graph, examples = half_space(2), some(5, False)
    centres = torch.from_numpy(np.stack([example.values() for example in examples]))
    labels = run(graph, centres).argmax(1)
    radii = torch.tensor([1.5 * distance(graph, example) for example in examples], dtype=torch.float64)
    balls = Balls(centres, radii, "l2")
    found = lose_vote(lambda x: run(graph, x), balls, labels, sigma=0.25, steps=6, noises=8, seed=0)
    assert bool((run(graph, found).argmax(1) != labels).all())
    assert bool(((found - centres).norm(dim=1) <= radii * (1 + 1e-12)).all())


def row_of(selection: list[int], estimation: list[int], settings: SmoothingSettings, alpha: float) -> SmoothingExample:
    own = certify_counts(selection, estimation, bound=settings.bound, alpha=alpha, sigma=settings.sigma)
    counts = Counts(
        selection=tuple(selection), estimation=tuple(estimation), n0=sum(selection), n=sum(estimation), seed=0
    )
    return SmoothingExample(
        index=0, id="a", hash="h", label=0, predicted=own.predicted, correct=own.predicted == 0, radius=own.radius,
        norm="l2", counts=counts, procedure="planned", seconds=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("bound", ["two-interval", "clopper-pearson"])
@pytest.mark.parametrize("estimation", [[2000, 0, 0], [1900, 80, 20], [1100, 900, 0], [1000, 1000, 0], [0, 0, 2000]])
def test_rules_between_counts_and_radii(bound: str, estimation: list[int]) -> None:
    settings = replace(SETTINGS, bound=bound)
    procedure = plan_procedure(settings, classes=2, law=make_law(settings, eight_bit=True), dimension=PIXELS)
    right = row_of([100, 20, 8], estimation, settings, procedure.alpha)
    check_counts([right], procedure)
    for wrong in (replace(right, radius=right.radius + 0.01), replace(right, predicted=1, radius=0.3)):
        with pytest.raises(BrokenCertificate, match="its counts give"):
            check_counts([wrong], procedure)


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        (lambda radius, alpha, sigma, votes: radius - 1e-2 * (votes - 1900), "lowers its radius"),
        (lambda radius, alpha, sigma, votes: radius + 1e-5 / alpha, "half of alpha raises"),
        (lambda radius, alpha, sigma, votes: radius * (1 + sigma), "twice sigma"),
    ],
)
def test_a_bound_that_moves_the_wrong_way_is_caught(monkeypatch, broken, finding) -> None:
    procedure = plan_procedure(SETTINGS, classes=2, law=make_law(SETTINGS, eight_bit=True), dimension=PIXELS)

    def wrong(selection, estimation, *, bound, alpha, sigma, geometry, uniform, top_k):
        own = certify_counts(selection, estimation, bound=bound, alpha=alpha, sigma=sigma, geometry=geometry)
        return dataclasses.replace(own, radius=broken(own.radius, alpha, sigma, estimation[0]))

    monkeypatch.setattr(noisy_rules, "certify_counts", wrong)
    row = row_of([100, 20, 8], [1900, 80, 20], SETTINGS, procedure.alpha)
    row = replace(row, radius=broken(row.radius, procedure.alpha, SETTINGS.sigma, 1900))
    monkeypatch.setattr(type(procedure), "certify", lambda self, s, e, uniform: dataclasses.replace(
        certify_counts(s, e, bound="two-interval", alpha=procedure.alpha, sigma=0.25), radius=row.radius
    ))  # fmt: skip
    with pytest.raises(BrokenCertificate, match=finding):
        check_counts([row], procedure)


@pytest.mark.parametrize("sigma", [0.004, 0.05, 0.25, 1.0, 2.5])
@pytest.mark.parametrize("eight_bit", [True, False])
@pytest.mark.parametrize("bound", ["two-interval", "clopper-pearson"])
@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_the_planted_vote_is_certified_as_it_must_be(sigma: float, eight_bit: bool, bound: str, noise: str) -> None:
    settings = SmoothingSettings(sigma=sigma, bound=bound, noise=noise)
    law = make_law(settings, eight_bit=eight_bit)
    for seed in range(3):
        check_planted(replace(settings, seed=seed), law, on_grid=law.float_sound)


@pytest.mark.parametrize("factor", [2.0, 0.0])
def test_a_planted_radius_that_is_wrong_is_caught(monkeypatch, factor: float) -> None:
    law = make_law(SETTINGS, eight_bit=True)
    procedure = plan_procedure(SETTINGS, classes=2, law=law, dimension=4)
    right = type(procedure).certify
    monkeypatch.setattr(
        type(procedure), "certify", lambda *a: dataclasses.replace(right(*a), radius=factor * right(*a).radius)
    )
    with pytest.raises(BrokenCertificate, match="planted vote"):
        check_planted(SETTINGS, law, on_grid=True)


def test_off_and_wrong_rows(tmp_path) -> None:
    graph, examples = half_space(), some(3, True)
    rows = certified(graph, examples, SETTINGS, tmp_path)
    off = falsify_smoothing(predictor(graph), graph, examples, rows[:1], SETTINGS, classes=2, level="off")
    assert (off.level, off.found) == ("off", 0)
    for wrong in (rows[::-1], rows[:1]):
        with pytest.raises(ValueError, match="in their order"):
            falsify_smoothing(predictor(graph), graph, examples, wrong, SETTINGS, classes=2)


def test_a_run_that_certified_nothing_is_attacked_nowhere(tmp_path) -> None:
    graph, examples = half_space(), some(2, True)
    rows = [
        replace(row, radius=0.0, predicted=None, reason="none")
        for row in certified(graph, examples, SETTINGS, tmp_path)
    ]
    with pytest.raises(BrokenCertificate, match="its counts give"):
        falsify_smoothing(predictor(graph), graph, examples, rows, SETTINGS, classes=2)
    nothing = falsify_smoothing(predictor(graph), graph, [], [], SETTINGS, classes=2)
    assert "0 of 0 certified examples" in nothing.tried


def test_toy_runs_survive(tmp_path) -> None:
    data = dataset(3)
    rows = toy_run(tmp_path, data)
    check_counts(rows, plan_procedure(TOY, classes=3, law=make_law(TOY, eight_bit=True), dimension=6))


TOY = SmoothingSettings(sigma=0.25, n=700, n0=100, price=1e-4)
