"""Checkpoints of a run: the train state (arrays) and everything the host remembers, as one directory a step.

orbax stores the arrays. What it leaves open is done here: checksums, falling back from a damaged checkpoint, refusing
before a disk is full, replacing and deleting so that a kill at any moment leaves a valid one. Called by train,
evaluate and load_agent. Only the holder of the workdir's lock may save or recover; anybody may load.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import secrets
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from orbax.checkpoint import v1 as orbax

import mow_jax
from mow_jax import processes
from mow_jax.files import fsync, numbered, reserve
from mow_jax.types import DISK_FULL, BadInput

FORMAT = 1  # raised when checkpoints come to mean something else to older versions; the first had no number
SECONDS = "seconds"  # the key of a host part that may differ between equal runs: no part of the digest
_TEMPORARY, _REPLACED = "temporary-", "replaced-"


class Damaged(Exception):
    """A checkpoint that cannot be used; the message says why."""


class Checkpoints:
    """The checkpoints of one run: DIR/<step>, each with manifest.json, arrays/, and of every process host-N.json and
    host-N.npz."""

    def __init__(self, directory: str | os.PathLike, *, keep: int, milestones: Sequence[int] = ()):
        """Touches nothing on disk. Kept are the newest `keep` steps and those in `milestones`."""
        self._directory = Path(directory).absolute()
        self._keep = keep
        self._milestones = frozenset(milestones)

    def steps(self) -> list[int]:
        """The steps that look complete, ascending; `load` looks closer."""
        return [step for step in numbered(self._directory) if (self._path(step) / "manifest.json").exists()]

    def save(self, step: int, arrays: Any, host: dict) -> None:
        """Writes a checkpoint and deletes those no longer kept; one of the same step is replaced.

        `arrays`: pytree of jax or numpy arrays, the same in every process. `host`: this process's part, nested dicts
        and lists of JSON scalars and numpy arrays. All processes of a job save together: nothing is published before
        every part is written. Raises BadInput on a full disk or an unusable directory; earlier checkpoints are then
        untouched.
        """
        # A name of its own: over NFS another process may for a while take the folder of an earlier save for this one.
        temporary = self._directory / f"{_TEMPORARY}{step}-{processes.from_first(secrets.token_hex(4))}"
        with _disk_errors(self._directory):
            with processes.first_alone("checkpoint begun"):
                if not processes.index():
                    self._directory.mkdir(parents=True, exist_ok=True)
                    self.recover()
                    temporary.mkdir()
            try:
                leaves = _write_arrays(temporary, arrays)
                digests = processes.gather(_write_part(temporary, processes.index(), host))
                if not processes.index():
                    _write_manifest(temporary, step, leaves, digests)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            with processes.first_alone("checkpoint published"):
                if not processes.index():
                    self._publish(temporary, step)
                    self._prune(step)

    def load(self, step: int | None, like: Any) -> tuple[int, Any, list[dict]]:
        """The step, arrays (numpy, in the structure of `like`) and the host parts of a checkpoint, one a process that
        saved it.

        `step` None: that of `newest`. `like`: pytree of arrays or jax.ShapeDtypeStruct. All processes of a job load
        together, a step that they name. Raises FileNotFoundError where no checkpoint ever was, and BadInput where
        `step` is missing or damaged, none is valid, shapes differ from `like`, or a later version wrote it.
        """
        if step is None:
            step = self.newest()
        path = self._path(self._existing(step))
        try:
            manifest = _verify(path, step)
        except Damaged as error:
            raise BadInput(f"checkpoint {path} is damaged ({error}); choose another step") from error
        _check_arrays(path, manifest, like)
        return step, _read_arrays(path, like), [_read_part(path, index) for index in range(manifest["processes"])]

    def newest(self, *, set_aside: bool = False) -> int:
        """The newest undamaged step; damaged newer ones are named on stderr, and moved aside if the holder of the lock
        asks for it. (To others what is just being replaced may look damaged.)

        Raises FileNotFoundError where no checkpoint ever was, and BadInput where none is valid.
        """
        damaged: dict[int, Damaged] = {}
        for candidate in reversed(numbered(self._directory)):
            try:
                _verify(self._path(candidate), candidate)
            except Damaged as error:
                damaged[candidate] = error
                continue
            for bad, reason in damaged.items():
                done = f"moved to {self._set_aside(bad)}, " if set_aside else ""
                print(f"checkpoint {bad} is damaged ({reason}): {done}using the one before", file=sys.stderr)
            return candidate
        if damaged or any(self._directory.glob("damaged-*")):
            reasons = "; ".join(f"{bad}: {error}" for bad, error in damaged.items()) or "all were set aside as damaged"
            raise BadInput(
                f"no valid checkpoint in {self._directory} ({reasons}); restore one or use another --workdir"
            )
        raise FileNotFoundError(f"no checkpoint in {self._directory}")

    def recover(self) -> None:
        """Clears up after a killed save: finishes an interrupted replacement, deletes temporary directories."""
        for path in self._directory.glob(f"{_REPLACED}*"):
            original = self._directory / path.name.removeprefix(_REPLACED)
            if not original.exists():
                path.rename(original)
        for pattern in (_REPLACED, _TEMPORARY):
            for path in self._directory.glob(f"{pattern}*"):
                shutil.rmtree(path, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self._directory / str(step)

    def _existing(self, step: int) -> int:
        if step not in numbered(self._directory):
            there = ", ".join(map(str, self.steps())) or "none"
            raise BadInput(f"no checkpoint of step {step} in {self._directory}; there are: {there}")
        return step

    def _publish(self, temporary: Path, step: int) -> None:
        """Puts a complete checkpoint in its place; `recover` undoes the half of it that a kill may leave."""
        path, replaced = self._path(step), self._directory / f"{_REPLACED}{step}"
        if path.exists():
            path.rename(replaced)
        temporary.rename(path)
        fsync(self._directory)
        if replaced.exists():
            self._delete(replaced)

    def _prune(self, saved: int) -> None:
        steps = self.steps()
        kept = {saved, *steps[max(0, len(steps) - self._keep) :], *self._milestones}
        for step in set(steps) - kept:
            self._delete(self._path(step))

    def _delete(self, path: Path) -> None:
        """Deletes a checkpoint, renamed first: a half of it under its own name would look damaged. Over NFS a file that
        somebody reads stays for that long, and `recover` comes by again."""
        names = (self._directory / f"{_TEMPORARY}old-{path.name}-{count}" for count in itertools.count(1))
        shutil.rmtree(path.rename(next(name for name in names if not name.exists())), ignore_errors=True)

    def _set_aside(self, step: int) -> Path:
        asides = (self._directory / f"damaged-{step}-{count}" for count in itertools.count(1))
        return self._path(step).rename(next(path for path in asides if not path.exists()))


def _write_arrays(directory: Path, arrays: Any) -> dict[str, np.ndarray]:
    """Writes the arrays; returns them by path. orbax wants all processes to call, and lets process 0 write."""
    leaves = {path: np.asarray(leaf) for path, leaf in _flatten(jax.device_get(arrays)).items()}
    if not processes.index():
        _reserve(directory, list(leaves.values()))
    # orbax refuses arrays without elements; they hold nothing but their shape, which the manifest has.
    with _orbax():
        orbax.save(directory / "arrays", {path: leaf for path, leaf in leaves.items() if leaf.size})
    return leaves


def _write_part(directory: Path, index: int, host: dict) -> str:
    """Writes a process's host part, durably; returns the digest of its contents."""
    packed: list[np.ndarray] = []
    text = json.dumps(_pack(host, packed))
    _reserve(directory, packed)
    for path, write in (
        (directory / f"host-{index}.json", lambda path: path.write_text(text)),
        (directory / f"host-{index}.npz", lambda path: np.savez(path, *packed, allow_pickle=False)),
    ):
        write(path)
        fsync(path)
    return _digest(dict(enumerate(packed)), json.dumps(_pack({k: v for k, v in host.items() if k != SECONDS}, [])))


