"""A scale of the noise per coordinate: the ellipsoid of a linear classifier, exact tables, and what is refused."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from msgspec import UNSET
from msgspec.structs import replace
from torch import nn

import certify
from certify.errors import InputError
from certify.examples import Dataset, Example
from certify.policy import Gate
from certify.policy.fits import in_native_norm
from certify.report import FORMATS, verify_report
from certify.results import SmoothingSettings, report_from_json, report_to_json, seal
from certify.smoothing import make_law
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest, block_generator, block_requests
from certify.smoothing.diagonal import diagonal_255
from certify.smoothing.gaussian_255 import thresholds
from certify.smoothing.scales import check_scales, describe_scales
from certify.smoothing.two_level_table import LOW_BITS, search
from certify.stats import GEOMETRIES

SCALES = np.array([0.5, 1.0, 2.0, 0.5, 1.0, 2.0])
WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 0.25, 1.5, -1.0])
SETTINGS = SmoothingSettings(sigma=0.1, n=1500)


def examples(eight_bit: bool, count: int = 24) -> Dataset:
    pixels = np.random.default_rng(3).integers(0, 256, (count, 6), dtype=np.uint8)
    stored = pixels if eight_bit else pixels / 255.0
    return Dataset(tuple(Example(k, str(k), 0, stored[k]) for k in range(count)), total=count, selection="all")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    layer = nn.Linear(6, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([WEIGHTS, -WEIGHTS]))
        layer.bias.copy_(torch.tensor([-0.1, 0.1]))
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    certify.save(layer, path, input_shape=(6,), range=(0.0, 1.0))
    return certify.load(path)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The report on 8-bit data."""
    folder = tmp_path_factory.mktemp("store")
    return certify.smooth(model, examples(True), SETTINGS, scales=SCALES, store=folder, device="cpu", workers=1)


@pytest.mark.parametrize("eight_bit", [True, False])
def test_radii_end_inside_the_ellipsoid_of_a_plane(model, whole, eight_bit, tmp_path):
    """f = [w x > b]: the smoothed class changes at the plane, at distance |w x - b| / ||D w|| in the weighted norm."""
    data = examples(eight_bit)
    report = whole
    if not eight_bit:
        report = certify.smooth(model, data, SETTINGS, scales=SCALES, store=tmp_path, device="cpu", workers=1)
    normal = WEIGHTS.double().numpy()
    shares = []
    for row, example in zip(report.examples, data, strict=True):
        true = abs(float(normal @ example.values()) - 0.1) / float(np.linalg.norm(SCALES * normal))
        shares.append(row.radius / true)
        assert row.norm == "weighted-l2"
    assert max(shares) < 1.0 < max(shares) / 0.75  # tight, too: about 3 sigma are within reach
    assert sum(share > 0.0 for share in shares) >= 18
    assert report.falsifier.found == 0
    assert verify_report(report) == ()
    assert verify_report(report_from_json(report_to_json(report), name="r")) == ()
    assert report.settings.scales.sha256 in report.statement.text
    assert "estimate: the volume is that of an l2 ball of radius x 1" in FORMATS["terminal"](report).replace(
        "\n  ", " "
    )


def test_a_report_of_other_scales_is_inconsistent(whole):
    report = whole
    wider = replace(report.settings, scales=replace(report.settings.scales, largest=4.0))
    none = replace(report.settings, scales=UNSET)
    for settings in (wider, none):
        found = {finding.where for finding in verify_report(seal(replace(report, settings=settings)))}
        assert found & {"tables.alpha_charged", "tables.noise_law"}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"smallest": 1.5}, "settings.scales.geometric_mean"),  # above the mean
        ({"smallest": 2.0}, "settings.scales.geometric_mean"),  # equal to the largest, and the mean is not
        ({"smallest": 50.0}, "settings.scales"),
        ({"smallest": 0.0}, "settings.scales"),
        ({"smallest": 2.0**-20}, "settings.scales"),
        ({"smallest": 0.9}, "settings.scales.geometric_mean"),  # one scale is the largest: no mean as small as this
        ({"geometric_mean": 2.1}, "settings.scales.geometric_mean"),
        ({"geometric_mean": 1.9}, "settings.scales.geometric_mean"),  # one scale is the smallest
        ({"geometric_mean": -1.0}, "settings.scales.geometric_mean"),
    ],
)
def test_scales_that_no_array_has_are_found(whole, changes, where):
    """Of the six scales 0.5, 1, 2, 0.5, 1, 2 the geometric mean is 1."""
    scales = replace(whole.settings.scales, **changes)
    edited = replace(whole, settings=replace(whole.settings, scales=scales))
    assert where in {finding.where for finding in verify_report(seal(edited))}


@pytest.mark.parametrize("scales", [[3.0], [3.0, 3.0, 3.0], [1.0, 2.0**20], [1e-300, 3e-300], [0.1, 1.0, 1.0]])
def test_scales_of_any_array_are_not_found(whole, scales):
    """Equal ones have a mean that is off in its last bits, two have one mean alone."""
    settings = replace(whole.settings, scales=describe_scales(check_scales(scales, (len(scales),))))
    space = replace(whole.model.input, shape=(len(scales),))
    edited = replace(whole, settings=settings, model=replace(whole.model, input=space))
    assert not any(finding.where.startswith("settings") for finding in verify_report(seal(edited)))


