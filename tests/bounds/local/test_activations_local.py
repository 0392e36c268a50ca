"""Slopes and lines of every activation on intervals, against the real function in 60 digits, without a tolerance."""

from __future__ import annotations

import pytest
import torch

from certify.bounds.local.activations import (
    IDENTITY,
    RELU,
    Activation,
    centred_slopes,
    curvature,
    evaluate,
    evaluation_error,
    local_slopes,
    relax,
)
from certify.bounds.local.layers import Layer, Segment
from tests.bounds.local.exact_networks import ACTIVATIONS, MP

DETAILS: dict[str, dict[str, object]] = {
    **{kind: {} for kind in ("relu", "selu", "silu", "mish", "tanh", "sigmoid", "hardswish", "hardsigmoid")},
    **{kind: {} for kind in ("abs", "softsign", "logsigmoid", "tanhshrink", "sin")},
    "leaky_relu": {"negative_slope": -1.5},
    "leaky_relu concave": {"negative_slope": 3.0},
    "elu": {"alpha": 1.7},
    "elu small": {"alpha": 0.4},
    "elu negative": {"alpha": -0.5},
    "elu large": {"alpha": 1e6},
    "celu": {"alpha": 0.3},
    "gelu": {"approximate": "none"},
    "gelu tanh": {"approximate": "tanh"},
    "softplus": {"beta": 2.0, "threshold": 20.0},
    "softplus wide": {"beta": 1e-3, "threshold": 20.0},
    "clamp": {"min": -0.5, "max": 0.7},
    "softshrink": {"threshold": 0.4},
}
CASES = sorted(DETAILS)
COUNT = 24


def activation(name: str) -> Activation:
    return Activation(name.split()[0], DETAILS[name])


def exact(name: str, t):
    return ACTIVATIONS[name.split()[0]](t, DETAILS[name])


def intervals(seed: int):
    """Intervals of all lengths, some far out, some of length 0, some ending at 0, each with a centre in it."""
    random = torch.Generator().manual_seed(seed)
    centre = torch.randn(COUNT, generator=random, dtype=torch.float64) * torch.tensor([1.0, 3.0, 0.1, 20.0]).repeat(
        COUNT // 4
    )
    left, right = 10.0 ** (1.0 - 8.0 * torch.rand(2, COUNT, generator=random, dtype=torch.float64) ** 2)
    lower, upper = centre - left, centre + right
    lower[0], upper[1] = centre[0], centre[1]
    lower[2] = centre[2] = 0.0
    upper[2], upper[3] = 1.0, 0.0
    centre[3], lower[3] = -0.25, -1.0
    lower[4] = upper[4] = centre[4]
    return centre, lower, upper


def sample(name: str, lower: float, upper: float):
    """Return points of an interval with their exact values: its ends, an even grid, and points beside knots."""
    low, high = MP.mpf(lower), MP.mpf(upper)
    grid = [low + (high - low) * MP.mpf(i) / 32 for i in range(33)]  # exact in 60 digits
    knots = [MP.mpf(k) * sign for k in (0, 0.4, 0.5, 0.7, 3, 1.4142135, 2.3993572) for sign in (1, -1)]
    return [(t, exact(name, t)) for t in [*grid, *(k for k in knots if low < k < high)]]


@pytest.mark.parametrize("name", CASES)
def test_secants_and_values_stay_inside(name):
    one = activation(name)
    centre, lower, upper = intervals(len(name))
    a, b = (part.tolist() for part in local_slopes(one, lower, upper))
    error = 1e-9 * torch.rand(COUNT, dtype=torch.float64)
    low, high = torch.maximum(centre - error, lower), torch.minimum(centre + error, upper)
    c_a, c_b = (part.tolist() for part in centred_slopes(one, low, high, lower, upper))
    lines = relax(one, lower, upper)
    for i in range(COUNT):
        points = sample(name, float(lower[i]), float(upper[i]))
        _check_lines(points, lines, i)
        _check_secants([(points[0], p) for p in points] + [(points[9], p) for p in points], a[i], b[i])
        middle = MP.mpf(float(low[i]))
        centres = [(t, exact(name, t)) for t in (middle, MP.mpf(float(high[i])))]
        _check_secants([(c, p) for c in centres for p in points], c_a[i], c_b[i])
        assert a[i] <= c_a[i] <= c_b[i] <= b[i] or lower[i] == upper[i]


