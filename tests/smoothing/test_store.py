"""The store keeps what was written or refuses; it never gives a wrong row, and never lets two runs mix."""

import os
import random
import shutil
import signal
import sqlite3
from pathlib import Path

import msgspec
import pytest

from certify.errors import InputError, SoundnessError
from certify.results import Regression, Scales, Segmentation, SmoothingSettings, TopK
from certify.smoothing import RunHeader, earlier_runs, earlier_seeds, open_store, store_path
from certify.smoothing.blocks import COLUMNS, BlockRow, row_digest
from certify.smoothing.opening import SIDE_FILES
from tests.smoothing.toy_runs import SETTINGS, exit_code, fork

HEADER = RunHeader("model", "data", SETTINGS, 3, "gaussian-255")


def row(block=0, example='["a","00"]', purpose="estimation", counts=(100, 0, 27, 1), noise=None):
    noise = f"{example}{purpose}{block}" if noise is None else noise
    return BlockRow(example, purpose, block, sum(counts), 64, counts, 0.1 + block, noise)


ROWS = [row(block, example) for example in ('["a","00"]', '["b","11"]') for block in range(20)]


def all_rows(store):
    return [found for example in ('["a","00"]', '["b","11"]') for found in store.rows(example)]


def filled(folder, header=HEADER):
    with open_store(folder, header) as store:
        for each in ROWS:
            store.add(each)
        store.commit()
    return store_path(folder, header)


def replaced(**settings):
    return msgspec.structs.replace(SETTINGS, **settings)


def test_rows_come_back_as_they_were_written(tmp_path):
    filled(tmp_path)
    with open_store(tmp_path, HEADER) as store:
        assert all_rows(store) == ROWS
        assert store.micro_batch() == 64


def test_the_schema_is_the_published_one(tmp_path):
    with sqlite3.connect(filled(tmp_path)) as connection:
        tables = dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))
        columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(block)")]
    connection.close()
    assert set(tables) == {"header", "block"}
    assert all("STRICT" in sql for sql in tables.values())
    assert columns == ["example", "purpose", "block", "draws", "micro_batch", "counts", "seconds", "noise", "digest"]


def test_the_folder_ignores_itself(tmp_path):
    filled(tmp_path / "deep" / "cache")
    assert (tmp_path / "deep" / "cache" / ".gitignore").read_text() == "*\n"


def test_closing_drops_what_was_not_committed(tmp_path):
    with open_store(tmp_path, HEADER) as store:
        store.add(ROWS[0])
        store.commit()
        store.add(ROWS[1])
    with open_store(tmp_path, HEADER) as store:
        assert all_rows(store) == ROWS[:1]


def test_a_second_passes_and_the_rows_are_committed(tmp_path, monkeypatch):
    with open_store(tmp_path, HEADER) as store:
        store.add(ROWS[0])
        assert all_rows(store) == []
        monkeypatch.setattr("certify.smoothing.store.COMMIT_SECONDS", -1.0)
        store.add(ROWS[1])
        assert all_rows(store) == ROWS[:2]


def test_discarding_an_example_leaves_the_others(tmp_path):
    filled(tmp_path)
    with open_store(tmp_path, HEADER) as store:
        store.add(row(50, '["a","00"]'))
        store.add(row(50, '["b","11"]'))
        store.discard(['["a","00"]'])
        assert all_rows(store) == [*ROWS[20:], row(50, '["b","11"]')]


def test_every_setting_is_another_file(tmp_path):
    others = [
        HEADER,
        RunHeader("other", "data", SETTINGS, 3, "gaussian-255"),
        RunHeader("model", "other", SETTINGS, 3, "gaussian-255"),
        RunHeader("model", "data", SETTINGS, 4, "gaussian-255"),
        RunHeader("model", "data", SETTINGS, 3, "gaussian"),
        RunHeader("model", "data", SETTINGS, 3, "gaussian-255", network_sha256="other"),
        RunHeader("model", "data", SETTINGS, 3, "gaussian-255", device_kind="cuda"),
        RunHeader("model", "data", SETTINGS, 3, "gaussian-255", program="folded"),
        RunHeader("model", "data", SETTINGS, 3, "gaussian-255", torch="0"),
        RunHeader("model", "data", SETTINGS, 3, "gaussian-255", tool="0"),
        *(RunHeader("model", "data", replaced(**change), 3, "gaussian-255") for change in CHANGES),
    ]
    assert len({store_path(tmp_path, header) for header in others}) == len(others)


