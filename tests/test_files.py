"""Files that appear whole or not at all: a name of the writer's own, nothing left behind, and one message."""

from __future__ import annotations

import ctypes
import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from mow_jax import files


def test_a_file_takes_its_place_only_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "a.b" / "film.long.gif"
    path.parent.mkdir()
    path.write_text("old")
    with files.whole(path) as temporary:
        temporary.write_text("ne")
        assert path.read_text() == "old" and temporary.parent == path.parent
        with files.whole(path) as another:  # by somebody else
            assert another != temporary and temporary.suffix == ".gif"
            another.write_text("older")
        temporary.write_text("new")
    assert [(found.name, found.read_text()) for found in path.parent.iterdir()] == [("film.long.gif", "new")]


@pytest.mark.parametrize("error", [ValueError("5"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_error_leaves_what_was_there(error: BaseException, tmp_path: Path):
    (tmp_path / "x").write_text("old")

    def write() -> None:
        with files.whole(tmp_path / "x") as temporary:
            temporary.write_text("ha")
            raise error

    with pytest.raises(type(error)):
        write()
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("x", "old")]


@pytest.mark.parametrize("place", ["taken", "nowhere/figure.png"])
def test_what_cannot_be_written_is_told_by_its_own_name(place: str, tmp_path: Path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError) as raised, files.whole(tmp_path / place) as temporary:
        temporary.write_text("x")
    assert raised.value.filename == str(tmp_path / place)
    assert [found.name for found in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("supported", [True, False])
def test_a_file_has_its_space_keeps_its_beginning_and_is_refused_where_there_is_no_room(
    supported, tmp_path, monkeypatch
):
    if not supported:  # as NFS before 4.2 answers

        def refuses(*_):
            ctypes.set_errno(errno.EOPNOTSUPP)
            return -1

        monkeypatch.setattr(files, "_LIBC", SimpleNamespace(fallocate=refuses))
    path = tmp_path / "rows"
    path.write_bytes(bytes(range(1, 101)))
    with path.open("r+b") as file:
        files.reserve(file.fileno(), 10_000, keep=60)
        assert path.read_bytes() == bytes(range(1, 61)) + bytes(9_940)
        with pytest.raises(OSError) as refusal:
            files.reserve(file.fileno(), 1 << 60)
    assert refusal.value.errno in (errno.ENOSPC, errno.EFBIG)
