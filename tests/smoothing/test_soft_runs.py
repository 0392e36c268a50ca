"""Runs with soft scores: one map for the run, chosen on pilots; sums that any execution gives; radii that are true."""

import functools
import itertools
import json
import math
import tempfile
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from certify.cli.plan import plan_text
from certify.errors import BrokenCertificate, InputError, SoundnessError
from certify.examples import Dataset, Example
from certify.falsifier import falsify_scores
from certify.loading import load, save
from certify.pairing import refuse_incomparable
from certify.policy import Gate, evaluate_gates
from certify.report import summarise_smoothing, verify_report
from certify.results import SmoothingSettings, seal
from certify.runs import bound_logits, smooth, start_smoothing
from certify.smoothing.addresses import BlockRequest
from certify.smoothing.readings import Piece
from certify.smoothing.scores import Scores, row_scores, score_sums
from certify.smoothing.soft_classification import check_score_settings
from certify.smoothing.soft_run import enclosing_ball
from certify.smoothing.votes import row_votes
from certify.stats import ScoreMap, score_candidates, score_radius, score_slopes
from certify.stats.empirical_bernstein import UNITS

SIDE = np.array([1.0, -1.0, 1.0, -1.0]) / 4  # the logits +-<SIDE, x>: their difference has norm 1
SOFT = SmoothingSettings(sigma=0.05, n=2000, scores="soft", float_noise=True)


@functools.cache
def network(steepness=1.0):
    """Two logits +-<s, x>, of Lipschitz constant ``steepness`` / sqrt 2, on four pixels."""
    layer = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(steepness * torch.tensor(np.array([SIDE, -SIDE]), dtype=torch.float32))
    with tempfile.TemporaryDirectory() as folder:
        save(layer, f"{folder}/model.safetensors", input_shape=(4,))
        return load(f"{folder}/model.safetensors")


def dataset(count=3, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 4), dtype=np.uint8)
    rows = [Example(index=k, id=f"row {k}", label=int(distances(x) < 0), stored=x) for k, x in enumerate(pixels)]
    return Dataset(tuple(rows), total=count, selection="all")


def distances(pixels):
    """The signed distance of the input to the hyperplane where both logits are equal."""
    return pixels.astype(float) / 255 @ SIDE / np.linalg.norm(SIDE)


DATA = dataset()


def run(folder, settings=SOFT, model=None, data=DATA, **options):
    options = {"store": folder / "store", "workers": 1, "falsify": "off"} | options
    return smooth(model or network(), data, settings, **options)


@functools.cache
def report_of(**changes):
    """The report of the flat network, made once for each change of the settings."""
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), msgspec.structs.replace(SOFT, **changes))


FIXED = {"score_map": "softmax", "temperature": 8.0}


def plain(report):
    return msgspec.structs.replace(
        report,
        digest="",
        execution=msgspec.structs.replace(
            report.execution, seconds=0.0, started="", batch="", micro_batch=0, workers=1
        ),
        examples=tuple(msgspec.structs.replace(example, seconds=0.0) for example in report.examples),
    )


# ---- scores


def projection(z):
    """The projection onto the simplex by trying every support."""
    best, found = np.inf, None
    for size in range(1, len(z) + 1):
        for support in itertools.combinations(range(len(z)), size):
            s = np.zeros(len(z))
            s[list(support)] = z[list(support)] - (z[list(support)].sum() - 1) / size
            if s.min() >= 0 and np.sum((s - z) ** 2) < best:
                best, found = np.sum((s - z) ** 2), s
    return found


def test_scores_are_those_of_the_definitions():
    logits = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)).mul(3)
    for temperature in (0.25, 1.0, 8.0):
        soft = row_scores(logits, ScoreMap("softmax", temperature)).numpy()
        sparse = row_scores(logits, ScoreMap("sparsemax", temperature)).numpy()
        for row, z in enumerate(logits.double().numpy() * temperature):
            exact = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            assert np.abs(soft[row, :4] / UNITS - exact).max() <= 2 / UNITS
            assert np.abs(sparse[row, :4] / UNITS - projection(z)).max() <= 2 / UNITS
        for scores in (soft, sparse):
            assert scores.sum(axis=1).max() <= UNITS
            assert scores.min() >= 0
            assert not scores[:, 4].any()


