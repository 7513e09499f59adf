"""What is known of episodes: an Outcome of every step comes in, Episodes go out where they end. Used by actors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mow_jax.seeding import seed_of
from mow_jax.workers import Outcome


class Episode(NamedTuple):
    """One finished episode."""

    task: int  # position in the run's tasks
    env: int
    index: int  # type: ignore[assignment]  # how many episodes this environment had before it
    ret: float  # sum of raw rewards
    length: int  # agent steps
    success: bool | None  # the success flag of any step; None: the task has none
    truncated: bool
    lost: bool = False  # cut because its worker was lost: no result of the policy


BOOKS = ("index", "ret", "length", "success")


class Books:
    """What is known of each stream's open episode, arrays [K * E], and the ended episodes not yet handed out."""

    def __init__(self, names: list[tuple], envs: int):
        """`names`: the root and the names of each stream's seeds."""
        self._names, self._envs = names, envs
        self.index = np.zeros(len(names), np.int64)
        self.ret = np.zeros(len(names), np.float64)
        self.length = np.zeros(len(names), np.int64)
        self.success = np.full(len(names), -1, np.int8)  # -1: no flag so far
        self._ended: list[Episode] = []

    def starts(self, streams: slice, later: int = 0) -> list[tuple[int, int]]:
        """What the open episodes of `streams`, or those `later`, are reset with: seed, and number within the task."""
        count = zip(self._names[streams], range(len(self._names))[streams], self.index[streams] + later, strict=True)
        return [
            (seed_of(*names, int(index)), int(index) * self._envs + stream % self._envs)
            for names, stream, index in count
        ]

    def note(self, stream: int, outcome: Outcome, lost: bool) -> None:
        """Enter a step."""
        self.ret[stream] += outcome.raw
        self.length[stream] += 1
        if outcome.success is not None:
            self.success[stream] = max(self.success[stream], outcome.success)
        if outcome.ended:
            self._end(stream, outcome.truncated, lost)

    def cut(self, streams: slice) -> None:
        """End the open episodes of `streams`, whose environments are lost."""
        for stream in range(len(self._names))[streams]:
            self._end(stream, truncated=True, lost=True)

    def _end(self, stream: int, truncated: bool, lost: bool) -> None:
        # An episode without a step has no row in replay: it leaves no trace but its index.
        if self.length[stream]:
            success = None if self.success[stream] < 0 else bool(self.success[stream])
            index, ret, length = int(self.index[stream]), float(self.ret[stream]), int(self.length[stream])
            task, env = divmod(stream, self._envs)
            self._ended.append(Episode(task, env, index, ret, length, success, truncated, lost))
        self.index[stream] += 1
        self.ret[stream], self.length[stream], self.success[stream] = 0.0, 0, -1

    def take_ended(self) -> list[Episode]:
        ended, self._ended = self._ended, []
        return ended

    def state(self, streams: slice) -> dict:
        arrays = {book: getattr(self, book)[streams].copy() for book in BOOKS}
        first = streams.start
        ended = [episode for episode in self._ended if episode.task * self._envs == first]
        return {**arrays, "ended": [list(episode) for episode in ended]}

    def restore(self, states: list[dict]) -> None:
        """From the states of all tasks, in their order."""
        for book in BOOKS:
            getattr(self, book)[:] = np.concatenate([state[book] for state in states])
        self._ended = [
            Episode(*episode)._replace(task=task) for task, state in enumerate(states) for episode in state["ended"]
        ]
