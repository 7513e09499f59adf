"""A checkpoint comes back bit for bit, whatever happened to newer ones, and nothing lost is passed over in silence."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from mow_jax import checkpoint, locks
from mow_jax.checkpoint import Checkpoints
from mow_jax.types import BadInput


class State(NamedTuple):
    params: Any
    moments: Any
    step: Any


def make_state(seed: int) -> State:
    random = np.random.default_rng(seed)
    everywhere = jax.sharding.NamedSharding(jax.make_mesh((jax.device_count(),), ("d",)), jax.sharding.PartitionSpec())
    params = {
        "kernel": jax.device_put(random.normal(size=(5, 7)).astype(np.float32), everywhere),
        "half": jnp.asarray(random.normal(size=3), jnp.bfloat16),
        "none": {},
        "empty": jnp.zeros((4, 0)),
    }
    return State(params, (np.arange(4, dtype=np.uint8), None, np.bool_(True)), np.int32(seed))


def make_host(seed: int) -> dict:
    random = np.random.default_rng(seed)
    envs = [{"ram": random.integers(0, 256, (3, 2), np.uint8), "text": "x"}, {"ram": np.array(2.5), "on": True}]
    return {"fraction": 0.1 + 0.2, "none": None, "envs": envs, "big": 2**80, "infinite": float("inf")}


def assert_same(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if not hasattr(one, "dtype"):
            assert (type(one), one) == (type(other), other)
            continue
        one, other = np.asarray(one), np.asarray(other)
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def make_checkpoints(directory: Path, *steps: int) -> Checkpoints:
    checkpoints = Checkpoints(directory, keep=5)
    for step in steps:
        checkpoints.save(step, make_state(step), make_host(step))
    return checkpoints


def test_what_comes_back_is_what_went_in(tmp_path, capfd):
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)  # as under absl.app
    checkpoints = make_checkpoints(tmp_path, 3, 20)
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), make_state(3))
    for step, like in ((3, make_state(0)), (20, abstract), (None, abstract)):
        found, arrays, [host] = checkpoints.load(step, like)
        assert found == (step or 20)
        assert_same(arrays, make_state(found))
        assert_same(host, make_host(found))
        assert json.dumps(list(host)) == json.dumps(list(make_host(found)))  # order is kept
    logging.set_verbosity(verbosity)
    assert capfd.readouterr() == ("", "")


def test_digest_is_a_function_of_the_contents(tmp_path):
    digests = []
    for name, seed, host_seed in (("a", 1, 1), ("b", 1, 1), ("c", 2, 1), ("d", 1, 2)):
        Checkpoints(tmp_path / name, keep=1).save(7, make_state(seed), make_host(host_seed))
        digests.append(json.loads((tmp_path / name / "7" / "manifest.json").read_text())["digest"])
    assert digests[0] == digests[1] and len(set(digests)) == 3
    for name, seconds in (("e", 20.5), ("f", 31.0)):  # equal runs take their own time
        Checkpoints(tmp_path / name, keep=1).save(7, make_state(1), make_host(1) | {checkpoint.SECONDS: seconds})
        assert json.loads((tmp_path / name / "7" / "manifest.json").read_text())["digest"] == digests[0]
        assert Checkpoints(tmp_path / name, keep=1).load(7, make_state(0))[2][0][checkpoint.SECONDS] == seconds


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip, halve, Path.unlink])
def test_any_damaged_file_of_the_newest_leads_to_the_one_before(tmp_path, capsys, damage):
    make_checkpoints(tmp_path / "good", 3, 20)
    names = [path.relative_to(tmp_path / "good") for path in (tmp_path / "good" / "20").rglob("*") if path.is_file()]
    assert len(names) > 5
    for index, name in enumerate(names):
        directory = tmp_path / str(index)
        shutil.copytree(tmp_path / "good", directory)
        if damage is not Path.unlink and not (directory / name).stat().st_size:
            continue
        damage(directory / name)
        checkpoints = Checkpoints(directory, keep=5)
        with pytest.raises(BadInput, match="damaged"):
            checkpoints.load(20, make_state(0))
        step, arrays, [host] = checkpoints.load(None, make_state(0))
        assert step == 3
        assert_same((arrays, host), (make_state(3), make_host(3)))
        message = capsys.readouterr().err
        assert "checkpoint 20 is damaged" in message and name.name in message
        assert sorted(path.name for path in directory.iterdir()) == ["20", "3"]  # who only reads moves nothing
        assert checkpoints.newest(set_aside=True) == 3
        assert "damaged-20-1, using the one before" in capsys.readouterr().err
        assert sorted(path.name for path in directory.iterdir()) == ["3", "damaged-20-1"]


@pytest.mark.parametrize("manifest", [True, False])
def test_a_file_that_cannot_be_read_for_now_is_no_damage(manifest, tmp_path, monkeypatch):
    """A network's file system may refuse for a moment: the newest checkpoint must not be given up for that."""
    checkpoints = make_checkpoints(tmp_path, 3, 20)
    read = Path.open

    def refuse(path, *args, **options):
        if "20" in path.parts and (path.name == "manifest.json") is manifest:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadInput, match="cannot be read now .*run the same command again.* move .*/20 away to go on"):
        checkpoints.newest(set_aside=True)
    shutil.rmtree(tmp_path / "3")
    with pytest.raises(BadInput, match="restore .*/20 from a copy$"):  # without it a run could only begin anew
        checkpoints.newest(set_aside=True)
    monkeypatch.undo()
    assert checkpoints.newest(set_aside=True) == 20


