"""Steps all environments of a run: one action each comes in, a Batch row and the finished Episodes go out.

Called by train and evaluate. The environments live in this process or in worker processes (mow_jax/workers.py).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
from ml_collections import ConfigDict

from mow_jax.episodes import Books, Episode
from mow_jax.seeding import generator
from mow_jax.types import BadInput, Batch, Task, frame
from mow_jax.workers import Here, Lost, Outcome, Worker, mapped

MEND = "If memory is short, use fewer workers (actors.workers); actors.timeout is the time a joint step may take"
HELD_AT_MOST, BLOCK = 128, 512  # steps
START_SECONDS = 300.0  # imports, simulators and first frames on a busy machine; also playing open episodes again


def random_actions(draw: np.random.Generator, tasks: list[Task], envs: int) -> np.ndarray:
    """Uniform actions [K, E] int32, or [K, E, A] float32 in [-1, 1], within each task's mask."""
    masks = [np.array(task.action_mask) for task in tasks]
    if tasks[0].discrete:
        return np.stack([draw.choice(np.flatnonzero(mask), envs) for mask in masks]).astype(np.int32)
    return np.stack([draw.uniform(-1, 1, (envs, mask.size)) * mask for mask in masks]).astype(np.float32)


def warm_up_actions(config: ConfigDict, joint: int, tasks: list[Task]) -> np.ndarray:
    """Random actions [K, E, ...] of joint step `joint`: drawn at every step or, with `warmup.hold`, each kept for n
    steps with a probability ~ 1 / n^2, at most HELD_AT_MOST: steps that undo each other lead nowhere (temporally
    extended exploration, Dabney et al., arXiv 2006.01782). A function of seed and step alone."""
    seed, envs = config.seed, config.train.envs
    if not config.warmup.hold:
        return random_actions(generator(seed, "random", joint), tasks, envs)
    block = joint // BLOCK * BLOCK  # at whose first step all is drawn anew, as what is before need not be drawn again
    lengths = generator(seed, "held", block).zipf(2, (joint - block + 1, len(tasks), envs)).clip(max=HELD_AT_MOST)
    begins = block + lengths.cumsum(0) - lengths
    newest = np.where(begins <= joint, begins, 0).max(0)  # when the action of now was drawn, [K, E]
    steps, which = np.unique(newest, return_inverse=True)
    drawn = np.stack([random_actions(generator(seed, "random", int(step)), tasks, envs) for step in steps])
    return drawn[which.reshape(newest.shape), np.arange(len(tasks))[:, None], np.arange(envs)]


class WorkersFailed(BadInput):
    """More workers were lost than `max_deaths`, or an environment cannot be used: the message says which.
    `Actors.state` still works: it cuts every open episode."""


