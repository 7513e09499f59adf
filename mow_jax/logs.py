"""What a run says of itself: metrics.jsonl, TensorBoard and W&B, the progress line, and tables for the terminal.

In: numbers by name ("area/name") and texts. Called by train and evaluate; report reads metrics.jsonl.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from mow_jax.types import BadInput

PLAIN_SECONDS = 10.0  # between progress lines where there is no terminal
PLAIN_WIDTH = 120  # of tables where there is no terminal


class Metrics:
    """Writes metrics.jsonl, one object a line, and the same numbers to TensorBoard and Weights & Biases when asked."""

    def __init__(self, workdir: str | Path, *, tensorboard: bool, wandb: str):
        """Appends to `workdir`/metrics.jsonl until `restore` says otherwise; `wandb` is a project's name or empty.

        Raises BadInput if wandb is asked for and cannot be had, or if the file cannot be written.
        """
        self._path = Path(workdir) / "metrics.jsonl"
        self._run = _wandb_run(Path(workdir), wandb) if wandb else None
        try:
            self._file = self._path.open("ab", buffering=0)
            self._board = Board(Path(workdir) / "tensorboard") if tensorboard else None
        except OSError as error:
            raise _unwritable(self._path, error) from None

    def write(self, step: int, update: int, seconds: float, values: dict[str, float]) -> dict[str, Any]:
        """One line, which is returned: `step` agent steps a task, `update` updates, `seconds` of running, and `values`;
        a value that is not finite becomes null. Raises BadInput when the disk is full.
        """
        numbers = {name: float(value) for name, value in values.items()}
        line: dict[str, float | None] = {"step": int(step), "update": int(update), "seconds": round(float(seconds), 3)}
        line |= {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        try:
            _append(self._file, json.dumps(line, allow_nan=False).encode() + b"\n")
            if self._board:
                self._board.write(int(step), numbers)
        except OSError as error:
            raise _unwritable(self._path, error) from None
        if self._run:
            with _of_wandb():
                self._run.log({"step": int(step), **numbers}, step=int(update))
        return line

    def state(self) -> dict:
        """The number of lines, all of them durable. (Bytes would differ between equal runs: lines hold timings.)"""
        os.fsync(self._file.fileno())
        return {"lines": len(self._path.read_bytes().splitlines())}

    def restore(self, state: dict) -> None:
        """Forget what was written after `state`; all of it if `state` is empty."""
        lines, wanted = self._path.read_bytes().splitlines(keepends=True), state.get("lines", 0)
        if len(lines) < wanted:
            print(f"{self._path} has lost {wanted - len(lines)} lines of metrics since the checkpoint", file=sys.stderr)
        self._file.truncate(sum(map(len, lines[:wanted])))

    def lines(self) -> list[dict[str, Any]]:
        """What has been written; damaged lines are left out and named."""
        lines = [_read(text) for text in self._path.read_bytes().splitlines()]
        for number in [number for number, line in enumerate(lines, 1) if line is None]:
            print(f"line {number} of {self._path} is damaged: it is left out", file=sys.stderr)
        return [line for line in lines if line is not None]

    def seconds(self) -> float:
        """The running time that the last line tells of, 0 without lines. Raises BadInput where it is damaged."""
        lines = self._path.read_bytes().splitlines()
        try:
            return float(json.loads(lines[-1])["seconds"]) if lines else 0.0
        except (ValueError, KeyError, TypeError):
            raise BadInput(
                f"line {len(lines)} of {self._path} is damaged: mend it, or remove it to go on without it"
            ) from None

    def close(self) -> None:
        self._file.close()
        if self._board:
            self._board.close()
        if self._run:
            with _of_wandb():
                self._run.finish()


def _read(text: bytes) -> dict[str, Any] | None:
    """The numbers of a line, None for what is no such line: damage can leave JSON that is."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    known = isinstance(line, dict) and line.get("update") is not None
    return line if known and all(type(value) in (int, float, type(None)) for value in line.values()) else None


def _append(file: io.FileIO, data: bytes) -> None:
    """Write all of `data` or, on a full disk, nothing, so that no reader ever meets half a record."""
    before = os.fstat(file.fileno()).st_size
    try:
        while data:
            data = data[file.write(data) :]
    except OSError:
        file.truncate(before)
        raise


def _unwritable(path: Path, error: OSError) -> BadInput:
    return BadInput(f"cannot write {path} ({error.strerror}): free disk space or choose another --workdir")


