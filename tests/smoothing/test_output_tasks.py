"""Regression and segmentation: intervals and pixels by a plain loop, true quantiles, exact levels, and refusals."""

import itertools
import math

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from scipy.special import ndtr, ndtri
from scipy.stats import binom
from torch import nn

import certify
from certify.errors import InputError
from certify.examples import Dataset, Example
from certify.report import FORMATS, verify_report
from certify.results import (
    Regression,
    Segmentation,
    SmoothingSettings,
    document_from_json,
    report_from_json,
    report_to_json,
    seal,
)
from certify.runs.outputs import without_labels
from certify.smoothing import make_law
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest, block_generator, block_requests
from certify.smoothing.kept_outputs import KeptOutputs
from certify.smoothing.pixel_votes import PixelVotes
from certify.smoothing.readings import Piece
from certify.smoothing.regression import interval
from certify.smoothing.segmentation import segmentation_task
from certify.smoothing.tasks import Drawn
from certify.stats import quantile_ranks

SETTINGS = SmoothingSettings(sigma=0.2, n=600, n0=100, alpha=0.01)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4), dtype=np.uint8)


def linear() -> nn.Module:
    layer = nn.Linear(4, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 0.0], [0.0, 1.0, 1.0, 1.0]]))
        layer.bias.copy_(torch.tensor([0.25, -1.0]))
    return layer


def run(folder, module, data, task, settings=SETTINGS, **options):
    options = {"device": "cpu", "workers": 1, "batch": 64} | options
    return certify.smooth(module, data, settings, task=task, store=folder, **options)


def drawn(example, draws, settings, purpose="estimation"):
    """The noisy inputs of the first draws, by hand."""
    law = make_law(settings, eight_bit=example.eight_bit)
    rows = [law.draw(r, block_generator(0, r, law.name)).rows for r in block_requests(example, purpose, draws)]
    return law.inputs(torch.from_numpy(np.concatenate(rows)[:draws]), torch.float64)


@pytest.mark.parametrize("eight_bit", [True, False])
def test_intervals_are_the_order_statistics_and_hold_the_true_quantiles(eight_bit, tmp_path):
    """y = w x + b is normal under Gaussian noise: its quantile at x' is that at x, moved by w (x' - x)."""
    data, radius = PIXELS if eight_bit else PIXELS / 255.0, 0.1
    settings = replace(SETTINGS, dtype="float64")
    report = run(tmp_path, linear(), data, Regression(radius), settings)
    weight, bias = linear().weight.detach().numpy(), linear().bias.detach().numpy()
    ranks = quantile_ranks(600, 0.5, math.nextafter(0.5, 1.0), (0.01 - report.tables.alpha_charged) / 2 * (1 - 1e-15))
    for row, example in zip(report.examples, without_labels(data), strict=True):
        values = np.sort(linear()(drawn(example, 600, settings)).detach().numpy(), axis=0)
        for k, one in enumerate(row.outputs):
            assert (one.lower, one.upper) == (values[ranks[0] - 1, k], values[ranks[1] - 1, k])
            centre = float(weight[k] @ example.values() + bias[k])
            reach = radius * float(np.linalg.norm(weight[k]))
            assert one.lower <= centre - reach < centre + reach <= one.upper
    assert report.summary.certified == report.summary.outputs == 10
    assert report.statement.domain == ("grid" if eight_bit else "real ball")


@pytest.mark.parametrize("p", [0.3, 0.5])
def test_the_ends_fail_together_with_at_most_alpha(p):
    """Both ends of m outputs, by binomial tails at the quantiles of the ball's worst points; NaN only widens."""
    n, m, alpha, ratio = 60, 3, 0.05, 0.4
    low, high = quantile_ranks(n, p, ratio, math.nextafter(alpha / m, 0.0))
    below, above = ndtr(ndtri(p) - ratio), ndtr(ndtri(p) + ratio)
    assert m * (binom.cdf(low - 1, n, below) + binom.sf(high - 1, n, above)) <= alpha
    assert binom.cdf(low - 1, n, ndtr(ndtri(p) - 2 * ratio)) > alpha  # a mutant: half of the shift
    values = np.random.default_rng(1).normal(size=n)
    plain = interval(values, (low, high), p)
    for place in range(n):
        wrong = interval(np.where(np.arange(n) == place, np.nan, values), (low, high), p)
        assert wrong.lower is None or wrong.lower <= plain.lower
        assert wrong.upper is None or wrong.upper >= plain.upper
        assert wrong.invalid == 1


