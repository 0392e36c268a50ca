"""Attacks on deterministic splitting: right certificates survive, and a single false one is found and named."""

import numpy as np
import pytest
from msgspec.structs import replace

from certify.errors import BrokenCertificate
from certify.examples import Dataset, Example
from certify.falsifier import falsify_smoothing, splitting
from certify.falsifier.splitting import check_planted_line, check_split_rows, recount
from certify.results import SmoothingSettings
from certify.smoothing import RunHeader, make_law, open_store, run_smoothing
from certify.smoothing.certificate import Certificate
from certify.smoothing.splitting import certify_split
from certify.smoothing.votes import base_classifier
from tests.falsifier.test_smoothed import half_space, predictor, some

SETTINGS = SmoothingSettings(sigma=0.25, noise="split")
LAW = make_law(SETTINGS, eight_bit=True)


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    graph, examples = half_space(), some(12, eight_bit=True)
    data = Dataset(tuple(examples), total=len(examples), selection="all")
    header = RunHeader("toy", data.sha256, SETTINGS, classes=2, noise_law=LAW.name)
    with open_store(tmp_path_factory.mktemp("runs"), header) as store:
        run = run_smoothing(predictor(graph), data, classes=2, settings=SETTINGS, store=store, batch=128)
        return graph, examples, list(run)


def falsify(certified, rows):
    graph, examples, _ = certified
    return falsify_smoothing(predictor(graph), graph, examples, rows, SETTINGS, classes=2, range=(0.0, 1.0))


def test_right_certificates_survive(certified):
    rows = certified[2]
    assert sum(row.radius > 0.0 for row in rows) >= 6
    found = falsify(certified, rows)
    assert (found.level, found.found) == ("quick", 0)
    assert "all 221 shifts again" in found.tried
    assert "0 lost, and none is allowed" in found.tried


def test_radii_three_times_as_large_are_proved_false(certified, monkeypatch):
    rows = certified[2]
    monkeypatch.setattr("certify.falsifier.smoothing.check_split_rows", lambda rows: None)
    wrong = [replace(row, radius=3.0 * row.radius) for row in rows]
    with pytest.raises(BrokenCertificate, match="is not ahead at an input inside") as caught:
        falsify(certified, wrong)
    assert caught.value.evidence["noise"] == "split-255"


def test_a_radius_that_does_not_follow_from_its_votes_is_found(certified):
    rows = certified[2]
    place = next(k for k, row in enumerate(rows) if row.radius > 0.0)
    for change in ({"radius": rows[place].radius + 1 / 510}, {"predicted": 1 - rows[place].predicted}):
        wrong = [*rows[:place], replace(rows[place], **change), *rows[place + 1 :]]
        for check in (check_split_rows, lambda wrong: falsify(certified, wrong)):
            with pytest.raises(BrokenCertificate, match=f"example {rows[place].id}: its votes"):
                check(wrong)


def test_the_planted_line_holds_and_wrong_radii_do_not(monkeypatch):
    small = SmoothingSettings(sigma=0.03, noise="split")
    law = make_law(small, eight_bit=True)
    check_planted_line(small, law)

    def too_far(votes):
        own = certify_split(votes)
        return Certificate(own.predicted, own.radius + 1 / 255 if own.radius else 0.0)

    monkeypatch.setattr(splitting, "certify_split", too_far)
    with pytest.raises(BrokenCertificate, match="planted vote of pixel"):
        check_planted_line(small, law)
    monkeypatch.setattr(splitting, "certify_split", lambda votes: Certificate(None, 0.0))
    with pytest.raises(BrokenCertificate, match="certifies nothing"):
        check_planted_line(small, law)


def test_one_lost_class_is_enough(certified):
    """At an input of the other class a certificate to it is false, however many others are right."""
    graph, examples, rows = certified
    classifier = base_classifier(predictor(graph), classes=2, device="cpu", dtype="float32")
    one = next(k for k, row in enumerate(rows) if row.predicted == 0)
    other = next(k for k, row in enumerate(rows) if row.predicted == 1)
    inside = [(examples[one], rows[one], examples[one])] * 2
    assert recount(classifier, LAW, inside, SETTINGS) == 2
    elsewhere = Example(0, "elsewhere", 0, np.array(examples[other].stored))
    with pytest.raises(BrokenCertificate, match=f"example {examples[one].id} is false"):
        recount(classifier, LAW, [*inside, (examples[one], rows[one], elsewhere)], SETTINGS)
