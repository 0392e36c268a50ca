"""Golub-Kahan estimates, the lower bounds their vectors prove, and the upper bound that holds with a probability."""

from __future__ import annotations

import math

import pytest
import torch

from certify.errors import SoundnessError
from certify.norms import (
    RitzEstimate,
    enclose_conv,
    estimate,
    lower_from_products,
    lower_from_vector,
    lower_from_vector_conv,
    random_start_upper,
)
from certify.results import Bracket, RandomStartUpper
from tests.norms.exact_norms import ExactNorm, forward, impulses

F64 = torch.float64


def random(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def of_matrix(A, **options):
    return estimate(lambda v: A @ v, lambda u: A.mT @ u, (A.shape[1],), dtype=A.dtype, **options)


def of_convolution(kernel, size, dtype=torch.float32, **geometry):
    """The convolution as PyTorch runs it, its adjoint by differentiation."""
    kernel = kernel.to(dtype)
    shape = (kernel.shape[1], *size)

    def apply(v):
        return forward(kernel, v[None], **geometry)[0]

    def adjoint(u):
        with torch.enable_grad():
            v = torch.zeros(shape, dtype=dtype, requires_grad=True)
            return torch.autograd.grad(apply(v), v, u)[0]

    return estimate(apply, adjoint, shape, steps=40, seed=0, dtype=dtype)


def test_known_dense_value():
    torch.manual_seed(0)
    G = torch.randn(500, 400, dtype=F64)
    found = of_matrix(G, steps=60, seed=1)
    assert found.estimate == pytest.approx(41.95174440966366, rel=1e-7)
    assert 41.95174440966366 * (1 - 1e-7) <= lower_from_vector(G, found.vector) <= 41.95174440966366
    assert float(torch.linalg.vector_norm(found.vector)) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("channels,scale,n,truth", [(64, 24, 14, 2.007467), (64, 24, 7, 1.939848)])
def test_known_convolutions(channels, scale, n, truth):
    torch.manual_seed(0)
    kernel = torch.randn(channels, channels, 3, 3) / scale
    found = of_convolution(kernel, (n, n), padding=1)
    assert found.estimate == pytest.approx(truth, rel=2e-4)
    assert truth * (1 - 2e-4) <= lower_from_vector_conv(kernel, found.vector, padding=1) <= truth * (1 + 5e-7)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (25, 25), (1, 4), (4, 1), (1, 1)])
@pytest.mark.parametrize("dtype,relative", [(torch.float32, 1e-5), (F64, 1e-12)])
def test_all_steps_give_the_norm(shape, dtype, relative):
    A = random(*shape, dtype=dtype)
    found = of_matrix(A, steps=100, seed=3)
    assert found.estimate == pytest.approx(float(torch.linalg.svdvals(A.to(F64))[0]), rel=relative)
    assert found.vector.shape == (shape[1],)
    assert found.vector.dtype == dtype


def test_bases_stay_orthogonal_so_nothing_is_found_twice():
    sigma = torch.cat([torch.tensor([1.0]), torch.linspace(0.0, 0.1, 199, dtype=F64)])
    found = of_matrix(torch.diag(sigma), steps=150, seed=0)
    assert found.estimate == pytest.approx(1.0, rel=1e-13)


@pytest.mark.parametrize(
    "A,truth",
    [
        (torch.zeros(4, 3, dtype=F64), 0.0),
        (torch.eye(5, dtype=F64), 1.0),
        (torch.ones(6, 4, dtype=F64), math.sqrt(24.0)),
        (torch.full((4, 4), 1e-25), 4e-25),
        (torch.full((4, 4), 1e30), 4e30),
        (torch.full((4, 4), 1e-200, dtype=F64), 4e-200),
        (torch.diag(torch.tensor([3.0, 3.0, 0.0], dtype=F64)), 3.0),
    ],
    ids=["zero", "identity", "rank one", "tiny", "huge", "tiny float64", "repeated"],
)
def test_exhausted_krylov_spaces_and_any_scale(A, truth):
    found = of_matrix(A, steps=20, seed=0)
    assert found.estimate == pytest.approx(truth, rel=1e-6)
    assert lower_from_vector(A, found.vector) <= truth * (1 + 1e-6)
    assert lower_from_vector(A, found.vector) == pytest.approx(truth, rel=1e-5)