def wandb_for(project: str) -> Any:
    """The module. Raises BadInput where it is not installed, or does not fit what is."""
    try:
        import wandb
    except Exception as error:
        because = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInput(
            f"log.wandb is {project!r} but wandb cannot be imported ({because}): pip install wandb"
        ) from None
    return wandb


def _wandb_run(workdir: Path, project: str) -> Any:
    wandb = wandb_for(project)
    # The same workdir goes on with the same run.
    name = hashlib.sha256(str(workdir.resolve()).encode()).hexdigest()[:16]
    with _of_wandb():
        return wandb.init(project=project, dir=workdir, id=name, name=workdir.name, resume="allow")


@contextlib.contextmanager
def _of_wandb() -> Iterator[None]:
    """Around its calls, which fail where nobody is logged in, or nothing answers."""
    try:
        yield
    except Exception as error:
        because = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInput(
            f"log.wandb: Weights & Biases cannot be reached ({because}): run `wandb login`, set WANDB_MODE=offline, or"
            " go on without, --config.log.wandb="
        ) from error


class Board:
    """A TensorBoard event file, written in the caller's thread.

    Not by tensorboardX's SummaryWriter: its thread dies on a full disk, and the next writes wait for it for ever.
    """

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 10**9}.{socket.gethostname()}.{os.getpid()}"
        self._file = (directory / name).open("ab", buffering=0)
        self._started = False

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Record `numbers`; the first ones also make TensorBoard hide what an earlier run wrote from `step` on."""
        if not self._started:
            self._record(file_version="brain.Event:2")
            self._record(step=step, session_log=SessionLog(status=SessionLog.START))
            self._started = True
        values = [Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
        self._record(step=step, summary=Summary(value=values))

    def _record(self, **fields: Any) -> None:
        event = Event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(event))  # a TFRecord
        _append(self._file, length + _check_sum(length) + event + _check_sum(event))

    def close(self) -> None:
        self._file.close()


def _check_sum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))


class Window:
    """Averages what updates and episodes say between two lines of metrics.jsonl.

    Device arrays are read when a line is due (or a checkpoint), never at the update itself.
    """

    def __init__(self, tasks: list[str]):
        """`tasks`: the K names, which label per-task metrics [K]."""
        self._tasks = tasks
        self._pending: list[tuple[dict[str, Any], bool]] = []
        self._sums: dict[str, np.ndarray] = {}
        self._counts: dict[str, int] = {}  # how often each was said: updates of the warm-up have other names
        self._episodes: dict[str, list[float]] = {}  # metric: values
        self.most_skipped = 0  # longest row of non-finite updates in the last line's window ...
        self._skipped = 0  # ... and in the one since
        self._last = ""

    def add(self, metrics: dict[str, Any], update: bool = True) -> None:
        """One update's metrics: scalars, [K] by task, or vectors by index; each is averaged over those that have it.
        `update` False: metrics of something else, under names of its own."""
        self._pending.append((metrics, update))

    def add_episodes(self, episodes: Iterable[Any], tasks: list[str]) -> None:
        """Finished episodes of the named tasks; those cut by a lost worker are no results."""
        for episode in episodes:
            if episode.lost:
                continue
            name = tasks[episode.task]
            values = {"return": episode.ret, "length": episode.length, "success": episode.success}
            for kind, value in values.items():
                if value is not None:
                    self._episodes.setdefault(f"episode/{name}/{kind}", []).append(float(value))

    def flush(self, gather: Callable[[dict], list[dict]] = lambda own: [own]) -> dict[str, float]:
        """The means since the last call, by the names of metrics.jsonl; `gather` brings every process's episodes."""
        self._fold()
        self.most_skipped, self._skipped = self._skipped, 0
        line: dict[str, float] = {}
        for name, total in self._sums.items():
            # Switches are counted, so that none between two lines is lost; everything else is averaged.
            count = 1 if name.endswith("/switches") else self._counts[name]
            line |= named({name: np.asarray(total) / count}, self._tasks)  # a checkpoint has scalars as plain numbers
        line |= {name: float(np.mean(values)) for name, values in joined(gather(self._episodes)).items()}
        losses = [name for name in line if name.count("/") == 1 and name.endswith("/total")]
        self._last = f"loss {line[losses[0]]:.4g}" if losses else ""
        self._sums, self._counts, self._episodes = {}, {}, {}
        return line

    def text(self, update: int) -> str:
        """A glance for the progress line."""
        return f"update {update:,}  {self._last}".rstrip()

    def state(self) -> dict:
        """What has not been written yet."""
        self._fold()
        sums = {"sums": dict(self._sums), "counts": dict(self._counts)}
        return sums | {"episodes": self._episodes, "last": self._last}

    def restore(self, state: dict) -> None:
        """Goes on where `state` was taken."""
        self._pending, self._sums = [], dict(state["sums"])
        # Older checkpoints have one count for all updates, and the oldest none of anything else.
        counts = state.get("counts", state.get("others", {}))
        self._counts = {name: counts[name] if name in counts else state["updates"] for name in self._sums}
        self._episodes = {name: list(values) for name, values in state["episodes"].items()}
        self._last = state["last"]

    def _fold(self) -> None:
        """Adds the pending updates in order, one by one: a checkpoint in between leaves the same sums."""
        for metrics, update in self._pending:
            if update:
                self._skipped = max(self._skipped, int(np.asarray(metrics["train/skipped_in_row"])))
            for name, value in metrics.items():
                self._sums[name] = self._sums.get(name, 0.0) + np.asarray(value, np.float64)
                self._counts[name] = self._counts.get(name, 0) + 1
        self._pending = []


