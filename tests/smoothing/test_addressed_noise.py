"""Randomness is addressed: equal addresses give equal noise, different ones never do."""

import hashlib

import numpy as np
import pytest

from certify.examples import Example
from certify.smoothing.addresses import BlockRequest, block_generator, block_key, block_requests
from certify.smoothing.gaussian_255 import gaussian_255
from tests.smoothing.toy_runs import dataset

IMAGE = dataset(1).examples[0]


def key(*, seed=0, example=IMAGE, purpose="estimation", block=0, law="gaussian-255"):
    return tuple(block_key(seed, BlockRequest(example, purpose, block, 128), law).tolist())


def first_words(count, seed=0):
    """Return the fingerprints of the first words of many blocks."""
    return {
        block_generator(seed, BlockRequest(IMAGE, purpose, block, 128), "gaussian-255").random_raw(2).tobytes()
        for purpose in ("selection", "estimation")
        for block in range(count)
    }


def test_the_key_is_the_sha256_of_the_json_array():
    text = f'[7,"row 0","{IMAGE.hash}","estimation",3,"gaussian-255"]'
    digest = hashlib.sha256(text.encode()).digest()
    expected = (int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little"))
    assert key(seed=7, block=3) == expected


def test_every_part_of_the_address_changes_the_key():
    other_id = Example(0, "row 9", 0, IMAGE.stored)
    other_pixels = Example(0, "row 0", 0, IMAGE.stored + np.uint8(1))
    keys = [
        key(), key(seed=1), key(seed=2**32), key(seed=-1), key(purpose="selection"), key(block=1), key(law="gaussian"),
        key(example=other_id), key(example=other_pixels),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)


def test_label_and_position_do_not_change_the_key():
    assert key() == key(example=Example(5, "row 0", 2, IMAGE.stored))


def test_seeds_that_agree_in_the_low_32_bits_give_other_noise():
    law = gaussian_255(0.25)
    request = BlockRequest(IMAGE, "estimation", 0, 128)
    rows = [law.draw(request, block_generator(seed, request, law.name)).rows for seed in (5, 5 + 2**32)]
    assert not np.array_equal(*rows)


def test_the_first_noise_rows_of_all_blocks_are_distinct():
    assert len(first_words(10_000)) == 20_000


@pytest.mark.slow
def test_the_first_noise_rows_of_a_million_blocks_are_distinct():
    assert len(first_words(500_000)) == 1_000_000


@pytest.mark.parametrize("draws, expected", [(0, []), (1, [1]), (128, [128]), (129, [128, 1]), (400, [128] * 3 + [16])])
def test_blocks_cover_exactly_the_draws(draws, expected):
    requests = list(block_requests(IMAGE, "estimation", draws))
    assert [request.draws for request in requests] == expected
    assert [request.block for request in requests] == list(range(len(expected)))