def test_start_orthogonal_to_the_answer_is_avoided_by_chance():
    v = torch.tensor([1.0, -1.0, 0.0, 0.0], dtype=F64) / math.sqrt(2)
    A = torch.eye(4, dtype=F64) + 9 * torch.outer(v, v)
    assert of_matrix(A, steps=4, seed=0).estimate == pytest.approx(10.0, rel=1e-13)


def test_same_seed_same_numbers():
    A = random(9, 7)
    first, second, other = (of_matrix(A, steps=2, seed=seed) for seed in (5, 5, 6))
    assert first.estimate == second.estimate
    assert torch.equal(first.vector, second.vector)
    assert first.estimate != other.estimate


def test_what_is_not_the_adjoint_is_refused():
    A = random(5, 5)
    with pytest.raises(ValueError, match="adjoint of forward"):
        estimate(lambda v: A @ v, lambda u: A @ u, (5,), steps=5, seed=0)
    with pytest.raises(ValueError, match="shape"):
        estimate(lambda v: A @ v, lambda u: (A.mT @ u)[:3], (5,), steps=5, seed=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_products_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        estimate(lambda v: v * bad, lambda u: u * bad, (3,), steps=2, seed=0)


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 2, "dtype": torch.float16}])
def test_bad_arguments_are_refused(options):
    with pytest.raises(ValueError, match="expected steps"):
        estimate(lambda v: v, lambda u: u, (3,), seed=0, **options)
    with pytest.raises(ValueError, match="expected steps"):
        estimate(lambda v: v, lambda u: u, (0,), seed=0, steps=2)


@pytest.mark.parametrize("seed", range(60))
def test_lower_bounds_never_exceed_the_exact_norm(seed):
    generator = torch.Generator().manual_seed(seed)
    m, n = torch.randint(1, 8, (2,), generator=generator).tolist()
    A = random(m, n, seed=seed) * 2.0 ** [0, -600, 500][seed % 3]
    exact, best = ExactNorm(A), torch.linalg.svd(A)[2][0]
    for vector in (best, best.float(), random(n, seed=seed), 1e200 * best, torch.zeros(n)):
        assert exact.at_least(lower_from_vector(A, vector)) or not bool(vector.any())
    assert lower_from_vector(A, torch.zeros(n)) == 0.0
    assert lower_from_vector(A, best) >= float(torch.linalg.svdvals(A)[0]) * (1 - 1e-13)