def test_empty_directory_is_no_checkpoint_and_nothing_valid_is_bad_input(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    with pytest.raises(FileNotFoundError):
        checkpoints.load(None, make_state(0))
    checkpoints.save(5, make_state(5), {})
    (tmp_path / "checkpoints" / "7").mkdir()
    assert checkpoints.steps() == [5]
    assert checkpoints.newest(set_aside=True) == 5
    (tmp_path / "checkpoints" / "5" / "manifest.json").write_text("[]")
    for _ in range(2):  # stays so: a run must not start anew over what may be mended
        with pytest.raises(BadInput, match=r"no valid checkpoint .*5: manifest.json"):
            checkpoints.load(None, make_state(0))
    shutil.rmtree(tmp_path / "checkpoints" / "5")
    with pytest.raises(BadInput, match="set aside"):
        checkpoints.load(None, make_state(0))
    with pytest.raises(BadInput, match="no checkpoint of step 5"):
        checkpoints.load(5, make_state(0))


def test_a_later_format_is_refused_with_a_hint_and_not_called_damage(tmp_path, monkeypatch):
    checkpoints = make_checkpoints(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    monkeypatch.setattr(checkpoint.mow_jax, "__version__", "7.5")
    checkpoints.save(2, make_state(2), {})
    monkeypatch.undo()
    for read in (lambda: checkpoints.load(None, make_state(0)), lambda: checkpoints.newest(set_aside=True)):
        with pytest.raises(BadInput, match="written by mow_jax 7.5, a later version: update"):
            read()
    assert checkpoints.steps() == [1, 2]


def test_another_configuration_is_named_not_called_damage(tmp_path):
    checkpoints = make_checkpoints(tmp_path, 1)
    like = make_state(0)
    like.params["kernel"] = np.zeros((5, 8), np.float32)
    with pytest.raises(BadInput, match=r"params/kernel is \['float32', \[5, 7\]\] there"):
        checkpoints.load(None, like)
    assert checkpoints.steps() == [1]


def test_newest_and_milestones_are_kept_and_a_step_can_be_saved_again(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, milestones=(2, 99))
    for step in (1, 2, 3, 4, 5):
        checkpoints.save(step, make_state(step), {})
    checkpoints.save(5, make_state(55), {"second": True})
    assert checkpoints.steps() == [2, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4", "5"]
    _, arrays, [host] = checkpoints.load(None, make_state(0))
    assert_same((arrays, host), (make_state(55), {"second": True}))


def test_a_checkpoint_without_the_part_of_a_process_is_not_published_and_not_valid(tmp_path, monkeypatch, capsys):
    checkpoints = make_checkpoints(tmp_path, 4)
    one = checkpoint.processes.gather
    monkeypatch.setattr(checkpoint.processes, "gather", lambda value: one(value) * 2)  # the other's is nowhere
    with pytest.raises(BadInput, match=r"cannot write checkpoints in .*host-1.json"):
        checkpoints.save(5, make_state(5), {})
    assert [path.name for path in tmp_path.iterdir()] == ["4"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_part_names", lambda count: [])
        checkpoints.save(5, make_state(5), {})
    assert checkpoints.newest() == 4 and "5 is damaged (host-1.json was never there)" in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_for_now_is_not_one_without_checkpoints(tmp_path, monkeypatch):
    """As over NFS for a moment: a run that took it for new would begin anew."""
    checkpoints = make_checkpoints(tmp_path, 4)

    def fails(path):
        raise OSError(errno.EIO, "not now")

    monkeypatch.setattr(Path, "iterdir", fails)
    with pytest.raises(OSError, match="not now"):
        checkpoints.newest()


def test_recover_after_a_kill_at_any_point_of_a_save(tmp_path):
    checkpoints = make_checkpoints(tmp_path, 4)
    (tmp_path / "temporary-5").mkdir()
    (tmp_path / "temporary-5" / "half").write_text("x")
    (tmp_path / "4").rename(tmp_path / "replaced-4")  # between the two renames of a replacement
    shutil.copytree(tmp_path / "replaced-4", tmp_path / "replaced-6")
    shutil.copytree(tmp_path / "replaced-4", tmp_path / "6")  # after both
    checkpoints.recover()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "6"]
    assert_same(checkpoints.load(4, make_state(0))[1], make_state(4))


def test_pickles_are_refused(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        Checkpoints(tmp_path, keep=1).save(1, make_state(1), {"object": np.array([object()])})
    with pytest.raises(TypeError, match="must be text"):
        Checkpoints(tmp_path, keep=1).save(1, make_state(1), {"envs": {3: 1}})
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, sys, numpy as np
from mow_jax.checkpoint import Checkpoints
from mow_jax.types import BadInput
checkpoints = Checkpoints(sys.argv[1], keep=1)
arrays = {"a": np.arange(1_000_000)}
checkpoints.save(1, arrays, {})
for limit in (0, 100_000, 7_900_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpoints.save(2, arrays, {})
    except BadInput as error:
        print(error)
step, loaded, _ = checkpoints.load(None, arrays)
assert step == 1 and (loaded["a"] == arrays["a"]).all()
"""


def test_full_disk_is_one_message_each_time_and_leaves_the_old_checkpoint(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["disk is full"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


DISK_THAT_FILLS_UP = """
import resource, sys, numpy as np
from mow_jax import checkpoint
from mow_jax.types import BadInput
arrays = {f"a{i}": np.random.default_rng(i).normal(size=(300, 300)) for i in range(60)}
reserve = checkpoint._reserve
def reserve_then_fill(*given):
    reserve(*given)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
checkpoint._reserve = reserve_then_fill
for _ in range(4):
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        checkpoint.Checkpoints(sys.argv[1], keep=1).save(1, arrays, {})
    except BadInput as error:
        print(error)
"""


def test_a_disk_that_fills_up_under_many_writers_is_one_message_too(tmp_path):
    command = [sys.executable, "-c", DISK_THAT_FILLS_UP, str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["disk is full"] * 4


def test_unusable_directory_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(BadInput, match="Not a directory"):
        Checkpoints(tmp_path / "file" / "checkpoints", keep=1).save(1, make_state(1), {})
    with pytest.raises(BadInput, match="cannot use workdir"):
        locks.take(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


def test_one_lock_a_workdir(tmp_path):
    assert not locks.taken(tmp_path / "work") and not (tmp_path / "work").exists()
    with locks.take(tmp_path / "work"):
        assert locks.taken(tmp_path / "work")
        program = "import sys; from mow_jax.locks import take; take(sys.argv[1])"
        command = [sys.executable, "-c", program, str(tmp_path / "work")]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and "in use by another run" in done.stderr
        with pytest.raises(BadInput, match="in use by another run"):
            locks.take(tmp_path / "work")
    assert not locks.taken(tmp_path / "work")
    locks.take(tmp_path / "work").close()
