"""Runs of deterministic splitting: all shifts by hand, the same whatever the batch, workers or order, and refusals."""

import random
from dataclasses import replace as changed
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from certify import TopK
from certify.errors import InputError, NoRuleError
from certify.examples import Dataset, Example
from certify.results import Scales, SmoothingSettings
from certify.smoothing import (
    check_settings,
    law_name,
    make_law,
    make_tables,
    open_store,
    plan_procedure,
    smoothing_events,
)
from certify.smoothing.addresses import block_generator, block_requests
from certify.smoothing.placement import Placement
from certify.smoothing.splitting import certify_split
from certify.stats.splitting import split_offsets, split_radius
from tests.smoothing.toy_runs import CLASSES, SHAPE, WEIGHTS, dataset, header, run
from tests.stats.walked_cells import seen

SETTINGS = SmoothingSettings(sigma=0.25, noise="split", seed=3)
SMALL = SmoothingSettings(sigma=0.02, noise="split")


def predict(x):
    """Integer scores of the sums that a pixel stands for, with ties and invalid outputs; exact in any order."""
    sums = torch.round(x.double() * 510).flatten(1)
    scores = torch.div(sums @ torch.from_numpy(WEIGHTS.T.astype(np.float64)), 128, rounding_mode="floor")
    return torch.where((sums.sum(1, keepdim=True) % 11) == 0, torch.full_like(scores, torch.nan), scores)