def _write_manifest(directory: Path, step: int, leaves: dict[str, np.ndarray], parts: list[str]) -> None:
    """Names every file of a checkpoint that is otherwise complete. Raises OSError where a part of it is not there."""
    found = {path for path in directory.rglob("*") if path.is_file()}
    files = sorted(found | {directory / name for name in _part_names(len(parts))})  # which a listing may lack over NFS
    manifest = {
        "format": FORMAT,
        "version": mow_jax.__version__,
        "step": step,
        "processes": len(parts),
        "arrays": {path: _spec(leaf) for path, leaf in leaves.items()},
        "digest": _digest(leaves, "".join(parts)),
        "files": {str(path.relative_to(directory)): _signature(path) for path in files},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest | {"check": _check(manifest)}, indent=1))
    for path in (*directory.rglob("*"), directory):
        fsync(path)


def _part_names(count: int) -> list[str]:
    return [f"host-{index}.{kind}" for index in range(count) for kind in ("json", "npz")]


def _reserve(directory: Path, arrays: Sequence[np.ndarray]) -> None:
    """Raises OSError where the arrays would not fit, before orbax starts: on a full disk its threads print tracebacks
    that nobody can catch, and it waits."""
    margin = 1 << 20
    size = sum(array.nbytes + 1024 for array in arrays) + margin
    path = directory / f"reserved-{processes.index()}"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        reserve(descriptor, size)
    finally:
        os.close(descriptor)
        path.unlink()


def _verify(path: Path, step: int) -> dict:
    """The manifest of a checkpoint all of whose files are as they were written, else Damaged; BadInput where one cannot
    be read now, which says nothing of what it holds."""
    try:
        with _reading(path, "manifest.json"):
            manifest = json.loads((path / "manifest.json").read_text())
        check = manifest.pop("check")
        intact = check == _check(manifest) and manifest["step"] == step
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"manifest.json: {error}") from error
    if not intact:
        raise Damaged("manifest.json is not what was written")
    if manifest.get("format", 1) > FORMAT:
        raise BadInput(f"checkpoint {path} was written by mow_jax {manifest.get('version')}, a later version: update")
    if lacking := [name for name in _part_names(manifest["processes"]) if name not in manifest["files"]]:
        raise Damaged(f"{lacking[0]} was never there")
    for name, written in manifest["files"].items():
        with _reading(path, name):
            found = _signature(path / name)
        if found != written:
            raise Damaged(f"{name} is not what was written")
    return manifest