def _check_secants(pairs, a: float, b: float) -> None:
    for (s, f_s), (t, f_t) in pairs:
        if abs(s - t) > MP.mpf(10) ** -40:
            assert MP.mpf(a) <= (f_s - f_t) / (s - t) <= MP.mpf(b)


def _check_lines(points, lines, i: int) -> None:
    low = [MP.mpf(float(part[i])) for part in (lines.lower_slope, lines.lower_offset)]
    high = [MP.mpf(float(part[i])) for part in (lines.upper_slope, lines.upper_offset)]
    for t, value in points:
        assert low[0] * t + low[1] <= value <= high[0] * t + high[1]


@pytest.mark.parametrize("name", CASES)
def test_no_turn_of_a_derivative_is_missing(name):
    """A fine scan: on short intervals the range is nearly a point, so a turn that is not known would show."""
    ends = torch.linspace(-10.0, 10.0, 321, dtype=torch.float64)
    a, b = (part.tolist() for part in local_slopes(activation(name), ends[:-1], ends[1:]))
    values = [exact(name, MP.mpf(i) / 32) for i in range(-320, 321)]  # every end, and every midpoint
    for i in range(320):
        for left in (2 * i, 2 * i + 1):
            assert MP.mpf(a[i]) <= 32 * (values[left + 1] - values[left]) <= MP.mpf(b[i])


@pytest.mark.parametrize("name", CASES)
def test_curvature_is_right_where_it_is_claimed(name):
    """Where convex: no value at a midpoint of two samples is above the mean of theirs; where concave, none below."""
    _, lower, upper = intervals(len(name) + 1)
    convex, concave = curvature(activation(name), lower, upper)
    for i in range(COUNT):
        points = sample(name, float(lower[i]), float(upper[i]))[:33]
        for (_, left), (_, middle), (_, right) in zip(points, points[1:], points[2:], strict=False):
            bent = (left + right) / 2 - middle  # of the even grid
            assert bent >= -(MP.mpf(10) ** -50) or not convex[i]
            assert bent <= MP.mpf(10) ** -50 or not concave[i]


@pytest.mark.parametrize("name", CASES)
def test_computed_values_are_as_near_as_the_evaluation_error_says(name):
    one = activation(name)
    z = torch.cat([torch.linspace(-40.0, 40.0, 161, dtype=torch.float64), torch.randn(60, dtype=torch.float64)])
    h = evaluate(one, z)
    for t, value, error in zip(z.tolist(), h.tolist(), evaluation_error(one, z, h).tolist(), strict=True):
        assert abs(exact(name, MP.mpf(t)) - MP.mpf(value)) <= MP.mpf(error)


CURVED = {"convex": ("relu", "abs", "softplus", "celu", "elu small"), "concave": ("leaky_relu concave", "logsigmoid")}


def test_curvature_is_seen_everywhere_on_convex_and_concave_functions():
    _, lower, upper = intervals(0)
    for name in CURVED["convex"]:
        assert bool(curvature(activation(name), lower, upper)[0].all())
    for name in CURVED["concave"]:
        assert bool(curvature(activation(name), lower, upper)[1].all())


def test_curvature_of_an_s_shape_is_seen_on_either_side():
    lower, upper = torch.tensor([-3.0, 0.5, -1.0]).double(), torch.tensor([-0.5, 2.0, 1.0]).double()
    convex, concave = curvature(Activation("tanh"), lower, upper)
    assert convex.tolist() == [True, False, False]
    assert concave.tolist() == [False, True, False]


def test_stable_relus_are_exact():
    lower, upper = torch.tensor([-2.0, 0.0, 0.5]).double(), torch.tensor([0.0, 1.0, 1.0]).double()
    a, b = local_slopes(RELU, lower, upper)
    assert a.tolist() == b.tolist() == [0.0, 1.0, 1.0]
    centre = (lower + upper) / 2
    a, b = centred_slopes(RELU, centre, centre, lower, upper)
    assert a.tolist() == b.tolist() == [0.0, 1.0, 1.0]
    lines = relax(RELU, lower, upper)
    assert lines.lower_slope.tolist() == lines.upper_slope.tolist() == [0.0, 1.0, 1.0]
    assert lines.lower_offset.tolist() == lines.upper_offset.tolist() == [0.0, 0.0, 0.0]


