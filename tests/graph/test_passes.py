"""Each pass: the outputs before and after, and that it did what it is for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from certify.graph import Graph, drop_unused, fold_batch_norm, merge_equal, merge_pads, run, trace


def kinds(graph: Graph) -> list[str]:
    return [operation.kind for operation in graph]


def randomised(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(1)
    for tensor in (norm.running_mean, norm.weight, norm.bias):
        tensor.data = torch.randn(tensor.shape, generator=generator)
    norm.running_var.data = torch.rand(norm.running_var.shape, generator=generator) + 0.1
    return norm


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_folds_into_the_convolution(bias, affine):
    norm = nn.BatchNorm2d(4, affine=affine)
    module = nn.Sequential(nn.Conv2d(2, 4, 3, bias=bias), randomised(norm) if affine else norm, nn.Flatten()).double()
    graph = trace(module, (2, 6, 6))
    folded = fold_batch_norm(graph)
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    assert kinds(graph).count("batch_norm") == 1
    assert kinds(folded).count("batch_norm") == 0
    assert torch.allclose(run(graph, x), run(folded, x), rtol=1e-12, atol=1e-12)


def test_batch_norm_folds_into_a_linear_layer_of_rows_only():
    rows = trace(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), (4,))
    tokens = trace(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(5), nn.Flatten()), (5, 4))
    assert "batch_norm" not in kinds(fold_batch_norm(rows))
    assert "batch_norm" in kinds(fold_batch_norm(tokens))


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.norm = randomised(nn.BatchNorm2d(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return (y + self.norm(y)).flatten(1)


class TiedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.norm = randomised(nn.BatchNorm2d(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(self.conv(x))).flatten(1)


@pytest.mark.parametrize("module", [TwoReaders(), TiedWeights()])
def test_batch_norm_stays_where_folding_would_change_another_reader(module):
    graph = trace(module, (2, 4, 4))
    x = torch.randn(2, 2, 4, 4)
    assert torch.allclose(run(graph, x), run(fold_batch_norm(graph), x), rtol=1e-5, atol=1e-5)


def test_tied_weights_are_stored_once():
    assert sorted(trace(TiedWeights(), (2, 4, 4)).tensors) == [
        "conv.bias", "conv.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.weight"
    ]  # fmt: skip


PADS = {
    "zero": (nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(2, 3, 3), True),
    "zero before zero padding": (nn.ZeroPad2d(1), nn.Conv2d(2, 3, 3, padding=1), True),
    "circular": (nn.CircularPad2d(1), nn.Conv2d(2, 3, 3), True),
    "reflect": (nn.ReflectionPad2d(2), nn.Conv2d(2, 3, 3, stride=2), True),
    "replicate": (nn.ReplicationPad2d(1), nn.Conv2d(2, 3, 3, dilation=2), True),
    "circular before zero padding": (nn.CircularPad2d(1), nn.Conv2d(2, 3, 3, padding=1), False),
    "constant": (nn.ConstantPad2d(1, 0.5), nn.Conv2d(2, 3, 3), False),
    "crop": (nn.ZeroPad2d(-1), nn.Conv2d(2, 3, 3, padding=1), False),
}


@pytest.mark.parametrize("name", PADS)
def test_an_explicit_pad_merges_only_where_it_is_the_same_function(name):
    pad, conv, merges = PADS[name]
    graph = trace(nn.Sequential(pad, conv, nn.Flatten()), (2, 8, 8))
    merged = merge_pads(graph)
    x = torch.randn(2, 2, 8, 8)
    assert ("pad" not in kinds(merged)) == merges
    assert torch.allclose(run(graph, x), run(merged, x), rtol=1e-6, atol=1e-6)


def test_circular_convolutions_of_torch_merge():
    graph = merge_pads(
        trace(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.Flatten()), (2, 5, 5))
    )
    conv = next(operation for operation in graph if operation.kind == "conv")
    assert conv.text("padding_mode") == "circular"
    assert conv.pairs("padding") == ((1, 1), (1, 1))


class Repeats(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.chunk(2, 1)[0] + x.chunk(2, 1)[0]).relu()


def test_equal_operations_become_one():
    graph = trace(Repeats(), (4,))
    assert kinds(graph) == ["input", "slice", "add", "relu"]
    assert kinds(merge_equal(graph)) == kinds(graph)
    x = torch.randn(2, 4)
    assert torch.equal(run(graph, x), Repeats()(x))


class Wasteful(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.tanh()
        return x.relu()


def test_values_nobody_reads_are_dropped():
    graph = trace(Wasteful(), (4,))
    assert kinds(graph) == ["input", "relu"]
    assert drop_unused(graph).operations == graph.operations


@pytest.mark.parametrize(
    ("function", "recognised"),
    [
        (lambda x: torch.cat([torch.max(*x.chunk(2, 1)), torch.min(*x.chunk(2, 1))], 1), True),
        (lambda x: torch.cat([torch.min(*x.chunk(2, 1)), torch.max(*x.chunk(2, 1))], 1), False),
        (lambda x: torch.cat([torch.max(x[:, :2], x[:, 2:4]), torch.min(x[:, :2], x[:, 2:4])], 1), False),
        (lambda x: torch.cat([torch.max(x[:, :3], x[:, 2:5]), torch.min(x[:, :3], x[:, 2:5])], 1), False),
        (lambda x: torch.cat([torch.max(x[:, ::2], x[:, 1::2]), torch.min(x[:, ::2], x[:, 1::2])], 1), False),
        (lambda x: torch.cat([torch.max(x[:, :3], x[:, 3:]), torch.min(x[:, 3:], x[:, :3])], 1), True),
        (lambda x: torch.cat([torch.max(x[:, :3], x[:, 3:]), torch.min(x[:, :3], -x[:, 3:])], 1), False),
    ],
)
def test_max_min_is_recognised_only_when_it_is_one(function, recognised):
    class Calling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    graph = trace(Calling(), (6,))
    x = torch.randn(5, 6)
    assert ("max_min" in kinds(graph)) == recognised
    assert torch.equal(run(graph, x), function(x))