CHANGES = [
    {"sigma": 0.5}, {"float_noise": True}, {"n": 5}, {"n0": 5}, {"alpha": 0.01}, {"procedure": "fixed"}, {"price": 0.5},
    {"bound": "clopper-pearson"}, {"dtype": "float64"}, {"limit": 5}, {"skip": 5}, {"seed": 5}, {"at": (0.1,)},
    {"noise": "uniform"}, {"task": TopK(2)}, {"task": TopK(3)}, {"task": Regression(0.1)}, {"task": Segmentation()},
    {"scales": Scales(sha256="0", smallest=1.0, largest=1.0, geometric_mean=1.0)},
    {"scores": "soft"}, {"score_map": "softmax"}, {"temperature": 2.0}, {"compile": True}, {"channels_last": True},
]  # fmt: skip


def test_no_setting_is_missing_above():
    changed = {name for change in CHANGES for name in change}
    assert changed == set(SmoothingSettings.__struct_fields__)


def test_a_store_of_another_run_is_refused_with_the_fields_that_differ(tmp_path):
    other = RunHeader("model2", "data", replaced(seed=9, n=5), 3, "gaussian-255")
    shutil.move(filled(tmp_path), store_path(tmp_path, other))
    with pytest.raises(InputError) as caught:
        open_store(tmp_path, other)
    for words in (
        "model_sha256: model in the store, model2 asked for",
        "settings.seed: 0 in the store, 9 asked for",
        "settings.n: 700 in the store, 5 asked for",
        "--restart",
    ):
        assert words in str(caught.value)
    assert "alpha" not in str(caught.value)


def test_restart_discards(tmp_path):
    path = filled(tmp_path)
    with open_store(tmp_path, HEADER, restart=True) as store:
        assert all_rows(store) == []
    path.write_bytes(b"no database at all" * 1000)
    with open_store(tmp_path, HEADER, restart=True) as store:
        assert all_rows(store) == []


@pytest.mark.parametrize("restart", [False, True])
def test_a_second_start_is_refused_and_harms_nothing(tmp_path, restart):
    filled(tmp_path)
    with open_store(tmp_path, HEADER) as store:
        with pytest.raises(InputError, match="in use"):
            open_store(tmp_path, HEADER, restart=restart)
        assert all_rows(store) == ROWS
        store.add(row(99))
        store.commit()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("attempt", range(4))
def test_of_three_starts_at_once_one_wins(tmp_path, attempt):
    (told, tell), (finished, finish) = os.pipe(), os.pipe()

    def start():
        os.read(told, 1)
        try:
            with open_store(tmp_path, HEADER):
                os.read(finished, 1)
        except InputError as error:
            return 1 if "in use" in str(error) else 2
        return 0

    children = [fork(start) for _ in range(3)]
    os.write(tell, b"...")
    losers = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)]
    os.write(finish, b".")
    assert [*losers, os.waitstatus_to_exitcode(os.wait()[1])] == [1, 1, 0]
    assert len(children) == 3
    for end in (told, tell, finished, finish):
        os.close(end)


def test_one_noise_cannot_be_counted_twice(tmp_path):
    with open_store(tmp_path, HEADER) as store:
        store.add(row(0, noise="same"))
        store.add(row(1, noise="same"))
        with pytest.raises(SoundnessError, match="noise"):
            store.commit()
    with open_store(tmp_path, HEADER) as store:
        assert all_rows(store) == []


def test_one_block_cannot_be_written_twice(tmp_path):
    filled(tmp_path)
    with open_store(tmp_path, HEADER) as store:
        store.add(row(0, noise="other"))
        with pytest.raises(SoundnessError):
            store.commit()


@pytest.mark.parametrize("suffix", SIDE_FILES)
@pytest.mark.parametrize("dangling", [False, True])
def test_symbolic_links_are_refused(tmp_path, suffix, dangling):
    path = store_path(tmp_path, HEADER)
    target = tmp_path / "target"
    if not dangling:
        target.write_bytes(b"precious")
    path.with_name(path.name + suffix).symlink_to(target)
    for restart in (False, True):
        with pytest.raises(InputError, match="symbolic link"):
            open_store(tmp_path, HEADER, restart=restart)
    assert target.exists() != dangling


