"""Row scales: diag(1/r) W has norm at most 1, for matrices and for convolutions of every geometry they hold for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from certify.layers import LAWS, make_rescaling, row_scales
from certify.layers.rescaling import inverse_or_zero, per_row
from certify.norms import enclose, enclose_conv

ROUNDING = 1.0 + 1e-12  # of the scales, which are computed in float64 and are no certificates


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def divided(weight: Tensor, r: Tensor) -> Tensor:
    return per_row(inverse_or_zero(r), weight) * weight


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (1, 7), (7, 1), (4, 4)])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_a_matrix_divided_by_its_scales_is_1_lipschitz(shape: tuple[int, int], steps: int) -> None:
    for seed in range(3):
        weight, log_q = normal(*shape, seed=seed), normal(shape[0], seed=seed + 9)
        for q in (None, log_q):
            assert enclose(divided(weight, row_scales(weight, steps, log_q=q))).lower <= ROUNDING


def test_more_steps_come_nearer_to_the_norm() -> None:
    found = [enclose(divided(normal(20, 30), row_scales(normal(20, 30), steps))).lower for steps in (1, 2, 3, 5, 8)]
    assert found == sorted(found)
    assert 0.75 <= found[0] <= 0.9
    assert found[-1] >= 0.999


def test_the_scales_are_those_of_the_formula() -> None:
    weight, q = normal(5, 4), normal(5, seed=1).exp()
    P = torch.linalg.matrix_power(weight @ weight.mT, 2)
    expected = (P.abs() @ q / q) ** 0.25
    assert torch.allclose(row_scales(weight, 2, log_q=q.log()), expected, rtol=1e-12)


GEOMETRIES = {
    "zeros": ({"padding": 1}, 1),
    "valid": ({"padding": 0}, 1),
    "much padding": ({"padding": 4}, 1),
    "circular": ({"padding": 1, "padding_mode": "circular"}, 1),
    "stride": ({"padding": 1, "stride": 2}, 1),
    "dilation": ({"padding": 2, "dilation": 2}, 1),
    "groups": ({"padding": 1, "groups": 2}, 2),
    "depthwise": ({"padding": 1, "groups": 4}, 4),
}


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("case", GEOMETRIES)
def test_a_convolution_divided_by_its_scales_is_1_lipschitz(case: str, steps: int) -> None:
    geometry, groups = GEOMETRIES[case]
    weight, log_q = normal(8, 4 // groups, 3, 3), normal(8, seed=3)
    for q in (None, log_q):
        scaled = divided(weight, row_scales(weight, steps, log_q=q, groups=groups))
        assert enclose_conv(scaled, (6, 5), **geometry).lower <= ROUNDING


@pytest.mark.parametrize("weight, size", [((6, 4, 3, 5), (2, 3)), ((5, 2, 3), (7,)), ((3, 2, 2, 3, 2), (3, 3, 3))])
def test_odd_kernels_larger_than_the_image_and_other_dimensions(weight: tuple[int, ...], size: tuple[int, ...]) -> None:
    kernel = normal(*weight)
    scaled = divided(kernel, row_scales(kernel, 2))
    assert enclose_conv(scaled, size, padding=1).lower <= ROUNDING


def test_groups_are_matrices_side_by_side() -> None:
    weight, log_q = normal(6, 2, 3, 3), normal(6, seed=2)
    both = row_scales(weight, 2, log_q=log_q, groups=2)
    apart = [row_scales(weight[rows], 2, log_q=log_q[rows]) for rows in (slice(0, 3), slice(3, 6))]
    assert torch.allclose(both, torch.cat(apart), rtol=1e-13)


def test_padding_that_copies_inputs_is_why_it_is_refused() -> None:
    mean = torch.full((1, 1, 3, 3), 1.0 / 9.0, dtype=torch.float64)
    assert row_scales(mean).item() <= ROUNDING
    assert enclose_conv(mean, (6, 6), padding=1, padding_mode="reflect").lower >= 1.0767


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1.0, 1e30, 1e150])
def test_any_scale_of_the_weights(scale: float) -> None:
    weight = normal(6, 5)
    assert torch.allclose(row_scales(scale * weight, 4) / scale, row_scales(weight, 4), rtol=1e-10)


def test_a_row_of_zeros_has_scale_0_and_no_gradient() -> None:
    weight = normal(3, 4)
    weight[1] = 0.0
    weight.requires_grad_()
    r = row_scales(weight, 3)
    assert r[1].item() == 0.0
    divided(weight, r).sum().backward()
    assert bool(torch.isfinite(weight.grad).all())
    assert row_scales(torch.zeros(2, 3, 3, 3), 2).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("shape, groups", [((4, 5), 1), ((4, 2, 3, 3), 1), ((4, 1, 2, 2), 2)])
def test_gradients_against_finite_differences(shape: tuple[int, ...], groups: int) -> None:
    weight, log_q = normal(*shape).requires_grad_(), normal(4, seed=1).requires_grad_()

    def scaled(w: Tensor, q: Tensor) -> Tensor:
        return divided(w, row_scales(w, 2, log_q=q, groups=groups))

    assert torch.autograd.gradcheck(scaled, (weight, log_q))


@pytest.mark.parametrize("law", LAWS)
def test_every_law_bounds_a_matrix_and_a_convolution(law: str) -> None:
    rescaling = make_rescaling(law, 6)
    matrix, kernel = normal(6, 4), normal(6, 4, 3, 3)
    with torch.no_grad():
        assert enclose(divided(matrix, rescaling(matrix))).lower <= 1.0 + 1e-9
        assert enclose_conv(divided(kernel, rescaling(kernel, 1)), (7, 7), padding=1).lower <= 1.0 + 1e-9


def test_a_law_of_its_own_and_one_that_does_not_exist() -> None:
    own = nn.Identity()
    assert make_rescaling(own, 3) is own
    with pytest.raises(ValueError, match="expected a law of aol, sll, sr, spectral or a module, got 'soc'"):
        make_rescaling("soc", 3)


@pytest.mark.parametrize("shape, steps, groups", [((3,), 1, 1), ((3, 4), 0, 1), ((3, 4, 3), 1, 2)])
def test_arguments_without_a_meaning(shape: tuple[int, ...], steps: int, groups: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        row_scales(normal(*shape), steps, groups=groups)
