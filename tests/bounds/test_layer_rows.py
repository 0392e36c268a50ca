"""The rows of a report: every linear operation has a proved bracket, and it holds the norm of its dense matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from certify.bounds import analyse
from certify.graph import run, trace
from certify.results import LipschitzSettings


class Reduced(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return getattr(x, self.name)((2, 3))


def negative_batch_norm() -> nn.Module:
    norm = nn.BatchNorm2d(2)
    norm.weight.data = torch.tensor([-3.0, 0.5])
    norm.running_var.data = torch.tensor([4.0, 1e-9])
    return norm


LAYERS = {
    "batch_norm": negative_batch_norm,
    "avg_pool": lambda: nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
    "adaptive_avg_pool": lambda: nn.AdaptiveAvgPool2d((2, 3)),
    "mean": lambda: Reduced("mean"),
    "sum": lambda: Reduced("sum"),
    "conv": lambda: nn.Conv2d(2, 3, 3, stride=2),
    "normalize": nn.Identity,
}


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_bracket_of_a_row_holds_the_norm_of_the_dense_matrix(kind, norm):
    torch.manual_seed(0)
    module = nn.Sequential(LAYERS[kind](), nn.Flatten()).double().eval()
    std = [0.5, -0.25] if kind == "normalize" else None
    graph = trace(nn.Sequential(nn.ReLU(), nn.Flatten()).double() if std else module, (2, 6, 5), mean=std, std=std)
    (row,) = [row for row in analyse(graph, LipschitzSettings(norm=norm)).layers if row.kind == kind]
    if std:
        truth = 4.0
    else:
        inputs = torch.eye(60, dtype=torch.float64).reshape(60, 2, 6, 5)
        dense = (run(graph, inputs) - run(graph, torch.zeros_like(inputs))).T
        truth = float(torch.linalg.matrix_norm(dense, 2 if norm == "l2" else float("inf")))
    slack = 1e-12 * truth  # of the floating-point truth, not of the bracket
    assert row.lower - slack <= truth <= row.upper + slack
    assert row.upper <= (1 + 1e-9) * row.lower or kind == "conv"
