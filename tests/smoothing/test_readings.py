"""Any reading goes through blocks, store and resume: here one that keeps the outputs at the place a pilot chose."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from certify.errors import InputError, NoRuleError
from certify.results import SmoothingSettings
from certify.smoothing import RunHeader, make_law, open_store
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest, block_generator, block_requests
from certify.smoothing.jobs import Job, read_example
from certify.smoothing.placement import Placement
from certify.smoothing.readings import Piece
from certify.smoothing.run import is_complete, task_events
from certify.smoothing.votes import Votes, row_slots
from tests.smoothing.toy_runs import CLASSES, SETTINGS, dataset, header

SMALL = SmoothingSettings(sigma=0.25, n=300, n0=100, procedure="fixed")
DATA = dataset(3)
LAW = make_law(SMALL, eight_bit=True)


@dataclass(frozen=True)
class Kept:
    """The pilot adds up the pixels of each coordinate; the estimation keeps those of the chosen one, draw by draw."""

    classes: int = 6
    name: str = "kept"
    aligned: bool = False

    def record_size(self, purpose):
        return self.classes if purpose == "selection" else BLOCK_DRAWS

    def total_size(self, purpose, draws):
        return self.classes if purpose == "selection" else -(-draws // BLOCK_DRAWS) * BLOCK_DRAWS

    def check(self, outputs, batch):
        assert outputs.shape == (batch, self.classes)
        return outputs

    def records(self, outputs, pieces):
        found, start = [torch.zeros(0, dtype=torch.int64)], 0
        for piece in pieces:
            rows = outputs[start : start + piece.counted].long()
            record = torch.zeros(self.record_size(piece.request.purpose), dtype=torch.int64)
            if piece.request.purpose == "selection":
                record += rows.sum(dim=0)
            else:
                record[piece.first : piece.first + piece.counted] = rows[:, piece.request.choice[0]]
            found.append(record)
            start += piece.rows
        return torch.cat(found)

    def merge(self, total, block, record):
        first = 0 if len(total) == self.classes else block * BLOCK_DRAWS
        total[first : first + len(record)] += np.array(record, dtype=np.int64)

    def refuse(self, record, purpose, draws):
        return "" if purpose == "selection" or not any(record[draws:]) else "expected nothing beyond the draws"

    def agree(self, first, second):
        return torch.equal(first, second)


@dataclass(frozen=True)
class KeepLargest:
    """The coordinate with the largest pilot sum, and twice as many draws where that is odd; the row is all of it."""

    settings: SmoothingSettings = SMALL
    reading: Kept = Kept()
    first_draws: int = 300
    sequential: bool = False

    def choose(self, pilot):
        return np.array([int(pilot.argmax())])

    def look(self, choice, estimation):
        return 0

    def draws_after(self, pilot, looks):
        return 300 if self.choose(pilot)[0] % 2 else 150

    def report(self, example, drawn):
        return (example.id, drawn.pilot.tolist(), drawn.estimation.tolist(), drawn.n)


def pixels(x):
    return torch.round(x.double() * 255).flatten(1)


def noisy(example, purpose, draws):
    """The integer pixels of the first draws, by hand."""
    requests = block_requests(example, purpose, draws)
    rows = [LAW.draw(request, block_generator(0, request, LAW.name)).rows for request in requests]
    return np.concatenate(rows).reshape(-1, 6)[:draws].astype(np.int64)


def by_hand(example):
    pilot = noisy(example, "selection", SMALL.n0).sum(axis=0)
    n = 300 if pilot.argmax() % 2 else 150
    kept = np.zeros(-(-n // BLOCK_DRAWS) * BLOCK_DRAWS, dtype=np.int64)
    kept[:n] = noisy(example, "estimation", n)[:, pilot.argmax()]
    return (example.id, pilot.tolist(), kept.tolist(), n)


def kept_header(reading="kept"):
    return RunHeader("toy", DATA.sha256, SMALL, 6, LAW.name, reading=reading)


def events(store, network=pixels, **options):
    return list(task_events(network, DATA, KeepLargest(), LAW, store=store, placement=Placement(**options)))


@pytest.mark.parametrize("options", [{"batch": 1}, {"batch": 100, "workers": 3}, {"batch": 512}, {"batch": "auto"}])
def test_a_run_with_another_reading_gives_what_a_plain_loop_gives(tmp_path, options):
    with open_store(tmp_path, kept_header(), reading=Kept()) as store:
        rows = [row for row in events(store, **options) if isinstance(row, tuple)]
        assert rows == [by_hand(example) for example in DATA]
        assert {row[3] for row in rows} == {150, 300}
        assert is_complete(store, DATA, KeepLargest())


def test_a_store_is_read_back_without_a_forward_pass(tmp_path):
    with open_store(tmp_path, kept_header(), reading=Kept()) as store:
        before = events(store, batch=64)

    def never(x):
        raise AssertionError

    with open_store(tmp_path, kept_header(), reading=Kept()) as store:
        assert [row for row in events(store, never) if isinstance(row, tuple)] == [
            row for row in before if isinstance(row, tuple)
        ]


def test_blocks_in_any_order_give_one_total(tmp_path):
    with open_store(tmp_path, kept_header(), reading=Kept()) as store:
        events(store, batch=64)
        for example in DATA:
            rows = store.rows(json.dumps([example.id, example.hash], separators=(",", ":")))
            shuffled = rows.copy()
            random.Random(1).shuffle(shuffled)
            assert Job(example, KeepLargest(), shuffled).done
            assert read_example(example, KeepLargest(), rows) == by_hand(example)


def test_a_store_opened_for_another_reading_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a header for reading kept, got one for other"):
        open_store(tmp_path, kept_header("other"), reading=Kept())
    with (
        open_store(tmp_path, header(DATA, SMALL)) as store,
        pytest.raises(InputError, match="store opened for classes 6"),
    ):
        events(store)


def test_an_aligned_reading_is_evaluated_in_parts_of_blocks(tmp_path):
    aligned = KeepLargest(reading=Kept(aligned=True))
    with open_store(tmp_path, kept_header(), reading=Kept()) as store:
        with pytest.raises(InputError, match="expected a batch that divides 128"):
            task_events(pixels, DATA, aligned, LAW, store=store, placement=Placement(batch=96))
        list(task_events(pixels, DATA, aligned, LAW, store=store))
        assert store.micro_batch() == BLOCK_DRAWS


def test_a_wrong_record_in_the_store_is_refused(tmp_path):
    class Suspicious(Kept):
        def refuse(self, record, purpose, draws):
            return "expected another record, got this"

    with open_store(tmp_path, kept_header(), reading=Kept()) as store:
        events(store, batch=64)
    with pytest.raises(InputError, match="expected another record, got this"):
        open_store(tmp_path, kept_header(), reading=Suspicious())


def test_outputs_that_do_not_read_the_same_twice_are_refused(tmp_path):
    def drifting(x, calls=[0]):  # noqa: B006 - the state under test
        calls[0] += 1
        return pixels(x) + calls[0]

    with (
        open_store(tmp_path, kept_header(), reading=Kept()) as store,
        pytest.raises(NoRuleError, match="evaluated twice"),
    ):
        events(store, drifting)


def test_the_header_of_votes_is_what_it_was_before_there_were_other_readings():
    plain = json.loads(header(DATA, SETTINGS).text())
    assert "reading" not in plain
    assert json.loads(kept_header().text())["reading"] == "kept"


def test_votes_of_pieces_are_those_of_their_rows():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, CLASSES, generator=generator)
    logits[3] = torch.nan
    asked = [BlockRequest(DATA.examples[0], "estimation", block, draws) for block, draws in ((0, 20), (1, 128))]
    pieces = [Piece(asked[0], 10, 15), Piece(asked[1], 0, 12)]
    counts = Votes(CLASSES).records(logits, pieces).view(2, CLASSES + 1)
    for found, rows in zip(counts, (range(10), range(15, 27)), strict=True):
        votes = [CLASSES if k == 3 else int(logits[k].argmax()) for k in rows]
        assert found.tolist() == np.bincount(votes, minlength=CLASSES + 1).tolist()
    assert row_slots(pieces, 40).tolist() == [0] * 10 + [2] * 5 + [1] * 12 + [2] * 13
