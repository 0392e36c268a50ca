"""Noise and counts on a device: the laws of the CPU, one call of fixed shape per block, one copy per micro-batch."""

from __future__ import annotations

import bisect
import contextlib
from functools import partial

import msgspec
import numpy as np
import pytest
import torch

from certify.errors import InputError, SoundnessError
from certify.examples import Dataset, Example
from certify.results import SmoothingSettings
from certify.smoothing import RunHeader, law_name, make_law, noise_source, open_store, run_smoothing
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest, block_key, block_requests
from certify.smoothing.blocks import example_key
from certify.smoothing.device_noise import DeviceNoise, block_seed
from certify.smoothing.diagonal import DiagonalLaw, diagonal_255
from certify.smoothing.gaussian import GaussianLaw
from certify.smoothing.gaussian_255 import gaussian_255, thresholds
from certify.smoothing.micro_batch import halve_micro_batch
from certify.smoothing.noise import fingerprint
from certify.smoothing.uniform import UniformLaw
from certify.smoothing.uniform_255 import uniform_255, uniform_thresholds
from tests.pretend_device import DEVICE, KIND, DeviceGenerator, PretendDevice, pretend_device
from tests.smoothing.toy_runs import CLASSES, OFFSETS, SETTINGS, SHAPE, WEIGHTS, dataset, votes_by_hand

CPU = torch.device("cpu")
CHECKS = 3  # copies to the host in the check of the generator
SMALL = msgspec.structs.replace(SETTINGS, n=400, n0=100)


@pytest.fixture
def device(monkeypatch):
    source = noise_source.NoiseSource("from a pretend device", lambda where: f"pretend Philox of {where}")
    monkeypatch.setattr(noise_source, "SOURCES", {**noise_source.SOURCES, KIND: source})
    with pretend_device() as found:
        yield found


def predict(x: torch.Tensor) -> torch.Tensor:
    """`toy_runs.predict`, with its weights where the input is."""
    weights, offsets = (torch.from_numpy(a.astype(np.float64)).to(x.device) for a in (WEIGHTS.T, OFFSETS))
    return scores(weights, offsets, x)