def named(metrics: dict[str, Any], tasks: list[str]) -> dict[str, float]:
    """Metrics by the names of metrics.jsonl: scalars, and arrays: of the area `router` by index, else by task, with
    their mean where they are in an area."""
    line: dict[str, float] = {}
    for name, value in metrics.items():
        mean = np.asarray(value)
        if mean.ndim == 0:
            line[name] = float(mean)
        elif name.startswith("router/"):
            line |= {"/".join([name, *map(str, place)]): float(x) for place, x in np.ndenumerate(mean)}
        else:
            line |= {name: float(mean.mean())} if "/" in name else {}
            line |= {f"{name}/{task}": float(x) for task, x in zip(tasks, mean, strict=True)}
    return line


def joined(parts: Iterable[dict[str, list[float]]]) -> dict[str, list[float]]:
    """What several processes have noted under a name, one after the other."""
    whole: dict[str, list[float]] = {}
    for part in parts:
        for name, values in part.items():
            whole.setdefault(name, []).extend(values)
    return whole


class Progress:
    """One line on standard error: what is done of a total, its rate, the time to go, and a text.

    On a terminal a bar that stays in place, else a plain line every ten seconds. A context manager.
    """

    def __init__(self, title: str, total: int, shown: bool = True, unit: str = "steps"):
        self._title, self._total, self._shown, self._unit = title, total, shown, unit
        self._console = _console(stderr=True)
        self._bar: Bar | None = None
        self._began: tuple[float, int] | None = None  # time and steps at the first update, which may be a resumed one
        self._last_line = -math.inf

    def __enter__(self) -> Progress:
        if self._shown and self._console.is_terminal:
            text = TextColumn("{task.fields[line]}", markup=False)
            self._bar = Bar(TextColumn(self._title, markup=False), BarColumn(20), text, console=self._console)
            self._line = self._bar.add_task("", total=self._total, line="")
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, done: int, text: str = "") -> None:
        """Say that `done` units are done in all; `text` is anything else worth a glance."""
        now = time.monotonic()
        self._began = self._began or (now, done)
        line = "  ".join([f"{done:,}/{self._total:,}", *self._pace(now, done, *self._began), text]).rstrip()
        if self._bar:
            self._bar.update(self._line, completed=done, line=line)
        elif self._shown and (now - self._last_line >= PLAIN_SECONDS or done >= self._total):
            print(f"{self._title}  {line}", file=sys.stderr, flush=True)
            self._last_line = now

    def _pace(self, now: float, done: int, began: float, first: int) -> list[str]:
        if done == first or now == began:
            return []
        rate = (done - first) / (now - began)
        return [f"{rate:.3g} {self._unit}/s", f"ETA {duration((self._total - done) / rate)}"]


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 3723.4 is "1:02:03"."""
    minutes, seconds = divmod(max(int(seconds), 0), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def first_screen(rows: Iterable[tuple[str, str]]) -> None:
    """Print what a run is about to do: a name and a text a row."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in rows:
        grid.add_row(name, text)
    _console().print(grid)


def table(title: str, columns: list[str], rows: Iterable[Iterable]) -> None:
    """Print a table: the first column to the left, the others, numbers, to the right."""
    grid = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        grid.add_column(column, justify="right" if place else "left", overflow="fold")
    for row in rows:
        grid.add_row(*map(str, row))
    _console().print(grid)


@functools.cache  # bars inside bars must share one
def _console(stderr: bool = False) -> Console:
    # Texts are shown as they are: "mow_jax[atari]" is not markup, ":name:" no picture.
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console
