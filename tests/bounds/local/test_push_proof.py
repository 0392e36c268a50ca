"""One proved step: the fused forms dominate the exact recursion, agree with each other, and stay close to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from certify.bounds.local.chain import Chain
from certify.bounds.local.factors_proof import Factor, root_of, spread_factor
from certify.bounds.local.patches import patches_of
from certify.bounds.local.push_proof import Before, Front, Passed, pass_first, push_upper
from certify.bounds.local.recursion import prefers_inputs
from tests.bounds.local.chains import convolutions

FORMS = pytest.mark.parametrize("unstable", [0, 20, 80], ids=["stable", "rows", "inputs"])


def before(made: Chain, unstable: int, seed: int) -> Before:
    random = torch.Generator().manual_seed(seed)
    rows, matrix = made.layers[0].rows, Front(made.layers[0]).matrix
    lower = torch.rand(rows, generator=random, dtype=torch.float64)
    upper = lower.clone()
    upper[torch.randperm(rows, generator=random)[:unstable]] += 0.4
    dead = torch.randperm(rows, generator=random)[:9]
    lower[dead] = upper[dead] = 0.0
    U = (lower < upper).nonzero().flatten()
    top = float(torch.linalg.eigvalsh(matrix[0][U][:, U])[-1]) if len(U) else 1.0
    D = top * (1.5 + torch.rand(len(U), generator=random, dtype=torch.float64))
    return Before(matrix, lower, upper, D)


def plain(made: Chain, step: Before, W: torch.Tensor) -> torch.Tensor:
    """W P W^T by the formula."""
    J, U = made.layers[0].matrix, step.rows
    M, B, C = J @ J.mT, (step.lower + step.upper) / 2, ((step.upper - step.lower) / 2)[U]
    K = torch.diag(step.D) - M[U][:, U]
    P = B[:, None] * (M + M[:, U] @ torch.linalg.solve(K, M[U])) * B
    P[U, U] += C * C * step.D
    return W @ P @ W.mT


def passed(front: Front, step: Before) -> Passed | None:
    return pass_first(front, step.lower, step.upper, step.D)


def assert_just_above(found: torch.Tensor, exact: torch.Tensor) -> None:
    gap = torch.linalg.eigvalsh(found - exact)
    assert float(gap[0]) > 0.0
    assert float(gap[-1]) < 1e-6 * float(torch.linalg.eigvalsh(exact)[-1])


@FORMS
def test_a_step_dominates_the_recursion_and_is_close_to_it(unstable):
    made = convolutions(1)
    step, W = before(made, unstable, 2), made.layers[1].matrix[::2]
    assert_just_above(push_upper(step, W, 0.0)[0], plain(made, step, W))


@pytest.mark.parametrize("whole", [False, True], ids=["in factors", "as a whole"])
@FORMS
def test_a_step_in_factors_dominates_the_recursion_and_is_close_to_it(unstable, whole, monkeypatch):
    monkeypatch.setattr("certify.bounds.local.push_proof.LEAST_FACTORED", 10**6 if whole else 1)
    made = convolutions(1)
    step, rows = before(made, unstable, 2), torch.arange(0, made.layers[1].rows, 2)
    assert prefers_inputs(len(step.rows), made.inputs) == (unstable == 80)
    found = passed(Front(made.layers[0]), step).rows_behind(made.layers[1], rows)
    exact = plain(made, step, made.layers[1].matrix[rows])
    for order in (None, made.layers[1].order(rows)):
        assert_just_above(found.gram_upper(order)[0], exact)
    assert bool((found.diagonal_upper() >= exact.diagonal()).all())
    torch.testing.assert_close(found.diagonal_upper(), exact.diagonal(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("count", [0, 11])
@FORMS
def test_functionals_stand_beside_rows(unstable, count):
    """Also beside none, where no row may bend."""
    made = convolutions(4)
    step, rows, layer = before(made, unstable, 3), torch.arange(1, 1 + count), made.layers[1]
    T = torch.randn(4, layer.rows, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    step_passed = passed(Front(made.layers[0]), step)
    factor = step_passed.rows_behind(layer, rows).above(step_passed.functionals_behind(layer, T, 0.0))
    assert_just_above(factor.gram_upper()[0], plain(made, step, torch.cat([layer.matrix[rows], T @ layer.matrix])))


@pytest.mark.parametrize("odd", [False, True], ids=["relu", "odd"])
@pytest.mark.parametrize("unstable", [20, 80], ids=["rows", "inputs"])
@pytest.mark.parametrize("uncertain", ["first", "second", "functionals"])
def test_what_is_uncertain_is_covered_one_at_a_time(uncertain, unstable, odd):
    """All entries larger by theta. Odd slopes, -c to c, have B = 0: then only W C D C W^T is left of the step."""
    theta, made = 1e-6, convolutions(6)
    step, rows = before(made, unstable, 3), torch.arange(12)
    if odd:
        step = replace(step, lower=torch.where(step.lower < step.upper, -step.upper, 0.0))
        step = replace(step, upper=torch.where(step.lower < 0.0, step.upper, 0.0))
    step = replace(step, D=1.5 * step.D)
    first, second = (
        replace(layer, error=theta if uncertain == name else 0.0)
        for layer, name in zip(made.layers, ("first", "second"), strict=False)
    )
    T = torch.randn(3, second.rows, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    behind, own = passed(Front(first), step), theta if uncertain == "functionals" else 0.0
    J, W, G = (
        part * (1.0 + theta * (uncertain == name))
        for part, name in ((first.matrix, "first"), (second.matrix, "second"), (T, "functionals"))
    )
    moved = Chain((replace(first, window=None, dense=J),), made.input_shape)
    for factor, matrix in (
        (behind.rows_behind(second, rows), W[rows]),
        (behind.functionals_behind(second, T, own), G @ W),
    ):
        exact = plain(moved, step, matrix)
        assert float(torch.linalg.eigvalsh(factor.gram_upper()[0] - exact)[0]) > 0.0
        assert bool((factor.diagonal_upper() > exact.diagonal()).all())


@pytest.mark.parametrize(("unstable", "odd"), [(20, False), (20, True), (0, False)], ids=["relu", "odd", "stable"])
def test_an_explicit_step_covers_uncertain_weights(unstable, odd):
    theta, made = 1e-6, convolutions(8)
    step = before(made, unstable, 3)
    if odd:
        bent = step.lower < step.upper
        step = replace(step, lower=torch.where(bent, -step.upper, 0.0), upper=torch.where(bent, step.upper, 0.0))
    W = made.layers[1].matrix[:12]
    found = push_upper(step, W, theta)
    assert float(torch.linalg.eigvalsh(found[0] - plain(made, step, (1.0 + theta) * W))[0]) > 0.0


def test_the_rows_of_an_uncertain_first_layer_are_covered():
    theta, made = 1e-6, convolutions(9)
    layer, rows = replace(made.layers[0], error=theta), torch.arange(10)
    for least in (1, 10**6):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("certify.bounds.local.push_proof.LEAST_FACTORED", least)
            front = Front(layer)
            J = (1.0 + theta) * layer.matrix[rows]
            assert float(torch.linalg.eigvalsh(front.block(rows)[0] - J @ J.mT)[0]) > 0.0
            assert bool((front.diagonal(rows) >= (J @ J.mT).diagonal()).all())


def test_patches_and_plain_products_give_the_same_step():
    made = convolutions(3)
    step, rows = before(made, 80, 4), torch.arange(made.layers[1].rows)
    patches = patches_of(made.layers[0].window, made.layers[1].window)
    assert patches is not None
    found = [
        passed(Front(made.layers[0], None, form), step).rows_behind(made.layers[1], rows).gram_upper()
        for form in (patches, None)
    ]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_no_step_without_a_positive_definite_slack():
    made = convolutions(5)
    for unstable in (20, 80):
        step = before(made, unstable, 6)
        for D in (step.D * 0.3, -step.D, step.D * torch.nan):
            assert push_upper(replace(step, D=D), made.layers[1].matrix, 0.0) is None
            assert passed(Front(made.layers[0]), replace(step, D=D)) is None


def test_rows_that_stray_are_covered():
    random = torch.Generator().manual_seed(1)
    N = torch.randn(5, 4, generator=random, dtype=torch.float64)
    N[2] = 0.0
    stray = torch.tensor([1e-3, 0.0, 1e-4, 1e-3, 0.0], dtype=torch.float64)
    K, h = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)), torch.tensor([1.0, 0.5, 2.0, 0.0])
    for _ in range(20):
        E = torch.randn(5, 4, generator=random, dtype=torch.float64)
        moved = N + E / E.norm(dim=1, keepdim=True) * stray[:, None]
        spread = spread_factor(N, h.double(), ((moved - N) * h).norm(dim=1))
        for found, exact in (
            (root_of(K[None]).solve(N, stray), moved @ torch.linalg.solve(K, moved.mT)),
            (Factor(N, stray), moved @ moved.mT),
            (spread, (moved * h) @ (moved * h).mT),
            (Factor(N, stray).beside(spread), moved @ moved.mT + (moved * h) @ (moved * h).mT),
        ):
            assert float(torch.linalg.eigvalsh(found.gram_upper()[0] - exact)[0]) > 0.0
            assert bool((found.diagonal_upper() >= exact.diagonal()).all())


def test_a_root_is_proved_only_of_what_is_positive_definite():
    ones = torch.ones(1, 3, 3, dtype=torch.float64)
    assert root_of(ones) is None
    assert root_of(torch.eye(3, dtype=torch.float64)[None] * torch.nan) is None
    nearly = ones + 1e-6 * torch.eye(3, dtype=torch.float64)
    N = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact = N @ torch.linalg.solve(nearly[0], N.mT)
    gap = torch.linalg.eigvalsh(root_of(nearly).solve(N, torch.zeros(4, dtype=torch.float64)).gram_upper()[0] - exact)
    assert float(gap[0]) > -1e-9 * float(exact.diagonal().max())  # of this comparison's own rounding


def test_a_large_bias_does_not_blur_a_step():
    """Steps speak of differences: a bias of 2^60 would leave no digit of a product that it was added to."""
    made = convolutions(7)
    step, rows = before(made, 20, 8), torch.arange(made.layers[1].rows)
    plainly = passed(Front(made.layers[0]), step).rows_behind(made.layers[1], rows)
    made.layers[0].bias.fill_(2.0**60)
    assert torch.equal(passed(Front(made.layers[0]), step).rows_behind(made.layers[1], rows).rows, plainly.rows)
