"""Rows of files without an architecture: bounds that hold for every geometry the file leaves open."""

import pytest
import torch

from certify.bounds import weight_rows
from certify.bounds.floor import jacobian
from certify.errors import InputError
from tests.bounds.small_networks import Build

GEOMETRIES = [
    {},
    {"stride": [2, 2]},
    {"dilation": [2, 2], "padding": [[2, 2], [2, 2]]},
    {"padding": [[0, 0], [0, 0]]},
    {"padding_mode": "circular"},
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_kernel_is_bounded_for_every_stride_dilation_and_grouping(geometry: dict[str, object], groups: int) -> None:
    b = Build(2 * groups, 9, 9)
    kernel = b.normal(4, 2, 3, 3)
    b.conv(kernel, groups=groups, **geometry)
    truth = float(torch.linalg.svdvals(jacobian(b.graph(), b.normal(2 * groups, 9, 9)))[0])
    (row,) = weight_rows({"kernel": kernel})
    assert row.upper is not None
    assert truth <= row.upper
    assert row.lower is None


@pytest.mark.parametrize("groups", [1, 2])
def test_a_kernel_is_bounded_as_a_transposed_one_too(groups: int) -> None:
    b = Build(4, 5, 5)
    kernel = b.normal(4, 2, 3, 3)
    details = {"stride": [2, 2], "padding": [1, 1], "output_padding": [0, 0], "dilation": [1, 1], "groups": groups}
    b.add("conv_transpose", weight=kernel, **details)
    truth = float(torch.linalg.svdvals(jacobian(b.graph(), b.normal(4, 5, 5)))[0])
    assert truth <= weight_rows({"kernel": kernel})[0].upper


def test_a_matrix_gets_both_ends() -> None:
    matrix = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    (row,) = weight_rows({"fc.weight": matrix})
    truth = float(torch.linalg.svdvals(matrix.double())[0])
    assert row.lower <= truth * (1 + 1e-14)
    assert truth * (1 - 1e-14) <= row.upper <= truth * (1 + 1e-9)
    assert (row.name, row.kind, row.shape) == ("fc.weight", "matrix", (7, 5))


def test_other_tensors_are_listed_without_a_norm() -> None:
    rows = weight_rows({"bias": torch.ones(3), "steps": torch.tensor(7), "mask": torch.ones(2, 2, dtype=torch.bool)})
    assert [row.upper for row in rows] == [None] * 3
    assert all(row.method.startswith("no norm") for row in rows)


def test_a_poisoned_tensor_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"fc\.weight"):
        weight_rows({"fc.weight": torch.tensor([[1.0, float("nan")]])})
