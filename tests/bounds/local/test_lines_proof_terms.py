"""Every loss of the proved relaxation is needed: without it a case in exact fractions goes wrong, with it none does."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from certify.bounds.local import lines_proof
from certify.bounds.local.activations import IDENTITY, RELU, relax
from certify.bounds.local.centres import centres_of
from certify.bounds.local.layers import Chain, Layer, Segment
from certify.bounds.local.piecewise import Lines
from certify.bounds.local.windows import Window

SEEDS = range(60)


def mutant(old: str, new: str) -> types.ModuleType:
    """Return the module with one piece of its text replaced."""
    source = Path(lines_proof.__file__).read_text()
    assert old in source, old
    module = types.ModuleType("certify.bounds.local.lines_proof")
    exec(compile(source.replace(old, new), "mutant", "exec"), module.__dict__)
    return module


def fraction(x: Tensor) -> list[Fraction]:
    return [Fraction(value) for value in x.reshape(-1).tolist()]


def dot(a: Tensor, b: Tensor) -> Fraction:
    return sum((x * y for x, y in zip(fraction(a), fraction(b), strict=True)), Fraction(0))


def uniform(seed: int, *shape: int) -> Tensor:
    return 2.0 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1.0


def cancelling(seed: int, size: int) -> Tensor:
    """Numbers whose sum is far smaller than they are."""
    half = uniform(seed, size // 2)
    return torch.cat([half, -half * (1.0 + 1e-13 * uniform(seed + 1, size // 2))])


def layer(W: Tensor, activation=IDENTITY, **changes) -> Layer:
    zeros = torch.zeros(len(W), dtype=torch.float64)
    return replace(Layer(W.shape[1], zeros, zeros, 0.0, (Segment(0, len(W), activation, "v"),), dense=W), **changes)


def zero(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


def layer_gap(module: types.ModuleType, A: Tensor, c: Tensor, one: Layer, Y: Tensor) -> Fraction:
    """By how much step 2 holds at the worst y, |y| <= Y, and the worst real weights and biases."""
    now = module.Rows(A[None, None], c[None, None], zero(1, 1))
    found = module._through_layer(now, one, Y[None])
    W, y = one.matrix, fraction(Y)
    exact = Fraction(float(c)) + dot(A, one.bias) - dot(A.abs(), one.bias_error)
    for j in range(W.shape[1]):
        exact -= abs(dot(A, W[:, j]) - Fraction(float(found.rows[0, 0, j]))) * y[j]
        exact -= Fraction(one.error) * dot(A.abs(), W[:, j].abs()) * y[j]
    return exact - Fraction(float(found.const)) + Fraction(float(found.loss))


def products(module):
    for seed in SEEDS:
        one = layer(uniform(seed, 6, 4))
        yield layer_gap(module, uniform(seed + 99, 6), zero(1)[0], one, torch.ones(4).double())


def wrong_weights(module):
    for seed in SEEDS:
        one = layer(uniform(seed, 6, 4), error=2.0**-10)
        yield layer_gap(module, uniform(seed + 99, 6), zero(1)[0], one, torch.ones(4).double())


def bias_products(module):
    for seed in SEEDS:
        one = layer(zero(40, 1), bias=cancelling(seed, 40) / 3.0)
        yield layer_gap(module, torch.full((40,), 3.0).double(), zero(1)[0], one, zero(1))


def wrong_biases(module):
    one = layer(zero(2, 1), bias_error=torch.tensor([0.5, 0.25]).double())
    yield layer_gap(module, torch.tensor([1.0, -2.0]).double(), zero(1)[0], one, zero(1))


def added_bias(module):
    one = layer(zero(1, 1), bias=torch.tensor([-(2.0**-60)]).double())
    yield layer_gap(module, torch.ones(1).double(), torch.ones(1).double()[0], one, zero(1))


def lines_gap(module, A: Tensor, c: float, lines: Lines, lower: Tensor, upper: Tensor, values: Callable) -> Fraction:
    """By how much step 1 holds at the worst z; ``values`` gives the points where it may be worst, with phi there."""
    offsets = torch.maximum(lines.lower_offset.abs(), lines.upper_offset.abs())
    step = module._Step(lines, torch.maximum(lower.abs(), upper.abs()), offsets)
    found = module._through_lines(module.Rows(A[None, None], torch.full((1, 1), c).double(), zero(1, 1)), step)
    exact = Fraction(c) - Fraction(float(found.const)) + Fraction(float(found.loss))
    for j, (a, moved) in enumerate(zip(fraction(A), fraction(found.rows), strict=True)):
        exact += min(a * phi - moved * z for z, phi in values(j))
    return exact


def relu_lines(module):
    for seed in SEEDS:
        upper = 1.0 + uniform(seed, 1, 8).abs()
        lower = -(2.0**-30) * upper.flip(1)
        lines = relax(RELU, lower, upper)

        def values(j: int, lower=lower, upper=upper) -> list[tuple[Fraction, Fraction]]:
            low, high = Fraction(float(lower[0, j])), Fraction(float(upper[0, j]))
            return [(low, Fraction(0)), (Fraction(0), Fraction(0)), (high, high)]

        yield lines_gap(module, -uniform(seed + 7, 8).abs(), 0.0, lines, lower, upper, values)


def flat_lines(module):
    """Slopes 0: constants below and above, whose products must be summed."""
    for seed in SEEDS:
        offset, none = (cancelling(seed, 40) / 3.0)[None], zero(1, 40)
        lines = Lines(none, offset, none, offset)

        def values(j: int, offset=offset) -> list[tuple[Fraction, Fraction]]:
            return [(Fraction(0), Fraction(float(offset[0, j])))]

        yield lines_gap(module, torch.full((40,), 3.0).double(), 0.0, lines, none, none, values)


def added_offset(module):
    none = zero(1, 1)
    offset = torch.full((1, 1), -(2.0**-60)).double()
    lines = Lines(none, offset, none, offset)
    point = (Fraction(0), Fraction(-(2.0**-60)))
    yield lines_gap(module, torch.ones(1).double(), 1.0, lines, none, none, lambda _: [point])


def relaxation(module, z: Tensor, e: Tensor, *layers: Layer):
    """Return a relaxation whose centre's first pre-activations are exactly z, known up to e."""
    chain = Chain(layers, (layers[0].columns,))
    centres = centres_of(chain, zero(1, layers[0].columns), rounded_input=False)
    made = replace(centres, z=(z[None], *centres.z[1:]), z_error=(e[None], *centres.z_error[1:]))
    return module.ProvedRelaxation(chain, made)