class Actors:
    """K tasks x E environments that take joint steps, each an unending stream of rows.

    An episode that ends (terminated, truncated, or `max_steps` reached, which truncates) is followed by the first
    frame of the next one in the same step; its last frame is never seen. Every episode is seeded by the names of task
    and environment and its index, so the streams do not depend on the number of workers.

    A worker that is lost is replaced and its open episodes end as truncated. It owes the joint step: its environments
    take that step in a new episode, which is then cut too, so that the row is a true one (is_first) and the next
    frame to act on is a first frame again, as whoever acts with a memory of past frames expects. An environment that
    raises is replaced in the same way, once: if its successor raises at once too, no further one is tried.
    """

    def __init__(
        self,
        tasks: list[Task],
        settings: dict,
        *,
        envs: int,
        seed: int,
        name: str,
        workers: int,
        timeout: float = 60.0,
        max_steps: int = 0,
        max_deaths: int = 10,
    ):
        """Starts everything. `settings` as in envs.make, `name` the root of the seeds' names beside `seed`,
        `workers` processes (0: none, -1: as many as cores), `timeout` seconds a worker may take for one joint step.

        Raises BadInput as envs.make does, WorkersFailed when a worker cannot start.
        """
        self.deaths = 0
        self.workers: list[Worker | Here] = []
        self._shape = (len(tasks), envs)
        self._tasks = [task for task in tasks for _ in range(envs)]
        self._books = Books([(seed, name, task.name, env) for task in tasks for env in range(envs)], envs)
        self._settings, self._timeout, self._max_steps = settings, timeout, max_steps
        self._max_deaths, self._deaths_before = max_deaths, 0
        self._action: np.ndarray | None = None  # of the joint step under way
        self._broken = False  # a joint step was given up half way
        self._frame = frame(tasks[0], settings["image_size"])
        count, shape = len(self._tasks), self._frame[1]
        self._memory = os.memfd_create("frames")
        os.ftruncate(self._memory, count * math.prod(shape) * np.dtype(self._frame[0]).itemsize)
        self._frames = mapped(self._memory, self._frame)
        try:
            self.workers += [self._start(streams) for streams in _shares(count, workers)]
            self._all_started()
        except BaseException:
            self.close()
            raise
        self.observation = self._frames.reshape(*self._shape, *shape).copy()
        self.is_first = np.ones(self._shape, bool)
        self.lost = np.zeros(self._shape, bool)  # streams whose last row is of a new episode, as their worker was lost

    # Joint steps.

    def step(self, action: np.ndarray) -> tuple[Batch, list[Episode]]:
        """`send` and `receive`."""
        self.send(action)
        return self.receive()

    def send(self, action: np.ndarray) -> None:
        """Start the joint step with `action`, [K, E] int32 or [K, E, A] float32, and return at once."""
        assert self._action is None, "a joint step is under way: receive it first"
        self._action = np.array(action, np.int32 if self._tasks[0].discrete else np.float32)
        for worker in self.workers:
            self._order(worker)

    def receive(self) -> tuple[Batch, list[Episode]]:
        """Wait for the joint step. Returns its row, arrays [K, E, ...] with the frames that were acted on, and the
        episodes that ended; `observation` and `is_first` then hold what to act on next. Raises WorkersFailed.
        """
        assert self._action is not None, "no joint step is under way: send one first"
        deadline = time.monotonic() + self._timeout
        lost = np.zeros(len(self._tasks), bool)
        outcomes: list[Outcome] = []
        for number in range(len(self.workers)):
            try:
                outcomes += self.workers[number].receive(deadline - time.monotonic())
            except WorkersFailed:
                raise
            except BadInput as refusal:
                self._give_up(str(refusal))
            except Lost as loss:
                outcomes += self._retried(number, loss, lambda worker: self._order(worker, cut=True), self._timeout)
                lost[self.workers[number].streams] = True
        for stream, outcome in enumerate(outcomes):
            self._books.note(stream, outcome, bool(lost[stream]))
        row = Batch(self.observation, self._action, *self._columns(outcomes), self.is_first)
        self.observation = self._frames.reshape(self.observation.shape).copy()
        self.is_first = np.array([outcome.ended for outcome in outcomes]).reshape(self._shape)
        self.lost, self._action = lost.reshape(self._shape), None
        return row, self._books.take_ended()

    def _order(self, worker: Worker | Here, cut: bool = False) -> None:
        """Send a worker its part of the joint step; `cut` ends all its episodes there."""
        assert self._action is not None
        actions = self._action.reshape(len(self._tasks), *self._action.shape[2:])[worker.streams]
        limits = [cut or 0 < self._max_steps <= length + 1 for length in self._books.length[worker.streams]]
        worker.send("step", actions, limits, self._books.starts(worker.streams, later=1))

    def _columns(self, outcomes: list[Outcome]) -> tuple[np.ndarray, np.ndarray]:
        reward = np.array([outcome.reward for outcome in outcomes], np.float32)
        termination = np.array([outcome.termination for outcome in outcomes])
        return reward.reshape(self._shape), termination.reshape(self._shape)

    # Workers.

    def _start(self, streams: slice | None) -> Worker | Here:
        """Start the worker for `streams`, the streams' open episodes from their first frame; None: all, right here."""
        if streams is None:
            streams = slice(0, len(self._tasks))
            worker: Worker | Here = Here(streams, self._frames)
        else:
            worker = Worker(streams, self._frame, self._memory)
        worker.send("open", self._tasks[streams], self._settings)
        worker.send("begin", self._books.starts(streams))
        return worker

    def _started(self, worker: Worker | Here) -> None:
        for _ in ("open", "begin"):
            _wait_for_start(worker)

    def _all_started(self) -> None:
        for worker in self.workers:
            with self._must(worker, "start"):
                self._started(worker)

    @contextlib.contextmanager
    def _must(self, worker: Worker | Here, doing: str) -> Iterator[None]:
        try:
            yield
        except Lost as loss:
            raise WorkersFailed(f"the environments {self._called(worker)} cannot {doing}: {loss}") from None

    def _retried(self, number: int, loss: Lost, order: Callable[[Worker | Here], None], seconds: float) -> Any:
        """The answer to the `order` that a lost worker owes, given by the first successor that lives to give it."""
        while True:
            worker, answer, next_loss = self._replace(number, loss), None, None
            try:
                self._started(worker)
                self._show(worker.streams)
                order(worker)
                answer = worker.receive(seconds)
            except Lost as again:
                if loss.raised and again.raised:
                    self._give_up(f"{again}\nIt did so at once in a new environment too: mend the environment")
                next_loss = again
            except BadInput as refusal:
                self._give_up(str(refusal))
            if loss.raised:  # told only now: where it repeats, one message says all
                self._tell(worker, loss)
            if next_loss is None:
                return answer
            loss = next_loss

    def _replace(self, number: int, loss: Lost) -> Worker | Here:
        """Count a lost worker and start its successor."""
        worker = self.workers[number]
        worker.kill()
        self._count(worker, loss)
        if not loss.raised:
            self._tell(worker, loss)
        return self._succeed(number)

    def _succeed(self, number: int) -> Worker | Here:
        """Cut the open episodes of a worker that has ended and start another with the next ones."""
        worker = self.workers[number]
        self._books.cut(worker.streams)
        self.workers[number] = self._start(None if isinstance(worker, Here) else worker.streams)
        return self.workers[number]

    def _count(self, worker: Worker | Here, loss: Lost) -> None:
        self.deaths += 1
        deaths = self.deaths - self._deaths_before
        if deaths > self._max_deaths:
            advice = "Mend the environment" if loss.raised else MEND
            self._give_up(
                f"{deaths} environment workers were lost since the start, more than actors.max_deaths ="
                f" {self._max_deaths}; the last, for {self._called(worker)}: {loss}\n{advice}"
            )

    def _tell(self, worker: Worker | Here, loss: Lost) -> None:
        text = f"environment worker for {self._called(worker)} lost: {loss}; replaced, its open episodes are cut"
        deaths = f"loss {self.deaths - self._deaths_before} of {self._max_deaths} allowed"
        print(f"{text} ({deaths})", file=sys.stderr, flush=True)

    def _give_up(self, reason: str) -> NoReturn:
        self._broken, self._action = True, None
        raise WorkersFailed(reason) from None

    def _called(self, worker: Worker | Here) -> str:
        return ", ".join(dict.fromkeys(task.name for task in self._tasks[worker.streams]))

    def _show(self, streams: slice) -> None:
        """Put the first frames of `streams` before the caller, in new arrays: the old ones are the caller's."""
        observation, is_first = self.observation.copy(), self.is_first.copy()
        observation.reshape(self._frames.shape)[streams] = self._frames[streams]
        is_first.reshape(-1)[streams] = True
        self.observation, self.is_first = observation, is_first

    # Saving.

    def state(self) -> dict:
        """Everything needed to go on in the middle of all episodes; between joint steps only.

        A nested dict of JSON scalars, lists and numpy arrays, each task apart. A worker found lost here is replaced,
        so `observation` may change. After WorkersFailed the state has no environments, and whoever restores it begins
        new episodes: what the living workers did in the broken step belongs to no row.
        """
        assert self._action is None, "a joint step is under way: receive it first"
        environments = None if self._broken else self._environments()
        envs, tasks = self._shape[1], {}
        for k, task in enumerate(self._tasks[::envs]):
            streams = slice(k * envs, (k + 1) * envs)
            tasks[task.name] = {
                "books": self._books.state(streams),
                "observation": self.observation[k].copy(),
                "is_first": self.is_first[k].copy(),
                "environments": environments[streams] if environments else [],
            }
        return {"deaths": self.deaths, "tasks": tasks}

    def _environments(self) -> list[dict]:
        """The states of all environments; one whose worker is lost now has that of its next episode's start."""
        for worker in self.workers:
            worker.send("state")
        states: list[dict] = []
        for number, worker in enumerate(self.workers):
            try:
                states += worker.receive(self._timeout)
            except Lost as loss:
                states += self._retried(number, loss, lambda worker: worker.send("state"), self._timeout)
        return states

    def restore(self, state: dict) -> None:
        """Go on where `state` was taken, with any number of workers; it may hold more tasks than are here. An open
        episode that cannot go on is cut, and told of. Raises BadInput where a task is missing or of another shape."""
        names = [task.name for task in self._tasks[:: self._shape[1]]]
        if missing := [name for name in names if name not in state["tasks"]]:
            raise BadInput(f"there are no environments of {missing[0]} in what was saved: go on with the saved tasks")
        saved = [state["tasks"][name] for name in names]
        for name, one in zip(names, saved, strict=True):
            if one["observation"].shape != self.observation.shape[1:]:
                raise BadInput(
                    f"the saved environments of {name} have frames {one['observation'].shape} (environments, pixels),"
                    f" this run {self.observation.shape[1:]}: go on with the train.envs and suite.image_size of the"
                    " saved run"
                )
        self._action, self._broken = None, False
        self.deaths = self._deaths_before = state["deaths"]
        self._books.restore([one["books"] for one in saved])
        self.observation = np.stack([one["observation"] for one in saved])
        self.is_first = np.stack([one["is_first"] for one in saved])
        environments = [environment for one in saved for environment in one["environments"]]
        if environments:
            self._go_on(environments)
        else:
            self._begin_next()

    def _go_on(self, environments: list[dict]) -> None:
        """In all open episodes. Where that fails, as in an environment that is played again and does not do the same,
        those of its worker are cut."""
        for worker in self.workers:
            worker.send("restore", environments[worker.streams])
        for number, worker in enumerate(self.workers):
            try:
                self._compare(worker, _wait_for_start(worker))
            except (Lost, BadInput) as failure:
                reason = str(failure).strip().splitlines()[-1]
                text = (
                    f"the open episodes of {self._called(worker)} cannot go on: {reason}; they are cut, new ones begin"
                )
                print(text, file=sys.stderr, flush=True)
                worker.kill()
                with self._must(worker, "start"):
                    self._started(self._succeed(number))
                self._show(worker.streams)

    def _compare(self, worker: Worker | Here, told: list[bool]) -> None:
        """Raises Lost where an environment, played again, is seen to stand elsewhere than when it was saved."""
        saved = self.observation.reshape(self._frames.shape)
        for stream, known in zip(range(worker.streams.start, worker.streams.stop), told, strict=True):
            if known and not np.array_equal(self._frames[stream], saved[stream]):
                name = self._tasks[stream].name
                raise Lost(f"{name} played again is seen to be elsewhere: it does not do the same again")

    def _begin_next(self) -> None:
        """The next episode in every environment."""
        self._books.cut(slice(None))
        for worker in self.workers:
            worker.send("begin", self._books.starts(worker.streams))
        for worker in self.workers:
            with self._must(worker, "begin"):
                _wait_for_start(worker)
        self._show(slice(None))

    def close(self) -> None:
        """End all workers. May be called twice."""
        while self.workers:
            self.workers.pop().kill()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1


def _wait_for_start(worker: Worker | Here) -> Any:
    return worker.receive(START_SECONDS, f"{START_SECONDS:g} seconds to begin episodes, or to play open ones again")


def _shares(count: int, workers: int) -> list[slice | None]:
    """Cut `count` streams into one contiguous share a worker; [None]: all of them in the caller's process."""
    if workers == 0:
        return [None]
    workers = min(count, workers if workers > 0 else len(os.sched_getaffinity(0)))
    edges = [count * worker // workers for worker in range(workers + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]
