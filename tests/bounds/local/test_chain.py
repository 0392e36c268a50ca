"""A chain computes what its graph computes, and its stored weights are as near to the real ones as it says."""

from __future__ import annotations

import mpmath
import pytest
import torch
import torch.nn.functional as F

from certify.bounds.facts import collect_structure
from certify.bounds.local.building import MAX_ROWS
from certify.bounds.local.chain import chain_of
from certify.bounds.local.layers import Chain
from certify.bounds.local.windows import Window
from certify.graph import Graph, run
from certify.results import Unbounded
from tests.bounds.local.chains import chain
from tests.bounds.small_networks import BOUNDED, Build

NO_RULE = {
    *("softmax", "log_softmax", "log_softmax single", "layer_norm", "rms_norm", "group_norm", "instance_norm"),
    *("sort", "constants"),
}


def same_function(graph: Graph, seed: int = 0) -> Chain:
    made, random = chain(graph), torch.Generator().manual_seed(seed)
    x = torch.randn(4, *graph.input_shape, generator=random, dtype=torch.float64)
    expected = torch.stack([run(graph, one[None]).flatten() for one in x])
    torch.testing.assert_close(made.run(x), expected, rtol=1e-12, atol=1e-12)
    return made


@pytest.mark.parametrize("name", sorted(BOUNDED.keys() - NO_RULE))
def test_chain_runs_like_its_graph(name):
    made = same_function(BOUNDED[name](1))
    assert made.layers[-1].is_linear
    for before, layer in zip(made.layers, made.layers[1:], strict=False):
        assert layer.columns == before.rows
        assert [s.first for s in layer.segments] + [layer.rows] == [0, *(s.last for s in layer.segments)]


@pytest.mark.parametrize("name", sorted(NO_RULE))
def test_what_has_no_local_rule_is_unbounded_with_its_reason(name):
    graph = BOUNDED[name](1)
    found = chain_of(collect_structure(graph), graph.output)
    assert isinstance(found, Unbounded)
    assert "no local rule for" in str(found)


def pooled(kernel, stride, padding, dilation, ceil_mode, size=7):
    b = Build(2, size, size, seed=3)
    b.conv(b.normal(3, 2, 3, 3))
    b.add("relu")
    details = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    name = b.add("max_pool", **details)
    after = run(b.graph(), torch.zeros(1, 2, size, size, dtype=torch.float64))
    b.add("reshape", name, shape=[-1, after[0].numel()])
    b.linear(after[0].numel(), 4)
    return b.graph()


@pytest.mark.parametrize(
    "window",
    [
        ([2, 2], [2, 2], [0, 0], [1, 1], False),
        ([3, 2], [2, 1], [1, 0], [1, 2], True),
        ([1, 1], [2, 2], [0, 0], [1, 1], False),
        ([4, 1], [3, 2], [2, 0], [1, 1], True),
    ],
)
def test_max_pools_become_relus_exactly(window):
    made = same_function(pooled(*window))
    assert all(layer.error == 0.0 for layer in made.layers)


def behind_a_convolution(kind: str, **details: object) -> Graph:
    b = Build(2, 5, 5, seed=2)
    b.conv(b.normal(4, 2, 3, 3))
    name = b.add(kind, **details)
    shape = run(b.graph(), torch.zeros(1, 2, 5, 5, dtype=torch.float64)).shape
    b.add("reshape", b.add("tanh", name), shape=[-1, shape.numel()])
    b.linear(shape.numel(), 3)
    return b.graph()


@pytest.mark.parametrize(
    "graph",
    [
        behind_a_convolution("max_min", dim=1),
        behind_a_convolution("max_pool", kernel=[2, 2], stride=[1, 2], padding=[0, 1], dilation=[2, 1], ceil_mode=True),
        behind_a_convolution("adaptive_max_pool", output=[2, 3]),
        behind_a_convolution("amax", dims=[2, 3], keepdim=False),
        behind_a_convolution("amin", dims=[1], keepdim=True),
    ],
)
def test_maxima_of_convolutions(graph):
    same_function(graph)


@pytest.mark.parametrize("descending", [False, True])
def test_pairs_are_sorted(descending):
    b = Build(8, seed=1)
    b.add("reshape", b.linear(8, 8), shape=[-1, 4, 2])
    b.add("reshape", b.add("sort", dim=2, descending=descending), shape=[-1, 8])
    b.linear(8, 3)
    made = same_function(b.graph())
    assert all(layer.error == 0.0 for layer in made.layers)


def preactivated_residual(seed: int) -> Graph:
    """A residual network whose sum is read by a batch norm, a second sum and a pool: several values stay alive."""
    b = Build(2, 6, 6, seed=seed)
    first = b.conv(b.normal(3, 2, 3, 3))
    norm = {"mean": b.normal(3), "variance": b.positive(3), "weight": b.normal(3), "bias": b.normal(3), "eps": 1e-3}
    h = b.add("relu", b.add("batch_norm", first, **norm))
    total = b.add("add", first, b.conv(b.normal(3, 3, 3, 3), h))
    h = b.add("silu", b.add("batch_norm", total, **norm))
    total = b.add("add", b.conv(b.normal(4, 3, 1, 1), total, padding=[[0, 0]] * 2), b.conv(b.normal(4, 3, 3, 3), h))
    b.add("avg_pool", total, kernel=[2, 2], stride=[2, 2], padding=[0, 0], ceil_mode=False, count_include_pad=True,
          divisor=None)  # fmt: skip
    b.add("reshape", shape=[-1, 36])
    b.linear(36, 3)
    return b.graph()


def twice(seed: int) -> Graph:
    b = Build(4, seed=seed)
    doubled = b.add("add", "x", "x")
    difference = b.add("sub", b.linear(4, 3, doubled), b.linear(4, 3, doubled))
    b.add("div", b.add("add", difference, b.constant(2.0)), b.constant(-3.0))
    return b.graph()


