"""A vote is the lowest index of the largest logit, and never comes from a row that is not finite."""

import itertools
import math

import pytest
import torch

from certify.errors import InputError
from certify.smoothing.votes import base_classifier, row_votes

AWKWARD = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 5e-324]


def vote_by_hand(row):
    if not all(math.isfinite(x) for x in row):
        return len(row)
    return next(k for k, x in enumerate(row) if x == max(row))


def test_all_rows_of_awkward_values():
    rows = list(itertools.product(AWKWARD, repeat=3))
    votes = row_votes(torch.tensor(rows, dtype=torch.float64)).tolist()
    assert votes == [vote_by_hand(row) for row in rows]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_ties_go_to_the_lowest_class(classes, dtype):
    logits = torch.full((64, classes), 3.0, dtype=dtype)
    assert row_votes(logits).tolist() == [0] * 64
    logits[:, 0] = 2.0
    assert row_votes(logits).tolist() == [1] * 64


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_logit_that_is_not_finite_makes_the_draw_invalid(place, value):
    logits = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    logits[0, place] = value
    assert row_votes(logits).tolist() == [3, 2]


@pytest.mark.parametrize(
    "predict, words",
    [
        (lambda x: torch.zeros(len(x), 4), "shape"),
        (lambda x: torch.zeros(len(x)), "shape"),
        (lambda x: torch.zeros(len(x), 3, 1), "shape"),
        (lambda x: torch.zeros(1, 3), "shape"),
        (lambda x: torch.zeros(len(x), 3, dtype=torch.int64), "floating-point"),
        (lambda x: (torch.zeros(len(x), 3),), "one tensor"),
        (lambda x: None, "one tensor"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(predict, words):
    classifier = base_classifier(predict, classes=3, device="cpu", dtype="float32")
    with pytest.raises(InputError, match=words):
        classifier.votes(torch.zeros(5, 2))


@pytest.mark.parametrize("classes", [0, 1])
def test_a_single_logit_is_not_two_classes(classes):
    with pytest.raises(InputError, match="two"):
        base_classifier(lambda x: x, classes=classes, device="cpu", dtype="float32")


def test_autocast_is_refused():
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(InputError, match="autocast"):
        base_classifier(lambda x: x, classes=3, device="cpu", dtype="float32")


def test_no_gradients_are_kept():
    weight = torch.ones(2, 3, requires_grad=True)
    seen = []

    def predict(x):
        seen.append(x @ weight)
        return seen[-1]

    base_classifier(predict, classes=3, device="cpu", dtype="float32").votes(torch.zeros(5, 2))
    assert not seen[0].requires_grad