def test_extreme_and_invalid_logits():
    rows = [[1e30, -1e30, 0.0], [np.inf, 0.0, 0.0], [np.nan, 1.0, 2.0], [3.0, 3.0, 3.0], [-0.0, 0.0, 0.0]]
    for simplex in ("softmax", "sparsemax"):
        scores = row_scores(torch.tensor(rows), ScoreMap(simplex, 256.0)).tolist()
        assert scores[0] == [UNITS, 0, 0, 0]
        assert scores[1] == scores[2] == [0, 0, 0, UNITS]
        assert scores[3] == scores[4] == [UNITS // 3] * 3 + [0]


def test_the_square_of_every_score_is_rounded_up():
    """The bound of the variance needs sums of squares that are never too small, by however little."""
    scores = [0, 1, 2, 2**15, 2**15 + 1, 2**29 + 1, UNITS - 1, UNITS]
    for score in scores:
        total, square = score_sums(torch.tensor([[score]])).tolist()
        assert total == score
        assert square == math.ceil(Fraction(score) ** 2 / UNITS)
    assert score_sums(torch.tensor([scores]).T).tolist()[1] == sum(math.ceil(Fraction(s) ** 2 / UNITS) for s in scores)


def test_records_of_pieces_are_sums_over_their_rows_alone():
    """Whatever the pieces, parts of 1 to 100 rows give the same sums and squares."""
    logits = torch.randn(128, 3, generator=torch.Generator().manual_seed(1))
    logits[5] = torch.nan
    reading = Scores(3, score_candidates())
    for purpose, choice in (("selection", []), ("estimation", [9])):
        request = BlockRequest(DATA.examples[0], purpose, 0, 128, np.array(choice, dtype=np.int64))
        whole = reading.records(logits, [Piece(request, 0, 128)])
        assert len(whole) == reading.record_size(purpose)
        for size in (1, 37, 100):
            pieces = [Piece(request, first, min(size, 128 - first)) for first in range(0, 128, size)]
            assert torch.equal(reading.records(logits, pieces).view(len(pieces), -1).sum(dim=0), whole)
        assert not reading.refuse(whole.tolist(), purpose, 128)
        assert reading.refuse([*whole.tolist()[:-2], 129 * UNITS, whole.tolist()[-1]], purpose, 128)
        assert reading.refuse([whole.tolist()[0] + 1, *whole.tolist()[1:]], purpose, 128)
    votes = torch.bincount(row_votes(logits), minlength=4).tolist()
    sums = reading.take_apart(whole.numpy(), "estimation", 9)
    assert list(sums.votes) == votes
    assert reading.refuse([*whole.tolist()[:-1], 9 * 128 + 1], "estimation", 128)
    with pytest.raises(SoundnessError, match="under the candidate"):
        reading.take_apart(whole.numpy(), "estimation", 8)
    assert (*sums.scores, *sums.squares) == tuple(score_sums(row_scores(logits, reading.candidates[9])).tolist())


# ---- the choice


def test_blocks_under_two_candidates_do_not_pass_for_a_third():
    """The numbers 1 and 3, once a draw, have the mean 2; a sum of them alone could not tell."""
    reading = Scores(2, score_candidates("softmax"))
    first, second = (
        [128, 0, 0, 100 * UNITS, 28 * UNITS, 0, 90 * UNITS, 10 * UNITS, 0, 128 * candidate] for candidate in (1, 3)
    )
    assert not any(reading.refuse(record, "estimation", 128) for record in (first, second))
    for one, other in ((first, second), (second, first), ([*first[:-1], 0], second)):
        total = np.zeros(len(first), dtype=np.int64)
        reading.merge(total, 0, one)
        with pytest.raises(SoundnessError, match="candidate"):
            reading.merge(total, 1, other)
        reading.merge(total, 1, one)
        assert reading.take_apart(total, "estimation", one[-1] // 128).votes == (256, 0, 0)


def test_the_constant_of_the_logits_is_bound_to_the_worth_of_the_chosen_scores():
    """A smaller constant gives larger radii: all of them computed again from it, and the worth left as it was."""
    report = report_of(procedure="fixed", **FIXED)
    table = report.tables.scores
    better = msgspec.structs.replace(table, lipschitz=table.lipschitz / 20)
    slopes = score_slopes(
        "softmax", 8.0, classes=2, lipschitz=better.lipschitz, error=better.logit_error, rounded_coordinates=0
    )
    rows = tuple(with_slopes(example, report.settings, slopes) for example in report.examples)
    assert any(new.radius > old.radius for new, old in zip(rows, report.examples, strict=True))
    edited = msgspec.structs.replace(
        report,
        examples=rows,
        tables=msgspec.structs.replace(report.tables, scores=better),
        summary=summarise_smoothing(rows, report.settings),
    )
    assert [finding.where for finding in verify_report(seal(edited))] == ["tables.scores.candidates[0].worth"]


def test_the_statement_says_that_the_error_is_one_for_all_examples(tmp_path):
    """The error on the ball around other examples is another one, and so are the radii that it is taken from."""
    settings = msgspec.structs.replace(SOFT, procedure="fixed", **FIXED)
    whole, alone = (
        run(tmp_path / str(data.total), settings, data=data) for data in (DATA, Dataset(DATA.examples[:1], 1, "all"))
    )
    assert whole.examples[0].scores == alone.examples[0].scores
    assert whole.tables.scores.logit_error > alone.tables.scores.logit_error
    assert whole.examples[0].radius < alone.examples[0].radius
    assert "so a radius also depends on the others" in whole.statement.text


def with_slopes(example, settings, slopes):
    """The example as its sums certify it under these slopes."""
    sums, n = example.scores, example.counts.n
    selected = sums.selection.index(max(sums.selection))
    assert n == settings.n  # so the plan asks for the same draws
    radius, method = score_radius(
        sums.estimation, sums.estimation_squares, selected, n, alpha=settings.alpha, sigma=settings.sigma, slopes=slopes
    )
    assert radius > 0.0
    return msgspec.structs.replace(
        example,
        radius=radius,
        predicted=selected,
        correct=selected == example.label,
        reason=msgspec.UNSET,
        scores=msgspec.structs.replace(sums, method=method),
    )


def test_a_flat_network_is_smoothed_by_scores_and_a_steep_one_by_votes(tmp_path):
    flat = report_of()
    assert flat.tables.scores.candidates[flat.tables.scores.chosen].map != "argmax"
    assert {example.scores.method for example in flat.examples if example.radius} <= {
        "class slopes",
        "difference slope",
        "plain slope",
    }
    steep = run(tmp_path, model=network(1e5))
    assert steep.tables.scores.candidates[steep.tables.scores.chosen].map == "argmax"
    assert all(example.scores is msgspec.UNSET for example in steep.examples)
    for report in (flat, steep):
        assert not verify_report(report)
    hard = report_of(scores=msgspec.UNSET)
    assert flat.summary.mean_radius > hard.summary.mean_radius
    again = run(tmp_path, msgspec.structs.replace(SOFT, scores=msgspec.UNSET), model=network(1e5))
    assert [e.radius for e in again.examples] == [e.radius for e in steep.examples]


def test_the_choice_looks_at_no_label_and_at_no_estimation_draw(tmp_path):
    others = [msgspec_replace(example, label=1 - example.label) for example in DATA]
    first = report_of()
    second = run(tmp_path / "b", data=Dataset(tuple(others), total=3, selection="all"))
    assert first.tables.scores == second.tables.scores
    assert [e.radius for e in first.examples] == [e.radius for e in second.examples]
    only = first.tables.scores
    more = run(tmp_path / "c", msgspec.structs.replace(SOFT, n=2128, procedure="fixed"))
    assert more.tables.scores.chosen == only.chosen
    for here, there in zip(first.examples, more.examples, strict=True):
        assert here.scores.selection == there.scores.selection


def msgspec_replace(example, **fields):
    return Example(**{name: getattr(example, name) for name in ("index", "id", "label", "stored")} | fields)


def test_one_candidate_reaches_the_estimation():
    """The record of an estimation block has room for one map: no radius is the best of several."""
    report = report_of()
    reading = Scores(2, score_candidates())
    assert reading.record_size("estimation") == 3 * 3 + 1
    assert reading.record_size("selection") == 3 * (1 + 2 * 22)
    assert len({example.counts.n for example in report.examples} - {0}) >= 1
    assert all(len(example.scores.estimation) == 3 for example in report.examples)


def test_a_map_that_is_given_is_used(tmp_path):
    given = msgspec.structs.replace(SOFT, score_map="sparsemax", temperature=3.0)
    report = run(tmp_path, given)
    assert [(c.map, c.temperature) for c in report.tables.scores.candidates] == [("sparsemax", 3.0)]
    assert not verify_report(report)
    assert report.summary.certified_accuracy[0].confidence == 0.95
    assert "sparsemax of 3.0 times the logits" in report.statement.text
    assert "chosen among" not in report.statement.text


# ---- what holds


def test_the_radius_is_never_beyond_the_distance_to_the_other_class(tmp_path):
    """Scores of a line are smoothed to equal means exactly on it; every certificate here is a certainty of 1 - 1e-6."""
    tight = msgspec.structs.replace(SOFT, alpha=1e-6, n=3000, procedure="fixed", score_map="sparsemax", temperature=1.0)
    data = dataset(6, seed=3)
    for settings in (tight, msgspec.structs.replace(tight, float_noise=False, score_map="softmax", temperature=8.0)):
        report = run(tmp_path, settings, data=data)
        reached = []
        for example, found in zip(data, report.examples, strict=True):
            assert found.radius < abs(distances(example.stored))
            assert found.predicted in (None, int(distances(example.stored) < 0))
            reached.append(found.radius / abs(distances(example.stored)))
        assert max(reached) > 0.75


def test_the_error_and_the_ball_of_the_logits_hold(tmp_path):
    model = network(3.0)
    bound = bound_logits(model, DATA, SOFT)
    centre, reach = enclosing_ball(DATA, 0.05)
    assert 3.0 / np.sqrt(2) <= bound.lipschitz < 3.0 / np.sqrt(2) * (1 + 1e-9)
    rng = np.random.default_rng(0)
    points = np.stack([example.values() for example in DATA])[:, None] + 0.05 * rng.normal(size=(3, 2000, 4))
    assert np.linalg.norm(points - centre, axis=2).max() < reach
    program = model.predict("cpu", torch.float32)(torch.from_numpy(points.reshape(-1, 4))).double().numpy()
    weight = model.graph.tensors[next(iter(model.graph.tensors))].double().numpy()
    exact = points.reshape(-1, 4) @ weight.T
    assert 0 < np.linalg.norm(program - exact, axis=1).max() <= bound.error < 1e-4


@pytest.mark.parametrize("changed", [{"dtype": "bfloat16"}, {}])
def test_without_a_proved_error_only_the_radius_of_any_scores_is_used(tmp_path, changed, monkeypatch):
    if not changed:
        from certify.results import Unbounded

        monkeypatch.setattr("certify.runs.opening.logit_facts", lambda *_: Unbounded("there is no bound"))
    settings = msgspec.structs.replace(SOFT, score_map="softmax", temperature=8.0, **changed)
    report = run(tmp_path, settings)
    assert report.tables.scores.lipschitz is None
    assert report.tables.scores.reason
    assert {example.scores.method for example in report.examples} <= {"probit", "none"}
    assert "Lipschitz constant" not in report.statement.text
    assert not verify_report(report)


def test_too_few_draws_abstain(tmp_path):
    report = run(tmp_path, msgspec.structs.replace(SOFT, n=16, procedure="fixed", score_map="softmax"))
    assert all(example.predicted is None and example.radius == 0.0 for example in report.examples)
    assert {example.scores.method for example in report.examples} == {"none"}
    assert not verify_report(report)


# ---- how it is run


def test_workers_batches_and_a_resume_give_one_report(tmp_path):
    whole = plain(report_of())
    assert plain(run(tmp_path / "b", workers=3)) == whole
    assert plain(run(tmp_path / "c", batch=64)).tables.scores.chosen == whole.tables.scores.chosen
    with pytest.raises(InputError, match="expected a batch that divides 128"):
        run(tmp_path / "d", batch=100)


@pytest.mark.parametrize(
    "passes",
    [
        2,
        pytest.param(1, marks=pytest.mark.slow),
        pytest.param(4, marks=pytest.mark.slow),
        pytest.param(20, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_breaks_off_goes_on(tmp_path, monkeypatch, passes):
    model = network()
    whole = plain(report_of())
    left = [passes]

    def once_more(*_):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return step(*_)

    from certify.smoothing.sampler import Sampler

    step = Sampler.step
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "step", once_more)
        patch.setattr("certify.smoothing.store.COMMIT_SECONDS", -1.0)
        patch.setattr("certify.smoothing.sampler.BURST_ROWS", 1)  # else the run is over after a few steps
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", model=model)
    with start_smoothing(model, DATA, SOFT, store=tmp_path / "b" / "store") as started:
        assert not started.is_complete()
    assert plain(run(tmp_path / "b", model=model)) == whole
    monkeypatch.setattr(Sampler, "step", None)
    assert plain(run(tmp_path / "b", model=model)) == whole


# ---- what is refused


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"at": (0.1,)}, "no asked radii"),
        ({"noise": "uniform"}, "Gaussian noise"),
        ({"n": 1}, "at least 2 draws"),
        ({"temperature": 0.0}, "a temperature"),
        ({"temperature": float("nan")}, "a temperature"),
        ({"scores": "hard", "temperature": 2.0}, "soft scores where"),
        ({"scores": "hard", "score_map": "softmax"}, "soft scores where"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changed, expected):
    with pytest.raises(InputError, match=expected):
        check_score_settings(msgspec.structs.replace(SOFT, **changed))


def test_the_plan_names_the_candidates_and_the_draws():
    text = plan_text(SOFT)
    assert text.count("times the logits") == 22
    assert "votes, without scores" in text
    assert "256, " in text
    assert "2000 estimation draws" in plan_text(msgspec.structs.replace(SOFT, procedure="fixed", score_map="softmax"))
    with pytest.raises(InputError, match="no asked radii"):
        plan_text(msgspec.structs.replace(SOFT, at=(0.1,)))


def test_hard_scores_are_the_settings_of_before():
    before, asked = SmoothingSettings(sigma=0.25), SmoothingSettings(sigma=0.25, scores="hard")
    assert msgspec.json.encode(before) == msgspec.json.encode(asked)
    assert b"scores" not in msgspec.json.encode(asked)


def test_a_claim_about_the_population_needs_a_map_fixed_before():
    gate = Gate(name="g", metric="clean_accuracy", min=0.1)
    with pytest.raises(InputError, match="give score-map and temperature"):
        evaluate_gates(report_of(), (gate,))
    fixed = report_of(**FIXED)
    assert evaluate_gates(fixed, (gate,))[0].verdict in ("passed", "undecided", "failed")
    assert evaluate_gates(report_of(), (msgspec.structs.replace(gate, claim="list"),))


def test_reports_are_compared_only_with_a_map_fixed_before():
    with pytest.raises(InputError, match="one --score-map and --temperature"):
        refuse_incomparable(report_of(), report_of(), 0.1)
    refuse_incomparable(report_of(**FIXED), report_of(**FIXED), 0.1)


def test_false_certificates_of_mean_scores_are_found(tmp_path):
    """Radii a third beyond the true distance are proved false; true ones are not, at the same effort."""
    settings = msgspec.structs.replace(SOFT, score_map="softmax", temperature=8.0)
    data = dataset(8, seed=3)
    sound = run(tmp_path, settings, data=data, falsify="quick")
    assert sound.falsifier.level == "quick"
    assert "0 lost" in sound.falsifier.tried
    rows = [
        msgspec.structs.replace(row, radius=1.3 * abs(distances(example.stored)), predicted=example.label)
        for example, row in zip(data, sound.examples, strict=True)
    ]
    model, score_map = network(), ScoreMap("softmax", 8.0)
    with pytest.raises(BrokenCertificate, match="certificates of mean scores are false"):
        falsify_scores(model.predict(), model.graph, data.examples, rows, settings, score_map, classes=2, level="quick")


def tampered(report, path, value):
    """The report with one number changed and sealed again."""
    tree = msgspec.to_builtins(report)
    place = tree
    for step in path[:-1]:
        place = place[step]
    before = place.get(path[-1]) if isinstance(place, dict) else place[path[-1]]
    assert before != value
    place[path[-1]] = value
    return seal(msgspec.convert(json.loads(json.dumps(tree)), type(report)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("examples", 0, "radius"), 5.0),
        (("examples", 0, "scores", "method"), "probit"),
        (("examples", 0, "scores", "estimation"), [10**12, 0, 0]),
        (("examples", 0, "scores", "estimation_squares"), [0, 0, 0]),
        (("examples", 0, "scores", "estimation"), [1, 2]),
        (("examples", 0, "scores", "selection"), [0, 10**9, 0]),
        (("examples", 0, "scores", "selection_squares"), [-1, 0, 0]),
        (("tables", "scores", "chosen"), 0),
        (("tables", "scores", "chosen"), 99),
        (("tables", "scores", "lipschitz"), 0.01),
        (("tables", "scores", "lipschitz"), None),
        (("tables", "scores", "logit_error"), 0.3),
        (("tables", "scores", "candidates"), []),
        (("settings", "temperature"), 4.0),
        (("settings", "score_map"), "softmax"),
        (("settings", "scores"), "hard"),
    ],
)
def test_no_number_of_the_scores_can_be_changed(path, value):
    assert verify_report(tampered(report_of(), path, value))
