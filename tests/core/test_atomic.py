"""Files that are there whole or not at all, under one name and under two."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from renaissance.core.atomic import AtomicFile, link_or_copy, write_whole
from renaissance.core.errors import UserError


def refuse(number: int):
    def call(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return call


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A complete source, and a target with other content."""
    source, target = tmp_path / "best", tmp_path / "last"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    return source, target


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    "number, sentence",
    [(errno.EDQUOT, "There is no room left .*; it is as it was"), (errno.EROFS, "cannot be written")],
)
def test_what_cannot_be_finished_leaves_the_old_file(files, monkeypatch, call, number, sentence):
    _, target = files
    monkeypatch.setattr(os, call, refuse(number))
    with pytest.raises(UserError, match=rf"{sentence}.*give another log_dir\.$"):
        write_whole(target, b"new", "log_dir")
    monkeypatch.undo()
    assert target.read_bytes() == b"old" and sorted(os.listdir(target.parent)) == ["best", "last"]


def test_a_folder_that_cannot_be_made_is_said_with_the_reason_and_the_setting(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", refuse(errno.EROFS))
    with pytest.raises(UserError, match=r"new/a' cannot be written \(Read-only file system\); give another output\.$"):
        write_whole(tmp_path / "new" / "a", b"", "output")


def test_the_error_that_a_library_makes_of_a_refusal_gives_way_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    # "it is as it was" is said of a file that was there alone
    whole = r"^There is no room left for '\S*a' \(\D+\)\. Free space, or give another data_root\.$"
    with pytest.raises(UserError, match=whole), AtomicFile(tmp_path / "a", "data_root") as file:
        try:
            file.commit()
        except UserError:
            raise RuntimeError("unexpected position") from None
    with pytest.raises(RuntimeError, match="of its own"), AtomicFile(tmp_path / "a", "data_root"):
        raise RuntimeError("of its own")
    assert not os.listdir(tmp_path)


def test_without_locks_two_writers_of_one_file_do_not_mix(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", refuse(errno.ENOLCK))
    with AtomicFile(tmp_path / "a", "data_root") as first, AtomicFile(tmp_path / "a", "data_root") as second:
        second.write(b"second")
        first.write(b"1st")
        first.commit()
        assert (tmp_path / "a").read_bytes() == b"1st"
        second.commit()
    assert (tmp_path / "a").read_bytes() == b"second"
    with pytest.raises(RuntimeError, match="of its own"), AtomicFile(tmp_path / "a", "data_root"):
        raise RuntimeError("of its own")
    assert os.listdir(tmp_path) == ["a"]


def test_a_second_name_is_a_link_and_a_copy_where_there_are_none(files, monkeypatch):
    source, target = files
    for _ in range(2):  # the second time, both are names of one file already, which rename leaves as they are
        link_or_copy(source, target, "log_dir")
        assert target.samefile(source) and sorted(os.listdir(target.parent)) == ["best", "last"]
    write_whole(source, b"newer", "log_dir")
    assert target.read_bytes() == b"new"  # writing one name does not change the other

    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    link_or_copy(source, target, "log_dir")
    assert target.read_bytes() == b"newer" and not target.samefile(source)
    monkeypatch.setattr(os, "replace", refuse(errno.EROFS))
    source.write_bytes(b"newest")
    with pytest.raises(UserError, match="last' cannot be written"):
        link_or_copy(source, target, "log_dir")
    assert target.read_bytes() == b"newer" and sorted(os.listdir(target.parent)) == ["best", "last"]
