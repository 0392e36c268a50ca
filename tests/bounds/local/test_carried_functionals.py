"""What rows of one slope carry from the first layer to the third, where weights are uncertain and cancel."""

from __future__ import annotations

from dataclasses import replace

import torch

from certify.bounds.facts import collect_structure
from certify.bounds.local.ascent_proof import ProvedAscent
from certify.bounds.local.centres import centres_of
from certify.bounds.local.certify import LocalNetwork
from certify.bounds.local.chain import chain_of
from certify.bounds.local.layers import Chain
from certify.bounds.local.lines_proof import ProvedRelaxation
from certify.bounds.local.starts import Relative
from certify.bounds.local.trial import Trial
from tests.bounds.small_networks import Build

THETA, EPS = 1e-3, 1e-2


def cancelling() -> Chain:
    """Three hidden layers, their relus all on; the third takes one row of the second from an equal one."""
    b, far = Build(4, seed=0), torch.full((5,), 100.0, dtype=torch.float64)
    b.add("linear", weight=b.normal(5, 4), bias=far)
    b.add("relu")
    b.add("linear", weight=b.positive(1, 5).repeat(2, 1), bias=far[:2])
    b.add("relu")
    b.add("linear", weight=torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64), bias=far[:2])
    b.add("relu")
    b.linear(2, 3)
    graph = b.graph()
    made = chain_of(collect_structure(graph), graph.output)
    assert isinstance(made, Chain)
    return made


def uncertain(made: Chain, k: int) -> Chain:
    """The chain, with the entries of layer k known up to a relative `THETA`."""
    layers = [replace(layer, error=THETA if n == k else 0.0) for n, layer in enumerate(made.layers)]
    return replace(made, layers=tuple(layers))


def plain_trial(made: Chain) -> Trial:
    """Multipliers where a search would begin."""
    ones = {k: torch.ones(1, layer.rows, dtype=torch.float64) for k, layer in enumerate(made.layers[:-1])}
    nothing = torch.zeros(1, 1)
    relative = Relative(ones, {}, torch.zeros(1, dtype=torch.long), None)
    return Trial(nothing, nothing, nothing, nothing, relative, dict.fromkeys(ones, torch.ones(1)))


def proved_moves(made: Chain) -> torch.Tensor:
    """At least how far the rows of the third layer move, per distance of the inputs, on a ball where nothing bends."""
    centres = centres_of(made, torch.zeros(1, 4, dtype=torch.float64), rounded_input=False)
    ascent = ProvedAscent(made, LocalNetwork(made).front, ProvedRelaxation(made, centres), EPS)
    assert all(ascent.climb(k, plain_trial(made)) for k in range(3))
    assert len(ascent.stages[1].alive) == 0  # all goes by functionals
    return ascent.stages[2].moved.diagonal.sqrt()


def test_uncertain_weights_that_cancel_move_the_row_behind_them(monkeypatch):
    """Of two equal rows the one may count 1 + theta times, the other 1 - theta times: 2 theta of it are left."""
    monkeypatch.setattr("certify.bounds.local.push_proof.LEAST_FACTORED", 1)
    made = cancelling()
    steep = float((made.layers[1].matrix[0] @ made.layers[0].matrix).norm())
    moves = {k: proved_moves(uncertain(made, k)) for k in (0, 1, 2, 3)}
    assert float(moves[2][0]) >= 2.0 * THETA * steep * (1 - 1e-14)
    assert float(moves[2][1]) >= 2.0 * (1.0 + THETA) * steep * (1 - 1e-14)
    assert float(moves[3][0]) <= 1e-6 * steep  # a later layer's error moves nothing here


def test_uncertain_rows_and_inputs_that_cancel_move_it_too(monkeypatch):
    """Entries of two equal rows move apart by 2 theta, at most all of them in one direction."""
    monkeypatch.setattr("certify.bounds.local.push_proof.LEAST_FACTORED", 1)
    made = cancelling()
    first, second = made.layers[0].matrix, made.layers[1].matrix
    moved = second[0] * (2.0 * THETA)
    assert float(proved_moves(uncertain(made, 1))[0]) >= float((moved @ first).norm()) * (1 - 1e-14)