def centre_gap(module, A: Tensor, c: Tensor, z: Tensor, e: Tensor) -> Fraction:
    found = relaxation(module, z, e, layer(torch.eye(len(z)).double()))
    v = found._at_centre(module.Rows(A[None, None], c[None, None], zero(1, 1)))
    return Fraction(float(c)) + dot(A, z) - dot(A.abs(), e) - Fraction(float(v))


def centre_products(module):
    for seed in SEEDS:
        z = cancelling(seed, 40) / 3.0
        yield centre_gap(module, torch.full((40,), 3.0).double(), zero(1)[0], z, zero(40))


def wrong_centre(module):
    yield centre_gap(module, torch.tensor([1.0, -1.0]).double(), zero(1)[0], zero(2), torch.full((2,), 0.25).double())


def slope_gap(module, A: Tensor, first: Layer) -> Fraction:
    """By how much the squared norm of the real row is below that of step 4; of one column."""
    found = relaxation(module, zero(first.rows), zero(first.rows), first)
    s = Fraction(float(found._slope(A[None, None])))
    real = abs(dot(A, first.matrix[:, 0])) + Fraction(first.error) * dot(A.abs(), first.matrix[:, 0].abs())
    return s - real


def row_products(module):
    for seed in SEEDS:
        yield slope_gap(module, torch.full((40,), 3.0).double(), layer((cancelling(seed, 40) / 3.0)[:, None]))


def wrong_first_weights(module):
    yield slope_gap(module, torch.ones(2).double(), layer(torch.tensor([[1.0], [-1.0]]).double(), error=2.0**-10))


def wrong_rows(module):
    """+-W_k against +-W*_k: theta |W| Y and theta_b."""
    for error, bias_error in ((2.0**-10, 0.0), (0.0, 0.5)):
        biases = torch.tensor([bias_error]).double()
        last = layer(torch.tensor([[1.0, -1.0]]).double(), RELU, error=error, bias_error=biases)
        found = relaxation(module, torch.ones(2).double(), zero(2), layer(torch.eye(2).double(), RELU), last)
        below = [found.bounds(0, zero(1), [])]
        low, high = found.bounds(1, zero(1), below)
        yield Fraction(-2 * error - bias_error) - Fraction(float(low))
        yield Fraction(float(high)) - Fraction(2 * error + bias_error)


def wrong_start(module):
    found = relaxation(module, zero(1), torch.ones(1).double(), layer(torch.eye(1).double()))
    low, _ = found.bounds(0, zero(1), [])
    yield Fraction(-1) - Fraction(float(low))


def pointwise(W: Tensor, activation=IDENTITY, **changes) -> Layer:
    """The dense matrix W as a convolution of images of one pixel."""
    made = layer(W, activation, **changes)
    return replace(made, dense=None, window=Window(W[:, :, None], (1,), (1,), ((0, 0),), (1,), 1))


def patch_gap(module, z: Tensor, e: Tensor, second: Layer, exact: Fraction) -> Fraction:
    found = relaxation(module, z, e, pointwise(torch.eye(len(z)).double(), RELU), second)
    assert found.patches is not None
    low, _ = found.bounds(1, zero(1), [found.bounds(0, zero(1), [])])
    return exact - Fraction(float(low[0, 0]))