@contextlib.contextmanager
def _reading(path: Path, name: str) -> Iterator[None]:
    """Damaged where the file `name` of a checkpoint is not there, BadInput where it cannot be read now."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise Damaged(f"{Path(name).name}: {error.strerror}") from error
    except OSError as error:
        before = False
        with contextlib.suppress(OSError):  # of the same disk: then what failed first is told all the same
            before = any(int(other.name) < int(path.name) for other in path.parent.iterdir() if other.name.isdecimal())
        away = f", or move {path} away to go on from the checkpoint before" * before
        raise BadInput(
            f"{path / name} cannot be read now ({error.strerror}): run the same command again; if that stays, restore"
            f" {path} from a copy{away}"
        ) from error


def _check_arrays(path: Path, manifest: dict, like: Any) -> None:
    wanted, found = {name: _spec(leaf) for name, leaf in _flatten(like).items()}, manifest["arrays"]
    for name in (*wanted, *found):
        if found.get(name) != wanted.get(name):
            raise BadInput(
                f"checkpoint {path} does not fit this configuration: {name} is {found.get(name, 'missing')} there and "
                f"{wanted.get(name, 'missing')} here; use the configuration it was trained with, and the version of"
                f" mow_jax ({manifest.get('version', '0.1.0')})"
            )


def _read_arrays(path: Path, like: Any) -> Any:
    with _orbax():
        stored = orbax.load(path / "arrays")
    leaves = [
        stored[name] if name in stored else np.zeros(leaf.shape, leaf.dtype) for name, leaf in _flatten(like).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _read_part(path: Path, index: int) -> dict:
    with np.load(path / f"host-{index}.npz", allow_pickle=False) as file:
        packed = [file[f"arr_{index}"] for index in range(len(file.files))]

    def unpack(node: dict) -> Any:
        return packed[node["__array__"]] if "__array__" in node else node

    return json.loads((path / f"host-{index}.json").read_text(), object_hook=unpack)


def _flatten(tree: Any) -> dict[str, Any]:
    """The leaves by path: NamedTuple fields, dict keys and positions joined by slashes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(named) < len(leaves):
        raise ValueError("two leaves have the same path: keys must not contain slashes")
    return named


def _pack(value: Any, packed: list[np.ndarray]) -> Any:
    """`value` with every numpy array moved to `packed` and a reference in its place."""
    if isinstance(value, np.ndarray):
        packed.append(value)
        return {"__array__": len(packed) - 1}
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"keys of host state must be text, not {wrong[0]!r}")
        return {key: _pack(value[key], packed) for key in value}
    if isinstance(value, list | tuple):
        return [_pack(one, packed) for one in value]
    return value


def _digest(arrays: dict[Any, np.ndarray], text: str) -> str:
    """sha256 over contents: equal for equal states, whatever orbax calls its files."""
    digest = hashlib.sha256(text.encode())
    for name, array in arrays.items():
        digest.update(f"{name}{_spec(array)}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _spec(leaf: Any) -> list:
    return [str(leaf.dtype), list(leaf.shape)]


def _check(manifest: dict) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _signature(path: Path) -> list:
    """Size in bytes and sha256."""
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


@contextlib.contextmanager
def _orbax() -> Iterator[None]:
    """Saving without compression (twice as fast, 8% larger). What fails is raised and said nowhere else: on a disk
    that fills up each of orbax's threads and tasks has a traceback, some of them after the end."""
    context = orbax.Context()
    context.array.saving.use_compression = False
    verbosity, hooks, tasks = logging.get_verbosity(), (sys.excepthook, sys.unraisablehook), getLogger("asyncio")
    logging.set_verbosity(logging.FATAL)
    sys.excepthook, sys.unraisablehook = (_of_main_thread(hook) for hook in hooks)
    tasks.disabled = True
    try:
        with context:
            yield
        sys.excepthook, sys.unraisablehook = hooks
        tasks.disabled = False
    finally:
        logging.set_verbosity(verbosity)


def _of_main_thread(hook: Callable) -> Callable:
    return lambda *error: hook(*error) if threading.current_thread() is threading.main_thread() else None


@contextlib.contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    """Turns what the operating system refuses into BadInput; orbax reports it in other exceptions' text."""
    try:
        yield
    except Exception as error:
        if any(os.strerror(code) in str(error) for code in DISK_FULL):
            message = (
                f"disk is full: no room for a checkpoint in {directory}; free space and run the same command again"
            )
        elif isinstance(error, OSError):
            message = f"cannot write checkpoints in {directory}: {error}; choose another --workdir"
        else:
            raise
        raise BadInput(message) from error