@pytest.mark.parametrize("folder", ["/proc/self", "/proc/self/cache"])
@pytest.mark.skipif(
    not Path("/proc/self").is_dir(), reason="needs a folder that even root cannot write: /proc of Linux"
)
def test_a_folder_that_cannot_be_written_is_refused(folder):
    with pytest.raises(InputError, match="expected a writable run store"):
        open_store(Path(folder), HEADER)


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(InputError, match="--store"):
        open_store(tmp_path / "cache", HEADER)


def open_rows(folder):
    """Return all rows of a store, or None when it is refused."""
    try:
        with open_store(folder, HEADER) as store:
            return all_rows(store)
    except InputError:
        return None


def flip_bits(folder, count, seed):
    """Return how many of ``count`` single-bit flips were refused; every other one must leave all rows equal."""
    chance = random.Random(seed)
    path = filled(folder)
    intact = path.read_bytes()
    refused = 0
    for _ in range(count):
        place = chance.randrange(len(intact) * 8)
        damaged = bytearray(intact)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        found = open_rows(folder)
        refused += found is None
        assert found in (None, ROWS), f"bit {place}"
        for suffix in SIDE_FILES[1:]:
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    return refused


def test_flipped_bits_are_refused_or_harmless(tmp_path):
    assert flip_bits(tmp_path, 300, seed=0) > 100


@pytest.mark.slow
def test_twenty_thousand_flipped_bits_are_refused_or_harmless(tmp_path):
    assert flip_bits(tmp_path, 20_000, seed=1) > 2_000


@pytest.mark.parametrize(
    "counts",
    ["[[0,-5],[1,133]]", "[[-1,128]]", "[[9,128]]", "[[0,128],[0,128]]", "[[1,64],[0,64]]", "[[0,127.5],[1,0.5]]",
     '[["a",128]]', "[[0,128,0]]", "[[true,128]]", "[[0,null]]", "null", "{}", "[128]", f"[[0,{2**70}]]"],
)  # fmt: skip
def test_counts_that_no_block_can_have_are_refused_behind_a_digest_that_fits(tmp_path, counts):
    """A digest anyone can compute: what is stored is read as data from a stranger."""
    path = filled(tmp_path)
    with sqlite3.connect(path) as connection:
        row = list(connection.execute(f"SELECT {', '.join(COLUMNS[:-1])} FROM block LIMIT 1").fetchone())
        row[COLUMNS.index("counts")] = counts
        connection.execute("DELETE FROM block WHERE noise = ?", (row[COLUMNS.index("noise")],))
        connection.execute(f"INSERT INTO block VALUES ({', '.join('?' * 9)})", (*row, row_digest(HEADER.digest(), row)))
    connection.close()
    with pytest.raises(InputError, match=r"block .* expected .*restart"):
        open_store(tmp_path, HEADER)


@pytest.mark.parametrize(
    "change", ["counts = '[[0,128]]'", "draws = draws + 1", "seconds = 5.0", "noise = noise || 'x'"]
)
def test_a_changed_row_is_refused(tmp_path, change):
    with sqlite3.connect(filled(tmp_path)) as connection:
        connection.execute(f"UPDATE block SET {change} WHERE block = 7 AND example LIKE '%a%'")
    connection.close()
    with pytest.raises(InputError, match="digest"):
        open_store(tmp_path, HEADER)


@pytest.mark.parametrize(
    "change", ["UPDATE header SET settings = '{}'", "DELETE FROM header", "UPDATE header SET digest = 'x'"]
)
def test_a_changed_header_is_refused(tmp_path, change):
    with sqlite3.connect(filled(tmp_path)) as connection:
        connection.execute(change)
    connection.close()
    with pytest.raises(InputError, match="header"):
        open_store(tmp_path, HEADER)


def test_rows_of_another_store_are_refused(tmp_path):
    """The digest of a row ties it to the header of its run."""
    other = RunHeader("other", "data", SETTINGS, 3, "gaussian-255")
    theirs = filled(tmp_path, other)
    with open_store(tmp_path, HEADER):
        pass
    with sqlite3.connect(store_path(tmp_path, HEADER)) as connection:
        connection.execute("ATTACH ? AS other", (str(theirs),))
        connection.execute("INSERT INTO block SELECT * FROM other.block")
    connection.close()
    with pytest.raises(InputError, match="digest"):
        open_store(tmp_path, HEADER)


def test_other_tables_are_refused(tmp_path):
    with sqlite3.connect(filled(tmp_path)) as connection:
        connection.execute("CREATE TRIGGER t AFTER INSERT ON block BEGIN DELETE FROM block; END")
    connection.close()
    with pytest.raises(InputError, match="other tables"):
        open_store(tmp_path, HEADER)