def patch_products(module):
    for seed in SEEDS:
        W, z = cancelling(seed, 40)[None] / 3.0, torch.full((40,), 3.0).double()
        yield patch_gap(module, z, zero(40), pointwise(W), dot(W, z))


def wrong_patch_centre(module):
    W = torch.tensor([[1.0, -1.0]]).double()
    yield patch_gap(module, torch.ones(2).double(), torch.full((2,), 0.25).double(), pointwise(W), Fraction(-1, 2))


def wrong_patch_weights(module):
    W = torch.tensor([[1.0, -1.0]]).double()
    yield patch_gap(module, torch.ones(2).double(), zero(2), pointwise(W, error=2.0**-10), Fraction(-(2.0**-9)))


def wrong_patch_biases(module):
    W = torch.tensor([[1.0, -1.0]]).double()
    second = pointwise(W, bias_error=torch.tensor([0.5]).double())
    yield patch_gap(module, torch.ones(2).double(), zero(2), second, Fraction(-1, 2))


def patch_slope_gap(module, A: Tensor, first: Layer) -> Fraction:
    """By how much the bound of one row holds at distance 1, its neurons being on; the centre's value is 0."""
    z = torch.full((first.rows,), 64.0).double()
    second = pointwise(A[None], bias=-torch.tensor([64.0 * float(A.sum())]).double())
    found = relaxation(module, z, zero(len(z)), first, second)
    low, _ = found.bounds(1, torch.ones(1).double(), [found.bounds(0, torch.ones(1).double(), [])])
    column = first.matrix[:, 0]
    real = abs(dot(A, column)) + Fraction(first.error) * dot(A.abs(), column.abs())
    return -real - Fraction(float(low[0, 0]))


def wrong_patch_first(module):
    first = pointwise(torch.tensor([[1.0], [-1.0]]).double(), RELU, error=2.0**-10)
    yield patch_slope_gap(module, torch.ones(2).double(), first)


Case = Callable[[types.ModuleType], Iterator[Fraction]]
TERMS: dict[str, tuple[str, str, Case]] = {
    "layer: rounding of the product": (
        "(gamma_up(layer.terms + 4.0) + layer.error) * layer",
        "layer.error * layer",
        products,
    ),
    "layer: error of the weights": (
        "(gamma_up(layer.terms + 4.0) + layer.error) * layer",
        "gamma_up(layer.terms + 4.0) * layer",
        wrong_weights,
    ),
    "layer: rounding of the bias": ("gamma_up(layer.rows + 4.0) * layer.bias.abs()", "0.0", bias_products),
    "layer: error of the bias": (
        "layer.bias.abs() + layer.bias_error\n    lost",
        "layer.bias.abs()\n    lost",
        wrong_biases,
    ),
    "layer: addition to the constant": ("_addition(const, now.const)", "0.0", added_bias),
    "lines: rounding of the row": ("U64 * step.Z", "0.0 * step.Z", relu_lines),
    "lines: rounding of the offsets": ("gamma * step.offsets", "0.0 * step.offsets", flat_lines),
    "lines: addition to the constant": ("_addition(const, now.const)", "0.0", added_offset),
    "centre: rounding of the product": ("gamma * z.abs() + e", "e", centre_products),
    "centre: error of z": ("gamma * z.abs() + e", "gamma * z.abs()", wrong_centre),
    "ball: rounding of the product": ("(gamma_up(first.terms + 4.0) + first.error)", "first.error", row_products),
    "ball: error of the weights": (
        "(gamma_up(first.terms + 4.0) + first.error)",
        "gamma_up(first.terms + 4.0)",
        wrong_first_weights,
    ),
    "rows: error of the weights": (
        "layer.error * layer.magnitude(self.reach(k",
        "0.0 * layer.magnitude(self.reach(k",
        wrong_rows,
    ),
    "rows: error of the bias": ("(k - 1, below)) + layer.bias_error)", "(k - 1, below)))", wrong_rows),
    "first layer: error of z": ("+ self.centres.z_error[0]\n", "\n", wrong_start),
    "patches: rounding of the products": ("gamma * (steepest * z.abs() + step.offsets)", "0.0", patch_products),
    "patches: error of z": ("+ steepest * e ", "", wrong_patch_centre),
    "patches: error of the weights": ("layer.error * self.reach(0, below)", "0.0", wrong_patch_weights),
    "patches: error of the bias": ("gamma * layer.bias.abs() + layer.bias_error", "gamma", wrong_patch_biases),
    "patches: error of the first weights": (
        "gamma_up(patches.transfer.shape[0] + 8.0) + first.error",
        "gamma_up(9.0)",
        wrong_patch_first,
    ),
}


@pytest.mark.parametrize("name", sorted(TERMS))
def test_a_term_is_enough_and_cannot_be_left_out(name):
    old, new, case = TERMS[name]
    assert all(gap >= 0 for gap in case(lines_proof))
    assert any(gap < 0 for gap in case(mutant(old, new)))
