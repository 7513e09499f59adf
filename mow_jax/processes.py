"""What the processes of one job tell each other; in a job of one process nothing is said.

Every function from `wait` on is a meeting: all processes must call it, in the same order. Used by train, run, evaluate
and whatever they save with.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from mow_jax.types import BadInput

HEARTBEAT_SECONDS = 20  # a process that is silent for so long is taken for dead
SHUTDOWN_SECONDS = 30
CONNECT_SECONDS = 600  # for all processes to have started jax
# What jax says where another process has gone, rather than this one failed.
GONE = ("UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED", "Gloo", "NCCL")
AGAIN = "Start the job again: it goes on from the last complete checkpoint\n"

Item = TypeVar("Item")


def define_flags() -> None:
    """The flags of a command that several processes can run."""
    flags.DEFINE_bool("distributed", False, "This is one of several processes; see docs/scaling.md.")
    flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, where no scheduler says it.")
    flags.DEFINE_integer("num_processes", None, "Processes of the job, likewise.")
    flags.DEFINE_integer("process_id", None, "This process's number, likewise.")


def join() -> None:
    """Joins the job that the flags describe, before jax is used: without numbers as the scheduler says (TPU pod, SLURM,
    Kubernetes, Open MPI). Raises BadInput where they make no job; where somebody does not answer in CONNECT_SECONDS,
    jax aborts, and `_aborted` has the last word."""
    given = {name: flags.FLAGS[name].value for name in ("coordinator_address", "num_processes", "process_id")}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if not flags.FLAGS.distributed:
        if len(missing) < len(given):
            raise BadInput("--coordinator_address, --num_processes and --process_id go with --distributed: add it")
        return
    if 0 < len(missing) < len(given):
        raise BadInput(f"--distributed needs all three of its numbers, or none: {', '.join(missing)} is missing")
    _explain_abort()
    jax.config.update("jax_enable_preemption_service", False)  # the loop owns SIGTERM
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # else CPUs may start reductions in different orders
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise BadInput(
            f"--distributed cannot start: {error}. Outside TPU pods, SLURM, Kubernetes and Open MPI give"
            " --coordinator_address=HOST:PORT --num_processes=N --process_id=I"
        ) from None
    with together():
        _connect()


def _connect() -> None:
    """Runs two empty programs over the processes, which connects them for all that follow.

    On CPUs whoever comes to a first program 30 seconds after the others finds that they have given up; to later ones
    half an hour. Between processes that compile, load or evaluate at different speeds 30 seconds are little.
    """
    if count() == 1:
        return
    multihost.get_barrier_sync_fn()(key="connect", timeout_ms=1000 * CONNECT_SECONDS)
    whole = over_devices(lambda one: jax.lax.psum(one, "device"))(np.ones(jax.local_device_count()))
    jax.block_until_ready(whole)  # all devices together, as in an update
    wait("connected")  # a device of each process, as in all meetings


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Around what processes do together: where another one has ended or cannot be reached, one message, exit code 1;
    a failure of this one shows its traceback."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if count() == 1:
            raise
        reason = str(error).strip().splitlines()[0][:200]
        if any(word in str(error) for word in GONE):
            _end(f"another process of this job has ended or cannot be reached ({reason}); its own output says why")
        traceback.print_exc()
        _end("this process has failed (see above), and ends the others")


def _end(reason: str) -> NoReturn:
    os.write(2, f"error: {reason}. {AGAIN}".encode())
    os._exit(1)  # jax would wait for the others at a normal exit


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(_: int) -> None:
    _end("another process of this job has ended or cannot be reached, or this one was aborted (see above)")


def _explain_abort() -> None:
    """Where a process has gone silent, a thread of jax ends the others by abort(), which no Python handler survives."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(_aborted, ctypes.c_void_p))


def over_devices(function: Callable, devices: Sequence[Any] | None = None, **options: Any) -> Callable:
    """A function of one device's arrays as one of arrays [devices, ...], with the axis "device": over these devices, or
    all of the job, where a call is a meeting. Whatever replaces pmap goes here."""
    return jax.pmap(function, axis_name="device", devices=devices, **options)


def count() -> int:
    """Processes of the job."""
    return jax.process_count()


def index() -> int:
    """This process's number; 0 writes what is global."""
    return jax.process_index()


def share(items: Sequence[Item]) -> list[Item]:
    """This process's part of what is spread over the processes: every P-th item."""
    return list(items[index() :: count()])


def wait(name: str) -> None:
    """Goes on when all processes are here."""
    if count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def first_alone(name: str) -> Iterator[None]:
    """The body runs in process 0, then in all others."""
    if index():
        wait(name)
    yield
    if not index():
        wait(name)


def anywhere(flag: bool) -> bool:
    """Whether any process says so."""
    if count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def gather(value: Any) -> list[Any]:
    """Every process's `value` (what JSON can hold), in the order of the processes."""
    if count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(text.size))
    padded = np.zeros(max(4096, 1 << int(sizes.max() - 1).bit_length()), np.uint8)  # few sizes, each compiled once
    padded[: text.size] = text
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def neighbours() -> int:
    """How many of the job's processes share this machine, this one included."""
    name = platform.node()
    return gather(name).count(name)


def gather_rows(rows: np.ndarray, total: int) -> np.ndarray:
    """[K, ...] of all tasks from each process's own [K', ...] (see `share`)."""
    if count() == 1:
        return rows
    most = -(-total // count())
    padded = np.concatenate([rows, np.zeros((most - len(rows), *rows.shape[1:]), rows.dtype)])
    every = np.asarray(multihost_utils.process_allgather(padded))  # [P, most, ...]
    return every.swapaxes(0, 1).reshape(-1, *rows.shape[1:])[:total]


def from_first(value: Any) -> Any:
    """Process 0's `value` (what JSON can hold)."""
    return gather(value)[0]