class Ratio(nn.Module):
    """Not a number for a share of the noise: infinity less infinity."""

    def forward(self, x):
        large = torch.relu(x[:, :1] - 0.9) * 3e38 * 3e38
        return large - large + x[:, 1:2]


def test_outputs_that_are_no_numbers_leave_ends_open(tmp_path):
    report = run(tmp_path, Ratio(), PIXELS / 255.0, Regression(0.05))
    ends = [(one.lower, one.upper, one.invalid) for row in report.examples for one in row.outputs]
    assert any(invalid for *_, invalid in ends)
    assert any(lower is None or upper is None for lower, upper, _ in ends)
    assert verify_report(report) == ()
    assert verify_report(document_from_json(report_to_json(report), name="r")) == ()


def test_the_kept_bits_are_the_outputs():
    for dtype, kind in (("float64", torch.float64), ("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        reading = KeptOutputs((2,), dtype)
        special = [0.0, -0.0, 1.5, -2.25, math.inf, -math.inf, math.nan, 3e-39]
        outputs = torch.tensor(special * 32, dtype=kind).reshape(128, 2)
        request = BlockRequest(Example(0, "a", 0, PIXELS[0]), "estimation", 1, 100)
        pieces = [Piece(request, 0, 50), Piece(request, 50, 78)]
        records = reading.records(outputs, pieces).reshape(2, -1).sum(dim=0).tolist()
        assert reading.refuse(records, "estimation", 100) == ""
        assert "beyond" in reading.refuse([*records[:-1], 7], "estimation", 100)
        total = np.zeros(reading.total_size("estimation", 200), dtype=np.int64)
        reading.merge(total, 1, records)
        found = reading.values(total, 256)[BLOCK_DRAWS:]
        assert np.array_equal(found[:100], outputs[:100].double().numpy(), equal_nan=True)
        assert not found[100:].any()


@pytest.mark.parametrize("options", [{"batch": 32}, {"batch": 128, "workers": 3}])
def test_a_report_is_a_function_of_its_settings(options, tmp_path):
    first = run(tmp_path / "a", linear(), PIXELS, Regression(0.1), replace(SETTINGS, dtype="float64"))
    other = run(tmp_path / "b", linear(), PIXELS, Regression(0.1), replace(SETTINGS, dtype="float64"), **options)
    near = [
        (a.lower - b.lower, a.upper - b.upper)
        for x, y in zip(first.examples, other.examples, strict=True)
        for a, b in zip(x.outputs, y.outputs, strict=True)
    ]
    assert np.abs(near).max() < 1e-12  # the last bits may depend on the shape of a forward pass
    again = run(tmp_path / "a", linear(), PIXELS, Regression(0.1), replace(SETTINGS, dtype="float64"))
    assert [x.outputs for x in again.examples] == [x.outputs for x in first.examples]


def segmenter() -> nn.Module:
    """Three classes per pixel of a 1x4x4 image: dark, middle, bright, blurred by a 3x3 window."""
    layer = nn.Conv2d(1, 3, 3, padding=1)
    with torch.no_grad():
        for k, slope in enumerate((-1.0, 0.0, 1.0)):
            layer.weight[k].fill_(slope / 9)
        layer.bias.copy_(torch.tensor([0.35, 0.0, -0.65]))
    return layer.eval()


IMAGES = np.random.default_rng(2).integers(0, 256, (3, 1, 4, 4), dtype=np.uint8) // 2 + np.array(
    [0, 60, 127], dtype=np.uint8
).reshape(3, 1, 1, 1)


def test_pixels_are_those_of_a_plain_count_and_of_holm(tmp_path):
    task, settings = Segmentation(0.75), replace(SETTINGS, dtype="float64", sigma=0.5)
    module = segmenter().double()
    report = run(tmp_path, module, IMAGES, task, settings)
    alpha = settings.alpha - report.tables.alpha_charged
    for row, example in zip(report.examples, without_labels(IMAGES), strict=True):
        with torch.no_grad():
            pilot, votes = (
                module(drawn(example, draws, settings, purpose)).argmax(1).flatten(1).numpy()
                for draws, purpose in ((100, "selection"), (600, "estimation"))
            )
        chosen = [int(np.bincount(column, minlength=3).argmax()) for column in pilot.T]
        agree = (votes == np.array(chosen)).sum(axis=0)
        assert (list(row.selected), list(row.agreements)) == (chosen, agree.tolist())
        tails, kept = [binom.sf(k - 1, 600, 0.75) for k in agree], set()
        for place, pixel in enumerate(sorted(range(16), key=lambda k: tails[k])):
            if not tails[pixel] <= alpha / (16 - place):
                break
            kept.add(pixel)
        assert {k for k, c in enumerate(row.predicted) if c is not None} == kept
        assert 0.5 * ndtri(0.75) * (1 - 1e-9) < row.radius <= 0.5 * ndtri(0.75) or (row.radius == 0.0 and not kept)
    assert 0 < report.summary.certified < report.summary.outputs == 48
    assert verify_report(report) == ()


def test_holm_on_the_counts_of_a_segmentation_fails_with_at_most_alpha():
    """Three pixels exactly at the threshold, whose votes are all equal in each draw, or independent."""
    from certify.stats import certified_by_holm

    n, tau, alpha = 9, 0.6, 0.1
    worst = sum(binom.pmf(k, n, tau) for k in range(n + 1) if certified_by_holm([k] * 3, n, tau, alpha).any())
    apart = sum(
        math.prod(binom.pmf(k, n, tau) for k in votes)
        for votes in itertools.product(range(n + 1), repeat=3)
        if certified_by_holm(list(votes), n, tau, alpha).any()
    )
    assert max(worst, apart) <= alpha


def test_an_invalid_pixel_abstains():
    reading = PixelVotes(2, (1, 2))
    logits = torch.tensor([[[[0.0, 1.0]], [[math.nan, 2.0]]]] * 128)
    request = BlockRequest(Example(0, "a", 0, PIXELS[0]), "selection", 0, 128)
    assert reading.records(logits, [Piece(request, 0, 128)]).tolist() == [0, 0, 128, 0, 128, 0]
    later = BlockRequest(request.example, "estimation", 0, 100, np.array([2, 1]))
    assert reading.records(logits, [Piece(later, 0, 128)]).tolist() == [100, 100]
    assert "votes" in reading.refuse([0, 0, 127, 0, 128, 0], "selection", 128)


def test_a_pixel_that_the_pilot_found_invalid_is_never_certified():
    """All its draws agree, and are invalid again."""
    task = segmentation_task(SETTINGS, Segmentation(0.6), shape=(2, 1, 2), law="gaussian-255", alpha=0.01)
    drawn_so = Drawn(np.array([100, 0, 0, 0, 3, 97]), np.array([600, 600]), 600, (), 0.0)
    row = task.report(Example(0, "a", -1, PIXELS[0]), drawn_so)
    assert (row.predicted, row.selected, row.agreements) == ((0, None), (0, 2), (600, 0))


@pytest.mark.parametrize("reading", [KeptOutputs((1,), "float32"), PixelVotes(2, (1,))], ids=["kept", "pixels"])
def test_draws_beyond_those_asked_for_belong_to_no_other_block(reading):
    """A short last block, and the next block behind it in the same forward pass."""
    example, choice = Example(0, "a", 0, PIXELS[0]), np.array([1])
    short, whole = (BlockRequest(example, "estimation", k, n, choice) for k, n in ((0, 44), (1, 128)))
    outputs = torch.zeros(256, *((1,) if isinstance(reading, KeptOutputs) else (2, 1)))
    outputs[44:128] = torch.nan
    outputs[128:, -1] = 3.0
    records = reading.records(outputs, [Piece(short, 0, 128), Piece(whole, 0, 128)])
    first, second = records.reshape(2, -1).tolist()
    assert not any(first)
    assert sum(second) == (128 if isinstance(reading, PixelVotes) else 128 * int(np.float32(3.0).view(np.int32)))


REPORTS = {"regression": (linear, PIXELS, Regression(0.05)), "segmentation": (segmenter, IMAGES, Segmentation(0.6))}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """One report of each task."""
    return {
        name: run(tmp_path_factory.mktemp(name), build().float(), data, task)
        for name, (build, data, task) in REPORTS.items()
    }


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_goes_through_json_views_and_verification(name, reports):
    report = reports[name]
    read = document_from_json(report_to_json(report), name="r")
    assert read == report
    assert verify_report(read) == ()
    text = " ".join(FORMATS["terminal"](report).split())
    assert f"smoothed {name}" in text
    assert "not run" in text  # the falsifier
    assert ("does not hold" in FORMATS["markdown"](report)) == (name == "regression")
    for view in ("markdown", "html"):
        assert "certified" in FORMATS[view](report)
    for view in ("csv", "tsv", "junit", "card"):
        with pytest.raises(InputError, match="terminal, json"):
            FORMATS[view](report)
    with pytest.raises(InputError, match="regression or segmentation"):
        report_from_json(report_to_json(report), name="r")


@pytest.mark.parametrize(
    ("name", "change", "where"),
    [
        ("regression", lambda row: {"outputs": (replace(row.outputs[0], invalid=600), *row.outputs[1:])}, "lower"),
        ("regression", lambda row: {"outputs": (replace(row.outputs[0], upper=-99.0), *row.outputs[1:])}, "outputs[0]"),
        ("regression", lambda row: {"radius": 0.2}, "radius"),
        ("regression", lambda row: {"n": 700}, "n"),
        ("segmentation", lambda row: {"predicted": (None, *row.predicted[1:])}, "predicted[0]"),
        ("segmentation", lambda row: {"agreements": (0, *row.agreements[1:])}, "predicted[0]"),
        ("segmentation", lambda row: {"radius": 2.0 * row.radius}, "radius"),
    ],
)
def test_what_does_not_follow_is_found(name, change, where, reports):
    report = reports[name]
    rows = (replace(report.examples[0], **change(report.examples[0])), *report.examples[1:])
    found = [finding.where for finding in verify_report(seal(replace(report, examples=rows)))]
    assert any(at.startswith("examples[0]") and at.endswith(where) for at in found), found


@pytest.mark.parametrize("name", REPORTS)
def test_places_and_sizes_are_those_of_the_selection(name, reports):
    report = reports[name]
    count = len(report.examples)
    settings, shape = report.settings, report.output_shape
    again = (*report.examples[:-1], replace(report.examples[-1], index=report.examples[0].index))
    edits = {
        f"examples[{count - 1}].index": replace(report, examples=again),
        "settings.limit": replace(report, settings=replace(settings, limit=count - 1)),
        "settings.skip": replace(report, settings=replace(settings, skip=1)),
        "tables.noise": replace(report, tables=replace(report.tables, noise="exact noise")),
        "tables.noise_law": replace(report, data=replace(report.data, eight_bit=False)),
    }
    if name == "segmentation":  # one class more
        edits["statement.text"] = replace(report, output_shape=(shape[0] + 1, *shape[1:]))
    assert count > 1
    for where, edited in edits.items():
        assert where in {finding.where for finding in verify_report(seal(edited))}


@pytest.mark.parametrize(
    ("name", "task", "change", "message"),
    [
        ("regression", Regression(-0.1), {}, "regression"),
        ("regression", Regression(0.1, quantile=1.5), {}, "regression"),
        ("regression", Regression(5.0), {}, "no end is bounded"),
        ("regression", Regression(0.1), {"noise": "uniform"}, "Gaussian"),
        ("regression", Regression(0.1), {"at": (0.1,)}, "no asked radii"),
        ("segmentation", Segmentation(0.5), {}, "above 1/2"),
        ("segmentation", Segmentation(0.75), {"n": 20}, "enough draws"),
        ("regression", Segmentation(0.75), {}, "at least two classes"),
    ],
)
def test_what_the_tasks_do_not_go_with(name, task, change, message, tmp_path):
    build, data, _ = REPORTS[name]
    with pytest.raises(InputError, match=message):
        run(tmp_path, build().float(), data, task, replace(SETTINGS, **change))


def test_inputs_that_are_none_are_refused(tmp_path):
    for data, message in (
        (PIXELS.astype(np.int64), "uint8"),
        (np.full((2, 4), np.nan), "finite"),
        (np.zeros((0, 4)), "at least one"),
        (str(tmp_path), "array of inputs"),
    ):
        with pytest.raises(InputError, match=message):
            run(tmp_path, linear(), data, Regression(0.1))
    with pytest.raises(InputError, match=r"certify\.save"):
        certify.smooth(linear(), PIXELS, SETTINGS)
    labelled = Dataset((Example(0, "a", 3, PIXELS[0]),), total=1, selection="all")
    assert [example.label for example in without_labels(labelled)] == [-1]
