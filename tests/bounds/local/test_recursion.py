"""The plain recursion: its forms agree, its multipliers become stationary, its certificates hold at sampled points."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from certify.bounds.facts import collect_structure
from certify.bounds.local.adjoint import sweep
from certify.bounds.local.ascent import Ascent
from certify.bounds.local.chain import Chain, chain_of
from certify.bounds.local.ellipsoids import Explicit, Factored, window_products
from certify.bounds.local.functionals import functional_moves
from certify.bounds.local.recursion import KEPT, Slopes, inner, push, relative_start, sizes, solve
from certify.bounds.local.rows import choose_rows, outer
from certify.bounds.local.starts import Centres, Relative, fresh
from certify.bounds.local.trial import LINES, lines_trial, run_trial
from tests.bounds.local.chains import centres, convolutions, stacked
from tests.bounds.small_networks import Build


def slopes(count: int, rows: int, seed: int) -> Slopes:
    random = torch.Generator().manual_seed(seed)
    lower = torch.rand(count, rows, generator=random, dtype=torch.float64) * 0.5
    wide = torch.rand(count, rows, generator=random) < 0.7
    return Slopes(lower, torch.where(wide, lower + 0.4, lower))


def formula(M: torch.Tensor, s: Slopes, D: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
    """W P W^T of one layer, written down; searches keep a part of D back from K."""
    U = (s.lower < s.upper)[0].nonzero().flatten()
    B, C = s.mid[0], s.half[0, U]
    P = B[:, None] * (M + M[:, U] @ torch.linalg.solve(torch.diag(KEPT * D) - M[U][:, U], M[U])) * B
    P[U, U] += C * C * D
    return W @ P @ W.mT


@pytest.mark.parametrize("stretched", [False, True])
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_all_forms_of_a_first_layer_agree(kind, stretched):
    chain = convolutions(3) if kind == "convolution" else stacked(20, 60, 15, 3, seed=3)
    layer, W = chain.layers[0], chain.layers[1].matrix[::2]
    stretch = torch.rand(1, layer.columns, dtype=torch.float64) + 0.5 if stretched else None
    J = layer.matrix if stretch is None else layer.matrix * stretch
    s = slopes(1, layer.rows, 4)
    e = torch.rand(1, layer.rows, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 0.8
    factored = Factored(layer, torch.float64, stretch, None if stretched else J @ J.mT)
    rows, inputs = (solve(factored, s, e, inputs=form) for form in (False, True))
    plain = solve(Explicit((J @ J.mT)[None]), s, e)
    assert rows.J is None
    assert inputs.J is not None
    expected = formula(J @ J.mT, s, plain.D[0], W)
    for step in (rows, inputs, plain):
        torch.testing.assert_close(step.D, plain.D, rtol=1e-10, atol=0.0)
        torch.testing.assert_close(push(step, W[None])[0], expected, rtol=1e-10, atol=1e-10 * float(expected.max()))


def test_the_products_of_a_convolution_are_those_of_its_matrix():
    layer = convolutions(1).layers[0]
    g = torch.rand(3, layer.rows, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = layer.matrix.mT @ (g[..., None] * layer.matrix)
    torch.testing.assert_close(window_products(layer.window, g), expected, rtol=1e-13, atol=1e-13)


def test_batches_give_what_single_examples_give():
    chain = stacked(6, 20, 16, 4, seed=2)
    batch = centres(chain, 5)
    eps = torch.tensor([0.05, 0.1, 0.2, 0.4, 0.8], dtype=torch.float64)
    together = run_trial(batch, eps, fresh(batch, ()), ())
    for n in range(5):
        one = batch.choose(torch.tensor([n]))
        alone = run_trial(one, eps[n : n + 1], fresh(one, ()), ())
        torch.testing.assert_close(together.choose(n).ratio, alone.ratio, rtol=1e-6, atol=0.0)


def test_rows_flagged_are_chosen_and_filled_up():
    flags = torch.tensor([[True, False, True], [False, False, True]])
    found = choose_rows(flags)
    assert found.index[0].tolist() == [0, 2]
    assert found.index[1, 0].item() == 2
    assert found.mask.tolist() == [[True, True], [True, False]]


def test_outer_products_by_panels():
    F = torch.randn(2, 400, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(outer(F, 2.0 * F), 5.0 * F @ F.mT)


def two_layers(seed: int):
    """Return phi of one functional behind two activations with fixed slopes, as a function of log e, and its parts."""
    chain = stacked(6, 14, 10, 3, seed=seed)
    one, W = centres(chain, 1, seed=2), chain.layers[1].matrix[None]
    first, second = slopes(1, 14, 1), slopes(1, 10, 2)
    spread = Slopes(second.lower[:, None], second.upper[:, None])

    def run(x: torch.Tensor, y: torch.Tensor):
        step = solve(Explicit(one.gram[None]), first, x.exp())
        return step, functional_moves(push(step, W), one.rows[:, :1], spread, y.exp())

    logs = [torch.zeros(1, n, dtype=torch.float64) for n in (14, 10)]
    return run, W, [logs[0].requires_grad_(True), logs[1][None].clone().requires_grad_(True)]


def test_the_adjoint_is_the_derivative():
    """Of the formula, by automatic differentiation, with the multipliers of the second layer held."""
    chain = stacked(6, 14, 10, 3, seed=8)
    one, W = centres(chain, 1, seed=2), chain.layers[1].matrix
    first, second, c = slopes(1, 14, 1), slopes(1, 10, 2), one.rows[0, 0]
    step = solve(Explicit(one.gram[None]), first, torch.ones(1, 14, dtype=torch.float64))
    M = push(step, W[None])
    found = functional_moves(
        M, c[None, None], Slopes(second.lower[:, None], second.upper[:, None]), torch.ones_like(c)[None, None]
    )
    U = (second.lower < second.upper)[0].nonzero().flatten()
    start = relative_start(second.mid[0, U], second.half[0, U], sizes(M[0].diagonal()[U]))
    D = step.D[0].clone().requires_grad_(True)
    M, K = formula(one.gram, first, D, W), torch.diag(KEPT * found.scale[0, 0] * start)
    t = second.mid[0] * c
    g = (M @ t)[U]
    own = (second.half[0, U] * c[U]).square() * found.scale[0, 0] * start
    phi = t @ M @ t + g @ torch.linalg.solve(K - M[U][:, U], g) + own.sum()
    torch.testing.assert_close(phi.detach(), found.phi[0, 0], rtol=1e-9, atol=0.0)
    (gradient,) = torch.autograd.grad(phi, D)
    v = found.u @ W[None]
    w = inner(step, step.mid[:, None] * v)[0, 0]
    expected = (step.half[0] * v[0, 0, step.rows.index[0]]).square() - KEPT * w.square()
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_at_the_optimum_the_multipliers_are_stationary():
    """Of a quasi-Newton method: then |w_j| = C_j |v_j| for every row that matters."""
    run, W, (x, y) = two_layers(8)
    search = torch.optim.LBFGS([x, y], max_iter=400, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        phi = run(x, y)[1].phi.sum().log()
        phi.backward()
        return phi

    search.step(loss)
    with torch.no_grad():
        step, found = run(x, y)
        (ratio,), _ = sweep([step], [lambda u: u @ W], found.u, torch.ones(1, 1, dtype=torch.float64))
        v = (found.u @ W)[0, 0, step.rows.index[0]]
        share = step.D[0] * (step.half[0] * v).square() / found.phi[0, 0]
    matters = step.rows.index[0][share > 0.01]
    assert len(matters) >= 5
    torch.testing.assert_close(ratio[0, matters], torch.ones(len(matters), dtype=torch.float64), rtol=0.02, atol=0.0)


def test_stable_rows_give_the_exact_gradient():
    chain = stacked(6, 14, 10, 3, seed=5)
    batch = centres(chain, 3, seed=4)
    trial = run_trial(batch, torch.full((3,), 1e-9, dtype=torch.float64), fresh(batch, ()), ())
    assert all(int((s.rows.mask).sum()) == 0 for s in steps_of(batch, 1e-9))
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for n in range(3):
        J = torch.autograd.functional.jacobian(lambda p: chain.run(p[None])[0], x[n])
        y = int(chain.run(x[n : n + 1]).argmax())
        others = [j for j in range(3) if j != y]
        expected = batch.margins[n] / (J[y] - J[others]).norm(dim=1)
        torch.testing.assert_close(trial.ratio[n], expected, rtol=1e-8, atol=0.0)


def steps_of(batch: Centres, eps: float):
    ascent = Ascent(batch, torch.full((len(batch.margins),), eps, dtype=torch.float64), fresh(batch, ()))
    for k in range(batch.hidden):
        ascent.climb(k)
    return ascent.steps


def test_passes_improve_the_multipliers():
    chain = stacked(20, 60, 50, 5, seed=4)
    batch = centres(chain, 6)
    eps = lines_radius(batch)
    relative = fresh(batch, ())
    found = []
    for _ in range(5):
        trial = run_trial(batch, 2.0 * eps, relative, ())
        relative = trial.improved
        found.append(trial.radius)
    best = torch.stack(found).amax(0)
    assert float((best / found[0]).mean()) > 1.01


def lines_radius(batch: Centres) -> torch.Tensor:
    """Return a radius at which linear relaxation still certifies something."""
    eps = 0.2 * lines_trial(batch, torch.zeros_like(batch.margins[:, 0])).radius
    return torch.minimum(eps, lines_trial(batch, eps).radius)


@pytest.mark.parametrize("kind", ["relu", "leaky_relu", "tanh", "abs"])
def test_certificates_hold_at_sampled_and_attacked_points(kind):
    """Any multipliers, cuts included: margin(x) >= v - s ||x - x0|| at the points' own distances."""
    chain = stacked(6, 12, 12, 12, 4, seed=6, kind=kind) if kind != "leaky_relu" else leaky(6)
    batch = centres(chain, 4, seed=3)
    x = torch.randn(4, *chain.input_shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    random = torch.Generator().manual_seed(9)
    relative = fresh(batch, (1,))
    for eps in (0.05, 0.3, 1.0):
        radius = torch.full((4,), eps, dtype=torch.float64)
        for _ in range(2):
            trial = run_trial(batch, radius, relative, (1,))
            relative = scattered(trial.improved, random)
            for delta in attacked(chain, x, trial, batch, eps, random):
                rho = delta.norm(dim=1, keepdim=True)
                y = chain.run(x).argmax(1)
                logits = chain.run(x + delta)
                others = torch.tensor([[j for j in range(chain.outputs) if j != c] for c in y.tolist()])
                margins = logits.gather(1, y[:, None]) - logits.gather(1, others)
                assert bool((margins >= trial.v - trial.s * rho - 1e-10).all())
    assert int((trial.method != LINES).sum()) > 0


def leaky(seed: int) -> Chain:
    b = Build(6, seed=seed)
    for inputs, outputs in ((6, 12), (12, 12), (12, 12)):
        b.linear(inputs, outputs, scale=1.4)
        b.add("leaky_relu", negative_slope=0.2)
    b.linear(12, 4)
    graph = b.graph()
    found = chain_of(collect_structure(graph), graph.output)
    assert isinstance(found, Chain)
    return found


def scattered(relative: Relative, random: torch.Generator) -> Relative:
    """Return arbitrary multipliers near given ones."""

    def moved(e: torch.Tensor) -> torch.Tensor:
        return e * torch.exp(0.7 * torch.randn(e.shape, generator=random, dtype=e.dtype))

    layers = {k: moved(e) for k, e in relative.layers.items()}
    return replace(relative, layers=layers, functionals={k: moved(e) for k, e in relative.functionals.items()})


def attacked(chain: Chain, x: torch.Tensor, trial, batch: Centres, eps: float, random: torch.Generator):
    """Yield random perturbations, and ones that lower a margin by gradient steps, within eps."""
    for size in (1.0, 0.6):
        delta = torch.randn(x.shape, generator=random, dtype=torch.float64)
        yield delta * (size * eps / delta.norm(dim=1, keepdim=True))
    y = chain.run(x).argmax(1)
    for j in range(chain.outputs):
        delta = torch.zeros_like(x)
        for share in (1.0, 0.5, 0.3, 0.2, 0.1):
            at = (x + delta).requires_grad_(True)
            logits = chain.run(at)
            (gradient,) = torch.autograd.grad((logits[:, j] - logits.gather(1, y[:, None])[:, 0]).sum(), at)
            step = gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-30)
            delta = (1.0 - share) * delta + share * eps * step
        yield delta
