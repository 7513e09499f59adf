"""Whatever is appended, saved, restored, sampled, pruned and damaged, in any order: the replay is what a list is."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from test_replay import CHUNK, ENVS, make_replay, make_rows

from mow_jax.replay import Replay
from mow_jax.types import BadInput, Batch

ROWS = make_rows(400)
CAPACITY = 20  # of a task, so 10 rows a stream
QUICK = dict(max_examples=15, stateful_step_count=20)
WIDE = dict(max_examples=600, stateful_step_count=60)


class ReplayMachine(RuleBasedStateMachine):
    """A replay beside the list of the rows that it should hold."""

    @initialize(capacity=st.sampled_from([0, CAPACITY]))
    def begin(self, capacity: int) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.newest = capacity // ENVS if capacity else len(ROWS.reward)
        self.capacity = capacity
        self.held: list[int] = []  # row of ROWS that each row of the replay is
        self.next = 0
        self.saved: tuple[str, list[int]] = (json.dumps({"rows": 0}), [])
        self.replay = make_replay(self.directory / "replay", capacity=capacity)
        self.killed: list[Replay] = []

    def teardown(self) -> None:
        for replay in (self.replay, *self.killed):
            replay.close()
        shutil.rmtree(self.directory)

    @rule(count=st.integers(1, 2 * CHUNK))
    def append(self, count: int) -> None:
        for _ in range(count):
            self.replay.append(Batch(*(field[self.next] for field in ROWS[:5])))
            self.held.append(self.next)
            self.next = (self.next + 1) % len(ROWS.reward)

    @rule()
    def save(self) -> None:
        self.replay.sync()
        self.saved = (json.dumps(self.replay.state()), list(self.held))

    @rule(closed=st.booleans())
    def restore(self, closed: bool) -> None:
        """In a new process, after an end or a kill."""
        if closed:
            self.replay.close()
        else:
            self.killed.append(self.replay)
        self.replay = make_replay(self.directory / "replay", capacity=self.capacity)
        self.replay.restore(json.loads(self.saved[0]))
        self.held = list(self.saved[1])
        assert json.dumps(self.replay.state()) == self.saved[0] or self.saved[0] == '{"rows": 0}'

    @rule()
    def prune(self) -> None:
        """As a run does, whose oldest checkpoint is the saved one."""
        self.replay.prune(len(self.saved[1]) - self.newest)

    @precondition(lambda self: self.held)
    @rule(update=st.integers(0, 9), length=st.integers(1, CHUNK + 2))
    def sample(self, update: int, length: int) -> None:
        if length > min(len(self.held), self.newest):
            with pytest.raises(BadInput, match="does not fit"):
                self.replay.indices(4, length, update, "world")
            return
        indices = self.replay.indices(4, length, update, "world")
        batch = self.replay.gather(indices, length)
        oldest = max(0, len(self.held) - self.newest)
        assert indices[..., 1].min() >= oldest
        for task, windows in enumerate(indices.tolist()):
            for window, (env, start) in enumerate(windows):
                rows = self.held[start : start + length]
                for got, field in zip(batch[:5], ROWS[:5], strict=True):
                    np.testing.assert_array_equal(got[task, window], field[rows, task, env])

    @precondition(lambda self: self.saved[1])
    @rule(data=st.data())
    def a_flipped_bit_is_found(self, data: st.DataObject) -> None:
        """In any byte of a row that was saved and may be sampled."""
        rows, record = len(self.saved[1]), 4 * 4 * 3 + 4 + 4 + 1 + 1
        row = data.draw(st.integers(max(0, rows - self.newest), rows - 1))
        path = data.draw(st.sampled_from(sorted((self.directory / "replay").glob("*/*/")))) / f"{row // CHUNK:06d}.rows"
        place = row % CHUNK * record + data.draw(st.integers(0, record - 1))
        copy = self.directory / "copy"
        shutil.copytree(self.directory / "replay", copy)
        flip(copy / path.relative_to(self.directory / "replay"), place, 1 << data.draw(st.integers(0, 7)))
        damaged = make_replay(copy, capacity=self.capacity)
        with pytest.raises(BadInput, match=f"{path.name} is missing or damaged: its rows are not"):
            damaged.restore(json.loads(self.saved[0]))
        damaged.close()
        shutil.rmtree(copy)

    @invariant()
    def counts(self) -> None:
        assert not hasattr(self, "replay") or self.replay.rows == len(self.held)


def flip(path: Path, place: int, bit: int) -> None:
    """Changes a bit of a file."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.pwrite(descriptor, bytes([os.pread(descriptor, 1, place)[0] ^ bit]), place)
    finally:
        os.close(descriptor)


# No database: examples found on one machine stay out of the checkout.
OPTIONS = dict(database=None, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.mark.parametrize("extent", [QUICK, pytest.param(WIDE, marks=pytest.mark.long)], ids=["quick", "wide"])
def test_any_order_of_calls(extent):
    run_state_machine_as_test(ReplayMachine, settings=settings(**OPTIONS, **extent))
