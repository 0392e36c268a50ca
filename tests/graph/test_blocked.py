"""Values in oneDNN's blocks: the bits of the plain module in all that is ordinary, and NaN and infinity as there."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from certify.graph import Graph, Operation, Program, run, trace
from certify.graph.blocked import FINITE, BlockedModule, _magnitudes, blocked_module
from certify.graph.run import run_all, to_module

mkldnn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of PyTorch has no oneDNN")


class Block(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()
        self.first, self.second = nn.Conv2d(inside, outside, 3, stride, 1), nn.Conv2d(outside, outside, 3, 1, 1)
        self.shortcut = nn.Conv2d(inside, outside, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class Gate(nn.Module):
    """A sum of unequal shapes, a value read three times, and an output of blocks that is read dense too."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        y = self.a(x)
        return torch.relu(y) + self.c(y) + self.b(torch.tanh(y))


torch.manual_seed(0)
NETWORKS = {
    "strides": ((1, 28, 28), nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(1568, 10))),
    "residual": ((3, 12, 12), nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), Block(8, 8, 1), Block(8, 12, 2), nn.AdaptiveAvgPool2d(1))),
    "groups, dilation, pool": ((4, 15, 15), nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 6, 3, dilation=2, bias=False), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(6, 5, 2, 1, 1), nn.ReLU(), nn.Tanh())),
    "normalized": ((3, 9, 9), None),
    "circular": ((2, 8, 8), nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.ReLU())),
    "gate": ((4, 7, 7), Gate()),
    "ends in blocks": ((2, 6, 6), nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())),
}  # fmt: skip


def graph_of(name):
    shape, network = NETWORKS[name]
    if network is None:
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
        flat = nn.Sequential(network, nn.Flatten()).eval()
        return trace(flat, shape, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 2.0))
    return trace(nn.Sequential(network, nn.Flatten()).eval(), shape)


def both(name):
    graph = graph_of(name)
    plain = to_module(graph)
    found = blocked_module(graph, plain)
    assert isinstance(found, BlockedModule)
    return graph, plain, found


@mkldnn
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_bits_are_those_of_the_plain_module(name):
    graph, plain, found = both(name)
    for rows, layout in itertools.product((16, 33, 128), (torch.contiguous_format, torch.channels_last)):
        x = torch.randn(rows, *graph.input_shape).contiguous(memory_format=layout)
        given = x.clone()
        assert torch.equal(found(x), plain(x.contiguous()))
        assert torch.equal(x, given)
    for rows in (1, 2, 3):  # here PyTorch may sum in another order
        x = torch.randn(rows, *graph.input_shape)
        assert torch.allclose(found(x), plain(x), atol=1e-5)
    assert found(torch.zeros(0, *graph.input_shape)).shape == plain(torch.zeros(0, *graph.input_shape)).shape


@mkldnn
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38, -1e30])
@torch.no_grad()
def test_what_is_not_finite_comes_out_as_from_the_plain_module(name, value):
    graph, plain, found = both(name)
    x = torch.randn(16, *graph.input_shape)
    x[3].view(-1)[5] = value
    ours, theirs = found(x), plain(x)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())


@mkldnn
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_magnitudes_hold_for_every_value(name):
    graph, _, found = both(name)
    limits = {name: (gain, offset) for name, (gain, offset, _) in _magnitudes(graph).items()}
    for scale in (0.0, 1.0, 1e6, found.largest):
        x = (torch.randint(0, 2, (8, *graph.input_shape)) * 2.0 - 1.0) * scale
        scale = float(x.abs().max())  # rounded to float32
        for value_name, value in run_all(graph, x).items():
            gain, offset = limits[value_name]
            if math.isfinite(gain + offset) and gain * scale + offset <= FINITE:
                assert float(value.double().abs().max()) <= gain * scale + offset


