"""Files are read whole and once, and written whole or not at all."""

import os

import pytest

from certify.errors import InputError
from certify.files import read_file_once, write_file_atomically


def test_content_comes_back_and_no_temporary_file_stays(tmp_path):
    target = tmp_path / "report.json"
    write_file_atomically(target, b"old")
    write_file_atomically(target, b"new")
    assert read_file_once(target, limit=3) == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_a_symbolic_link_is_refused_and_its_target_kept(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_bytes(b"kept")
    link.symlink_to(victim)
    with pytest.raises(InputError, match="symbolic link"):
        write_file_atomically(link, b"new")
    assert victim.read_bytes() == b"kept"


def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    target = tmp_path / "report.json"
    target.write_bytes(b"old")

    def full_disk(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match="No space left"):
        write_file_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_folders_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="folder"):
        write_file_atomically(tmp_path, b"")
    with pytest.raises(InputError, match="cannot write"):
        write_file_atomically(tmp_path / "missing" / "file", b"")


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="regular file"):
        read_file_once(tmp_path / "pipe", limit=10)


@pytest.mark.parametrize(("path", "text"), [("missing", "nothing at"), (".", "regular file"), ("a\0b", "cannot read")])
def test_what_is_no_file_is_refused(tmp_path, path, text):
    with pytest.raises(InputError, match=text):
        read_file_once(tmp_path / path, limit=10)


def test_a_file_above_the_limit_is_refused(tmp_path):
    (tmp_path / "big").write_bytes(b"12345")
    with pytest.raises(InputError, match="at most 4 bytes"):
        read_file_once(tmp_path / "big", limit=4)
