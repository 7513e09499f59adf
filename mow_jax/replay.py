"""Experience on disk: rows of the actors' environments come in, windows [K, B, T] go out. Called by run.

Every stream (an environment of a task) is a directory of chunk files: a fixed number of fixed-size records,
reserved at once, written with pwrite and read through a read-only memory map. (Writing through a map on a full
disk would kill the process.) A checkpoint stores the number of rows and a checksum of each chunk's.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import mmap
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

import numpy as np

from mow_jax.files import allow_open, fsync, reserve
from mow_jax.memory import Memory
from mow_jax.seeding import generator
from mow_jax.types import DISK_FULL, BadInput, Batch, Task, frame

THREADS = min(8, len(os.sched_getaffinity(0)))
PARALLEL = 1 << 24  # bytes of frames from which on windows are copied by several threads


class Replay:
    """Append-only store of K tasks with E environments each; all streams have the same number of rows."""

    def __init__(
        self,
        directory: str | os.PathLike,
        tasks: Sequence[Task],
        *,
        envs: int,
        image_size: int,
        chunk_rows: int,
        capacity: int,
        seed: int,
        names: Sequence[str] = (),
        extras: Mapping[str, tuple[str, tuple[int, ...]]] = MappingProxyType({}),
    ):
        """Opens or creates `directory`, which has the tasks `names`, all of the run's; `tasks` are those kept here (by
        default all). Holds no rows until `restore`; the first `append` discards unrestored ones.

        `capacity`: sample only the newest rows of a task (shared by its E streams); 0: all. `extras`: name -> dtype and
        shape of what is stored beside the usual fields.
        Raises BadInput where the directory holds something else or cannot be used.
        """
        self.rows = 0
        self._tasks = tuple(task.name for task in tasks)
        self._envs = envs
        self._seed = seed
        self._newest = capacity // envs if capacity else None
        fields = row_fields(tasks[0], image_size, extras)
        dtype, self._shape = fields.pop("observation")
        self._seen = np.dtype(dtype)
        self._rest = np.dtype([(name, *kind) for name, kind in fields.items()])
        self._extras = tuple(extras)
        self._pixels = math.prod(self._shape) * self._seen.itemsize
        self._empty = functools.partial(empty, tasks[0], image_size, extras)
        self._directory = Path(directory)
        layout = {
            "tasks": list(names or self._tasks),
            "envs": envs,
            **({"numbers": tasks[0].numbers} if tasks[0].numbers else {"image_size": image_size}),
            "chunk_rows": chunk_rows,
            "record": str(self._rest),
        }
        with _usable(self._directory):
            _claim(self._directory, layout)
            self._streams = [
                _Stream(self._directory / _safe(name) / str(env), self._pixels, self._rest.itemsize, chunk_rows)
                for name in self._tasks
                for env in range(envs)
            ]
        self._restored = False
        self._memory = Memory()
        self._threads = ThreadPoolExecutor(THREADS, "replay")  # they begin with the first windows that are large
        allow_open()  # a map keeps a descriptor open, and long runs have thousands of chunks

    def append(self, row: Batch) -> None:
        """Adds one row [K, E, ...] to every stream; `gather` sees it at once. Raises BadInput on a full disk."""
        if not self._restored:
            self.restore({"rows": 0})
        records = np.empty((len(self._streams), self._pixels + self._rest.itemsize), np.uint8)
        seen = np.ascontiguousarray(row.observation, self._seen)
        records[:, : self._pixels] = seen.view(np.uint8).reshape(len(records), self._pixels)
        rest = np.empty(row.reward.shape, self._rest)
        for field in FIELDS:
            rest[field] = getattr(row, field)
        for name in self._extras:
            rest[EXTRA + name] = row.extras[name]
        records[:, self._pixels :] = rest.view(np.uint8).reshape(len(records), -1)
        with _usable(self._directory):
            for stream, record in zip(self._streams, records, strict=True):
                stream.write(self.rows, record)
        self.rows += 1

    def indices(self, batch: int, length: int, update: int, name: str) -> np.ndarray:
        """Draws windows of `length` rows: [K, batch, 2] int32 (environment, start row), uniform over all that exist.

        A pure function of the seed, `name`, the task's name, `update` and the rows stored.
        Raises BadInput where fewer than `length` rows are there to sample.
        """
        oldest = self.oldest()
        starts = self.rows - oldest - length + 1
        if starts < 1:
            raise BadInput(
                f"a window of {length} rows does not fit into the {self.rows - oldest} rows a stream that the replay "
                "may sample; lower batch.length or agent.context, or raise warmup.steps or replay.capacity"
            )
        draws = [
            generator(self._seed, name, task, update).integers(0, self._envs * starts, batch) for task in self._tasks
        ]
        env, start = np.divmod(np.stack(draws), starts)
        return np.stack([env, oldest + start], axis=-1).astype(np.int32)

    def oldest(self) -> int:
        """The first row of a stream that may be sampled."""
        return 0 if self._newest is None else max(0, self.rows - self._newest)

    def newest(self, length: int) -> np.ndarray:
        """The newest `length` rows of every stream as windows: [K, E, 2] int32 (environment, start row)."""
        streams = np.stack([np.arange(self._envs), np.full(self._envs, self.rows - length)], axis=-1)
        return np.broadcast_to(streams.astype(np.int32), (len(self._tasks), self._envs, 2))

    def empty(self, lead: tuple[int, ...]) -> Batch:
        """Rows [*lead, ...] of zeros, read-only."""
        return self._empty(lead)

    def gather(self, indices: np.ndarray, length: int, order: np.ndarray | None = None) -> Batch:
        """Copies windows of `length` rows at `indices` [K, B, 2] (environment, start row): a Batch [K, B, T, ...], or
        [S, B, T, ...] of the tasks `order` [S], some of which may come twice."""
        if indices[..., 1].min() < 0 or indices[..., 1].max() + length > self.rows:
            raise IndexError(f"windows of {length} rows must lie within the {self.rows} rows stored")
        order = np.arange(len(indices)) if order is None else order
        shape = (len(order), indices.shape[1], length)
        pixels = self._memory.empty((*shape, self._pixels))
        rest = np.empty((*shape, self._rest.itemsize), np.uint8)

        def read(place: int) -> None:
            first = order[place] * self._envs
            for window, (env, start) in enumerate(indices[order[place]].tolist()):
                self._streams[first + env].read(start, pixels[place, window], rest[place, window])

        run = self._threads.map if pixels.nbytes > PARALLEL else map
        list(run(read, range(len(order))))
        fields = rest.view(self._rest)[..., 0]
        extras = {name: fields[EXTRA + name].copy() for name in self._extras}
        pictures = pixels.view(self._seen).reshape(*shape, *self._shape)
        return Batch(pictures, extras=extras, **{name: fields[name].copy() for name in FIELDS})

    def sample(self, batch: int, length: int, update: int, name: str) -> Batch:
        """The windows that `indices` draws: a Batch [K, batch, length, ...]."""
        return self.gather(self.indices(batch, length, update, name), length)

    def state(self) -> dict:
        """The position to store in a checkpoint, with the CRC-32 of the rows in every chunk that may be sampled, by
        task and environment."""
        sums = [stream.sums_from(self.oldest()) for stream in self._streams]
        tasks = enumerate(self._tasks)
        return {"rows": self.rows, "sums": {name: sums[k * self._envs : (k + 1) * self._envs] for k, name in tasks}}

    def restore(self, state: dict) -> None:
        """Goes back to a position: later rows are erased, so that files equal those of an uninterrupted run.

        `state` may hold the sums of more tasks than are kept here, or none at all (then nothing is compared). Reads all
        rows that may be sampled. Raises BadInput where one of them is missing or not what it was.
        """
        self.rows, known = state["rows"], state.get("sums", {})
        sums = [known.get(name, [{}] * self._envs)[env] for name in self._tasks for env in range(self._envs)]
        with _usable(self._directory):
            list(
                self._threads.map(lambda one, saved: one.restore(self.rows, self.oldest(), saved), self._streams, sums)
            )
        self._restored = True

    def sync(self) -> None:
        """Returns when everything appended would survive a power cut."""
        with _usable(self._directory):
            for stream in self._streams:
                stream.sync()
            fsync(self._directory)

    def prune(self, oldest: int) -> None:
        """Deletes the chunks all of whose rows are below row `oldest`."""
        for stream in self._streams:
            stream.prune(min(oldest, self.rows))

    def close(self) -> None:
        """Releases files and maps."""
        self._threads.shutdown()
        for stream in self._streams:
            stream.close()


FIELDS = ("action", "reward", "termination", "is_first")  # of a row, behind its frame
EXTRA = "extra_"  # begins the names of other fields
GONE = "it is gone (with replay.capacity, rows are kept for the newest checkpoint.keep checkpoints, not for milestones)"


def row_fields(task: Task, image_size: int, extras: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple]:
    """Dtype and shape of everything that is stored of a row, in its order."""
    action = (np.int32, ()) if task.discrete else (np.float32, (task.action_size,))
    flags = {"reward": (np.float32, ()), "termination": (bool, ()), "is_first": (bool, ())}
    fields = {"observation": frame(task, image_size), "action": action, **flags}
    return fields | {EXTRA + name: kind for name, kind in extras.items()}


def empty(
    task: Task, image_size: int, extras: Mapping[str, tuple[str, tuple[int, ...]]], lead: tuple[int, ...]
) -> Batch:
    """Rows [*lead, ...] of zeros that take no memory, read-only."""
    fields = row_fields(task, image_size, extras).items()
    zeros = {name: np.broadcast_to(np.zeros((), dtype), (*lead, *shape)) for name, (dtype, shape) in fields}
    return Batch(extras={name: zeros.pop(EXTRA + name) for name in extras}, **zeros)


class _Stream:
    """The chunk files of one environment. A record is the frame's bytes followed by the packed other fields."""

    def __init__(self, directory: Path, pixels: int, rest: int, chunk_rows: int):
        self._directory = directory
        self._pixels = pixels
        self._record = pixels + rest
        self._chunk_rows = chunk_rows
        self._writer = -1  # descriptor of the chunk that grows
        self._maps: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # chunk: frames, other fields
        self._dirty: set[int] = set()
        self._sums: dict[int, int] = {}  # chunk: CRC-32 of its rows
        directory.mkdir(parents=True, exist_ok=True)

    def write(self, row: int, record: np.ndarray) -> None:
        chunk, row = divmod(row, self._chunk_rows)
        if row == 0:
            self._open(chunk, row)
        if os.pwrite(self._writer, record.data, row * self._record) != self._record:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._sums[chunk] = zlib.crc32(record.data, self._sums[chunk] if row else 0)
        self._dirty.add(chunk)

    def read(self, start: int, pixels: np.ndarray, rest: np.ndarray) -> None:
        """Fills pixels [T, P] and rest [T, R] from row `start` on."""
        done, length = 0, len(pixels)
        while done < length:
            chunk, row = divmod(start + done, self._chunk_rows)
            count = min(length - done, self._chunk_rows - row)
            frames, others = self._maps[chunk]
            pixels[done : done + count] = frames[row : row + count]
            rest[done : done + count] = others[row : row + count]
            done += count

    def sums_from(self, oldest: int) -> dict[str, int]:
        """The sums of the chunks with row `oldest` and later ones. (Older chunks may be pruned sooner or later.)"""
        return {str(chunk): found for chunk, found in self._sums.items() if (chunk + 1) * self._chunk_rows > oldest}

    def restore(self, rows: int, oldest: int, saved: dict[str, int]) -> None:
        """Go on after `rows` rows: later chunks are erased, those before row `oldest` may be gone. `saved`: sums that
        the others should have, as far as they are known. Raises BadInput."""
        self.close()
        self._sums.clear()
        chunks = -(-rows // self._chunk_rows)
        for chunk in range(chunks):
            path, kept = self._path(chunk), min(rows - chunk * self._chunk_rows, self._chunk_rows)
            whole, sampled = self._holds(path, kept), (chunk + 1) * self._chunk_rows > oldest
            if whole and sampled:
                self._sums[chunk] = _sum(path, kept * self._record)
            if sampled and (not whole or self._sums[chunk] != saved.get(str(chunk), self._sums[chunk])):
                found = "its rows are not what was saved" if whole else "it is not what was saved"
                raise BadInput(
                    f"replay file {path} is missing or damaged: {found if path.exists() else GONE}. Restore it from a"
                    " copy, or start in another --workdir, where train.init_from takes over what this run has learned"
                )
            if whole and kept == self._chunk_rows:
                self._map(chunk)
        for path in self._directory.glob("[0-9]*.rows"):  # only now: where rows are missing, nothing is erased
            if int(path.stem) >= chunks:
                path.unlink()
        if rows % self._chunk_rows:
            self._open(chunks - 1, rows % self._chunk_rows)

    def sync(self) -> None:
        for path in (*map(self._path, self._dirty), self._directory, self._directory.parent):
            fsync(path)
        self._dirty.clear()

    def prune(self, oldest: int) -> None:
        for chunk in [chunk for chunk in self._maps if (chunk + 1) * self._chunk_rows <= oldest]:
            del self._maps[chunk]
            self._dirty.discard(chunk)
            self._sums.pop(chunk, None)
            self._path(chunk).unlink()

    def close(self) -> None:
        self._release()
        self._maps.clear()

    def _release(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
        self._writer = -1

    def _holds(self, path: Path, rows: int) -> bool:
        """Whether a chunk's file has its first `rows` rows. The space after them may be missing: a kill or a full disk
        can end a process while `_open` makes it anew."""
        return path.exists() and rows <= path.stat().st_size / self._record <= self._chunk_rows

    def _open(self, chunk: int, rows: int) -> None:
        """Makes `chunk` the one that grows, with its first `rows` rows kept, zeros after them, and space reserved."""
        self._release()
        self._writer = os.open(self._path(chunk), os.O_RDWR | os.O_CREAT, 0o666)
        reserve(self._writer, self._chunk_rows * self._record, keep=rows * self._record)
        self._dirty.add(chunk)
        self._map(chunk)

    def _map(self, chunk: int) -> None:
        with self._path(chunk).open("rb") as file:
            view = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        view = view.reshape(self._chunk_rows, self._record)
        self._maps[chunk] = view[:, : self._pixels], view[:, self._pixels :]

    def _path(self, chunk: int) -> Path:
        return self._directory / f"{chunk:06d}.rows"


@contextlib.contextmanager
def _usable(directory: Path) -> Iterator[None]:
    """Turns what the operating system refuses into BadInput."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            message = f"disk is full: no room for replay rows in {directory}; free space and run the same command again"
        elif error.errno == errno.EMFILE:
            message = f"too many open replay files in {directory}; raise the hard limit (`ulimit -Hn`)"
        else:
            message = f"cannot use replay directory {directory}: {error.strerror}; choose another --workdir"
        raise BadInput(message) from error


def _claim(directory: Path, layout: dict) -> None:
    """Writes `layout` into a new directory, or over another of a run that could not begin; else it must be the same.

    Processes of one job come here at once, behind the first: where it is the same already nothing is written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path, temporary = directory / "meta.json", directory / "meta.json.tmp"
    if path.exists():
        try:
            return _check_layout(path, layout)
        except BadInput:
            if (directory.parent / "config.json").exists() or any(directory.rglob("*.rows")):
                raise
    elif foreign := [entry.name for entry in directory.iterdir() if entry != temporary]:
        raise BadInput(f"{directory} is no replay directory: it holds {foreign[0]!r}; choose another --workdir")
    temporary.write_text(json.dumps(layout, indent=1) + "\n")
    fsync(temporary)
    temporary.rename(path)


def _check_layout(path: Path, layout: dict) -> None:
    try:
        found = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path} is damaged; restore it or choose another --workdir") from error
    for key, value in layout.items():
        if found.get(key) != value:
            raise BadInput(
                f"{path} says that the replay was written with {key} = {found.get(key)!r}, this run has {value!r}; "
                "use the same configuration or another --workdir"
            )


def _sum(path: Path, size: int) -> int:
    """CRC-32 of the first `size` bytes. Read, not mapped: a disk that fails is an error then, not the process's end."""
    found = 0
    with path.open("rb", buffering=0) as file:
        while size and (part := file.read(min(size, 1 << 20))):
            found, size = zlib.crc32(part, found), size - len(part)
    return found


def _safe(name: str) -> str:
    """A directory name that no other task shares."""
    return quote(name, safe="").replace(".", "%2E")
