"""Linear relaxation: known answers, and the same numbers by patches, by dense matrices, in another precision."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from certify.bounds.local.layers import Chain
from certify.bounds.local.lines import Bounds, Relaxation
from certify.bounds.local.patches import Patches
from certify.bounds.local.windows import Window
from certify.graph import Graph
from tests.bounds.local.chains import chain
from tests.bounds.small_networks import Build


def dense_network(seed: int, widths=(6, 12, 9, 4), kind: str = "relu", **details: object) -> Graph:
    b = Build(widths[0], seed=seed)
    for inputs, outputs in itertools.pairwise(widths[:-1]):
        b.linear(inputs, outputs, scale=1.5)
        b.add(kind, **details)
    b.linear(widths[-2], widths[-1])
    return b.graph()


def conv_network(seed: int, stride: int = 2, dilation: int = 1) -> Graph:
    b = Build(2, 9, 8, seed=seed)
    b.conv(b.normal(3, 2, 3, 3) / 4, stride=[stride, 1], padding=[[1, 0], [2, 1]])
    b.add("relu")
    b.conv(b.normal(4, 3, 3, 2) / 4, stride=[1, stride], padding=[[1, 1], [0, 2]], dilation=[dilation, 1])
    shape = chain(b.graph()).layers[-1].window.outputs
    b.add("relu")
    b.add("reshape", shape=[-1, 4 * shape[0] * shape[1]])
    b.linear(4 * shape[0] * shape[1], 7)
    b.add("relu")
    b.linear(7, 3)
    return b.graph()


def centres(made: Chain, count: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    size = made.inputs
    return torch.randn(count, size, generator=random, dtype=torch.float64).reshape(count, *made.input_shape)


def difference_rows(made: Chain, x: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of the predicted class minus each other one, on the last hidden layer."""
    last = made.layers[-1]
    chosen = made.run(x).argmax(1)
    others = torch.tensor([[j for j in range(last.rows) if j != c] for c in chosen.tolist()])
    rows = last.matrix[chosen][:, None] - last.matrix[others]
    const = last.bias[chosen][:, None] - last.bias[others]
    return rows.to(x.dtype), const.to(x.dtype)


def relax_all(found: Relaxation, x: Tensor, eps: Tensor) -> tuple[list[Bounds], Tensor, Tensor]:
    below: list[Bounds] = []
    for k in range(len(found.chain.layers) - 1):
        below.append(found.bounds(k, eps, below))
    v, s, _ = found.margins(*difference_rows(found.chain, x), below)
    return below, v, s


@pytest.mark.parametrize("norm, dual", [("l2", 2.0), ("linf", 1.0)])
def test_without_unstable_neurons_the_radius_is_the_margin_over_the_gradient(norm, dual):
    """In a ball so small that no relu switches the network is affine: r_j = m_j / ||grad m_j||* exactly."""
    made = chain(dense_network(0))
    x = centres(made, 3)
    eps = torch.full((3,), 1e-5, dtype=torch.float64)
    below, v, s = relax_all(Relaxation.at(made, x, norm), x, eps)
    assert all(bool(((low >= 0) | (high <= 0)).all()) for low, high in below)
    rows, const = difference_rows(made, x)
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda t: made.pre_activations(t[None])[-2][0], one) for one in x]
    )
    hidden = made.layers[-2].activate(made.pre_activations(x)[-2])
    on = (made.pre_activations(x)[-2] > 0).double()
    gradient = (rows * on[:, None]) @ jacobian
    margin = (rows @ hidden[..., None])[..., 0] + const
    torch.testing.assert_close(v / s, margin / gradient.norm(dual, dim=-1), rtol=1e-12, atol=0.0)


