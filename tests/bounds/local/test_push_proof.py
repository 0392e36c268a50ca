"""One proved step: the fused forms dominate the exact recursion, agree with each other, and stay close to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from certify.bounds.facts import collect_structure
from certify.bounds.local.chain import Chain, chain_of
from certify.bounds.local.patches import patches_of
from certify.bounds.local.push_proof import Before, Front, gram_upper, push_upper, sandwich_upper
from certify.bounds.local.recursion import prefers_inputs
from certify.bounds.local.recursion_proof import first_matrix
from tests.bounds.small_networks import Build


def convolutions(seed: int) -> Chain:
    b = Build(2, 6, 6, seed=seed)
    b.conv(b.normal(6, 2, 3, 3) / 3, padding=[[1, 1], [0, 1]], stride=[1, 2])
    b.add("relu")
    b.conv(b.normal(4, 6, 2, 2) / 3, stride=[2, 1], padding=[[1, 0], [0, 1]])
    b.add("relu")
    b.add("reshape", shape=[-1, 36])
    b.linear(36, 3)
    graph = b.graph()
    made = chain_of(collect_structure(graph), graph.output)
    assert isinstance(made, Chain)
    return made


def before(made: Chain, unstable: int, seed: int) -> Before:
    random = torch.Generator().manual_seed(seed)
    rows = made.layers[0].rows
    alive = torch.randperm(rows, generator=random)[: rows - 9].sort().values
    lower = torch.rand(len(alive), generator=random, dtype=torch.float64)
    upper = lower.clone()
    upper[torch.randperm(len(alive), generator=random)[:unstable]] += 0.4
    matrix = first_matrix(made.layers[0])[:, alive[:, None], alive]
    U = (lower < upper).nonzero().flatten()
    top = float(torch.linalg.eigvalsh(matrix[0][U][:, U])[-1]) if len(U) else 1.0
    D = top * (1.5 + torch.rand(len(U), generator=random, dtype=torch.float64))
    return Before(alive, matrix, lower, upper, D)


def plain(made: Chain, step: Before, chosen: torch.Tensor) -> torch.Tensor:
    """W P W^T by the formula."""
    J, U = made.layers[0].matrix[step.alive], step.rows
    M, B, C = J @ J.mT, (step.lower + step.upper) / 2, ((step.upper - step.lower) / 2)[U]
    K = torch.diag(step.D) - M[U][:, U]
    P = B[:, None] * (M + M[:, U] @ torch.linalg.solve(K, M[U])) * B
    P[U, U] += C * C * step.D
    W = made.layers[1].matrix[chosen][:, step.alive]
    return W @ P @ W.mT


@pytest.mark.parametrize("form", ["explicit", "factored"])
@pytest.mark.parametrize("unstable", [0, 20, 80], ids=["stable", "rows", "inputs"])
def test_a_step_dominates_the_recursion_and_is_close_to_it(form, unstable):
    made = convolutions(1)
    step, chosen = before(made, unstable, 2), torch.arange(0, made.layers[1].rows, 2)
    assert prefers_inputs(unstable, made.inputs) == (unstable == 80)
    front = Front(made.layers[0]) if form == "factored" else None
    found = push_upper(step, made.layers[1], chosen, front)
    exact = plain(made, step, chosen)
    gap = torch.linalg.eigvalsh(found[0] - exact)
    assert float(gap[0]) > 0.0
    assert float(gap[-1]) < 1e-6 * float(torch.linalg.eigvalsh(exact)[-1])


def test_patches_and_plain_products_give_the_same_step():
    made = convolutions(3)
    step, chosen = before(made, 80, 4), torch.arange(made.layers[1].rows)
    patches = patches_of(made.layers[0].window, made.layers[1].window)
    assert patches is not None
    with_patches = push_upper(step, made.layers[1], chosen, Front(made.layers[0], None, patches))
    without = push_upper(step, made.layers[1], chosen, Front(made.layers[0]))
    torch.testing.assert_close(with_patches, without, rtol=1e-9, atol=1e-9)


def test_no_step_without_a_positive_definite_slack():
    made = convolutions(5)
    step, chosen = before(made, 20, 6), torch.arange(made.layers[1].rows)
    for D in (step.D * 0.3, -step.D, step.D * torch.nan):
        bad = replace(step, D=D)
        for front in (None, Front(made.layers[0])):
            assert push_upper(bad, made.layers[1], chosen, front) is None


def test_rows_that_stray_are_covered():
    random = torch.Generator().manual_seed(1)
    N = torch.randn(1, 5, 4, generator=random, dtype=torch.float64)
    N[0, 2] = 0.0
    stray = torch.tensor([1e-3, 0.0, 1e-4, 1e-3, 0.0], dtype=torch.float64)
    K = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    for _ in range(20):
        E = torch.randn(5, 4, generator=random, dtype=torch.float64)
        moved = N[0] + E / E.norm(dim=1, keepdim=True) * stray[:, None]
        for found, exact in (
            (sandwich_upper(K[None], N, stray), moved @ torch.linalg.solve(K, moved.mT)),
            (gram_upper(N, stray), moved @ moved.mT),
        ):
            assert float(torch.linalg.eigvalsh(found[0] - exact)[0]) > 0.0


def test_a_large_bias_does_not_blur_a_step():
    """Steps speak of differences: a bias of 2^60 would leave no digit of a product that it was added to."""
    made = convolutions(7)
    step, chosen = before(made, 20, 8), torch.arange(made.layers[1].rows)
    plainly = push_upper(step, made.layers[1], chosen, Front(made.layers[0]))
    made.layers[0].bias.fill_(2.0**60)
    assert torch.equal(push_upper(step, made.layers[1], chosen, Front(made.layers[0])), plainly)