GEOMETRIES = [
    ((3, 2, 3), (6,), {"padding": 1}),
    ((3, 2, 3), (7,), {"padding": 2, "stride": 2, "dilation": 2}),
    ((4, 2, 3), (5,), {"padding": 1, "groups": 2}),
    ((2, 2, 3), (5,), {"padding": 1, "padding_mode": "reflect"}),
    ((2, 2, 3), (5,), {"padding": 1, "padding_mode": "circular"}),
    ((2, 3, 4), (3,), {"transposed": True, "stride": 2, "padding": 1}),
    ((4, 2, 3), (3,), {"transposed": True, "stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    ((2, 1, 2, 3), (3, 4), {"padding": (1, 0)}),
]


@pytest.mark.parametrize("shape,size,geometry", GEOMETRIES)
def test_lower_bounds_of_convolutions_are_exact(shape, size, geometry):
    kernel = random(*shape)
    matrix = impulses(kernel, size, **geometry)
    exact, right = ExactNorm(matrix), torch.linalg.svd(matrix)[2]
    truth = float(torch.linalg.svdvals(matrix)[0])
    best = lower_from_vector_conv(kernel, right[0].reshape(-1, *size), **geometry)
    assert exact.at_least(best)
    assert best >= truth * (1 - 1e-12)
    assert exact.at_least(lower_from_vector_conv(kernel, random(matrix.shape[1]).reshape(-1, *size), **geometry))
    assert best <= enclose_conv(kernel, size, **geometry).upper


def test_lower_bound_of_any_map_whose_products_are_bounded():
    matrix = impulses(random(2, 2, 3), (6,), padding=1)
    vector = torch.linalg.svd(matrix)[2][0]
    found = lower_from_products(lambda v: matrix @ v, lambda v: matrix.abs() @ v, vector, terms=6)
    assert ExactNorm(matrix).at_least(found)
    assert found >= float(torch.linalg.svdvals(matrix)[0]) * (1 - 1e-13)


def test_products_without_the_accuracy_of_a_proof_are_refused():
    A = random(3, 3)
    with pytest.raises(ValueError, match="float64"):
        lower_from_products(lambda v: A.float() @ v.float(), lambda v: A.abs() @ v, A[0], terms=3)
    with pytest.raises(ValueError, match="one shape"):
        lower_from_products(lambda v: A @ v, lambda v: A.abs()[:2] @ v, A[0], terms=3)


def test_vectors_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="entries"):
        lower_from_vector(random(3, 2), random(3))
    with pytest.raises(ValueError, match="input"):
        lower_from_vector_conv(random(3, 2, 3), random(3, 5))
    with pytest.raises(ValueError, match="finite"):
        lower_from_vector(random(3, 2), torch.full((2,), math.nan))


@pytest.mark.parametrize("steps,excess", [(200, 0.0036), (1000, 0.00014)])
def test_published_excess_of_the_random_start(steps, excess):
    found = random_start_upper(RitzEstimate(1.0, torch.zeros(65536), steps), 1e-12)
    assert found.upper - 1 == pytest.approx(excess, rel=0.03)
    assert found.failure_probability == 1e-12


@pytest.mark.parametrize("steps,size,delta", [(5, 10, 0.1), (20, 1000, 1e-3), (300, 10**5, 1e-9)])
def test_random_start_bound_is_the_formula_rounded_up(steps, size, delta):
    import mpmath

    with mpmath.workprec(200):
        eps = (mpmath.log(mpmath.mpf("1.648") * mpmath.sqrt(size) / mpmath.mpf(delta)) / (2 * steps - 1)) ** 2
        truth = 3 / mpmath.sqrt(1 - eps) if eps < 1 else mpmath.inf
    found = random_start_upper(RitzEstimate(3.0, torch.zeros(size), steps), delta).upper
    assert truth <= found
    assert found <= truth * (1 + 1e-14)


def test_too_few_steps_bound_nothing():
    assert random_start_upper(RitzEstimate(1.0, torch.zeros(1000), 3), 1e-12).upper == math.inf


def test_failures_are_as_rare_as_stated():
    """A hard spectrum, few steps: the share of starts that miss the norm stays below delta."""
    sigma = torch.cat([torch.ones(1, dtype=F64), torch.linspace(0.0, 0.999, 299, dtype=F64)])
    A, failures = torch.diag(sigma), 0
    for seed in range(300):
        failures += random_start_upper(of_matrix(A, steps=12, seed=seed), 0.05).upper < 1.0
    assert failures <= 15  # 0.05 of 300; the bound is far from tight here


def test_probabilistic_bounds_are_no_ends_of_brackets():
    bound, bracket = RandomStartUpper(2.0, 1e-6), Bracket(1.0, 2.0, "x")
    assert not isinstance(bound, Bracket)
    assert bound != bracket
    with pytest.raises(TypeError):
        _ = bound < bracket
    for upper, probability in ((-1.0, 0.1), (math.nan, 0.1), (1.0, 0.0), (1.0, 1.0), (1.0, math.nan)):
        with pytest.raises(SoundnessError):
            RandomStartUpper(upper, probability)


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.5, math.nan])
def test_impossible_probabilities_are_refused(probability):
    with pytest.raises(ValueError, match="probability"):
        random_start_upper(RitzEstimate(1.0, torch.zeros(4), 9), probability)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: torch.cuda.is_available() is false")
def test_vectors_from_a_gpu_prove_the_same():
    A = random(50, 40)
    on_gpu = A.cuda()
    found = estimate(lambda v: on_gpu @ v, lambda u: on_gpu.mT @ u, (40,), steps=40, seed=0, device="cuda")
    assert lower_from_vector(A, found.vector) == pytest.approx(float(torch.linalg.svdvals(A)[0]), rel=1e-12)
