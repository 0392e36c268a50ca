"""Deterministic splitting by brute force: cells found by walking to the next cut, all small images, every vote."""

import hashlib
import json
import math
import random
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from certify.results.shifts import nearest_shifts
from certify.stats.splitting import MOST_SHIFTS, cell_sums, split_offsets, split_radius, split_shifts
from tests.stats.walked_cells import LEVELS, seen, walked_cell


def sums(pixels, offsets, number):
    """The same by the code under test, for all shifts."""
    image = np.array(pixels, dtype=np.uint8)
    return list(map(tuple, cell_sums(image, np.arange(number), np.array(offsets), number, np.dtype(np.int16)).tolist()))


@pytest.mark.parametrize("number", [1, 2, 3, 7, 100, 254, 255, 256, 400])
def test_what_the_network_sees_is_the_midpoint_of_the_walked_cell(number):
    pixels = (0, 1, 9, 128, 254, 255)
    offsets = [(37 * i) % number for i in range(len(pixels))]
    found = sums(pixels, offsets, number)
    for shift in range(0, number, max(1, number // 40)):
        assert found[shift] == seen(pixels, shift, offsets, number)


@pytest.mark.parametrize("number,offset", [(1, 0), (2, 1), (3, 0), (5, 4), (8, 3), (40, 17)])
def test_an_axis_separates_two_pixels_at_exactly_as_many_shifts_as_levels_lie_between_them(number, offset):
    """All pairs of a line, also across 0: by the walked cells, min(|x - x'|, K) of K shifts."""
    line = range(-3, 24)
    cells = {x: [walked_cell(x, shift, offset, number) for shift in range(number)] for x in line}
    for x, y in product(line, repeat=2):
        apart = sum(a != b for a, b in zip(cells[x], cells[y], strict=True))
        assert apart == min(abs(x - y), number)


@pytest.mark.parametrize("number,offsets", [(3, (0, 2)), (4, (1, 1)), (7, (0, 3))])
def test_no_more_inputs_change_than_levels_lie_between_two_images(number, offsets):
    """All pairs of images of two pixels near either border; one pair of axes reaches the distance."""
    reached = 0
    for low in (0, 250):
        images = list(product(range(low, low + 6), repeat=2))
        rows = {image: sums(image, offsets, number) for image in images}
        for one, two in product(images, repeat=2):
            changed = sum(a != b for a, b in zip(rows[one], rows[two], strict=True))
            distance = sum(abs(a - b) for a, b in zip(one, two, strict=True))
            assert changed <= distance
            reached += 0 < changed == distance
    assert reached


def every_classifier(inputs, classes):
    """All functions from the inputs to classes, the last of which stands for an invalid output."""
    ordered = sorted(inputs)
    for answers in product(range(classes), repeat=len(ordered)):
        yield dict(zip(ordered, answers, strict=True))


def counts_of(rows, answer, classes):
    votes = [answer[row] for row in rows]
    return [votes.count(k) for k in range(classes)]


def certified(counts):
    """Class and exact radius in levels; the last entry is of invalid outputs, which are never certified."""
    best = max(range(len(counts) - 1), key=lambda k: counts[k])
    ahead = counts[best] - max(counts[:best] + counts[best + 1 :])
    return (best, split_radius(ahead)) if ahead > 0 else (None, 0.0)


def broken(rows, answer, classes, radius_of=certified):
    """How many pairs of images have a class certified at one that is not strictly ahead at the other, inside."""
    found = {image: counts_of(given, answer, classes) for image, given in rows.items()}
    bad = 0
    for one, two in product(rows, repeat=2):
        best, radius = radius_of(found[one])
        distance = Fraction(sum(abs(a - b) for a, b in zip(one, two, strict=True)), LEVELS)
        if best is not None and distance < Fraction(radius):
            others = [votes for k, votes in enumerate(found[two]) if k != best]
            bad += not found[two][best] > max(others)
    return bad


@pytest.mark.parametrize("number,first", [(3, 0), (4, 100), (4, 252)])
def test_every_classifier_on_a_line_keeps_its_certified_class(number, first):
    """All functions of the inputs that four neighbouring pixels give, into two classes and invalid."""
    rows = {(x,): sums((x,), (1,), number) for x in range(first, first + 4)}
    inputs = {row for given in rows.values() for row in given}
    assert all(not broken(rows, answer, 3) for answer in every_classifier(inputs, 3))


def adversarial(rows, rng, classes):
    """A classifier that answers 0 wherever one image leads and 1 at all that it does not see: as fragile as can be."""
    home = rng.choice(sorted(rows))
    inputs = {row for given in rows.values() for row in given}
    mine = set(rows[home])
    return {row: 0 if row in mine and rng.random() < 0.9 else rng.randrange(1, classes) for row in inputs}


@pytest.mark.parametrize("number,offsets", [(6, (0, 0)), (9, (2, 7)), (20, (11, 3))])
def test_no_certificate_of_a_hostile_table_breaks_on_small_images(number, offsets):
    rng = random.Random(number)
    rows = {image: sums(image, offsets, number) for image in product(range(120, 126), repeat=2)}
    issued = 0
    for _ in range(25):
        answer = adversarial(rows, rng, 4)
        assert not broken(rows, answer, 4)
        issued += sum(certified(counts_of(given, answer, 4))[0] is not None for given in rows.values())
    assert issued


def shifted(counts, extra):
    """The certificate of a wrong formula: ``extra`` halves of a level too far."""
    best, radius = certified(counts)
    return best, radius + extra / 510.0


def test_half_a_level_more_would_be_broken():
    """The border is open: with G / 2 + 1/2 levels in place of G / 2 a class is lost inside."""
    number = 4
    rows = {(x,): sums((x,), (0,), number) for x in range(100, 104)}
    inputs = {row for given in rows.values() for row in given}
    classifiers = list(every_classifier(inputs, 2))
    assert len(classifiers) >= 2**6
    pad = [{**answer} for answer in classifiers]
    assert not any(broken(rows, answer, 3) for answer in pad)
    assert any(broken(rows, answer, 3, lambda counts: shifted(counts, 1)) for answer in pad)


def test_the_radius_is_reached_by_a_threshold():
    """f asks whether a cell begins above a level: a lead of G is gone after exactly G / 2 levels."""
    number, level = 40, 120
    for x in range(level + 1, level + number // 2):
        ahead = [sum(1 if lo > level - number // 2 else -1 for lo in starts(y, number)) for y in (x, x - 1)]
        assert ahead[0] - ahead[1] == 2  # one level takes one vote, and gives it to the other class


def starts(x, number):
    return [walked_cell(x, shift, 0, number)[0] for shift in range(number)]


def test_offsets_made_of_the_image_certify_what_is_false():
    """Of one pixel every offset gives the same votes in another order; of two, offsets that follow x break the sum."""
    number, images = 6, list(product(range(100, 104), repeat=2))
    votes = {
        name: {image: sums(image, offsets_of(image), number) for image in images}
        for name, offsets_of in (("fixed", lambda _: (0, 3)), ("moving", lambda image: (0, 3 * image[0] % number)))
    }
    for name, breaks in (("fixed", False), ("moving", True)):
        home = set(votes[name][100, 100])
        answer = {row: 0 if row in home else 1 for rows in votes[name].values() for row in rows}
        assert bool(broken(votes[name], answer, 3)) == breaks


@pytest.mark.parametrize("sigma", [0.0012, 0.1, 0.25, 0.289, 0.5, 1.0, 3.7])
def test_the_number_of_shifts_is_the_nearest_integer(sigma):
    twice = 2 * split_shifts(sigma)
    square = 3 * (510 * Fraction(sigma)) ** 2 * 4
    assert (twice - 1) ** 2 <= square < (twice + 1) ** 2


@pytest.mark.parametrize("sigma", [0.0, -0.25, 1e-4, 1e6, math.inf, math.nan])
def test_a_sigma_without_shifts_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma: expected"):
        split_shifts(sigma)


def test_radii_lie_below_their_exact_value_by_less_than_one_rounding():
    for ahead in range(1, 2000):
        exact = Fraction(ahead, 510)
        assert Fraction(split_radius(ahead)) <= exact < Fraction(math.nextafter(split_radius(ahead), math.inf))
    assert split_radius(0) == split_radius(-5) == 0.0


@pytest.mark.parametrize("ahead", [True, 1.0, MOST_SHIFTS + 1, None])
def test_a_lead_that_is_no_number_of_shifts_is_refused(ahead):
    with pytest.raises(ValueError, match="ahead: expected an integer"):
        split_radius(ahead)


def test_offsets_are_those_of_their_rule():
    """Read from the rule in the documentation: four numbers of 8 bytes a SHA-256 of [seed, name, place], mod K."""
    for seed, number in ((0, 221), (7, 442), (2**40, 3)):
        texts = [json.dumps([seed, "split-255", i // 4], separators=(",", ":")) for i in range(7)]
        digests = [hashlib.sha256(text.encode()).digest()[8 * (i % 4) :][:8] for i, text in enumerate(texts)]
        expected = [int.from_bytes(digest, "little") % number for digest in digests]
        assert split_offsets(seed, 7, number).tolist() == expected
    assert nearest_shifts(-1.0) == 0