def scores(weights: torch.Tensor, offsets: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    z = torch.round(x.double() * 255).flatten(1)
    found = torch.div(z @ weights + offsets, 64, rounding_mode="floor")
    return torch.where((z.sum(1, keepdim=True) % 11) == 0, torch.full_like(found, torch.nan), found)


def header(data: Dataset, settings: SmoothingSettings, where: str = DEVICE) -> RunHeader:
    law, kind = law_name(settings, eight_bit=data.eight_bit), torch.device(where).type
    source = noise_source.source_name(where)
    return RunHeader("toy", data.sha256, settings, CLASSES, law, device_kind=kind, noise_source=source)


def run(folder, data, settings=SMALL, where=DEVICE, classify=predict, **options):
    with open_store(folder, header(data, settings, where)) as store:
        options = {"batch": 128, "device": where, "settings": settings} | options
        rows = list(run_smoothing(classify, data, classes=CLASSES, store=store, **options))
        return [msgspec.structs.replace(row, seconds=0.0) for row in rows]


def edges(T: np.ndarray) -> np.ndarray:
    """Where the search could err: around every threshold, and both ends."""
    near = {min(max(int(t) + step, 0), 2**63 - 1) for t in T for step in (-1, 0, 1)} | {0, 2**62, 2**63 - 1}
    return np.array(sorted(near), dtype=np.int64)


@pytest.mark.parametrize(
    "law, T",
    [(gaussian_255(0.01), thresholds(0.01)), (uniform_255(0.1), uniform_thresholds(uniform_255(0.1).sampler.half))],
    ids=["gaussian", "uniform"],
)
def test_integer_noise_is_the_count_of_thresholds_at_every_edge(law, T):
    u = edges(T)
    expected = [bisect.bisect_right(T.tolist(), int(value)) - len(T) // 2 for value in u]
    assert law.sampler.on_device(CPU)(torch.from_numpy(u)).tolist() == expected
    with pytest.raises(TypeError, match="int64"):
        law.sampler.on_device(CPU)(torch.zeros(3, dtype=torch.int32))


def test_scaled_integer_noise_has_the_thresholds_of_each_coordinate():
    sizes = np.array([0.02, 0.01, 0.02])
    law = diagonal_255(1.0, sizes)
    u = edges(thresholds(0.02))[:, None].repeat(3, axis=1)
    tables = [thresholds(size).tolist() for size in sizes]
    expected = [[bisect.bisect_right(T, int(v)) - len(T) // 2 for v, T in zip(row, tables, strict=True)] for row in u]
    assert law.sampler.on_device(CPU)(torch.from_numpy(u)).tolist() == expected


def request(example):
    return BlockRequest(example, "estimation", 0, BLOCK_DRAWS)


def test_rows_are_stored_pixels_plus_noise_in_the_integers_of_the_law():
    image = Example(index=0, id="a", label=0, stored=np.array([[0, 255]], dtype=np.uint8))
    law = gaussian_255(0.5)
    raw = torch.randint(0, 2**63 - 1, (2, BLOCK_DRAWS, 1, 2), generator=torch.Generator().manual_seed(1))
    rows = law.on_device(CPU)(raw.clone(), [request(image), request(image)])
    assert rows.dtype == torch.int16 == torch.from_numpy(np.zeros(0, law.row_dtype)).dtype
    assert torch.equal(rows.long(), law.sampler.on_device(CPU)(raw).long() + torch.tensor([[0, 255]]))
    floats = Example(index=0, id="b", label=0, stored=np.zeros((1, 2), dtype=np.float32))
    with pytest.raises(InputError, match="8-bit"):
        law.on_device(CPU)(raw, [request(floats), request(floats)])


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_float_noise_is_added_in_float64_as_on_the_cpu(sigma):
    x = Example(index=0, id="a", label=0, stored=np.array([0.1, 0.7], dtype=np.float32))
    scales = np.array([0.5, 3.0])
    normal = np.random.default_rng(0).standard_normal((1, BLOCK_DRAWS, 2))
    whole = np.random.default_rng(1).integers(0, 2**63 - 1, (1, BLOCK_DRAWS, 2), endpoint=True)
    uniform = UniformLaw(sigma)
    cases = [
        (GaussianLaw(sigma), normal, normal * sigma + x.values()),
        (DiagonalLaw(sigma, scales), normal, normal * (sigma * scales) + x.values()),
        (uniform, whole, ((whole >> 10) * 2.0**-53 * 2.0 - 1.0) * uniform.scale + x.values()),
    ]
    for law, raw, expected in cases:
        rows = law.on_device(CPU)(torch.from_numpy(raw.copy()), [request(x)])
        assert rows.dtype == torch.float64
        assert np.array_equal(rows.numpy(), expected)


def counts_by_hand(example: Example, purpose: str, draws: int) -> list[int]:
    """The counts of one example from its seeds, thresholds and pixels, in plain integers."""
    T, total = thresholds(SMALL.sigma), np.zeros(CLASSES + 1, dtype=np.int64)
    for request in block_requests(example, purpose, draws):
        bits = np.random.Philox(key=block_seed(SMALL.seed, request, "gaussian-255"))
        u = (bits.random_raw(BLOCK_DRAWS * example.stored.size) >> np.uint64(1)).astype(np.int64)
        Z = np.searchsorted(T, u, side="right") - len(T) // 2
        rows = Z.reshape(BLOCK_DRAWS, *example.stored.shape) + example.stored
        total += np.bincount(votes_by_hand(rows)[: request.draws], minlength=CLASSES + 1)
    return total.tolist()


def test_a_run_counts_what_its_seeds_say_in_calls_of_one_shape_and_one_copy_per_pass(device, tmp_path):
    data = dataset(3)
    rows = run(tmp_path, data)
    for example, row in zip(data, rows, strict=True):
        assert list(row.counts.selection) == counts_by_hand(example, "selection", SMALL.n0)
        assert list(row.counts.estimation) == counts_by_hand(example, "estimation", sum(row.counts.estimation))
    blocks = [draw for draw in device.draws if draw[2] != (64,)]  # the others are those of the check of the generator
    assert {draw[1:] for draw in blocks} == {("aten::random_", (BLOCK_DRAWS, *SHAPE))}
    assert (
        len({seed for seed, *_ in blocks})
        == len(blocks)
        == sum(1 + -(-sum(row.counts.estimation) // BLOCK_DRAWS) for row in rows)
    )


def work(device: PretendDevice, batch: int, blocks: int = 6):
    from certify.smoothing.base_network import base_network
    from certify.smoothing.shards import local_sampler
    from certify.smoothing.votes import Votes
    from certify.smoothing.work import Work

    law = make_law(SMALL, eight_bit=True)
    weights, offsets = (torch.from_numpy(a.astype(np.float64)).to(DEVICE) for a in (WEIGHTS.T, OFFSETS))
    network = base_network(partial(scores, weights, offsets), device=DEVICE, dtype="float32")
    sampler = local_sampler(Work(network, Votes(CLASSES), law, SHAPE, batch, seed=0))
    for block in range(blocks):
        sampler.push(BlockRequest(dataset(1).examples[0], "estimation", block, BLOCK_DRAWS))
    before = device.to_host
    results, waits = sampler.step(), device.waits  # the first step moves tables and checks the generator
    while not sampler.idle:
        results += sampler.step()
    sampler.close()
    return results, device.to_host - before - CHECKS, device.waits - waits


@pytest.mark.parametrize("batch", [32, 100, 128, 200, 512])
def test_blocks_are_the_same_in_any_micro_batch_with_one_copy_each_and_no_wait_on_the_way(batch, device):
    results, copies, waits = work(device, batch)
    assert (copies, waits) == (-(-6 * BLOCK_DRAWS // batch), 0)
    assert [result.request.block for result in results] == list(range(6))
    alone, *_ = work(device, BLOCK_DRAWS)
    assert [(r.counts.tolist(), r.fingerprint) for r in results] == [(r.counts.tolist(), r.fingerprint) for r in alone]
    assert len({result.fingerprint for result in results}) == 6


def test_a_seed_is_the_first_64_bits_of_the_key_on_the_cpu():
    (first, *_), blocks = dataset(1).examples, range(20)
    requests = [BlockRequest(first, purpose, k, BLOCK_DRAWS) for purpose in ("selection", "estimation") for k in blocks]
    seeds = [block_seed(3, request, "gaussian-255") for request in requests]
    assert seeds == [int(block_key(3, request, "gaussian-255")[0]) for request in requests]
    assert max(seeds) > 2**63


def test_a_block_is_recognised_by_the_first_words_of_its_randomness(device):
    (result, *_), *_ = work(device, 128)
    bits = np.random.Philox(key=block_seed(0, result.request, "gaussian-255"))
    assert result.fingerprint == fingerprint((bits.random_raw(64) >> np.uint64(1)).astype(np.int64))


def test_an_interrupted_run_goes_on_to_the_same_rows(device, tmp_path):
    data = dataset(3)
    whole = run(tmp_path / "whole", data)
    with open_store(tmp_path / "parts", header(data, SMALL)) as store:
        options = {"classes": CLASSES, "settings": SMALL, "device": DEVICE, "batch": 64}
        with contextlib.closing(run_smoothing(predict, data, store=store, **options)) as rows:
            next(rows)
    assert run(tmp_path / "parts", data, batch="auto") == whole


def test_a_device_out_of_memory_gets_half_the_batch_and_the_same_counts(device, tmp_path):
    data = dataset(3)
    whole = run(tmp_path / "whole", data)
    device.largest = 12_250  # of integers for one block, and of the thresholds; those of two blocks are too many
    assert run(tmp_path / "halved", data, batch=512) == whole
    assert device.refused >= 2
    with open_store(tmp_path / "halved", header(data, SMALL)) as store:
        sizes = {row.micro_batch for example in data for row in store.rows(example_key(example))}
    assert sizes == {128}


def test_a_device_too_small_for_the_smallest_batch_that_is_timed_gets_a_smaller_one(device, tmp_path):
    data = dataset(1)
    whole = run(tmp_path / "whole", data)
    most = 9

    def hungry(x: torch.Tensor) -> torch.Tensor:
        if len(x) > most:
            raise torch.OutOfMemoryError("too large")
        return predict(x)

    found = run(tmp_path / "small", data, classify=hungry, batch="auto")
    assert found == whole


@pytest.mark.parametrize("words", ["cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED"])
def test_errors_of_cuda_libraries_without_memory_are_of_memory(words):
    assert halve_micro_batch(64, RuntimeError(f"{words} when calling it")) == 32


def test_memory_for_not_even_one_row_is_an_error(device, tmp_path):
    device.largest = 100
    with pytest.raises(InputError, match="out of memory at one row"):
        run(tmp_path, dataset(1))


def test_counts_of_another_source_are_never_taken(device, tmp_path):
    data = dataset(2)
    there, here = run(tmp_path, data), run(tmp_path, data, where="cpu")
    assert [row.counts for row in there] != [row.counts for row in here]
    assert len(list(tmp_path.glob("*.sqlite"))) == 2
    with open_store(tmp_path, header(data, SMALL)) as store:
        (tmp_path / "other").mkdir()
        store.path.rename(tmp_path / "other" / f"{header(data, SMALL, 'cpu').digest()}.sqlite")
    with pytest.raises(InputError, match="noise_source: pretend Philox of pretend:0 in the store, numpy Philox"):
        open_store(tmp_path / "other", header(data, SMALL, "cpu"))
    wrong = msgspec.structs.replace(SMALL, seed=1)
    forged = RunHeader("toy", data.sha256, wrong, CLASSES, "gaussian-255", device_kind=KIND)
    with open_store(tmp_path, forged) as store, pytest.raises(InputError, match="noise_source"):
        next(run_smoothing(predict, data, classes=CLASSES, settings=wrong, store=store, device=DEVICE))


def test_a_generator_that_keeps_32_bits_of_a_seed_is_refused(device, monkeypatch):
    law = make_law(SMALL, eight_bit=True)
    with pytest.raises(SoundnessError, match="64-bit seeds"):
        DeviceNoise(law, 0, CPU)
    whole = DeviceGenerator.manual_seed
    monkeypatch.setattr(DeviceGenerator, "manual_seed", lambda self, seed: whole(self, seed % 2**32))
    with pytest.raises(SoundnessError, match="64-bit seeds"):
        DeviceNoise(law, 0, torch.device(DEVICE))


def test_a_device_without_a_known_source_is_refused():
    with pytest.raises(InputError, match="expected a device of kind cpu or cuda for smoothing, got 'xpu'"):
        noise_source.source_name("xpu")
