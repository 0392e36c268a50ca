import math
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from certify.report.figures import estimate_figure, lower_figure, radius_label, upper_figure
from certify.report.summary import RADII

FLOATS = st.floats(min_value=0.0, allow_nan=False, allow_infinity=False)


@given(FLOATS)
@example(0.24961)
@example(0.9777)
@example(5e-324)
@example(1.7976931348623157e308)
def test_the_printed_bound_is_on_its_side_of_the_exact_value(value):
    assert Decimal(lower_figure(value)) <= Decimal(value) <= Decimal(upper_figure(value))


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_the_printed_bound_is_within_a_ten_thousandth(value):
    assert Decimal(upper_figure(value)) - Decimal(lower_figure(value)) <= Decimal(value) * Decimal("1.0001e-4")


@pytest.mark.parametrize("value, down, up", [(0.24961, "0.2496", "0.24961"), (0.249996, "0.24999", "0.25")])
def test_known_radii(value, down, up):
    assert lower_figure(value).startswith(down)
    assert upper_figure(value) == up


def test_what_is_not_finite_is_said():
    assert [upper_figure(math.inf), lower_figure(math.nan), estimate_figure(-math.inf)] == ["inf", "nan", "-inf"]


@pytest.mark.parametrize("radius", [radius for radii in RADII.values() for radius in radii if radius > 0])
def test_a_radius_label_names_the_float_it_stands_for(radius):
    top, _, bottom = radius_label(radius).partition("/")
    assert float(top) / float(bottom or 1) == radius
