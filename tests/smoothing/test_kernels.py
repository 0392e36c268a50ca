"""The compiled draws against numpy's, bit for bit, and their absence."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from certify.examples import Example
from certify.smoothing import kernels as kernels_module
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest, block_key
from certify.smoothing.gaussian import GaussianLaw
from certify.smoothing.gaussian_255 import gaussian_255
from certify.smoothing.integer_law import IntegerLaw
from certify.smoothing.kernels import LIBRARY, SOURCE, kernels
from certify.smoothing.noise import fill_by_rows
from certify.smoothing.two_level_table import integer_sampler
from certify.smoothing.uniform_255 import uniform_255

SHAPES = [(1,), (3,), (1, 5, 7), (3, 16, 16), (2049,)]
WIDE = integer_sampler(np.linspace(2**47, 2**62, 70_000).astype(np.int64))  # needs integers of 32 bits
WIDE_STEPS = integer_sampler(np.linspace(2**47, 2**62, 1000).astype(np.int64))
compiled = pytest.mark.skipif(kernels() is None, reason="this installation has no compiled kernels (no C compiler)")


def test_a_machine_with_a_compiler_has_kernels():
    if not (shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
        pytest.skip("no C compiler")
    if not LIBRARY.exists():
        pytest.skip("this is a tree that was not installed: pip install -e . compiles the kernels")
    assert kernels() is not None, "the kernels are of another source, or do not agree with numpy: pip install -e . anew"


def request(shape, eight_bit=True, block=0):
    rng = np.random.default_rng(len(shape))
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    pixels.flat[:1] = 255
    stored = pixels if eight_bit else rng.random(shape)
    return BlockRequest(Example(0, "a", 0, stored), "estimation", block, BLOCK_DRAWS)


def both_ways(law, asked, dtype, seed):
    """The inputs and the fingerprint of a block, compiled and by numpy."""
    key, shape = block_key(seed, asked, law.name), (BLOCK_DRAWS, *asked.example.stored.shape)
    ours, theirs = torch.full(shape, torch.nan, dtype=dtype), torch.full(shape, torch.nan, dtype=dtype)
    return (law.fill(asked, key, ours), ours), (fill_by_rows(law, asked, key, theirs), theirs)


@compiled
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("sigma", [1e-5, 0.02, 0.25, 1.0])
@pytest.mark.parametrize("law", [gaussian_255, uniform_255], ids=["gaussian", "uniform"])
def test_integer_noise_is_that_of_numpy_bit_for_bit(law, sigma, shape):
    if law is uniform_255 and sigma < 0.01:
        pytest.skip("uniform noise needs a level")
    for seed in range(2):
        ours, theirs = both_ways(law(sigma), request(shape), torch.float32, seed)
        assert ours[0] == theirs[0]
        assert torch.equal(ours[1], theirs[1])


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("eight_bit", [True, False])
def test_normal_noise_is_that_of_numpy_bit_for_bit(eight_bit, shape, dtype):
    for seed in range(2):
        ours, theirs = both_ways(GaussianLaw(0.3), request(shape, eight_bit), dtype, seed)
        assert ours[0] == theirs[0]
        assert torch.equal(ours[1], theirs[1])
        assert torch.equal(torch.signbit(ours[1]), torch.signbit(theirs[1]))


@compiled
def test_every_branch_of_the_ziggurat_agrees():
    """The tail lies beyond 3.65; a value within a layer's sure part is a multiple of its width, others are not."""
    found = kernels()
    key, zeros = np.array([1, 2], dtype=np.uint64), np.zeros(1000)
    filled = torch.zeros((2000, 1000), dtype=torch.float64)
    found.normal_inputs(key, 1.0, zeros, filled, 0)
    inputs = filled.numpy()
    expected = np.random.Generator(np.random.Philox(key=key)).standard_normal(inputs.shape)
    assert np.array_equal(inputs, expected)
    beyond = np.abs(inputs) > 3.6541528853610088
    assert 300 < beyond.sum() < 700  # 516 are expected
    steps = 2**52 * found.widths
    assert 3.65 < steps[255] < 3.66  # its right edge is where the tail begins
    assert np.all(found.sure[2:] > found.sure[1])
    assert found.sure.max() < 2**52


