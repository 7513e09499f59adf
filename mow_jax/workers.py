"""The processes that step environments, and the caller's end of each: commands go in, answers or Lost come out.

A worker is a fresh interpreter that runs `serve` and never imports jax (multiprocessing's spawn would import the
caller's main module, which is train); frames come back through shared memory, everything else through pipes. Called by
actors.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from typing import Any, NamedTuple

import numpy as np

from mow_jax.envs import make
from mow_jax.envs.foreign import EnvironmentFailed
from mow_jax.types import BadInput, Task

EXIT_SECONDS = 5.0  # for a process that has closed its pipe to end by itself and show its own exit status
# Of numpy, scipy and OpenCV each would start as many threads as the machine has cores, in every worker, for no work.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Lost(Exception):
    """A worker cannot go on: the message says why. `raised`: an exception of the environment's, else its process died
    or did not answer in time."""

    def __init__(self, reason: str, raised: bool = False):
        super().__init__(reason)
        self.raised = raised


class Outcome(NamedTuple):
    """What a joint step did in one environment; the frame to act on next lies in its share's frames."""

    reward: float
    termination: bool
    ended: bool  # the episode is over and the next one has begun
    truncated: bool
    success: bool | None
    raw: float  # the reward before any clipping


# --- The caller's end -------------------------------------------------------------------------------------------------


class Here:
    """The caller's own process in the role of a Worker: commands are carried out when their answer is asked for."""

    def __init__(self, streams: slice, frames: np.ndarray):
        self.streams = streams
        self._share = Share(frames)
        self._commands: list[tuple] = []

    def send(self, command: str, *arguments: Any) -> None:
        self._commands.append((command, *arguments))

    def receive(self, seconds: float, limit: str = "") -> Any:
        command, *arguments = self._commands.pop(0)
        try:
            return getattr(self._share, command)(*arguments)
        except EnvironmentFailed as error:
            raise Lost(str(error), raised=True) from error

    def kill(self) -> None:
        self._share.close()


class Worker:
    """The caller's end of a worker process, which holds the environments of `streams`."""

    def __init__(self, streams: slice, frame: tuple[str, tuple[int, ...]], memory: int):
        self.streams = streams
        self._pipe, there = Pipe()
        numbers = (there.fileno(), memory, streams.start, streams.stop)
        code = f"from mow_jax.workers import serve; serve{(*numbers, frame)}"
        path = os.pathsep.join(place or os.getcwd() for place in sys.path)
        with there, _signals_blocked():
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=numbers[:2],
                env={**ONE_THREAD, **os.environ, "PYTHONPATH": path},
            )

    def send(self, command: str, *arguments: Any) -> None:
        # A broken pipe is found by receive, so that a loss is met in one place.
        with contextlib.suppress(OSError):
            self._pipe.send((command, *arguments))

    def receive(self, seconds: float, limit: str = "actors.timeout") -> Any:
        """The answer to the oldest unanswered command; `limit` says what the seconds are. Raises Lost, or the BadInput
        that the worker met."""
        try:
            if not self._pipe.poll(max(seconds, 0.0)):
                raise Lost(f"it did not answer in time ({limit})")
            kind, answer = self._pipe.recv()
        except (EOFError, OSError):
            raise Lost(f"its process ended, {self._exit_status()}") from None
        if kind == "bad":
            raise BadInput(answer)
        if kind == "raised":
            raise Lost(answer, raised=True)
        return answer

    def _exit_status(self) -> str:
        """The exit status of a process that ends by itself: minus the signal's number if a signal ended it."""
        try:
            status = self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "without an exit status: it closed its pipe and stayed"
        return f"exit status {status}" + (f" ({signal.strsignal(-status)})" if status < 0 else "")

    def kill(self) -> None:
        """End the process. One that a driver or a disk holds does not end, and is left behind."""
        self.process.kill()
        self._pipe.close()
        try:
            self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            print(
                f"environment worker {self.process.pid} cannot be ended: it is left behind", file=sys.stderr, flush=True
            )


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process started in here never sees SIGINT and SIGTERM: sent to the whole group, they are for the caller.
    It inherits the blocked signals, so that there is no moment at its start when one could kill it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def mapped(memory: int, frame: tuple[str, tuple[int, ...]]) -> np.ndarray:
    """The shared frames of all streams, [K * E, ...], of the dtype and shape `frame`."""
    dtype, shape = frame
    return np.frombuffer(mmap.mmap(memory, 0), dtype).reshape(-1, *shape)


# --- The worker process -----------------------------------------------------------------------------------------------


def serve(pipe: int, memory: int, start: int, stop: int, frame: tuple[str, tuple[int, ...]]) -> None:
    """The worker process: carry out commands for streams `start` to `stop` until the caller's end of the pipe closes.

    `pipe` and `memory` are inherited file descriptors.
    """
    connection = Connection(pipe)
    share = Share(mapped(memory, frame)[start:stop])
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(_answer(share, *connection.recv()))


def _answer(share: Share, command: str, *arguments: Any) -> tuple[str, Any]:
    try:
        return "done", getattr(share, command)(*arguments)
    except EnvironmentFailed as error:
        return "raised", str(error)
    except BadInput as error:
        return "bad", str(error)
    except Exception:  # a fault of ours
        return "raised", traceback.format_exc()


class Share:
    """Environments stepped one after another; `frames` [n, ...] holds the frame to act on in each."""

    def __init__(self, frames: np.ndarray):
        self._frames = frames
        self._environments: list = []

    def open(self, tasks: list[Task], settings: dict) -> None:
        self._environments = [make(task, settings) for task in tasks]

    def begin(self, starts: list[tuple[int, int]]) -> None:
        for place, (environment, start) in enumerate(zip(self._environments, starts, strict=True)):
            self._frames[place] = environment.reset(*start)

    def step(self, actions: np.ndarray, limits: list[bool], starts: list[tuple[int, int]]) -> list[Outcome]:
        """One step in each environment; where the episode ends, or `limits` says so, the one of `starts` begins."""
        orders = zip(actions, limits, starts, strict=True)
        return [self._step(place, *order) for place, order in enumerate(orders)]

    def _step(self, place: int, action: np.ndarray, limit: bool, start: tuple[int, int]) -> Outcome:
        environment = self._environments[place]
        step = environment.step(int(action) if environment.task.discrete else action)
        ended = bool(step.terminated or step.truncated or limit)
        self._frames[place] = environment.reset(*start) if ended else step.observation
        termination = bool(step.terminated or step.life_lost)
        success = None if step.success is None else bool(step.success)
        raw = float(step.reward if step.raw is None else step.raw)
        return Outcome(float(step.reward), termination, ended, ended and not step.terminated, success, raw)

    def state(self) -> list[dict]:
        return [environment.state() for environment in self._environments]

    def restore(self, states: list[dict]) -> list[bool]:
        """Whether each of them has said what is seen of it then, which is in its frame."""
        told = [environment.restore(state) for environment, state in zip(self._environments, states, strict=True)]
        for place, seen in enumerate(told):
            if seen is not None:
                self._frames[place] = seen
        return [seen is not None for seen in told]

    def close(self) -> None:
        while self._environments:  # each once, though a worker may be ended twice
            self._environments.pop().close()
