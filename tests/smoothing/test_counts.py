"""Counts are those of a plain loop, and depend on nothing but (seed, example, purpose, block)."""

import random
import threading

import numpy as np
import pytest
import torch

from certify.examples import Dataset
from certify.results import SmoothingSettings
from certify.smoothing import make_law, select_class
from certify.smoothing import sampler as sampler_module
from certify.smoothing.addresses import block_requests
from certify.smoothing.base_network import base_network
from certify.smoothing.sampler import Sampler
from certify.smoothing.votes import Votes, base_classifier
from certify.smoothing.work import Work
from tests.smoothing.toy_runs import CLASSES, SETTINGS, SHAPE, counts_by_hand, dataset, predict, run, votes_by_hand

DATA = dataset()


def sampler(micro_batch, workers=1, classify=predict):
    network = base_network(classify, device="cpu", dtype="float32")
    law = make_law(SETTINGS, eight_bit=True)
    return Sampler(Work(network, Votes(CLASSES), law, SHAPE, micro_batch, SETTINGS.seed), workers)


def evaluate(requests, micro_batch, workers=1):
    """Return the results of all requests, in the order of their completion."""
    work = sampler(micro_batch, workers)
    for request in requests:
        work.push(request)
    results = []
    while not work.idle:
        results += work.step()
    work.close()
    return {(r.request.example.id, r.request.purpose, r.request.block): r for r in results}


REQUESTS = [r for x in DATA for r in (*block_requests(x, "selection", 100), *block_requests(x, "estimation", 300))]
TRUTH = {
    (r.example.id, r.purpose, r.block): (
        np.array(counts_by_hand(r.example, r.purpose, 128 * r.block + r.draws))
        - counts_by_hand(r.example, r.purpose, 128 * r.block)
    ).tolist()
    for r in REQUESTS
}


def test_the_toy_classifier_votes_as_by_hand():
    z = np.random.default_rng(0).integers(-100, 400, (2000, *SHAPE))
    classifier = base_classifier(predict, classes=CLASSES, device="cpu", dtype="float32")
    votes = classifier.votes(torch.from_numpy(z).float() / 255).numpy()
    assert np.array_equal(votes, votes_by_hand(z))
    assert set(votes.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 7, 64, 100, 127, 128, 129, 256, 300, 511, 512])
def test_counts_equal_a_plain_loop_at_any_micro_batch(micro_batch):
    results = evaluate(REQUESTS, micro_batch)
    assert {address: result.counts.tolist() for address, result in results.items()} == TRUTH
    assert {result.micro_batch for result in results.values()} == {micro_batch}


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", range(1, 513))
def test_counts_equal_a_plain_loop_at_every_micro_batch(micro_batch):
    results = evaluate(REQUESTS, micro_batch)
    assert {address: result.counts.tolist() for address, result in results.items()} == TRUTH


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_change_nothing(workers):
    results = evaluate(REQUESTS, 96, workers)
    assert {address: result.counts.tolist() for address, result in results.items()} == TRUTH


def test_the_order_of_blocks_changes_nothing():
    shuffled = REQUESTS.copy()
    random.Random(0).shuffle(shuffled)
    results = evaluate(shuffled, 100)
    assert {address: result.counts.tolist() for address, result in results.items()} == TRUTH


def test_every_forward_pass_has_the_same_shape_and_padding_is_not_counted():
    shapes = []

    def watched(x):
        shapes.append(tuple(x.shape))
        return predict(x)

    work = sampler(100, classify=watched)
    for request in REQUESTS[:3]:
        work.push(request)
    results = []
    while not work.idle:
        results += work.step()
    assert set(shapes) == {(100, *SHAPE)}
    assert len(shapes) == -(-3 * 128 // 100)
    assert [int(result.counts.sum()) for result in results] == [request.draws for request in REQUESTS[:3]]


def test_few_blocks_are_held_at_a_time(tmp_path):
    """Memory does not grow with n: the queue never holds more than the rows of the next micro-batch and a block."""
    most = 0

    def watched(x):
        nonlocal most
        most = max(most, sum(work.queued for work in seen))
        return predict(x)

    seen = []
    original = Sampler.__post_init__

    def remember(self):
        original(self)
        seen.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "__post_init__", remember)
        run(tmp_path, dataset(1), SmoothingSettings(sigma=0.25, n=50_000, procedure="fixed"), watched, batch=64)
    assert most <= 64 + 128