def dense_then_dense(seed: int) -> Graph:
    b = Build(4, seed=seed)
    b.linear(4, 6)
    b.linear(6, 5)
    b.add("relu", b.add("concat", "x", f"v{len(b.operations) - 1}", "x", dim=1))
    b.linear(13, 3)
    return b.graph()


@pytest.mark.parametrize("build", [preactivated_residual, twice, dense_then_dense])
def test_values_that_stay_alive(build):
    same_function(build(0))


def test_products_and_sums_are_never_merged_with_an_uncounted_rounding():
    """Two linear maps in a row keep an identity layer between them, so that every entry stays a copy."""
    made = chain(dense_then_dense(1))
    assert [layer.kinds for layer in made.layers] == [("identity", "identity"), ("relu",), ("identity",)]
    for layer in made.layers:
        assert layer.error == 0.0
        assert not bool(layer.bias_error.any())


def exact_folded(weight, bias, mean, std, norm):
    """The real weights and biases of normalise, linear, batch norm, in 60 digits."""
    mp = mpmath.mp.clone()
    mp.dps = 60
    rows, columns = weight.shape
    g = [
        mp.mpf(float(norm["weight"][i])) / mp.sqrt(mp.mpf(float(norm["variance"][i])) + mp.mpf(norm["eps"]))
        for i in range(rows)
    ]
    s = [1 / mp.mpf(float(std[j])) for j in range(columns)]
    W = [[g[i] * mp.mpf(float(weight[i, j])) * s[j] for j in range(columns)] for i in range(rows)]
    b = [
        g[i]
        * (
            mp.mpf(float(bias[i]))
            - mp.mpf(float(norm["mean"][i]))
            - mp.fsum(mp.mpf(float(weight[i, j])) * s[j] * mp.mpf(float(mean[j])) for j in range(columns))
        )
        + mp.mpf(float(norm["bias"][i]))
        for i in range(rows)
    ]
    return W, b


@pytest.mark.parametrize("seed", range(8))
def test_folded_weights_are_as_near_to_the_real_ones_as_their_layer_says(seed):
    b = Build(5, seed=seed)
    mean, std = b.normal(5), b.positive(5)
    weight, bias = b.normal(6, 5), b.normal(6)
    norm = {"mean": b.normal(6), "variance": b.positive(6), "weight": b.normal(6), "bias": b.normal(6), "eps": 1e-5}
    b.add("normalize", mean=mean, std=std)
    b.add("linear", weight=weight, bias=bias)
    b.add("batch_norm", **norm)
    (layer,) = chain(b.graph()).layers
    W, c = exact_folded(weight, bias, mean, std, norm)
    assert 0.0 < layer.error < 1e-14
    for i in range(6):
        assert abs(c[i] - mpmath.mpf(float(layer.bias[i]))) <= float(layer.bias_error[i])
        for j in range(5):
            stored = float(layer.matrix[i, j])
            assert abs(W[i][j] - mpmath.mpf(stored)) <= mpmath.mpf(layer.error) * abs(stored)
    assert float(layer.bias_error.max()) < 1e-12


GEOMETRIES = [
    ((4, 3, 3, 3), (6, 5), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ((4, 2, 3, 2), (7, 6), (2, 3), ((0, 1), (2, 0)), (1, 2), 2),
    ((6, 1, 2, 2), (5, 5), (2, 2), ((0, 0), (-1, 0)), (1, 1), 6),
    ((3, 2, 4), (9,), (2,), ((3, 2),), (2,), 1),
    ((2, 1, 2, 2, 2), (3, 4, 3), (1, 2, 1), ((1, 0), (0, 0), (0, 1)), (1, 1, 1), 2),
]


@pytest.mark.parametrize("shape, sizes, stride, padding, dilation, groups", GEOMETRIES)
def test_windows_are_the_convolutions_of_torch(shape, sizes, stride, padding, dilation, groups):
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=random, dtype=torch.float64)
    window = Window(weight, sizes, stride, padding, dilation, groups)
    basis = torch.eye(window.columns, dtype=torch.float64).reshape(-1, window.channels, *sizes)
    pads = [size for pair in reversed(padding) for size in pair]
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(sizes)]
    expected = convolve(F.pad(basis, pads), weight, None, stride, 0, dilation, groups)
    assert tuple(expected.shape[2:]) == window.outputs
    matrix = window.matrix()
    assert torch.equal(matrix, expected.flatten(1).mT)
    x = torch.randn(3, window.columns, generator=random, dtype=torch.float64)
    rows = torch.randn(3, window.rows, generator=random, dtype=torch.float64)
    torch.testing.assert_close(window.forward(x), x @ matrix.mT)
    torch.testing.assert_close(window.backward(rows), rows @ matrix)
    torch.testing.assert_close(window.backward(rows.float()), (rows @ matrix).float())


def test_too_large_a_network_is_refused_before_anything_is_allocated():
    b = Build(3, 60, 60)
    b.conv(b.normal(64, 3, 3, 3))
    graph = b.graph()
    found = chain_of(collect_structure(graph), graph.output)
    assert isinstance(found, Unbounded)
    assert str(64 * 60 * 60) in str(found)
    assert MAX_ROWS < 64 * 60 * 60


@pytest.mark.parametrize("value", [1e-100, 1e100])
def test_weights_that_could_underflow_or_overflow_are_refused(value):
    b = Build(2)
    b.add("linear", weight=torch.full((2, 2), value, dtype=torch.float64))
    found = chain_of(collect_structure(b.graph()), "v1")
    assert isinstance(found, Unbounded)
    assert "too small or too large" in str(found)