def vote_by_hand(sums):
    if sum(sums) % 11 == 0:
        return CLASSES
    scores = [sum(w * s for w, s in zip(row, sums, strict=True)) // 128 for row in WEIGHTS.tolist()]
    return max(range(CLASSES), key=lambda k: (scores[k], -k))


def counts_by_hand(image, settings=SETTINGS):
    """The votes of all shifts: walked cells, plain integers, no arrays of rows, no blocks."""
    pixels = image.ravel().tolist()
    offsets = split_offsets(settings.seed, len(pixels), settings.n).tolist()
    votes = [vote_by_hand(seen(pixels, shift, offsets, settings.n)) for shift in range(settings.n)]
    return [votes.count(k) for k in range(CLASSES + 1)]


def test_every_example_has_the_votes_of_all_shifts_and_what_they_certify(tmp_path):
    data = dataset(3, seed=5)
    for example, row in zip(data, run(tmp_path, data, SETTINGS, predict), strict=True):
        votes = counts_by_hand(example.stored)
        assert list(row.counts.estimation) == votes
        assert (sum(votes), row.counts.n, row.counts.n0, sum(row.counts.selection)) == (221, 221, 0, 0)
        best = max(range(CLASSES), key=lambda k: (votes[k], -k))
        ahead = votes[best] - max(votes[:best] + votes[best + 1 :])
        assert row.predicted == (best if ahead > 0 else None)
        assert Fraction(row.radius) <= Fraction(max(ahead, 0), 510) < Fraction(np.nextafter(row.radius, 1.0))
        assert (row.norm, row.procedure) == ("l1", "fixed")


def test_batches_workers_order_and_a_second_start_change_nothing(tmp_path):
    data = dataset(3)
    first = run(tmp_path / "a", data, SETTINGS, predict)
    assert run(tmp_path / "a", data, SETTINGS, refuse_to_run) == first  # from the store, without a forward pass
    for number, options in enumerate(({"batch": 1}, {"batch": 7, "workers": 2}, {"batch": 512})):
        assert run(tmp_path / str(number), data, SETTINGS, predict, **options) == first
    turned = Dataset(tuple(reversed(data.examples)), total=len(data), selection="all")
    assert list(reversed(run(tmp_path / "turned", turned, SETTINGS, predict))) == first


def refuse_to_run(x):
    raise AssertionError("a forward pass")


def test_a_run_that_was_left_goes_on_where_it_was(tmp_path):
    data, calls = dataset(40), []  # more blocks than one burst holds

    def counting(x):
        calls.append(len(x))
        return predict(x)

    whole = run(tmp_path / "whole", data, SETTINGS, counting, batch=128)
    alone, before = len(calls), len(calls)
    with open_store(tmp_path / "left", header(data, SETTINGS)) as store:
        events = smoothing_events(
            counting, data, classes=CLASSES, settings=SETTINGS, store=store, placement=Placement(batch=128)
        )
        next(events)
        events.close()
    left = len(calls) - before
    assert run(tmp_path / "left", data, SETTINGS, counting, batch=128) == whole
    checks = alone - len(data) * 2  # of the network being a function, at either start
    assert left < alone
    assert len(calls) - before - left < alone
    assert len(calls) - before >= alone + checks


def test_the_number_of_shifts_ends_inside_a_block(tmp_path):
    """Rows behind the last shift are evaluated and not counted; blocks have fingerprints of their own."""
    example, law = dataset(1).examples[0], make_law(SETTINGS, eight_bit=True)
    requests = list(block_requests(example, "estimation", law.shifts))
    assert [request.draws for request in requests] == [128, 93]
    drawn = [law.draw(request, block_generator(0, request, law.name)) for request in requests]
    assert drawn[0].fingerprint != drawn[1].fingerprint
    pixels, offsets = example.stored.ravel().tolist(), split_offsets(3, 6, 221).tolist()
    for shift in (0, 1, 127, 128, 220):
        row = drawn[shift // 128].rows[shift % 128]
        assert tuple(row.ravel().tolist()) == seen(pixels, shift, offsets, 221)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_network_sees_the_sum_divided_by_510(dtype):
    law, sums = make_law(SETTINGS, eight_bit=True), torch.arange(-221, 732, dtype=torch.int16)
    wide = np.float64 if dtype == torch.float64 else np.float32
    expected = torch.from_numpy(np.arange(-221, 732, dtype=wide) / wide(510)).to(dtype)
    assert torch.equal(law.inputs(sums, dtype), expected)


def test_what_the_network_sees_has_the_standard_deviation_of_the_settings():
    law = make_law(SETTINGS, eight_bit=True)
    for pixel in (0, 128, 255):
        moved = np.array(inputs_of(law, (pixel,)), dtype=float) / 510 - pixel / 255
        assert abs(moved.mean()) < 1e-12
        assert abs(moved.std() / 0.25 - 1.0) < 0.005
        assert np.abs(moved).max() < law.scale


@pytest.mark.parametrize(
    "sigma,shifts,dtype", [(9.27, 8189, np.int16), (9.28, 8197, np.int32), (40.0, 35334, np.int32)]
)
def test_wide_cells_fit_their_rows(sigma, shifts, dtype):
    law = make_law(SmoothingSettings(sigma=sigma, noise="split"), eight_bit=True)
    assert (law.shifts, law.row_dtype) == (shifts, np.dtype(dtype))
    pixels, offsets = (0, 255), split_offsets(0, 2, shifts).tolist()
    image = Example(0, "", 0, np.array(pixels, dtype=np.uint8))
    for request in list(block_requests(image, "estimation", shifts))[:: shifts // 1000]:
        rows = law.draw(request, np.random.Philox()).rows
        for row in (0, 127):
            shift = (128 * request.block + row) % shifts
            assert tuple(rows[row].tolist()) == seen(pixels, shift, offsets, shifts)


def test_inputs_do_not_depend_on_the_example_beyond_its_pixels():
    law = make_law(SETTINGS, eight_bit=True)
    one = dataset(1).examples[0]
    other = changed(one, id="another name", label=2)
    rows = [law.draw(request, block_generator(9, request, law.name)).rows for request in requests_of(one, other)]
    assert np.array_equal(*rows)
    elsewhere = make_law(replace(SETTINGS, seed=4), eight_bit=True).draw(requests_of(one)[0], np.random.Philox())
    assert not np.array_equal(rows[0], elsewhere.rows)


def requests_of(*examples):
    return [next(iter(block_requests(example, "estimation", 128))) for example in examples]


@pytest.mark.parametrize(
    "votes,predicted,radius",
    [
        ([5, 4, 0], 0, split_radius(1)),
        ([4, 5, 0], 1, split_radius(1)),
        ([4, 4, 1], None, 0.0),
        ([4, 0, 4], None, 0.0),
        ([4, 0, 5], None, 0.0),
        ([9, 0, 0], 0, split_radius(9)),
        ([0, 0, 9], None, 0.0),
        ([5, 1, 3], 0, split_radius(2)),
    ],
)
def test_only_a_class_strictly_ahead_of_all_others_and_of_invalid_outputs_is_certified(votes, predicted, radius):
    found = certify_split(votes)
    assert (found.predicted, found.radius) == (predicted, radius)
    assert bool(found.reason) == (predicted is None)


def test_a_network_of_invalid_outputs_is_never_certified(tmp_path):
    rows = run(tmp_path, dataset(2), SMALL, lambda x: torch.full((len(x), CLASSES), torch.nan))
    assert {(row.predicted, row.radius, row.counts.estimation[-1]) for row in rows} == {(None, 0.0, SMALL.n)}
    assert "invalid outputs win" in rows[0].reason


def test_no_certified_class_changes_inside_its_radius_on_the_way_of_a_run():
    """A hostile table on the rows of the law itself: every pair of images of two pixels in a small square."""
    settings = SmoothingSettings(sigma=0.014, noise="split")
    law, rng = make_law(settings, eight_bit=True), random.Random(0)
    assert settings.n == 12
    rows = {image: inputs_of(law, image) for image in product(range(100, 106), repeat=2)}
    home = set(rows[102, 103])
    issued = 0
    for _ in range(20):
        table = {
            row: 0 if row in home and rng.random() < 0.95 else 1 + rng.randrange(2)
            for one in rows.values()
            for row in one
        }
        found = {
            image: certify_split([[table[row] for row in one].count(k) for k in range(4)])
            for image, one in rows.items()
        }
        for (a, here), (b, there) in product(found.items(), repeat=2):
            distance = sum(abs(x - y) for x, y in zip(a, b, strict=True))
            if here.predicted is not None and Fraction(distance, 255) < Fraction(here.radius):
                issued += distance > 0
                assert there.predicted == here.predicted
    assert issued


def inputs_of(law, image):
    example = Example(0, "", 0, np.array(image, dtype=np.uint8))
    blocks = [
        law.draw(request, np.random.Philox()).rows for request in block_requests(example, "estimation", law.shifts)
    ]
    return list(map(tuple, np.concatenate(blocks)[: law.shifts].tolist()))


def test_settings_are_those_of_the_law():
    assert (SETTINGS.n, SETTINGS.n0, SETTINGS.alpha, SETTINGS.procedure, SETTINGS.norm) == (221, 0, 0.0, "fixed", "l1")
    plain = SmoothingSettings(sigma=0.25)
    assert (plain.n, plain.n0, plain.alpha, plain.procedure) == (10_000, 128, 0.001, "planned")
    check_settings(SETTINGS)


@pytest.mark.parametrize(
    "change,words",
    [
        ({"alpha": 0.001}, "no alpha"),
        ({"n0": 128}, "no n0"),
        ({"n": 220}, "all 221 shifts"),
        ({"n": 222}, "all 221 shifts"),
        ({"price": 1e-4}, "no price"),
        ({"bound": "cpm"}, "no bound"),
        ({"at": (0.1,)}, "no asked radii"),
        ({"float_noise": True}, "no float noise"),
        ({"scores": "soft"}, "hard scores"),
        ({"task": TopK(2)}, "no task"),
        ({"scales": Scales(sha256="0" * 64, smallest=1.0, largest=1.0, geometric_mean=1.0)}, "no scales"),
        ({"sigma": 1e-5}, "sigma"),
        ({"sigma": 1e5}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_without_a_meaning_here_are_refused_by_name(change, words):
    with pytest.raises(InputError, match=words):
        check_settings(SmoothingSettings(**{"sigma": 0.25, "noise": "split"} | change))


def test_alpha_of_zero_is_for_splitting_alone():
    with pytest.raises(InputError, match="alpha inside"):
        check_settings(SmoothingSettings(sigma=0.25, alpha=0.0))


def test_data_that_are_not_8_bit_are_refused(tmp_path):
    for make in (law_name, make_law):
        with pytest.raises(InputError, match="noise split: expected 8-bit data"):
            make(SETTINGS, eight_bit=False)
    law = make_law(SETTINGS, eight_bit=True)
    example = Example(0, "floats", 0, np.zeros(SHAPE))
    with pytest.raises(InputError, match="floats: expected 8-bit pixels"):
        law.draw(requests_of(example)[0], np.random.Philox())


def test_inputs_without_offsets_are_refused():
    law = make_law(SETTINGS, eight_bit=True)
    plan_procedure(SETTINGS, classes=3, law=law, dimension=2**22)
    with pytest.raises(InputError, match="at most 4,194,304 coordinates for noise split"):
        plan_procedure(SETTINGS, classes=3, law=law, dimension=2**22 + 1)


def test_a_network_that_is_no_function_is_refused(tmp_path):
    calls = iter(range(10**6))
    with pytest.raises(NoRuleError, match="function of its input"):
        run(tmp_path, dataset(1), SMALL, lambda x: torch.roll(predict(x), next(calls), dims=1))


def test_the_tables_name_no_source_of_noise():
    law = make_law(SETTINGS, eight_bit=True)
    procedure = plan_procedure(SETTINGS, classes=3, law=law, dimension=6)
    tables = make_tables(procedure, law)
    assert (tables.noise, tables.noise_law, tables.alpha_charged, tables.plan) == (law.words, "split-255", 0.0, None)
    assert "221 shifts" in tables.noise
    assert "Philox" not in tables.noise