GEOMETRIES = [(1, 1), (2, 1), (2, 2)]


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("stride, dilation", GEOMETRIES)
def test_patches_give_the_bounds_of_the_dense_matrices(norm, stride, dilation):
    made = chain(conv_network(1, stride, dilation))
    x = centres(made, 3)
    eps = torch.tensor([0.05, 0.2, 1.0], dtype=torch.float64)
    fast, plain = Relaxation.at(made, x, norm), Relaxation.at(made, x, norm)
    assert fast.patches is not None
    plain.patches = None
    below = [fast.bounds(0, eps, [])]
    low, high = below[0]
    assert bool(((low < 0) & (high > 0)).any())
    ours, theirs = fast.bounds(1, eps, below), plain.bounds(1, eps, below)
    bent = (ours[0] < 0) & (ours[1] > 0)
    assert torch.equal(bent, (theirs[0] < 0) & (theirs[1] > 0))
    assert bool(bent.any())
    for one, other in zip(ours, theirs, strict=True):  # rows that do not bend may have any bounds
        torch.testing.assert_close(one[bent], other[bent], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("stride, dilation, narrow", [(1, 1, 1), (2, 3, 1), (3, 1, 2)])
def test_patch_transfer_is_the_product_of_the_two_convolutions(stride, dilation, narrow):
    random = torch.Generator().manual_seed(0)
    first = Window(
        torch.randn(3, 2, 2, 3, generator=random, dtype=torch.float64),
        (11, 12),
        (stride, 2),
        ((1, 2), (0, 3)),
        (narrow, 1),
        1,
    )
    second = Window(
        torch.randn(2, 3, 3, 2, generator=random, dtype=torch.float64),
        first.outputs,
        (1, 2),
        ((2, 2), (1, 0)),
        (1, dilation),
        1,
    )
    patches = Patches(first, second)
    scale = torch.rand(first.rows, generator=random, dtype=torch.float64)
    rows = second.weight.flatten(1) * patches.gather(scale[None])[:, :, None]
    moved = patches.to_input(rows)[0]
    dense = (second.matrix() * scale) @ first.matrix()
    dense = dense.reshape(2, -1, dense.shape[1]).permute(1, 0, 2)
    torch.testing.assert_close(moved.square().sum(-1), dense.square().sum(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moved.abs().sum(-1), dense.abs().sum(-1), rtol=1e-12, atol=1e-12)


def test_kept_rows_lie_below_the_margin_at_every_layer():
    """A_k y_k + c_k <= the margin, in the ball; at the centre it is at most the margin too."""
    made = chain(dense_network(2, (5, 9, 8, 7, 4)))
    x = centres(made, 2)
    eps = torch.full((2,), 0.3, dtype=torch.float64)
    found = Relaxation.at(made, x)
    below: list[Bounds] = []
    for k in range(3):
        below.append(found.bounds(k, eps, below))
    rows, const = difference_rows(made, x)
    v, s, kept = found.margins(rows, const, below)
    assert sorted(kept) == [0, 1, 2]
    random = torch.Generator().manual_seed(1)
    for _ in range(200):
        delta = torch.randn(x.shape, generator=random, dtype=torch.float64)
        delta *= (eps / delta.norm(dim=1) * torch.rand(2, generator=random, dtype=torch.float64))[:, None]
        z = made.pre_activations(x + delta)
        margin = (rows @ made.layers[2].activate(z[2])[..., None])[..., 0] + const
        for k, (A, c) in kept.items():
            here = (A @ made.layers[k].activate(z[k])[..., None])[..., 0] + c
            assert bool((here <= margin + 1e-12).all())
        assert bool((v - s * delta.norm(dim=1)[:, None] <= margin + 1e-12).all())


@pytest.mark.parametrize(
    "graph", [dense_network(3), conv_network(3), dense_network(3, kind="gelu", approximate="none")]
)
def test_float32_and_a_part_of_the_batch_give_the_same_radii(graph):
    made = chain(graph)
    x = centres(made, 4)
    eps = torch.full((4,), 0.1, dtype=torch.float64)
    _, v, s = relax_all(Relaxation.at(made, x), x, eps)
    _, v32, s32 = relax_all(Relaxation.at(made, x.float()), x.float(), eps.float())
    torch.testing.assert_close(v32.double(), v, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(s32.double(), s, rtol=1e-3, atol=1e-3)
    index = torch.tensor([2, 0])
    part = Relaxation.at(made, x).choose(index)
    _, v_part, _ = relax_all(part, x[index], eps[index])
    torch.testing.assert_close(v_part, v[index], rtol=1e-12, atol=1e-12)


def test_a_residual_connection_is_not_treated_as_independent():
    """x - relu(x + 9) = -9 on the ball: s = 0, where norms added up would give 2."""
    b = Build(4, seed=0)
    b.add("sub", "x", b.add("relu", b.add("add", "x", b.constant(9.0))))
    b.add("linear", weight=torch.eye(4, dtype=torch.float64)[:2], bias=torch.tensor([1.0, 0.0], dtype=torch.float64))
    made = chain(b.graph())
    x = centres(made, 1)
    _, v, s = relax_all(Relaxation.at(made, x), x, torch.tensor([0.5], dtype=torch.float64))
    assert float(v) == pytest.approx(1.0, rel=1e-14)
    assert s.tolist() == [[0.0]]
