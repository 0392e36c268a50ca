"""Every rule of the safetensors format has a file that breaks it, and the library agrees on the sound ones."""

import math
import struct

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from certify.errors import CertifyError, InputError
from certify.loading.safetensors_rules import DTYPES, check_safetensors
from tests.loading.safetensors_cases import BROKEN, ONE, SOUND, STARRED, floats, pack


@pytest.mark.parametrize(("data", "text"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_each_rule_refuses_its_file(data, text):
    with pytest.raises(InputError, match=text) as caught:
        check_safetensors(data, name="model.safetensors")
    assert "model.safetensors" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", STARRED)
def test_the_library_alone_would_accept_the_starred_ones(name):
    data = next(case[1] for case in BROKEN if case[0] == name)
    safetensors.deserialize(data)


@pytest.mark.parametrize("data", [case[1] for case in SOUND], ids=[case[0] for case in SOUND])
def test_sound_files_pass_here_and_in_the_library(data):
    header = check_safetensors(data, name="file")
    assert {name for name, _ in safetensors.deserialize(data)} == set(header.entries)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_exponent_mask_finds_exactly_what_torch_calls_not_finite(dtype):
    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    if dtype not in kinds:
        assert DTYPES[dtype][1] == 0
        return
    width = np.dtype(DTYPES[dtype][0]).itemsize
    patterns = np.random.default_rng(0).integers(0, 256, (4000, width), dtype=np.uint8)
    patterns[: len(patterns) // 2, -2:] |= 0x7C  # half of them near the largest exponents
    finite = torch.frombuffer(bytearray(patterns.tobytes()), dtype=kinds[dtype]).isfinite()
    assert 0 < int(finite.sum()) < len(patterns)
    for row, expected in zip(patterns, finite.tolist(), strict=True):
        data = pack({"a": {"dtype": dtype, "shape": [1], "data_offsets": [0, width]}}, row.tobytes())
        try:
            check_safetensors(data, name="file")
        except InputError:
            assert not expected
        else:
            assert expected


def test_a_boolean_header_length_is_no_number_of_bytes():
    with pytest.raises(InputError):
        check_safetensors(pack({"a": {"dtype": "F32", "shape": [1], "data_offsets": [False, 4]}}, ONE), name="file")


_SEED = pack(
    {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "b": {"dtype": "BOOL", "shape": [3], "data_offsets": [8, 11]},
    },
    struct.pack("<ff", 1.0, 2.0) + b"\0\1\0",
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(_SEED) - 1), st.integers(0, 255)), max_size=4), st.integers(0, 20))
def test_mutated_files_give_our_errors_only(changes, cut):
    data = bytearray(_SEED)
    for position, value in changes:
        data[position] = value
    mutated = bytes(data[: len(data) - cut])
    try:
        header = check_safetensors(mutated, name="file")
    except CertifyError:
        return
    for name, entry in header.entries.items():
        assert math.prod(entry.shape) == entry.stored(mutated).size, name


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64))
def test_random_headers_give_our_errors_only(raw):
    try:
        check_safetensors(pack(raw), name="file")
    except CertifyError:
        return
    try:
        safetensors.deserialize(pack(raw))
    except SafetensorError:
        assert raw[:1] != b"{"  # the library wants the brace first; the reader turns its refusal into ours


def test_stored_values_are_read_in_place():
    data = floats(1.0, -2.5)
    entry = check_safetensors(data, name="file").entries["a"]
    assert entry.stored(data).view("<f4").tolist() == [1.0, -2.5]
