"""The replay gives back what was appended, draws evenly, and survives kills, full disks and foreign directories."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mow_jax import replay as replay_module
from mow_jax.replay import Replay
from mow_jax.types import BadInput, Batch, Task

ENVS, SIZE, CHUNK = 2, 4, 7


def make_tasks(discrete: bool = True) -> list[Task]:
    return [Task(name, "toy", discrete, 3, (True,) * 3, 50, None, None) for name in ("ALE/Pong-v5", "..", "reach")]


def make_replay(directory: Path, discrete: bool = True, **changes) -> Replay:
    options = {"envs": ENVS, "image_size": SIZE, "chunk_rows": CHUNK, "capacity": 0, "seed": 1} | changes
    return Replay(directory, make_tasks(discrete), **options)


def make_rows(count: int, discrete: bool = True) -> Batch:
    """Random experience [rows, K, E, ...]."""
    random = np.random.default_rng(0)
    shape = (count, 3, ENVS)
    action = random.integers(0, 3, shape, np.int32) if discrete else random.normal(size=(*shape, 3)).astype(np.float32)
    return Batch(
        random.integers(0, 256, (*shape, SIZE, SIZE, 3), np.uint8),
        action,
        random.normal(size=shape).astype(np.float32),
        random.random(shape) < 0.3,
        random.random(shape) < 0.3,
    )


def fill(replay: Replay, rows: Batch, start: int, stop: int) -> None:
    for t in range(start, stop):
        replay.append(Batch(*(field[t] for field in rows[:5])))


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("discrete", "parallel"), [(True, 1 << 24), (False, 1 << 24), (True, 0)])
def test_windows_are_what_was_appended(tmp_path, monkeypatch, discrete, parallel):
    monkeypatch.setattr("mow_jax.replay.PARALLEL", parallel)
    rows = make_rows(3 * CHUNK + 2, discrete)
    replay = make_replay(tmp_path / "replay", discrete)
    for stored in range(1, len(rows.reward) + 1):
        fill(replay, rows, stored - 1, stored)
        length = min(stored, 2 * CHUNK + 1)  # crosses up to three chunks and ends at the row just appended
        indices = np.array([[[env, stored - length] for env in (1, 0, 1)]] * 3, np.int32)
        batch = replay.gather(indices, length)
        for got, field in zip(batch[:5], rows[:5], strict=True):
            expected = np.stack([field[stored - length : stored, :, env] for env in (1, 0, 1)])  # [B, T, K, ...]
            np.testing.assert_array_equal(got, np.moveaxis(expected, 2, 0))
            assert got.dtype == field.dtype and got.flags.c_contiguous and got.flags.writeable
    order = np.array([2, 0, 0, 1])
    dealt = replay.gather(np.array([[[0, 1]], [[1, 0]], [[1, 3]]], np.int32), 2, order)
    for got, field in zip(dealt[:5], rows[:5], strict=True):
        expected = [field[start : start + 2, task, env] for task, (env, start) in enumerate([(0, 1), (1, 0), (1, 3)])]
        np.testing.assert_array_equal(got[:, 0], np.stack(expected)[order])
    with pytest.raises(IndexError):
        replay.gather(np.array([[[0, stored - 1]]] * 3), 2)
    replay.close()


def test_indices_depend_on_names_and_rows_only_and_are_uniform(tmp_path):
    rows = make_rows(13)
    one, other = make_replay(tmp_path / "one"), make_replay(tmp_path / "other")
    fill(one, rows, 0, 13)
    one.sample(5, 4, 0, "world")  # draws leave no trace
    fill(other, rows, 0, 13)
    drawn = one.indices(6000, 4, 9, "world")
    assert drawn.shape == (3, 6000, 2) and drawn.dtype == np.int32
    np.testing.assert_array_equal(drawn, other.indices(6000, 4, 9, "world"))
    for changed in (one.indices(6000, 4, 10, "world"), one.indices(6000, 4, 9, "agent"), drawn[[1, 2, 0]]):
        assert (drawn != changed).any(axis=(1, 2)).all()
    for task in drawn:
        counts = np.zeros((ENVS, 10))  # rows 0..9 can start a window of 4
        np.add.at(counts, tuple(task.T), 1)
        assert ((counts - 300) ** 2 / 300).sum() < 44  # chi-square, 19 degrees of freedom, p = 0.001
    one.close()
    other.close()


def test_capacity_samples_the_newest_rows_and_prune_spares_them(tmp_path):
    rows, capacity = make_rows(30), 20  # shared by two streams: the newest 10 rows of each
    replay = make_replay(tmp_path / "replay", capacity=capacity)
    fill(replay, rows, 0, 30)
    starts = replay.indices(500, 4, 0, "world")[..., 1]
    assert starts.min() == 20 and starts.max() == 26
    before = replay.sample(8, 4, 3, "world")
    replay.prune(20)  # rows 14 to 20 share a chunk
    kept = sorted({path.name for path in tmp_path.rglob("*.rows")})
    assert kept == ["000002.rows", "000003.rows", "000004.rows"]
    replay.close()
    again = make_replay(tmp_path / "replay", capacity=capacity)
    again.restore({"rows": 30})
    for left, right in zip(before, again.sample(8, 4, 3, "world"), strict=True):
        np.testing.assert_array_equal(left, right)
    with pytest.raises(BadInput, match="window of 11 rows .* replay.capacity"):
        again.indices(1, 11, 0, "world")
    again.close()
    everything = make_replay(tmp_path / "replay", capacity=0)
    with pytest.raises(BadInput, match="000000.rows is missing"):
        everything.restore({"rows": 30})


@pytest.mark.parametrize("saved", [0, 3, CHUNK, 2 * CHUNK, 2 * CHUNK + 5])
def test_restored_files_equal_those_of_an_uninterrupted_run(tmp_path, saved):
    rows = make_rows(25)
    straight = make_replay(tmp_path / "straight")
    fill(straight, rows, 0, saved)
    state = json.loads(json.dumps(straight.state()))
    expected = files(tmp_path / "straight")
    fill(straight, rows, saved, 25)
    straight.close()
    killed = make_replay(tmp_path / "killed")
    fill(
        killed, Batch(*(field[::-1] for field in rows[:5])) if saved == 0 else rows, 0, 25
    )  # never closed, as if killed
    resumed = make_replay(tmp_path / "killed")
    resumed.restore(state)
    assert files(tmp_path / "killed") == expected
    fill(resumed, rows, saved, 25)
    assert files(tmp_path / "killed") == files(tmp_path / "straight")
    resumed.close()
    killed.close()


def test_appending_without_restore_starts_anew(tmp_path):
    rows = make_rows(25)
    old = make_replay(tmp_path / "replay")
    fill(old, rows, 0, 25)
    old.close()
    new = make_replay(tmp_path / "replay")
    fill(new, rows, 0, 1)
    assert {path.name for path in tmp_path.rglob("*.rows")} == {"000000.rows"}
    assert new.rows == 1
    new.close()


FULL_DISK = """
import resource, sys, numpy as np
sys.path.insert(0, sys.argv[2])
from test_replay import *
rows = make_rows(9)
replay = make_replay(sys.argv[1], chunk_rows=4)
fill(replay, rows, 0, 8)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for attempt in range(2):
    try:
        fill(replay, rows, 8, 9)
    except BadInput as error:
        print(error)