@pytest.mark.parametrize("options", [{"batch": 1}, {"batch": 37}, {"batch": 512}, {"workers": 3}, {"batch": "auto"}])
def test_a_run_does_not_depend_on_how_it_is_executed(tmp_path, options):
    assert run(tmp_path / "a", DATA, **options) == run(tmp_path / "b", DATA, batch=128)


def test_a_run_gives_the_counts_of_a_plain_loop(tmp_path):
    for example, found in zip(DATA, run(tmp_path, DATA), strict=True):
        selection = counts_by_hand(example, "selection", SETTINGS.n0)
        assert list(found.counts.selection) == selection
        assert list(found.counts.estimation) == counts_by_hand(example, "estimation", found.counts.n)
        assert found.predicted in (None, select_class(selection))
        assert sum(found.counts.estimation) == found.counts.n


def test_an_example_does_not_depend_on_its_company_or_order(tmp_path):
    backwards = Dataset(DATA.examples[::-1], total=4, selection="backwards")
    alone = Dataset(DATA.examples[2:3], total=4, selection="one")
    together = run(tmp_path, DATA)
    assert run(tmp_path, backwards) == together[::-1]
    assert run(tmp_path, alone) == together[2:3]


def test_another_seed_gives_other_counts(tmp_path):
    first, second = (run(tmp_path, DATA, SmoothingSettings(sigma=0.25, n=700, seed=seed)) for seed in (1, 2**32 + 1))
    assert [x.counts.selection for x in first] != [x.counts.selection for x in second]


def test_counts_are_integers(tmp_path):
    for found in run(tmp_path, DATA):
        assert {type(votes) for votes in (*found.counts.selection, *found.counts.estimation)} == {int}


@pytest.mark.parametrize("seconds", [0.0, 1e6])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_length_of_a_burst_changes_nothing(monkeypatch, seconds, workers):
    monkeypatch.setattr(sampler_module, "BURST_SECONDS", seconds)
    results = evaluate(REQUESTS, 48, workers)
    assert {address: result.counts.tolist() for address, result in results.items()} == TRUTH


def test_a_burst_is_read_before_a_network_writes_over_its_outputs(monkeypatch):
    monkeypatch.setattr(sampler_module, "BURST_SECONDS", 1e6)
    same = torch.empty(64, CLASSES)
    work = sampler(64, classify=lambda x: same.copy_(predict(x)))
    for request in REQUESTS:
        work.push(request)
    lengths, results = [], {}
    while not work.idle:
        found = work.step()
        lengths.append(len(found))
        results |= {(r.request.example.id, r.request.purpose, r.request.block): r.counts.tolist() for r in found}
    assert max(lengths) > 2  # several forward passes were read together
    assert results == TRUTH


@pytest.mark.parametrize(("rows", "size", "burst"), [(2048, 2**22, 2048), (1000, 2**22, 960), (2048, 200, 64)])
def test_a_burst_is_bounded_in_rows_and_bytes(monkeypatch, rows, size, burst):
    monkeypatch.setattr(sampler_module, "BURST_SECONDS", 1e6)
    monkeypatch.setattr(sampler_module, "BURST_ROWS", rows)
    monkeypatch.setattr(sampler_module, "BURST_BYTES", size)
    work = sampler(64)
    assert work.wanted == 64  # the first burst is one forward pass, whose time is not known
    work.push(REQUESTS[0])
    work.step()
    assert work.wanted == burst


def test_forward_passes_of_two_workers_overlap(tmp_path):
    """The first pass of each lane waits for that of the other: were there one at a time, it would wait in vain."""
    both, seen = threading.Barrier(2, timeout=60.0), set()

    def waiting(x):
        lane = threading.get_ident()
        if threading.current_thread() is not threading.main_thread() and lane not in seen:
            seen.add(lane)
            both.wait()
        return predict(x)

    data = dataset(4)
    assert run(tmp_path / "two", data, classify=waiting, batch=128, workers=2) == run(tmp_path / "one", data, batch=128)
    assert len(seen) == 2
