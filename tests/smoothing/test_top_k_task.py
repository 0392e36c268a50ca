"""The task "stays among the k likeliest": exact failure probabilities, whole runs, and what it does not go with."""

import math
import re
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import nn

import certify
from certify.errors import InputError
from certify.examples import Dataset, Example
from certify.falsifier.noisy_votes import prove_lost
from certify.policy import Gate, evaluate_gates
from certify.report import FORMATS, verify_report
from certify.results import SmoothingSettings, TopK, report_from_json, report_to_json, seal
from certify.smoothing import certify_counts, make_law, plan_procedure
from certify.smoothing.votes import base_classifier
from certify.stats import top_k_radius_of_bounds

ALPHA, DRAWS = 0.1, 14
LAWS = [
    tuple(Fraction(part, 100) for part in parts)
    for parts in ((40, 30, 20, 10), (34, 33, 32, 1), (50, 49, 1, 0), (30, 30, 30, 10), (70, 10, 10, 10))
]


@cache
def outcomes(n, law):
    ways, found = math.factorial, []
    for a in range(n + 1):
        for b in range(n + 1 - a):
            for c in range(n + 1 - a - b):
                counts = (a, b, c, n - a - b - c)
                chance = Fraction(ways(n))
                for votes, p in zip(counts, law, strict=True):
                    chance *= p**votes / ways(votes)
                found.append((counts, chance))
    return found


def false_probability(law, selected, k, radius_of):
    """P(a positive radius above the one that the true probabilities give), exactly."""
    others = sorted((float(p) for j, p in enumerate(law) if j != selected), reverse=True)[:k]
    truth = top_k_radius_of_bounds(float(1 - law[selected]), [max(p, 1e-300) for p in others], 1.0)
    return sum(
        chance for counts, chance in outcomes(DRAWS, law) if radius_of(counts) > 0.0 and radius_of(counts) > truth
    )


@cache
def ours(counts, selected, k):
    pilot = [0] * 4
    pilot[selected] = 1
    return certify_counts(pilot, counts, bound="two-interval", alpha=ALPHA, sigma=1.0, top_k=k).radius


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("k", [2, 3])
def test_no_more_than_alpha_of_the_certificates_are_false(law, k):
    """Whatever class the pilot names: given the pilot, the counted draws are fresh."""
    for selected in range(3):
        assert false_probability(law, selected, k, lambda counts, named=selected: ours(counts, named, k)) <= Fraction(
            ALPHA
        )