def test_a_torn_log_leaves_a_prefix_of_the_commits(tmp_path):
    """Copy the files of an open store, as a kill leaves them, and cut the log anywhere."""
    chance = random.Random(0)
    with open_store(tmp_path / "live", HEADER) as store:
        for each in ROWS:
            store.add(each)
            store.commit()
        live = store_path(tmp_path / "live", HEADER)
        files = {suffix: live.with_name(live.name + suffix) for suffix in ("", "-wal")}
        images = {suffix: file.read_bytes() for suffix, file in files.items()}
    assert len(images["-wal"]) > 100_000
    lengths = set()
    for i in range(60):
        folder = tmp_path / f"cut {i}"
        folder.mkdir()
        path = store_path(folder, HEADER)
        path.write_bytes(images[""])
        path.with_name(path.name + "-wal").write_bytes(images["-wal"][: chance.randrange(len(images["-wal"]) + 1)])
        found = open_rows(folder)
        assert found == ROWS[: len(found)]
        lengths.add(len(found))
    assert len(lengths) > 10


def write_rows(store):
    """Commit row by row until an error; return the rows that are in, and the error's text."""
    kept = []
    try:
        for each in ROWS:
            store.add(each)
            store.commit()
            kept.append(each)
    except InputError as error:
        return kept, str(error)
    return kept, ""


def test_a_full_disk_is_an_error_and_keeps_what_was_committed(tmp_path):
    outcomes = set()
    for pages in range(4, 20):
        with open_store(tmp_path / str(pages), HEADER) as store:
            store._connection.execute(f"PRAGMA max_page_count={pages}")
            kept, words = write_rows(store)
        outcomes.add(bool(words))
        assert "full" in words or len(kept) == len(ROWS)
        assert open_rows(tmp_path / str(pages)) == kept
    assert outcomes == {False, True}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_limit_on_file_size_is_an_error_and_keeps_what_was_committed(tmp_path):
    import resource

    def write_until_the_limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with open_store(tmp_path, HEADER) as store:
            resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
            return 3 if write_rows(store)[1] else 0

    assert exit_code(fork(write_until_the_limit)) == 3
    found = open_rows(tmp_path)
    assert 0 < len(found) < len(ROWS)
    assert found == ROWS[: len(found)]


def test_earlier_seeds_of_the_same_model_and_data_are_found(tmp_path):
    for seed in (4, 0, 7):
        filled(tmp_path, RunHeader("model", "data", replaced(seed=seed, n=5 + seed), 3, "gaussian-255"))
    filled(tmp_path, RunHeader("another model", "data", replaced(seed=5), 3, "gaussian-255"))
    filled(tmp_path, RunHeader("model", "other data", replaced(seed=6), 3, "gaussian-255"))
    (tmp_path / "junk.sqlite").write_bytes(b"junk")
    with open_store(tmp_path, HEADER) as store:
        assert earlier_seeds(tmp_path, store.header) == (4, 7)
    running = RunHeader("model", "data", replaced(seed=8), 3, "gaussian-255")
    with open_store(tmp_path, running):
        assert earlier_seeds(tmp_path, HEADER) == (4, 7, 8)


def test_earlier_runs_with_other_settings_are_found_and_say_what_they_had(tmp_path):
    ours = RunHeader("model", "data", replaced(seed=0, at=(0.1, 0.2), n=700), 3, "gaussian-255")
    for change in ({}, {"seed": 3}, {"limit": 5, "skip": 2}, {"n": 256}, {"at": (), "n": 900, "seed": 4}):
        filled(tmp_path, RunHeader("model", "data", replaced(**{"seed": 0, "at": (0.1, 0.2), "n": 700} | change), 3,
                                   "gaussian-255"))  # fmt: skip
    filled(tmp_path, RunHeader("model", "other data", replaced(n=5), 3, "gaussian-255"))
    assert earlier_runs(tmp_path, ours) == ("at none, n 900, seed 4", "n 256")
    smaller = RunHeader("model", "data", replaced(seed=0, at=(0.1, 0.2), n=256), 3, "gaussian-255")
    assert "n 700" in earlier_runs(tmp_path, smaller)
    assert earlier_runs(tmp_path, RunHeader("another", "data", replaced(n=5), 3, "gaussian-255")) == ()