np.testing.assert_array_equal(replay.gather(np.zeros((3, 1, 2), np.int32), 8).reward[:, 0], rows.reward[:8, :, 0].T)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
fill(replay, rows, 8, 9)
np.testing.assert_array_equal(replay.gather(np.zeros((3, 1, 2), np.int32), 9).reward[:, 0], rows.reward[:9, :, 0].T)
"""


def test_full_disk_is_bad_input_and_loses_nothing(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "replay"), str(Path(__file__).parent)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("disk is full") == 2


@pytest.mark.parametrize("left", [0, 1, 17], ids=["none", "a byte", "parts of rows"])
@pytest.mark.parametrize("rows", [1, 2 * CHUNK + 3])
def test_a_resume_that_ends_while_it_makes_room_can_be_repeated(tmp_path, monkeypatch, rows, left):
    """By a quota that is full: `left` bytes of what a chunk should get are there, as after a kill at that moment."""
    data = make_rows(25)
    replay = make_replay(tmp_path / "replay")
    fill(replay, data, 0, rows)
    saved, expected = replay.state(), files(tmp_path / "replay")
    fill(replay, data, rows, 25)
    replay.close()

    def full(descriptor: int, _: int, keep: int) -> None:
        os.ftruncate(descriptor, keep + left)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(replay_module, "reserve", full)
            resumed = make_replay(tmp_path / "replay")
            with pytest.raises(BadInput, match="disk is full"):
                resumed.restore(saved)
            resumed.close()
    resumed = make_replay(tmp_path / "replay")
    resumed.restore(saved)
    assert files(tmp_path / "replay") == expected and resumed.state() == saved
    resumed.close()


def test_a_chunk_that_cannot_be_opened_closes_no_descriptor_of_somebody_else(tmp_path, monkeypatch):
    data = make_rows(CHUNK + 1)
    replay = make_replay(tmp_path / "replay")
    fill(replay, data, 0, CHUNK)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(OSError(errno.EMFILE, os.strerror(errno.EMFILE))))
        with pytest.raises(BadInput, match="too many open replay files .*ulimit -Hn") as refusal:
            fill(replay, data, CHUNK, CHUNK + 1)
        assert "chunk_rows" not in str(refusal.value), "a replay that is there keeps the length of its files"
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(9)]  # they get the number that was given back
    replay.close()
    for descriptor in others:
        os.close(descriptor)


def test_foreign_and_damaged_directories_are_bad_input(tmp_path):
    replay = make_replay(tmp_path / "replay")
    fill(replay, make_rows(CHUNK), 0, CHUNK)
    replay.close()
    with pytest.raises(BadInput, match="image_size = 4, this run has 8"):
        make_replay(tmp_path / "replay", image_size=8)
    with pytest.raises(BadInput, match="record"):
        make_replay(tmp_path / "replay", discrete=False)
    with pytest.raises(BadInput, match=r"tasks = \['ALE/Pong-v5', '..', 'reach'\]"):
        Replay(tmp_path / "replay", make_tasks()[:2], envs=2, image_size=4, chunk_rows=7, capacity=0, seed=1)
    again = make_replay(tmp_path / "replay")
    with pytest.raises(BadInput, match="000001.rows is missing or damaged"):
        again.restore({"rows": CHUNK + 1})
    os.truncate(next(tmp_path.rglob("000000.rows")), 5)
    with pytest.raises(BadInput, match="000000.rows is missing or damaged"):
        again.restore({"rows": CHUNK})
    (tmp_path / "replay" / "meta.json").write_text("{")
    with pytest.raises(BadInput, match="meta.json is damaged"):
        make_replay(tmp_path / "replay")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("precious")
    with pytest.raises(BadInput, match="thesis.txt"):
        make_replay(tmp_path / "notes")
    with pytest.raises(BadInput, match="cannot use replay directory .*Not a directory"):
        make_replay(tmp_path / "notes" / "thesis.txt" / "replay")


@pytest.mark.parametrize("left", [None, "{"])
def test_what_a_run_that_could_not_begin_has_left_binds_no_other(tmp_path, left):
    """As where an account was missing, or memory: no row, and no config.json beside."""
    make_replay(tmp_path / "replay", image_size=8, chunk_rows=3).close()
    if left:
        (tmp_path / "replay" / "meta.json").write_text(left)
    replay = make_replay(tmp_path / "replay")
    assert json.loads((tmp_path / "replay" / "meta.json").read_text())["image_size"] == SIZE
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="chunk_rows = 7, this run has 9"):
        make_replay(tmp_path / "replay", chunk_rows=9)
    (tmp_path / "config.json").unlink()
    fill(replay, make_rows(1), 0, 1)
    replay.close()
    with pytest.raises(BadInput, match="envs = 2, this run has 1"):
        make_replay(tmp_path / "replay", envs=1)


def test_processes_that_open_a_new_replay_behind_the_first_write_no_layout(tmp_path, monkeypatch):
    make_replay(tmp_path / "replay").close()
    monkeypatch.setattr(replay_module, "fsync", lambda _: pytest.fail("it is there already"))
    make_replay(tmp_path / "replay").close()
    assert {path.name for path in (tmp_path / "replay").iterdir() if path.is_file()} == {"meta.json"}


def test_more_chunks_than_the_default_limit_of_open_files(tmp_path, request):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    request.addfinalizer(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    rows = make_rows(60)
    replay = make_replay(tmp_path / "replay", chunk_rows=1)  # 6 streams x 60 chunks
    fill(replay, rows, 0, 60)
    replay.sync()
    batch = replay.gather(np.zeros((3, 1, 2), np.int32), 60)
    np.testing.assert_array_equal(batch.reward[:, 0], rows.reward[:, :, 0].T)
    replay.close()