@mkldnn
def test_a_network_that_can_overflow_is_left_plain():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten()).eval()
    with torch.no_grad():
        network[0].weight.fill_(1e30)
        network[2].weight.copy_(torch.randn(2, 2, 3, 3).sign())
    graph = trace(network, (1, 8, 8))
    assert blocked_module(graph, to_module(graph)) is None
    outputs = Program(graph)(torch.full((16, 1, 8, 8), 1e10))
    assert outputs.isnan().any()  # infinite less infinite
    assert torch.equal(outputs.isnan(), to_module(graph)(torch.full((16, 1, 8, 8), 1e10)).isnan())


def scaled(network, *factors):
    with torch.no_grad():
        for layer, factor in zip((network[0], network[1]), factors, strict=True):
            layer.weight.mul_(factor)
            layer.bias.zero_()
    return network.eval()


SHRINKING = {
    "linear": (
        scaled(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3),
                             nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)), 1e33, 1e-33), (16,), 1e7),
    "padded": (
        scaled(nn.Sequential(nn.Conv2d(2, 2, 2, padding="same"), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten()),
               1e22, 1e-22), (2, 5, 5), 1e18),
}  # fmt: skip


@mkldnn
@pytest.mark.parametrize("case", SHRINKING)
def test_a_small_gain_behind_a_large_one_brings_no_infinity_back(case):
    network, shape, scale = SHRINKING[case]
    graph = trace(network, shape)
    x = torch.randn(16, *shape, generator=torch.Generator().manual_seed(0)) * scale
    expected = to_module(graph)(x)
    assert expected.isnan().any()
    assert torch.equal(Program(graph)(x).isnan(), expected.isnan())


@mkldnn
def test_sums_over_the_batch_and_divisions_stay_plain():
    weights = {"weight": "w"}
    attributes = {"stride": [1, 1], "padding": [[0, 0]] * 2, "dilation": [1, 1], "groups": 1, "padding_mode": "zeros"}
    conv = {"kind": "conv", "weights": weights, "attributes": attributes}
    operations = (
        Operation(name="x", kind="input"),
        Operation(name="s", kind="slice", inputs=("x",), attributes={"dim": 0, "start": 0, "stop": 1, "step": 1}),
        Operation(name="a", inputs=("x",), **conv),
        Operation(name="b", inputs=("s",), **conv),
        Operation(name="y", kind="add", inputs=("a", "b")),
    )
    graph, x = Graph(operations, "y", (2, 5, 5), {"w": torch.randn(3, 2, 3, 3)}), torch.randn(16, 2, 5, 5)
    assert torch.allclose(Program(graph)(x), run(graph, x), atol=1e-5)  # of one row PyTorch sums in another order
    divided = (operations[0], operations[2], Operation(name="z", kind="relu", inputs=("a",)),
               Operation(name="q", kind="div", inputs=("a", "z")))  # fmt: skip
    graph = Graph(divided, "q", (2, 5, 5), {"w": torch.randn(3, 2, 3, 3)})
    assert not isinstance(Program(graph)._evaluate, BlockedModule)


@mkldnn
def test_networks_without_convolutions_and_other_programs_stay_plain():
    flat = trace(nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), (4,))
    assert blocked_module(flat, to_module(flat)) is None
    graph = graph_of("strides")
    assert isinstance(Program(graph)._evaluate, BlockedModule)
    for options in ({"dtype": torch.float64}, {"dtype": torch.bfloat16}, {"channels_last": True}, {"compiled_rows": 4}):
        assert not isinstance(Program(graph, **options)._evaluate, BlockedModule)


@mkldnn
def test_weights_are_in_blocks_or_plain_and_not_both():
    found = Program(graph_of("strides"))._evaluate
    names = [name.split("_")[0] for name, _ in found.blocked.__self__.named_buffers()]
    assert sorted(names) == ["blocked"] * 4 + ["tensor"] * 2


@mkldnn
def test_without_onednn_everything_is_plain(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not isinstance(Program(graph_of("strides"))._evaluate, BlockedModule)


@mkldnn
def test_several_threads_share_a_program():
    program = Program(graph_of("residual"))
    parts = [torch.randn(32, 3, 12, 12) for _ in range(24)]
    alone = [program(part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(program, parts))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