def test_centred_slopes_of_a_relu_are_those_of_the_formula():
    centre, lower, upper = (torch.tensor(t).double() for t in ([1.0, -1.0, 0.0], [-3.0, -3.0, -1.0], [2.0, 3.0, 4.0]))
    a, b = centred_slopes(RELU, centre, centre, lower, upper)
    torch.testing.assert_close(a, torch.tensor([0.25, 0.0, 0.0]).double(), rtol=1e-14, atol=0.0)
    torch.testing.assert_close(b, torch.tensor([1.0, 0.75, 1.0]).double(), rtol=1e-14, atol=0.0)


def test_a_relu_whose_sign_at_the_centre_is_unknown_has_both_slopes():
    tiny = torch.tensor([1e-12]).double()
    a, b = centred_slopes(RELU, -tiny, tiny, -tiny * 1e6, tiny * 1e6)
    assert float(a) == 0.0
    assert float(b) == 1.0


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "gelu", "silu", "softplus"])
def test_centred_slopes_are_near_the_range_that_occurs(name):
    """Tightness: the range is at most 6 % of the local one wider than that of sampled secants."""
    one, t = activation(name), torch.linspace(0.0, 1.0, 2001, dtype=torch.float64)[:, None]
    centre, lower, upper = (torch.tensor(x).double() for x in ([0.3, -1.0, 2.0], [-1.0, -3.0, -1.0], [1.5, 2.0, 3.0]))
    a, b = centred_slopes(one, centre, centre, lower, upper)
    local_a, local_b = local_slopes(one, lower, upper)
    points = lower + (upper - lower) * t
    q = (evaluate(one, points) - evaluate(one, centre)) / (points - centre)
    q = torch.where((points - centre).abs() > 1e-6, q, q[0])
    room = 0.06 * (local_b - local_a)
    assert bool((a >= q.amin(0) - room).all())
    assert bool((b <= q.amax(0) + room).all())


@pytest.mark.parametrize("name", CASES)
def test_nan_passes_through(name):
    """Bounds that are no numbers give no lines."""
    lower = torch.tensor([float("nan"), -1.0, float("nan")]).double()
    upper = torch.tensor([1.0, float("nan"), float("nan")]).double()
    lines = relax(activation(name), lower, upper)
    sums = lines.lower_slope + lines.lower_offset + lines.upper_slope + lines.upper_offset
    assert not bool(torch.isfinite(sums).any())


def test_prelu_has_its_slope_per_row():
    one = Activation("prelu", slopes=torch.tensor([0.5, -2.0]).double())
    lower, upper = -torch.ones(3, 2).double(), torch.ones(3, 2).double()
    a, b = local_slopes(one, lower, upper)
    assert a.tolist() == [[0.5, -2.0]] * 3
    assert b.tolist() == [[1.0, 1.0]] * 3
    lines = relax(one, lower, upper)
    torch.testing.assert_close(lines.upper_slope[0], torch.tensor([0.75, -0.5]).double())


def test_a_layer_joins_its_segments():
    segments = (Segment(0, 2, RELU, "h"), Segment(2, 3, IDENTITY, "x"), Segment(3, 4, Activation("tanh"), "t"))
    layer = Layer(1, torch.zeros(4), torch.zeros(4), 0.0, segments, dense=torch.ones(4, 1).double())
    lower, upper = -torch.ones(2, 4).double(), torch.full((2, 4), 3.0).double()
    a, b = layer.local_slopes(lower, upper)
    assert a[0, :3].tolist() == [0.0, 0.0, 1.0]
    assert b[0, :3].tolist() == [1.0, 1.0, 1.0]
    assert 0.0 < float(a[0, 3]) < 0.01
    lines = layer.relax(lower, upper)
    assert lines.upper_slope[1, :3].tolist() == [0.75, 0.75, 1.0]
    convex, concave = layer.curvature(lower, upper)
    assert convex[0].tolist() == [True, True, True, False]
    assert concave[0].tolist() == [False, False, True, False]
