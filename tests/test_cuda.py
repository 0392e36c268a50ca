"""What only a CUDA device can show, by `pytest -m cuda` where there is one; the slow suite runs it on a pretend one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from msgspec.structs import replace

import certify
from certify.bounds import SearchPlace, analyse
from certify.bounds.covariance.optimise import settle
from certify.bounds.covariance.place import Search
from certify.bounds.covariance.proof import prove
from certify.examples import Dataset, Example
from certify.report import rederive_noise
from certify.results import LipschitzSettings, Regression, SmoothingSettings
from certify.smoothing import RunHeader, noise_source, open_store, run_smoothing
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest
from certify.smoothing.blocks import example_key
from certify.smoothing.device_noise import DeviceNoise
from certify.smoothing.gaussian import GaussianLaw
from certify.smoothing.gaussian_255 import gaussian_255, thresholds
from certify.smoothing.uniform_255 import uniform_255
from certify.stats import success_lower, success_upper
from tests.bounds.covariance.hand_plans import PLANS
from tests.bounds.covariance.test_search_place import convolutional
from tests.pretend_device import DEVICE, KIND, choose_pretend_device, pretend_device
from tests.smoothing.test_device_noise import CLASSES, SMALL, edges, predict
from tests.smoothing.toy_runs import dataset

DOUBT = 1e-12  # that a sound device fails a test of counts, split among its numbers
REAL = pytest.param(
    "cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]
)
PRETEND = pytest.param(DEVICE, marks=pytest.mark.slow)


@pytest.fixture(params=[REAL, PRETEND])
def where(request, monkeypatch) -> Iterator[str]:
    """The device; of a pretend one the rest of the program is told, too."""
    if request.param != DEVICE:
        yield request.param
        return
    source = noise_source.NoiseSource("from a pretend device", lambda where: "a pretend generator")
    monkeypatch.setattr(noise_source, "SOURCES", {**noise_source.SOURCES, KIND: source})
    monkeypatch.setattr(rederive_noise, "SOURCES", {**rederive_noise.SOURCES, KIND: source.words})
    choose_pretend_device(monkeypatch)
    with pretend_device():
        yield request.param


def images(count: int, *shape: int) -> list[BlockRequest]:
    pixels = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    example = Example(index=0, id="a", label=0, stored=pixels)
    return [BlockRequest(example, "estimation", block, BLOCK_DRAWS) for block in range(count)]


def raw_integers(where: str, count: int, seed: int = 7) -> torch.Tensor:
    generator = torch.Generator(device=where).manual_seed(seed)
    return torch.empty(count, dtype=torch.int64, device=where).random_(generator=generator)


def plausible(count: int, draws: int, probability: float, tests: int) -> bool:
    """Whether a count is one that this probability gives, but for DOUBT over all tests."""
    alpha = DOUBT / (2 * tests)
    return success_lower(count, draws, alpha) <= probability <= success_upper(count, draws, alpha)


def test_every_one_of_63_bits_is_fair_and_so_are_neighbours(where):
    u = raw_integers(where, 2**20).cpu()
    assert int(u.min()) >= 0
    bits = [(u >> k) & 1 for k in range(63)]
    assert all(plausible(int(bit.sum()), len(u), 0.5, 63) for bit in bits)
    pairs = [bits[k] ^ bits[k + 1] for k in range(62)] + [bit[1:] ^ bit[:-1] for bit in bits]
    assert all(plausible(int(pair.sum()), len(pair), 0.5, len(pairs)) for pair in pairs)


@pytest.mark.parametrize("law", [gaussian_255(0.25), uniform_255(0.25)], ids=["gaussian", "uniform"])
def test_integer_noise_has_its_law_at_every_threshold(law, where):
    device, T = torch.device(where), law.sampler.T
    requests = images(40, 3, 32, 32)
    drawn = DeviceNoise(law, 0, device).draw(requests).rows.cpu().numpy().astype(np.int64)
    Z = np.sort((drawn - requests[0].example.stored).ravel())
    below = np.searchsorted(Z, np.arange(-law.sampler.half, law.sampler.half), side="right")
    checked = range(0, len(T), max(1, len(T) // 60))
    assert all(plausible(int(below[k]), len(Z), int(T[k]) / 2**63, len(checked)) for k in checked)


@pytest.mark.parametrize("sigma", [0.01, 0.25])
def test_integer_noise_is_that_of_the_cpu_for_the_same_bits_at_every_edge(sigma, where):
    sampler, u = gaussian_255(sigma).sampler, torch.from_numpy(edges(thresholds(sigma)))
    u = torch.cat([u, raw_integers(where, 10_000).cpu()])
    there = sampler.on_device(torch.device(where))(u.to(where)).cpu()
    assert torch.equal(there, sampler.on_device(torch.device("cpu"))(u))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_pixels_are_divided_in_one_rounding_as_on_the_cpu(dtype, where):
    law, z = gaussian_255(0.25), torch.arange(-5000, 5000, dtype=torch.int16)
    assert torch.equal(law.inputs(z.to(where), dtype).cpu(), law.inputs(z, dtype))


def test_normal_noise_is_normal_and_no_number_of_32_bits(where):
    sigma, requests = 0.5, images(20, 3, 32, 32)
    drawn = DeviceNoise(GaussianLaw(sigma), 0, torch.device(where)).draw(requests).rows.cpu().numpy()
    g = (drawn - requests[0].example.values()).ravel() / sigma
    shares = {0.0: 0.5, 1.0: 0.8413447460685429, -2.0: 0.022750131948179195, 3.0: 0.9986501019683699}
    assert all(plausible(int((g < at).sum()), len(g), share, len(shares)) for at, share in shares.items())
    assert np.mean(drawn == drawn.astype(np.float32)) < 1e-3
    assert len(np.unique(drawn.astype(np.float64))) > 0.999 * drawn.size


def test_blocks_are_functions_of_their_address_in_any_company(where):
    noise, requests = DeviceNoise(gaussian_255(0.25), 0, torch.device(where)), images(9, 2, 3)
    together = noise.draw(requests)
    apart = [noise.draw([request]) for request in reversed(requests)][::-1]
    assert torch.equal(together.rows.cpu(), torch.cat([one.rows for one in apart]).cpu())
    assert len({tuple(row) for row in together.words.cpu().tolist()}) == len(requests)
    other = DeviceNoise(gaussian_255(0.25), 1, torch.device(where)).draw(requests)
    assert not torch.equal(other.rows.cpu(), together.rows.cpu())


def run(folder, data: Dataset, where: str, classify=predict, **options):
    kind = torch.device(where).type
    source = noise_source.source_name(where)
    header = RunHeader("toy", data.sha256, SMALL, CLASSES, "gaussian-255", device_kind=kind, noise_source=source)
    with open_store(folder, header) as store:
        options = {"settings": SMALL, "device": where, "store": store} | options
        rows = [replace(row, seconds=0.0) for row in run_smoothing(classify, data, classes=CLASSES, **options)]
        sizes = {row.micro_batch for example in data for row in store.rows(example_key(example))}
    return rows, sizes


def test_runs_are_the_same_for_all_batches_and_after_an_interruption(where, tmp_path):
    data = dataset(4)
    truth, _ = run(tmp_path / "128", data, where, batch=128)
    for batch in (16, 100, 512, "auto"):
        assert run(tmp_path / str(batch), data, where, batch=batch)[0] == truth

    calls = iter(range(10))

    def killed(x: torch.Tensor) -> torch.Tensor:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return predict(x)

    with contextlib.suppress(KeyboardInterrupt):
        run(tmp_path / "killed", data, where, classify=killed, batch=64)
    assert run(tmp_path / "killed", data, where)[0] == truth


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_batch_beyond_the_memory_is_halved_until_it_fits(tmp_path):
    data = dataset(2)
    truth, _ = run(tmp_path / "128", data, "cuda", batch=128)

    def greedy(x: torch.Tensor) -> torch.Tensor:
        torch.empty((len(x), 2**24), dtype=torch.uint8, device=x.device)
        return predict(x)

    found, sizes = run(tmp_path / "greedy", data, "cuda", classify=greedy, batch=2**17)
    assert found == truth
    assert max(sizes) < 2**17


@pytest.mark.parametrize("name", PLANS)
def test_multipliers_found_on_the_device_are_proved_and_as_good(name, where):
    plan = PLANS[name]()
    here, search = Search(SearchPlace()).optimise(plan, "fast", "norm"), Search(SearchPlace(where))
    there = search.optimise(plan, "fast", "norm")
    assert search.kind == torch.device(where).type
    first, second = (prove(plan, settle(plan, multipliers)) for multipliers in (here, there))
    assert second.upper() <= 1.01 * first.upper()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_network_searched_on_the_device_gets_the_bound_of_the_cpu(norm, where):
    graph, settings = convolutional(3), LipschitzSettings(norm=norm)
    here, there = (analyse(graph, settings, pairs=True, place=SearchPlace(place)) for place in ("cpu", where))
    assert there.covariance.searched_on == torch.device(where).type
    assert there.network.upper == pytest.approx(here.network.upper, rel=0.01)


def test_the_whole_way_from_a_file_to_a_verified_report(where, tmp_path):
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(1152, 4)
    )
    certify.save(module.eval(), tmp_path / "m.safetensors", input_shape=(3, 14, 14), range=(0, 1))
    model, pixels = certify.load(tmp_path / "m.safetensors"), np.random.default_rng(0)
    stored = pixels.integers(0, 256, (4, 3, 14, 14), dtype=np.uint8)
    data = Dataset(tuple(Example(k, f"row {k}", 0, row) for k, row in enumerate(stored)), 4, "all")
    settings = SmoothingSettings(sigma=0.25, n=1000, n0=100, alpha=0.01)
    for change in ({}, {"scores": "soft"}, {"float_noise": True}, {"dtype": "bfloat16"}, {"noise": "uniform"}):
        asked, level = replace(settings, **change), "off" if torch.device(where).type == KIND else "quick"
        report = certify.smooth(model, data, asked, store=tmp_path / "runs", device="cuda", falsify=level)
        assert report.tool.device_kind == torch.device(where).type
        assert not certify.verify(report)
    outputs = certify.smooth(
        module, stored, settings, store=tmp_path / "outputs", device="cuda", task=Regression(radius=0.1)
    )
    assert not certify.verify(outputs)
    bound = certify.lipschitz(model, device="cuda", falsify="quick" if where == "cuda" else "off")
    assert bound.tool.device_kind == torch.device(where).type