@compiled
def test_all_entries_open_and_no_entry_open():
    """Thresholds in every entry of the first level, many in one of them, and a law that is always zero."""
    every = (np.arange(2**16 - 1, dtype=np.int64) << 47) + 12345
    crowded = np.concatenate([2**62 + np.arange(6000, dtype=np.int64), np.array([2**63 - 2, 2**63 - 1])])
    never = np.array([0, 2**63 - 1])
    for T in (every[:30000], crowded, never, every[-30000:]):
        law = IntegerLaw("test", "", 1.0, integer_sampler(T))
        ours, theirs = both_ways(law, request((7, 11)), torch.float32, 3)
        assert ours[0] == theirs[0]
        assert torch.equal(ours[1], theirs[1])


@compiled
def test_a_draw_that_is_a_threshold_lies_above_it():
    """Every open draw of a block is made a threshold: its entry stays open, and so the draws stay the same."""
    asked, T = request((1, 5, 7)), gaussian_255(0.25).sampler.T
    law = IntegerLaw("test", "", 1.0, integer_sampler(T))
    bits, count = np.random.Philox(key=block_key(0, asked, law.name)), BLOCK_DRAWS * 35
    top = bits.random_raw(count // 4).view("<u2")
    top = top[law.sampler.table[top] == law.sampler.open_mark].astype(np.int64)
    u = (top << 47) | (bits.random_raw(len(top)) >> np.uint64(17)).astype(np.int64)
    assert len(u) > 20
    more = np.sort(np.concatenate([T, u[: len(u) // 2 * 2]]))
    tied = IntegerLaw("test", "", 1.0, integer_sampler(more))
    ours, theirs = both_ways(tied, asked, torch.float32, 0)
    assert torch.equal(ours[1], theirs[1])
    above = IntegerLaw("test", "", 1.0, integer_sampler(np.where(np.isin(more, u), more + 1, more)))
    assert not torch.equal(both_ways(above, asked, torch.float32, 0)[0][1], ours[1])


@compiled
def test_what_is_not_compiled_is_drawn_by_numpy():
    asked = request((3, 4))
    for law in (gaussian_255(0.25), IntegerLaw("wide", "", 1.0, WIDE), GaussianLaw(0.25)):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            ours, theirs = both_ways(law, asked, dtype, 0)
            assert ours[0] == theirs[0]
            assert torch.equal(ours[1], theirs[1])


@compiled
def test_memory_of_another_kind_is_never_written_to():
    """A wrong type or shape would be a wrong address."""
    found, sampler = kernels(), gaussian_255(0.25).sampler
    key, pixels, values = np.array([1, 2], dtype=np.uint64), np.zeros((3, 4), dtype=np.int16), np.zeros((3, 4))
    for inputs in (
        torch.zeros((8, 3, 5)),
        torch.zeros((8, 12)),
        torch.zeros((8, 3, 4), dtype=torch.float16),
        torch.zeros((8, 3, 8))[:, :, ::2],
        torch.zeros((8, 3, 4), device="meta"),
    ):
        with pytest.raises(ValueError, match="contiguous rows"):
            found.integer_inputs(key, sampler, pixels, inputs, 4)
        with pytest.raises(ValueError, match="contiguous rows"):
            found.normal_inputs(key, 1.0, values, inputs, 4)
    rows = torch.zeros((8, 3, 4))
    with pytest.raises(ValueError, match="int16"):
        found.integer_inputs(key, sampler, pixels.astype(np.uint8), rows, 4)
    with pytest.raises(ValueError, match="int16"):
        found.integer_inputs(key, WIDE, pixels, rows, 4)
    with pytest.raises(ValueError, match="contiguous rows"):
        found.integer_inputs(key, sampler, pixels, rows.double(), 4)
    with pytest.raises(ValueError, match="float64"):
        found.normal_inputs(key, 1.0, values.astype(np.float32), rows, 4)
    assert not rows.any()


@compiled
def test_nothing_is_written_beside_the_inputs():
    for size in (1, 3, 31, 2048, 2049):
        for dtype in (torch.float32, torch.float64):
            room = torch.full((130 * size,), 7.0, dtype=dtype)
            rows, key = room[size : 129 * size].reshape(BLOCK_DRAWS, size), np.array([5, 6], dtype=np.uint64)
            kernels().normal_inputs(key, 1.0, np.zeros(size), rows, 1)
            if dtype == torch.float32:
                kernels().integer_inputs(key, WIDE_STEPS, np.zeros(size, dtype=np.int16), rows, 1)
            assert torch.equal(room[:size], torch.full((size,), 7.0, dtype=dtype))
            assert torch.equal(room[129 * size :], torch.full((size,), 7.0, dtype=dtype))
            assert not (rows == 7.0).any()


@pytest.fixture
def fresh_kernels():
    kernels.cache_clear()
    yield
    kernels.cache_clear()


@pytest.mark.usefixtures("fresh_kernels")
def test_without_a_library_numpy_draws_the_same(monkeypatch, tmp_path):
    asked, law = request((1, 5, 7)), gaussian_255(0.25)
    key = block_key(0, asked, law.name)
    before = torch.empty((BLOCK_DRAWS, 1, 5, 7))
    law.fill(asked, key, before)
    kernels.cache_clear()
    monkeypatch.setattr(kernels_module, "LIBRARY", tmp_path / "none.so")
    assert kernels() is None
    after = torch.empty_like(before)
    law.fill(asked, key, after)
    assert torch.equal(before, after)


@compiled
@pytest.mark.usefixtures("fresh_kernels")
def test_a_library_of_another_source_is_not_used(monkeypatch, tmp_path):
    changed = tmp_path / "kernels.c"
    changed.write_text(SOURCE.read_text() + "\n")
    monkeypatch.setattr(kernels_module, "SOURCE", changed)
    kernels.cache_clear()
    assert kernels() is None


@pytest.mark.usefixtures("fresh_kernels")
@pytest.mark.parametrize("name", ["text", "empty"])
def test_a_file_that_is_no_library_is_not_used(name, monkeypatch, tmp_path):
    broken = tmp_path / "_kernels.so"
    broken.write_bytes(b"" if name == "empty" else b"no library\n" * 100)
    monkeypatch.setattr(kernels_module, "LIBRARY", broken)
    assert kernels() is None


MUTANTS = {
    "another round constant": ("0x9E3779B97F4A7C15u", "0x9E3779B97F4A7C17u"),
    "one round fewer": ("#define ROUNDS 10", "#define ROUNDS 9"),
    "open entries kept": ("opened = 0;", "opened = 0; if (size) continue;"),
    "low words from the start": ("low = (count + 3) / 4", "low = 0"),
    "multiplied by the reciprocal": ("/ 255.0f", "* (1.0f / 255.0f)"),
    "no sign": ("bits |= (word & 0x100) << 55;", ""),
    "sure part too wide": ("sure[layer] = low;", "sure[layer] = low + (low >> 12);"),
    "a word lost": ("            s.used += j;", "            s.used += j + (j < most);"),
    "half of a pixel row": ("column = (column + row) % dimension", "column = (column + row + 1) % dimension"),
}


EVERY_DAY = ("one round fewer", "a word lost")


@pytest.mark.parametrize(
    "mutant", [name if name in EVERY_DAY else pytest.param(name, marks=pytest.mark.slow) for name in MUTANTS]
)
@pytest.mark.usefixtures("fresh_kernels")
@compiled
def test_a_library_that_draws_other_numbers_is_not_used(mutant, monkeypatch, tmp_path, compile_kernels):
    """The check at the first use sees every mutant, whatever compiled it."""
    text, (old, new) = SOURCE.read_text(), MUTANTS[mutant]
    assert old in text
    changed, library = tmp_path / "kernels.c", tmp_path / "_kernels.so"
    changed.write_text(text.replace(old, new))
    assert compile_kernels(changed, library) == ""
    monkeypatch.setattr(kernels_module, "SOURCE", changed)
    monkeypatch.setattr(kernels_module, "LIBRARY", library)
    kernels.cache_clear()
    assert kernels() is None


@pytest.fixture
def compile_kernels():
    pytest.importorskip("hatchling")
    import importlib.util

    hook = Path(__file__).parents[2] / "hatch_build.py"
    found = importlib.util.spec_from_file_location("hatch_build", hook)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.compile_kernels


def test_compiling_says_what_went_wrong_and_leaves_no_library(compile_kernels, tmp_path):
    source, library = tmp_path / "kernels.c", tmp_path / "_kernels.so"
    source.write_text("this is no C\n")
    library.write_bytes(b"an older one")
    assert "error" in compile_kernels(source, library) or "no C compiler" in compile_kernels(source, library)
    assert sorted(tmp_path.iterdir()) == [source]


@compiled
def test_the_library_names_its_source():
    assert kernels().library.certify_source().decode() == hashlib.sha256(SOURCE.read_bytes()).hexdigest()