def test_gates_in_l2_count_the_ball_inside():
    settings = SmoothingSettings(sigma=0.1, scales=describe_scales(SCALES))
    gate = Gate(name="g", metric="certified_accuracy", min=0.5, radius=0.2)
    assert 0.4 <= in_native_norm(gate, settings, 6).radius < 0.4000001
    own = replace(gate, norm="weighted-l2", scales=settings.scales.sha256[:8])
    assert in_native_norm(own, settings, 6) is own
    with pytest.raises(InputError, match="scales"):
        in_native_norm(own, SmoothingSettings(sigma=0.1), 6)


def test_one_table_for_each_value_draws_the_law_of_its_coordinate():
    law, image = diagonal_255(0.1, SCALES), Example(0, "a", 0, np.full(6, 100, dtype=np.uint8))
    request = BlockRequest(image, "estimation", 0, BLOCK_DRAWS)
    rows = law.draw(request, block_generator(0, request, law.name)).rows
    bits, count = block_generator(0, request, law.name), BLOCK_DRAWS * 6
    top = bits.random_raw(-(-count // 4)).astype("<u8").view("<u2")[:count].astype(np.int64).reshape(-1, 6)
    low = np.zeros_like(top)
    groups = np.tile(law.sampler.groups, BLOCK_DRAWS).reshape(-1, 6)
    is_open = law.sampler.table[groups, top] == law.sampler.samplers[0].open_mark
    low[is_open] = (bits.random_raw(int(is_open.sum())) >> np.uint64(17)).astype(np.int64)
    for place, scale in enumerate(SCALES):
        T = thresholds(0.1 * scale)
        plain = search(T, (top[:, place] << LOW_BITS) | low[:, place]) - len(T) // 2
        assert np.array_equal(rows[:, place], 100 + plain)
    assert law.levels == max(len(thresholds(0.1 * scale)) for scale in SCALES)


@pytest.mark.parametrize("eight_bit", [True, False])
def test_each_coordinate_has_its_own_deviation(eight_bit):
    settings = SmoothingSettings(sigma=0.1, scales=describe_scales(SCALES))
    law = make_law(settings, eight_bit=eight_bit, scales=SCALES)
    (example,) = examples(eight_bit, 1)
    rows = np.concatenate(
        [law.draw(request, block_generator(0, request, law.name)).rows
         for request in block_requests(example, "estimation", 32 * BLOCK_DRAWS)]
    )  # fmt: skip
    spread = law.inputs(torch.from_numpy(rows), torch.float64).numpy().std(axis=0)
    assert np.abs(spread / (0.1 * SCALES) - 1).max() < 6 / math.sqrt(2 * len(rows))


def test_scales_of_one_are_plain_noise():
    ones = np.ones(6)
    settings = SmoothingSettings(sigma=0.1, scales=describe_scales(ones))
    law, plain = make_law(settings, eight_bit=True, scales=ones), make_law(SETTINGS, eight_bit=True)
    (example,) = examples(True, 1)
    request = BlockRequest(example, "estimation", 0, 128)
    bits = [block_generator(0, request, "gaussian-255") for _ in range(2)]
    assert np.array_equal(law.draw(request, bits[0]).rows, plain.draw(request, bits[1]).rows)
    assert (law.levels, law.name) == (plain.levels, "gaussian-diagonal-255")


def test_the_scale_is_below_every_deviation_over_its_scale():
    for sigma, d in ((0.1, 3.0), (0.25, 1 / 3), (0.7, 1e-5), (1 / 3, 0.1)):
        assert Fraction(GEOMETRIES["gaussian-diagonal"].scale(sigma)) * Fraction(d) <= Fraction(sigma * d)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (np.ones((24, 6)), "the same array for every input"),
        (lambda x: np.ones(6), "depends on the input"),
        (np.zeros(6), "positive"),
        (np.array([1.0, 1.0, 1.0, 1.0, 1.0, np.nan]), "positive"),
        (np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1e9]), "factor of"),
        ("wide", "array of numbers"),
    ],
)
def test_scales_of_an_input_are_refused(model, scales, message, tmp_path):
    with pytest.raises(InputError, match=message):
        certify.smooth(model, examples(True, 2), SETTINGS, scales=scales, store=tmp_path, device="cpu")


def test_other_scales_than_those_of_the_settings_are_refused():
    settings = SmoothingSettings(sigma=0.1, scales=describe_scales(SCALES))
    for scales in (None, check_scales(2 * SCALES, (6,))):
        with pytest.raises(InputError, match="by its hash"):
            make_law(settings, eight_bit=True, scales=scales)
    with pytest.raises(InputError, match="by its hash"):
        make_law(SETTINGS, eight_bit=True, scales=SCALES)
    with pytest.raises(InputError, match="Gaussian"):
        make_law(replace(settings, noise="uniform"), eight_bit=True, scales=SCALES)
    with pytest.raises(InputError, match="different values"):
        diagonal_255(0.1, np.linspace(1.0, 2.0, 65))
