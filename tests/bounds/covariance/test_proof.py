"""Proved plans: every register dominates the exact step on the stored register before it; bounds hold for networks."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from certify.bounds.covariance import aliasing, definite, proof
from certify.bounds.covariance.elimination import Slopes
from certify.bounds.covariance.proof import join_factors, prove, reciprocals_upper, scaled_upper
from certify.bounds.covariance.starts import closed_forms
from certify.bounds.covariance.steps import (
    Activate,
    Bounded,
    Flatten,
    Fold,
    Join,
    Linear,
    Mark,
    Mask,
    Plan,
    Pool,
    Start,
    sources,
)
from certify.bounds.covariance.trial import evaluate
from tests.bounds.covariance.exact_matrices import (
    C128,
    F64,
    activated,
    diagonal,
    dominates,
    exact,
    is_psd,
    pick,
    positive,
    rational,
)
from tests.bounds.covariance.hand_plans import NONE, PLANS, dense_chain, spatial, whole_spectrum
from tests.norms.exact_norms import ExactNorm


def enlarged(multipliers, plan, factor=1.3):
    """Well inside the feasible set, so that no multiplier is changed by the proof."""
    return {k: v if isinstance(plan.steps[k], Start) else v * factor for k, v in multipliers.items()}


@functools.cache
def known(name):
    """A plan, its closed forms, and the least bound that they prove."""
    plan = PLANS[name]()
    forms = list(closed_forms(plan))
    return plan, forms, min(prove(plan, multipliers).upper() for multipliers in forms)


def check_start(plan, step, stored, sources, q):
    entries = [Fraction(entry) for entry in stored[0].diagonal().real.tolist()]
    assert all(torch.equal(block, torch.diag(block.diagonal())) for block in stored)
    if plan.norm == "l2":
        assert entries == [1] * step.rows
    else:
        assert step.pixels * sum(1 / entry for entry in entries) <= 1


def check_linear(plan, step, stored, sources, _):
    P = sources[0]
    for f in range(len(P)):
        G = step.matrix[f if len(step.matrix) > 1 else 0].to(P.dtype)
        A = exact(torch.cat([torch.eye(P.shape[1], dtype=P.dtype)[step.keep], G]))
        assert dominates(stored[f], A * exact(P[f]) * A.transpose())


def check_fold(plan, step, stored, sources, _):
    fine = plan.steps[step.source].sides
    whole = torch.tensor(whole_spectrum(sources[0].numpy(), fine)).reshape(*fine, *sources[0].shape[1:])
    counts = (step.sides[0], step.sides[1] // 2 + 1)
    for f, v in enumerate([(i, j) for i in range(counts[0]) for j in range(counts[1])]):
        blocks = whole[v[0] :: step.sides[0], v[1] :: step.sides[1]].flatten(0, 1)
        total = exact(blocks[0])
        for block in blocks[1:]:
            total += exact(block)
        assert dominates(stored[f], total / len(blocks))


def check_activate(plan, step, stored, sources, D):
    slopes, rows = Slopes.between(step.lower, step.upper), torch.nonzero(step.unstable).flatten().tolist()
    D = torch.zeros(0, dtype=F64) if D is None else D
    for M, P in zip(sources[0], stored, strict=True):
        assert dominates(P, activated(M, slopes.centre, slopes.radius, rows, D))


def check_mask(plan, step, stored, sources, D):
    ones = torch.ones(sources[0].shape[1], dtype=F64)
    centre, radius = ones.index_fill(0, step.rows, 0.5), (0.0 * ones).index_fill(0, step.rows, 0.5)
    for M, P in zip(sources[0], stored, strict=True):
        assert dominates(P, activated(M, centre, radius, step.rows.tolist(), (D + D.mT) / 2))


def check_pool(plan, step, stored, sources, delta):
    factor = Fraction(step.overlap) * Fraction(step.slope) ** 2
    for entry, least in zip(stored[0].diagonal().real.tolist(), delta.tolist(), strict=True):
        assert Fraction(entry) >= factor * Fraction(least)
    for M in sources[0]:
        assert is_psd(diagonal(delta.tolist(), 2) - exact(M))


def check_flatten(plan, step, stored, sources, _):
    sides, m = step.source_sides, step.matrix.shape[1]
    P, A = (whole_spectrum(blocks.numpy(), sides) for blocks in (sources[0], step.matrix))
    total = None
    for block, a in zip(P, A, strict=True):
        G = exact(torch.tensor(a))
        term = pick(G * exact(torch.tensor(block)) * G.transpose(), range(m), range(m))
        total = term if total is None else total + term
    assert dominates(stored[0], total / math.prod(sides))


def check_bounded(plan, step, stored, sources, _):
    entry = Fraction(float(stored[0, 0, 0].real))
    root = rational(entry / Fraction(step.gain) ** 2)
    for M in sources[0]:
        assert is_psd(diagonal([1] * len(M), 2 if M.is_complex() else 1) * root - exact(M))


def check_join(plan, step, stored, sources, t):
    t = Fraction(float(t))
    for f in range(len(stored)):
        n = sources[0].shape[1]
        assert not stored[f, :n, n:].any()
        assert dominates(stored[f, :n, :n], exact(sources[0][f]) * rational(1 + t))
        assert dominates(stored[f, n:, n:], exact(sources[1][f]) * rational(1 + 1 / t))


CHECKS = {
    Start: check_start,
    Linear: check_linear,
    Fold: check_fold,
    Activate: check_activate,
    Mask: check_mask,
    Pool: check_pool,
    Flatten: check_flatten,
    Bounded: check_bounded,
    Join: check_join,
}


@pytest.mark.parametrize("name", PLANS)
def test_every_register_dominates_the_exact_step(name):
    plan, forms, _ = known(name)
    multipliers = enlarged(forms[0], plan)
    registers = [prove(Plan(plan.steps[: k + 1], plan.norm), multipliers).output for k in range(len(plan.steps))]
    for k, (step, stored) in enumerate(zip(plan.steps, registers, strict=True)):
        assert torch.equal(stored, stored.mH)
        assert stored.dtype == (C128 if step.sides else F64)
        assert len(stored) == plan.frequencies(k)
        read = [registers[source] for source in sources(step)]
        CHECKS[type(step)](plan, step, stored, read, multipliers.get(k))


@pytest.mark.parametrize("name", ["spatial mask"])
def test_frequencies_may_be_worked_on_one_by_one(name, monkeypatch):
    plan, forms, _ = known(name)
    multipliers = enlarged(forms[0], plan)
    together = prove(plan, multipliers).upper()
    monkeypatch.setattr(aliasing, "CHUNK_NUMBERS", 1)
    monkeypatch.setattr(definite, "BATCH_NUMBERS", 1)
    test_every_register_dominates_the_exact_step(name)
    assert prove(plan, multipliers).upper() == pytest.approx(together, rel=1e-12)


def test_a_multiplier_must_serve_every_chunk(monkeypatch):
    monkeypatch.setattr(aliasing, "CHUNK_NUMBERS", 1)
    sides, ones = (4,), torch.ones(1, dtype=F64)
    symbol = torch.tensor([1.0, 1.0, 2.0], dtype=C128)[:, None, None]
    plan = Plan((Start(sides, 1), Linear(0, sides, NONE, symbol), Activate(1, sides, 0.0 * ones, ones)))
    assert prove(plan, {2: 3.0 * ones}) is None  # 4 at the last frequency
    assert prove(plan, {2: 8.0 * ones}).upper() >= 2.0


def test_every_step_has_a_rule_and_a_check():
    assert proof.RULES.keys() == CHECKS.keys()
    assert {type(step) for name in PLANS for step in PLANS[name]().steps} == CHECKS.keys()


@pytest.mark.parametrize("name", PLANS)
def test_proofs_are_as_tight_as_floats(name):
    plan, forms, _ = known(name)
    for multipliers in forms:
        floats = evaluate(plan, multipliers)[-1]
        proved = prove(plan, multipliers)
        assert proved is not None
        # a closed form may be enlarged by 1e-9 where it is barely feasible
        assert proved.upper() <= math.sqrt(float(torch.linalg.eigvalsh(floats).max())) * (1.0 + 1e-8)


def net_a():
    """The network 10-50-50-50-10 with weights randn / sqrt(inputs) of seed 0."""
    g = torch.Generator().manual_seed(0)
    sizes = (10, 50, 50, 50, 10)
    return [torch.randn(b, a, generator=g, dtype=F64) / math.sqrt(a) for a, b in pairwise(sizes)]


def test_closed_form_of_a_published_size():
    plan = dense_chain(net_a())
    uppers = [prove(plan, multipliers).upper() for multipliers in closed_forms(plan)]
    floats = [float(torch.linalg.eigvalsh(evaluate(plan, m)[-1])[0, -1]) ** 0.5 for m in closed_forms(plan)]
    for upper, value in zip(uppers, floats, strict=True):
        assert value <= upper * (1.0 + 1e-12)
        assert upper <= value * (1.0 + 1e-9)
    assert abs(uppers[0] - 6.950089) < 1e-5  # ECLipsE-Fast, arXiv 2404.04375


@pytest.mark.parametrize("seed", range(12))
def test_bounds_hold_for_sampled_jacobians(seed):
    g = torch.Generator().manual_seed(seed)
    sizes = [1 + int(k) for k in torch.randint(0, 6, (4,), generator=g)]
    weights = [torch.randint(-15, 16, (b, a), generator=g).double() / 16 for a, b in pairwise(sizes)]
    lower, upper = ((0.0, 1.0), (-0.5, 0.75), (0.25, 0.875))[seed % 3]
    plan = dense_chain(weights, lower, upper)
    for multipliers in closed_forms(plan):
        proved = prove(plan, multipliers)
        rows, pairs, bound = proved.row_uppers(), proved.pair_uppers(), proved.upper()
        assert not pairs.diagonal().any()
        for _ in range(20):
            J = weights[0]  # exact throughout: few bits
            for weight in weights[1:]:
                T = torch.where(torch.rand(len(J), generator=g) < 0.5, lower, upper).to(F64)
                J = weight @ (T[:, None] * J)
            assert ExactNorm(J).at_most(bound)
            assert bool((J.square().sum(1) <= rows.square()).all())
            assert bool(((J[:, None] - J).square().sum(2) <= pairs.square()).all())


@pytest.mark.parametrize("seed", range(20))
def test_without_ranges_of_slopes_the_bound_is_the_norm(seed):
    g = torch.Generator().manual_seed(seed)
    weights = [torch.randint(-9, 10, (n, 3), generator=g).double() / 8 for n in (4, 3)]
    weights[1] = torch.randint(-9, 10, (2, 4), generator=g).double() / 8
    slope = (1.0, -0.5, 0.0)[seed % 3]
    steps = dense_chain(weights).steps
    fixed = Activate(1, (), torch.full((4,), slope, dtype=F64), torch.full((4,), slope, dtype=F64))
    upper = prove(Plan((*steps[:2], fixed, *steps[3:])), {}).upper()
    J = slope * weights[1] @ weights[0]  # exact: few bits
    truth = float(torch.linalg.matrix_norm(J, 2))
    assert ExactNorm(J).at_most(upper)
    assert upper <= truth * (1.0 + 1e-12) + 1e-140


def test_rows_without_a_range_pass_a_residual_exactly():
    W = torch.tensor([[[2.0, 1.0], [0.5, -1.0]]], dtype=F64)
    keep = torch.arange(2)
    ones = torch.ones(4, dtype=F64)
    join = torch.cat([torch.eye(2, dtype=F64)[None], W], 2)
    plan = Plan((Start((), 2), Linear(0, (), keep, W), Activate(1, (), ones, ones), Linear(2, (), NONE, join)))
    J = torch.eye(2, dtype=F64) + W[0] @ W[0]
    upper = prove(plan, {}).upper()
    assert ExactNorm(J).at_most(upper)
    assert upper <= float(torch.linalg.matrix_norm(J, 2)) * (1 + 1e-13)


def test_cancellation_in_a_whole_plan():
    weights = [torch.tensor([[1.0], [1.0 + 2.0**-52]]), 2.0**53 * torch.tensor([[1.0, -1.0]])]
    weights = [w.double() for w in weights]
    weights[0][1] = 1.0 + 2.0**-52
    ones = torch.ones(2, dtype=F64)
    steps = dense_chain(weights).steps
    proved = prove(Plan((*steps[:2], Activate(1, (), ones, ones), steps[3])), {})
    assert 2.0 <= proved.upper() < math.inf


HOSTILE = {
    "nan": math.nan,
    "inf": math.inf,
    "minus inf": -math.inf,
    "negative": -1.0,
    "zero": 0.0,
    "huge": 1e308,
    "tiny": 1e-300,
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_multipliers_give_no_bound_or_a_right_one(name, bad):
    plan, (good, *_), least = known(name)
    for position in good:
        for everywhere in (True, False):
            broken = {k: v.clone() for k, v in good.items()}
            broken[position].reshape(-1)[slice(None) if everywhere else slice(0, 1)] = HOSTILE[bad]
            proved = prove(plan, broken)
            may_pass = bad == "huge" or (bad == "tiny" and isinstance(plan.steps[position], Start | Join | Mask))
            assert proved is None or may_pass or isinstance(plan.steps[position], Mask)
            assert proved is None or proved.upper() >= 0.1 * least


def test_barely_infeasible_multipliers_are_enlarged():
    weights = net_a()
    plan = dense_chain(weights)
    M = weights[0] @ weights[0].mT
    top = torch.linalg.eigvalsh(M)[-1]
    multipliers = next(iter(closed_forms(plan)))
    for factor, proved in ((1.0, True), (1.0 - 1e-10, True), (1.0 - 3e-5, True), (0.99, False)):
        prefix = Plan(plan.steps[:3])
        found = prove(prefix, multipliers | {2: torch.full((50,), float(top) * factor, dtype=F64)})
        assert (found is not None) == proved


def test_missing_and_misshapen_multipliers_are_told():
    plan = dense_chain(net_a())
    with pytest.raises(ValueError, match=r"shape \(50,\) for step 2, got none"):
        prove(plan, {})
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        prove(plan, {2: torch.ones(3)})


def test_single_precision_multipliers_are_taken_as_they_are():
    plan = dense_chain([w.double() for w in net_a()])
    multipliers = {k: 1.5 * v.float() for k, v in next(iter(closed_forms(plan))).items()}
    assert prove(plan, multipliers).upper() == prove(plan, {k: v.double() for k, v in multipliers.items()}).upper()


def test_weights_that_are_not_finite_prove_nothing():
    for bad in (math.nan, math.inf):
        weights = net_a()
        multipliers = next(iter(closed_forms(dense_chain(weights))))
        weights[1][3, 4] = bad
        assert prove(dense_chain(weights), multipliers) is None
        weights[1][3, 4] = 1e200
        assert prove(dense_chain(weights), multipliers) is None


def test_growth_of_marked_rows():
    plan = spatial("plain")
    plan = Plan(plan.steps, plan.norm, (Mark("first", 2, 0, 3), Mark("part", 4, 2, 5), Mark("out", 9, 0, 3)))
    multipliers = enlarged(next(iter(closed_forms(plan))), plan)
    proved = prove(plan, multipliers)
    floats = evaluate(plan, multipliers)
    for mark in plan.marks:
        rows = slice(mark.first, mark.last)
        truth = math.sqrt(float(torch.linalg.eigvalsh(floats[mark.register][:, rows, rows]).max()))
        assert truth * (1 - 1e-12) <= proved.growth[mark.value] <= truth * (1 + 1e-8)
    assert proved.growth["out"] == proved.upper()
    assert not prove(plan, multipliers, with_growth=False).growth


def test_spatial_outputs_have_no_rows_or_pairs():
    plan = spatial("plain")
    proved = prove(Plan(plan.steps[:3]), enlarged(next(iter(closed_forms(plan))), plan))
    assert proved.upper() > 0.0
    for method in (proved.row_uppers, proved.pair_uppers):
        with pytest.raises(ValueError, match="expected an output of rows"):
            method()


@pytest.mark.parametrize("seed", range(40))
def test_pairs_and_rows_are_rounded_up(seed):
    M = positive(3, 1 + seed % 3, torch.Generator().manual_seed(seed)) * (1.0, 1e-200, 1e200)[seed % 3]
    M = torch.nextafter(M + M.mT, torch.zeros(3, 3, dtype=F64))
    proved = proof.Proved(M[None], {})
    rows, pairs = proved.row_uppers(), proved.pair_uppers()
    E = exact(M)
    for i in range(3):
        assert rational(float(rows[i])) ** 2 >= E[i, i]
        for j in range(3):
            if i != j:
                assert rational(float(pairs[i, j])) ** 2 >= E[i, i] + E[j, j] - 2 * E[i, j]


@pytest.mark.parametrize("pixels", [1, 784])
def test_shares_sum_to_at_most_one(pixels):
    g = torch.Generator().manual_seed(0)
    for n in (1, 2, 3, 10, 1000):
        q = torch.rand(n, generator=g, dtype=F64) + 1e-30
        reciprocals = reciprocals_upper(q, pixels).tolist()
        assert pixels * sum(1 / Fraction(entry) for entry in reciprocals) <= 1
        assert sum(1 / entry for entry in reciprocals) >= (1 - 1e-12) / pixels


def test_join_factors_are_reciprocal_to_one():
    g = torch.Generator().manual_seed(0)
    nearest_fails = 0
    for t in (torch.randn(300, generator=g, dtype=F64) * 3).exp().tolist():
        a, b = (Fraction(factor) for factor in join_factors(t))
        assert a >= 1 + Fraction(t)
        assert b >= 1 + 1 / Fraction(t)
        nearest = Fraction(1.0 + t), Fraction(1.0 + 1.0 / t)
        nearest_fails += 1 / nearest[0] + 1 / nearest[1] > 1
    assert nearest_fails > 50


def test_the_multiple_of_a_matrix_is_rounded_up(monkeypatch):
    cases = [(positive(3, 1, torch.Generator().manual_seed(seed), seed % 2 == 1)[None], 1.1) for seed in range(20)]
    assert all(dominates(scaled_upper(P, a)[0], exact(P[0]) * rational(a)) for P, a in cases)
    monkeypatch.setattr(proof, "rounding_terms", lambda stored: torch.zeros(stored.shape[:2], dtype=F64))
    assert not all(dominates(scaled_upper(P, a)[0], exact(P[0]) * rational(a)) for P, a in cases)


def test_registers_that_nobody_reads_again_are_freed(monkeypatch):
    held = []
    rules = dict(proof.RULES)

    def watched(rule):
        def run(site, step):
            held.append(len(site.registers))
            return rule(site, step)

        return run

    monkeypatch.setattr(proof, "RULES", {kind: watched(rule) for kind, rule in rules.items()})
    plan = dense_chain(net_a())
    assert prove(plan, next(iter(closed_forms(plan)))) is not None
    assert max(held) == 1


def test_known_linf_bound():
    # one ReLU-free row: the linf constant is the l1 norm of the row, at q ~ |w|
    w = torch.tensor([[0.5, -1.5, 2.0]], dtype=F64)
    plan = Plan((Start((), 3), Linear(0, (), NONE, w[None])), "linf")
    upper = float(prove(plan, {0: w[0].abs()}).row_uppers())
    assert 4.0 <= upper <= 4.0 * (1 + 1e-14)
    assert float(prove(plan, {0: torch.ones(3, dtype=F64)}).row_uppers()) >= 4.0


def test_values_known_by_their_own_gain():
    plan = Plan((Start((), 1), Bounded(None, (), 2, 3.0)))
    assert 3.0 <= prove(plan, {}).upper() <= 3.0 * (1 + 1e-14)
    assert prove(Plan((Start((), 1), Bounded(None, (), 2, math.inf))), {}) is None
    assert prove(Plan((Start((), 1), Bounded(None, (), 2, math.nan))), {}) is None
