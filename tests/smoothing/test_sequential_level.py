"""The whole sequential procedure enumerated (pilot, looks, answers, radius): it errs at most alpha of the time.

Laws of three classes and invalid outputs, with the true radius from their probabilities; sums over every pilot and
every path of votes at the looks, in plain binomial and multinomial probabilities.
"""

import itertools
import math

import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from certify.results import SmoothingSettings
from certify.smoothing.laws import make_law
from certify.smoothing.procedure import Procedure, plan_procedure
from certify.smoothing.questions import Question, answers, draws_to_next_look
from certify.stats import SequentialTest, crossing

SIGMA = 0.5


def multinomial(counts, law):
    ways = math.factorial(sum(counts))
    for count in counts:
        ways //= math.factorial(count)
    return ways * math.prod(p**count for p, count in zip(law, counts, strict=True))


def pilots(n0, kinds):
    return [c for c in itertools.product(range(n0 + 1), repeat=kinds) if sum(c) == n0]


def true_radius(law, selected):
    """The radius of the smoothed classifier's answer; 0 when the selected class is not that answer."""
    rival = max(p for k, p in enumerate(law) if k != selected)
    return SIGMA / 2 * (ndtri(law[selected]) - ndtri(rival)) if law[selected] > rival else 0.0


def failure(procedure: Procedure, law) -> float:
    """The probability that a run of one look reports more than the true radius."""
    settings = procedure.settings
    (look,) = procedure.questions[0].test.looks
    total = 0.0
    for pilot in pilots(settings.n0, len(law)):
        if procedure.draws_after(pilot) == 0:
            continue
        selected = max(range(len(law)), key=lambda k, pilot=pilot: (pilot[k], -k))
        chance = multinomial(pilot, law)
        for votes in range(look + 1):
            counts = [0] * len(law)
            counts[selected] = votes
            certificate = procedure.certify(pilot, counts, [votes])
            if certificate.radius > true_radius(law, selected):
                total += chance * float(binom.pmf(votes, look, law[selected]))
    return total


def on_the_edge(radius):
    """Two classes with a true radius just below the asked one: the hardest law."""
    p = float(ndtr(radius / SIGMA)) - 1e-9
    return (p, 1.0 - p, 0.0, 0.0)


LAWS = (
    *(on_the_edge(radius) for radius in (0.1, 0.3, 0.5)),
    (0.5, 0.5, 0.0, 0.0), (0.4, 0.35, 0.2, 0.05), (0.6, 0.2, 0.1, 0.1), (0.3, 0.3, 0.3, 0.1), (0.8, 0.2, 0.0, 0.0),
    (0.5, 0.0, 0.0, 0.5), (0.2, 0.1, 0.1, 0.6), (0.69, 0.31, 0.0, 0.0), (0.72, 0.1, 0.1, 0.08),
)  # fmt: skip


@pytest.mark.parametrize("cap", [20, 40, 60])
@pytest.mark.parametrize("at", [(0.1,), (0.3,), (0.1, 0.3, 0.5)])
def test_the_whole_procedure_errs_at_most_alpha_of_the_time(cap, at):
    settings = SmoothingSettings(sigma=SIGMA, at=at, n=cap, n0=5, alpha=0.05)
    law = make_law(settings, eight_bit=False)
    procedure = plan_procedure(settings, classes=3, law=law, dimension=1)
    worst = max(failure(procedure, case) for case in LAWS)
    assert 0.005 < worst <= settings.alpha


def test_reading_a_larger_radius_above_an_open_one_would_err_more():
    """The mutant that reports the largest certified radius whatever the smaller ones say, on rows made to cross."""
    small = SequentialTest(0.2, 0.6, 0.05, 0.05, 3, (3,), (4,), (-1,), 1.0, 0.05, 0.05)
    large = SequentialTest(0.4, 0.7, 0.05, 0.05, 3, (3,), (3,), (-1,), 1.0, 0.05, 0.05)
    assert answers((Question(0.1, small), Question(0.2, large)), [3]) == ("undecided", "undecided")


# ---- several looks, with tables made by hand ----

LOOKS = (4, 8, 12)
UP, LO = (4, 7, 10), (0, 3, 8)
HARD_UP, HARD_LO = (5, 8, 11), (1, 5, 9)


def question(radius, up, lo):
    return Question(radius, SequentialTest(1.0, 0.8, 0.1, 0.1, 12, LOOKS, up, lo, 1.0, 0.1, 0.1))


def ends(asked, p):
    """The probability of each set of answers, over every sequence of single votes."""
    found = {}
    for path in itertools.product((0, 1), repeat=LOOKS[-1]):
        votes = []
        while not votes or draws_to_next_look(asked, votes) != LOOKS[len(votes) - 1]:
            votes.append(sum(path[: draws_to_next_look(asked, votes)]))
        told = answers(asked, votes)
        found[told] = found.get(told, 0.0) + p ** sum(path) * (1 - p) ** (len(path) - sum(path))
    return found


@pytest.mark.parametrize("p", [0.3, 0.5, 0.8, 0.9])
def test_one_question_certifies_with_the_crossing_probability_of_its_rows(p):
    never = (-1, -1, -1)
    certified = ends((question(0.1, UP, never),), p)[("certified",)]
    assert math.isclose(certified, crossing(LOOKS, UP, p), rel_tol=1e-9)
    with_giving_up = ends((question(0.1, UP, LO),), p)[("certified",)]
    assert with_giving_up <= certified


@pytest.mark.parametrize("p", [0.3, 0.5, 0.8, 0.9])
def test_two_questions_certify_each_at_most_as_often_as_alone(p):
    together = ends((question(0.1, UP, LO), question(0.2, HARD_UP, HARD_LO)), p)
    assert math.isclose(sum(together.values()), 1.0)
    for place, up in enumerate((UP, HARD_UP)):
        certified = sum(chance for told, chance in together.items() if told[place] == "certified")
        assert certified <= crossing(LOOKS, up, p) * (1 + 1e-9)
    assert ("undecided", "certified") not in together
    assert ("not_certified", "certified") not in together
    assert {"certified", "undecided", "not_certified"} == {answer for told in together for answer in told}


def test_nothing_is_drawn_beyond_the_last_answer():
    asked = (question(0.1, UP, LO), question(0.2, HARD_UP, HARD_LO))
    assert draws_to_next_look(asked, []) == 4
    assert draws_to_next_look(asked, [4]) == 8  # the small radius is certified, the large one open
    assert draws_to_next_look(asked, [4, 8]) == 8
    assert draws_to_next_look(asked, [0]) == 4  # given up: the large radius is not asked any more
    assert draws_to_next_look(asked, [2, 6]) == 12
    assert draws_to_next_look(asked, [2, 6, 9]) == 12