def test_plain_shares_are_convicted():
    def shares(counts):
        others = sorted(counts[1:], reverse=True)[:2]
        return top_k_radius_of_bounds(max(1 - counts[0] / DRAWS, 1e-9), [max(v / DRAWS, 1e-9) for v in others], 1.0)

    assert false_probability(LAWS[0], 0, 2, shares) > 3 * Fraction(ALPHA)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Four classes by the quarter of the first pixel; noise mixes neighbours."""
    layer = nn.Linear(3, 4)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, 0] = torch.tensor([-1.5, -0.5, 0.5, 1.5])
        layer.bias.copy_(torch.tensor([0.375, 0.25, -0.25, -1.125]))
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    certify.save(layer, path, input_shape=(3,), range=(0.0, 1.0))
    return certify.load(path)


DATA = Dataset(
    tuple(Example(k, str(k), k % 4, np.array([10 + 16 * k, 128, 0], dtype=np.uint8)) for k in range(15)),
    total=15,
    selection="all",
)
SETTINGS = SmoothingSettings(sigma=0.25, n=1200)


def run(model, folder, **options):
    return certify.smooth(model, DATA, SETTINGS, store=folder, device="cpu", workers=1, **options)


def test_a_run_says_what_it_certifies_and_verifies(model, tmp_path):
    one, two = run(model, tmp_path), run(model, tmp_path, task=TopK(2))
    assert two.settings.top_k == 2
    pairs = list(zip(one.examples, two.examples, strict=True))
    assert all(a.counts.selection == b.counts.selection for a, b in pairs)  # the noise does not depend on the task
    assert sum(b.radius > a.radius for a, b in pairs) >= 10
    assert "among its 2 likeliest" in two.statement.text
    assert "top 2" in FORMATS["terminal"](two)
    assert two.falsifier.found == 0
    assert verify_report(two) == ()
    assert verify_report(report_from_json(report_to_json(two), name="r")) == ()
    for other in (replace(two.settings, task=TopK(3)), one.settings):
        wrong = {finding.where for finding in verify_report(seal(replace(two, settings=other)))}
        assert any(where.endswith(".radius") for where in wrong)
        assert any(where.startswith("statement") for where in wrong)


def test_which_of_the_k_is_answered_is_nowhere_said(model, tmp_path):
    one, two = run(model, tmp_path), run(model, tmp_path, task=TopK(2))
    gates = [Gate(name=name, metric=name, min=0.0, radius=0.0, claim="list") for name in ("certified_accuracy",)]
    judged = seal(replace(two, gates=evaluate_gates(two, gates)))
    assert (one.summary.clean_accuracy is None, judged.summary.clean_accuracy) == (False, None)
    assert verify_report(judged) == ()
    stated = seal(replace(judged, summary=replace(judged.summary, clean_accuracy=0.5)))
    assert "summary.clean_accuracy" in {finding.where for finding in verify_report(stated)}
    for name, render in FORMATS.items():
        text = render(judged).lower()
        assert "answered right" not in text, name
        assert not re.search(r"clean accuracy\W*\d", text), name
    assert "clean accuracy not known" in FORMATS["terminal"](judged)
    assert "clean" not in FORMATS["card"](judged).lower()
    assert "answered right" in FORMATS["html"](one).lower()


def test_a_gate_beyond_the_single_class_is_in_reach(model, tmp_path):
    two = run(model, tmp_path, task=certify.TopK(2))
    largest = max(row.radius for row in two.examples)
    gate = Gate(name="g", metric="certified_accuracy", radius=largest, min=0.0, on="estimate")
    assert evaluate_gates(two, [gate])[0].verdict == "passed"
    with pytest.raises(InputError, match="a larger --n"):
        evaluate_gates(two, [replace(gate, radius=2.0)])


@pytest.mark.parametrize(
    ("change", "k", "message"),
    [
        ({}, 0, "k of at least 1"),
        ({}, 4, "below the number of classes"),
        ({"at": (0.1,)}, 2, "no asked radii"),
        ({"noise": "uniform"}, 2, "Gaussian"),
        ({"bound": "clopper-pearson"}, 2, "two-interval"),
        ({"n": 3, "procedure": "fixed"}, 2, "the smallest n that works is"),
    ],
)
def test_what_the_task_does_not_go_with(change, k, message):
    settings = replace(SETTINGS, task=TopK(k), **change)
    with pytest.raises(InputError, match=message):
        plan_procedure(settings, classes=4, law=make_law(settings, eight_bit=True), dimension=3)


def test_a_class_is_lost_only_behind_k_others(model):
    classifier = base_classifier(model.predict("cpu", torch.float32), classes=4, device="cpu", dtype="float32")
    law, example = make_law(SETTINGS, eight_bit=True), Example(0, "a", 0, np.array([128, 0, 0], dtype=np.uint8))
    found = [
        [
            prove_lost(classifier, law, example, label, pilot=256, draws=4000, seed=0, top_k=k) is not None
            for k in (1, 2, 3)
        ]
        for label in range(4)
    ]
    # the middle classes are the likeliest, the outer ones lost for k up to 2
    assert [row[1] for row in found] == [True, False, False, True]
    assert [row[0] for row in found].count(True) in (2, 3)
    assert not any(row[2] for row in found[1:3])
