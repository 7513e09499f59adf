"""Streams are true, the same for any number of workers, go on after a restore, and outlive the loss of workers."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from mow_jax import actors as rules
from mow_jax import workers as module
from mow_jax.actors import Actors, Episode, WorkersFailed, random_actions, warm_up_actions
from mow_jax.build import env_settings
from mow_jax.config import default
from mow_jax.envs import make, resolve
from mow_jax.envs.base import Environment, Replayed
from mow_jax.envs.foreign import EnvironmentFailed
from mow_jax.seeding import seed_of
from mow_jax.types import BadInput, Batch, Step, Task

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"image_size": 16}
TOYS = ("catch", "grid", "wall")
ENVS, SEED, NAME = 2, 7, "collect"


def make_actors(workers: int, names: tuple[str, ...] = TOYS, **changes) -> Actors:
    options = {"envs": ENVS, "seed": SEED, "name": NAME, "workers": workers, "timeout": 30.0} | changes
    return Actors(resolve("toy", names, SETTINGS), SETTINGS, **options)


def an_action(names: tuple[str, ...], time_step: int) -> np.ndarray:
    """Allowed actions that depend on the time step alone."""
    random = np.random.default_rng(time_step)
    tasks = resolve("toy", names, SETTINGS)
    if not tasks[0].discrete:
        return random.uniform(-1, 1, (len(tasks), ENVS, tasks[0].action_size)).astype(np.float32)
    return np.stack([random.choice(np.flatnonzero(task.action_mask), ENVS) for task in tasks]).astype(np.int32)


def steps(actors: Actors, first: int, last: int, names: tuple[str, ...] = TOYS) -> tuple[list[Batch], list[Episode]]:
    rows, episodes = [], []
    for time_step in range(first, last):
        row, ended = actors.step(an_action(names, time_step))
        rows.append(row)
        episodes += ended
    return rows, episodes


def run(workers: int, length: int, names: tuple[str, ...] = TOYS, **changes) -> tuple[list[Batch], list[Episode]]:
    actors = make_actors(workers, names, **changes)
    try:
        return steps(actors, 0, length, names)
    finally:
        actors.close()


def test_the_return_of_an_episode_is_of_raw_rewards_where_learning_sees_clipped_ones():
    config = default()
    config.suite.tasks = ("Alien",)  # ten points a dot
    played = []
    for clipped in (False, True):
        config.suite.atari.clip_reward = clipped
        settings = env_settings(config)
        tasks = resolve("atari", ("Alien",), settings)
        environments = Actors(tasks, settings, envs=1, seed=SEED, name=NAME, workers=0, max_steps=80)
        with contextlib.closing(environments):
            actions = [random_actions(np.random.default_rng(i), tasks, 1) for i in range(80)]
            rows, ended = zip(*(environments.step(action) for action in actions), strict=True)
        played.append(([float(row.reward[0, 0]) for row in rows], ended[-1][0].ret))
    (raw, whole), (signs, same) = played
    assert signs == np.sign(raw).tolist() and max(raw) >= 10
    assert whole == same == sum(raw)


@pytest.mark.parametrize("envs", [1, 3])
def test_a_random_action_is_held_for_a_while_and_depends_on_seed_and_step_alone(envs: int):
    tasks, steps = resolve("toy", TOYS, SETTINGS), 600
    of = lambda seed, hold: ConfigDict({"seed": seed, "train": {"envs": envs}, "warmup": {"hold": hold}})
    play = lambda *given: np.stack([warm_up_actions(of(*given), joint, tasks) for joint in range(steps)])
    played = play(5, True)
    np.testing.assert_array_equal(played[77], warm_up_actions(of(5, True), 77, tasks))
    assert all(set(np.unique(played[:, k])) == set(np.flatnonzero(task.action_mask)) for k, task in enumerate(tasks))
    changes = played[1:] != played[:-1]
    runs = np.diff(np.flatnonzero(np.r_[True, changes[:, 0, 0], True]))
    assert runs.max() > 10 and (runs <= 2).mean() > 0.3
    anew = play(5, False)
    assert changes.mean() < 0.75 * (anew[1:] != anew[:-1]).mean()
    assert np.any(played != play(6, True))


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for ours, theirs in zip(left, right, strict=True):
        for field in Batch._fields[:5]:
            a, b = getattr(ours, field), getattr(theirs, field)
            assert a.dtype == b.dtype, field
            np.testing.assert_array_equal(a, b, err_msg=field)


def assert_true(rows: list[Batch], episodes: list[Episode], names: tuple[str, ...] = TOYS) -> None:
    """Play every stream again, episode by episode, in an environment of its own, and compare each row."""
    for k, task in enumerate(resolve("toy", names, SETTINGS)):
        for e in range(ENVS):
            stream = [Batch(*(field[k, e] for field in row[:5])) for row in rows]
            starts = [t for t, row in enumerate(stream) if row.is_first]
            assert starts[0] == 0
            ended = [episode for episode in episodes if (episode.task, episode.env) == (k, e)]
            assert len(starts) - len(ended) in (0, 1), "an episode ended without notice, or was told of twice"
            for number, start in enumerate(starts):
                stop = starts[number + 1] if number + 1 < len(starts) else len(stream)
                episode = ended[number] if number < len(ended) else None
                index = episode.index if episode else (ended[-1].index + 1 if ended else 0)
                assert_played(task, e, index, stream[start:stop], episode)


def assert_played(task: Task, env: int, index: int, rows: list[Batch], episode: Episode | None) -> None:
    environment = make(task, SETTINGS)
    frame = environment.reset(seed_of(SEED, NAME, task.name, env, index))
    for row in rows:
        np.testing.assert_array_equal(row.observation, frame)
        step = environment.step(int(row.action) if task.discrete else row.action)
        assert (row.reward, row.termination) == (np.float32(step.reward), step.terminated)
        frame = step.observation
    if episode:
        assert episode.length == len(rows)
        assert episode.ret == pytest.approx(sum(float(row.reward) for row in rows))
        assert episode.truncated == (not rows[-1].termination)


@pytest.mark.parametrize("names", [TOYS, ("slide",)], ids=["discrete", "continuous"])
def test_streams_are_true_and_the_same_for_any_number_of_workers(names):
    rows, episodes = run(0, 60, names)
    assert_true(rows, episodes, names)
    assert rows[0].action.dtype == (np.float32 if names == ("slide",) else np.int32)
    assert len(episodes) > 10
    for workers in (1, 4):
        other_rows, other_episodes = run(workers, 60, names)
        assert_same(rows, other_rows)
        assert episodes == other_episodes


def test_streams_differ_between_seeds_environments_and_uses():
    frames = [make_actors(0, seed=seed, name=name, envs=8).observation for seed, name in ((1, "a"), (2, "a"), (1, "b"))]
    assert not any(np.array_equal(frames[0], other) for other in frames[1:])
    assert all(len({frame.tobytes() for frame in task}) > 1 for task in frames[0])


def test_max_steps_truncates_and_is_no_termination():
    rows, episodes = run(0, 9, max_steps=2)
    assert_true(rows, episodes)
    assert {episode.length for episode in episodes} <= {1, 2}
    catch = [episode for episode in episodes if episode.task == 0]
    assert [episode.index for episode in catch if episode.env == 0] == [0, 1, 2, 3]
    assert all(episode.truncated for episode in catch)
    assert not any(row.termination[0].any() for row in rows)


class Scripted(Environment):
    """Six steps: a life is lost in the second, the flag of success shows in the third alone, time is up in the last."""

    def __init__(self, task: Task, settings: dict):
        self.task, self.time = task, 0

    def reset(self, seed, episode=None):
        self.time = 0
        return np.zeros((16, 16, 3), np.uint8)

    def step(self, action):
        self.time += 1
        frame = np.full((16, 16, 3), self.time, np.uint8)
        return Step(frame, 1.5, False, self.time == 6, life_lost=self.time == 2, success=self.time == 3)

    def state(self):
        return {"time": self.time}

    def restore(self, state):
        self.time = state["time"]


def test_a_lost_life_ends_the_continuation_and_a_time_limit_does_not(monkeypatch):
    monkeypatch.setattr(module, "make", Scripted)
    rows, episodes = run(0, 12)
    assert [row.termination[0, 0] for row in rows] == [False, True, False, False, False, False] * 2
    assert [row.is_first[0, 0] for row in rows] == [True, False, False, False, False, False] * 2
    assert [row.observation[0, 0, 0, 0, 0] for row in rows] == [0, 1, 2, 3, 4, 5] * 2
    assert episodes[0] == Episode(0, 0, 0, 9.0, 6, success=True, truncated=True)


def test_success_survives_a_restore(monkeypatch):
    monkeypatch.setattr(module, "make", Scripted)
    before, after = make_actors(0), make_actors(0)
    steps(before, 0, 4)
    after.restore(before.state())
    assert steps(after, 4, 6)[1][0] == Episode(0, 0, 0, 9.0, 6, success=True, truncated=True)


def assert_storable(value) -> None:
    """Only what a checkpoint can hold: dicts with string keys, lists, JSON scalars and arrays of numbers."""
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            assert_storable(part)
    elif isinstance(value, np.ndarray):
        assert value.dtype.kind in "biuf"
    else:
        assert value is None or type(value) in (bool, int, float, str)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (3, 1)])
def test_a_restore_goes_on_in_the_middle_of_episodes(before, after):
    rows, episodes = run(0, 60)
    first = make_actors(before)
    early_rows, early_episodes = steps(first, 0, 33)
    state = first.state()
    steps(first, 33, 40)  # what is done later must not reach the state
    first.close()
    assert_storable(state)
    second = make_actors(after, seed=SEED)
    second.restore(state)
    late_rows, late_episodes = steps(second, 33, 60)
    second.close()
    assert not all(late_rows[0].is_first.flat), "the state was to be taken in the middle of episodes"
    assert_same(rows, early_rows + late_rows)
    assert episodes == early_episodes + late_episodes


def test_a_foreign_state_is_refused():
    state = make_actors(0).state()
    other = {name: task | {"observation": task["observation"][:1]} for name, task in state["tasks"].items()}
    with pytest.raises(BadInput, match=r"catch have frames \(1, 16, 16, 3\).*this run \(2, 16, 16, 3\)"):
        make_actors(0).restore(state | {"tasks": other})
    with pytest.raises(BadInput, match="no environments of cue"):
        make_actors(0, ("catch", "cue")).restore({"deaths": 0, "tasks": {"catch": state["tasks"]["catch"]}})


def test_tasks_move_to_other_processes():
    """Two processes share what one has saved."""
    rows, _ = run(0, 30)
    whole = make_actors(0)
    steps(whole, 0, 20)
    state = whole.state()
    for k, task in enumerate(TOYS):
        part = make_actors(0, (task,))
        part.restore(state)
        for step in range(20, 30):
            row, _ = part.step(an_action(TOYS, step)[k : k + 1])
            np.testing.assert_array_equal(row.observation[0], rows[step].observation[k])
            np.testing.assert_array_equal(row.reward[0], rows[step].reward[k])


class Fickle(Replayed):
    """Whatever its seed, each episode has a step less than the one before; none may follow its end, which a silent one
    does not tell of."""

    began, silent = 0, True

    def __init__(self, task: Task, settings: dict):
        self.task = task

    def reset(self, seed, episode=None):
        self.begin(seed, episode)
        Fickle.began, self.left = Fickle.began + 1, 90 - Fickle.began
        return np.full((16, 16, 3), self.left, np.uint8)

    def step(self, action):
        return self.advance(action)

    def advance(self, action):
        self.note(action)
        self.left -= 1
        if self.left < 0:
            raise self.failure(f"{self.task.name} was stepped after its end")
        return Step(np.full((16, 16, 3), self.left, np.uint8), 1.0, self.left == 0 and not self.silent, False)


@pytest.mark.parametrize(
    ("failure", "began", "found"),
    [
        (EnvironmentFailed, 60, "wall was stepped after its end"),
        (BadInput, 60, "wall was stepped after its end"),
        (None, 60, "wall: step 28 of an episode ended it"),
        (None, 43, "wall: step 45 of an episode ended it"),  # with the last action that was saved
    ],
)
def test_an_episode_that_is_not_the_same_again_is_cut_and_the_next_one_begins(
    monkeypatch, capfd, failure, began, found
):
    monkeypatch.setattr(module, "make", Fickle)
    monkeypatch.setattr(Fickle, "failure", failure, raising=False)
    monkeypatch.setattr(Fickle, "silent", failure is not None)
    monkeypatch.setattr(Fickle, "began", 40)
    actors = make_actors(0, ("wall",))
    steps(actors, 0, 45, ("wall",))
    state = actors.state()
    Fickle.began = began
    resumed = make_actors(0, ("wall",))
    resumed.restore(state)
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and f"wall cannot go on: {found}" in said and "; they are cut" in said
    assert resumed.is_first.all() and (resumed.observation == resumed.observation[..., :1, :1, :1]).all()
    rows, episodes = steps(resumed, 45, 47, ("wall",))
    assert rows[0].is_first.all() and not rows[1].is_first.any()
    assert [(e.env, e.index, e.ret, e.length, e.lost) for e in episodes] == [
        (0, 0, 45.0, 45, True),
        (1, 0, 45.0, 45, True),
    ]
    assert resumed.deaths == 0 and resumed.state()["tasks"]["wall"]["books"]["length"].tolist() == [2, 2]


class Wandering(Fickle):
    """Played again it is seen `off` further than it was."""

    off = 0

    def reset(self, seed, episode=None):
        self.begin(seed, episode)
        self.left = 90
        return np.full((16, 16, 3), self.left, np.uint8)

    def restore(self, state):
        super().restore(state)
        self.left -= self.off
        return np.full((16, 16, 3), self.left, np.uint8)


@pytest.mark.parametrize("off", [0, 1])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_episode_that_is_seen_elsewhere_when_played_again_is_cut(off: int, workers: int, monkeypatch, capfd):
    monkeypatch.setattr(Wandering, "off", off)
    monkeypatch.setattr(Wandering, "silent", True)
    monkeypatch.setattr(module, "make", Wandering)
    if workers:
        monkeypatch.setattr(
            rules, "Worker", lambda streams, frame, memory: rules.Here(streams, rules.mapped(memory, frame)[streams])
        )
    actors = make_actors(workers, ("wall",))
    steps(actors, 0, 9, ("wall",))
    resumed = make_actors(workers, ("wall",))
    resumed.restore(actors.state())
    said = capfd.readouterr().err
    assert ("wall played again is seen to be elsewhere" in said) == bool(off) == bool(resumed.is_first.all())
    assert resumed.observation.flat[0] == (90 if off else 81)


def strike(actors: Actors, number: int, blow: signal.Signals) -> None:
    os.kill(actors.workers[number].process.pid, blow)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
@pytest.mark.parametrize("under_way", [False, True], ids=["between steps", "during a step"])
def test_a_lost_worker_is_replaced_and_rows_stay_true(blow, under_way, capfd):
    actors = make_actors(3, timeout=20.0 if blow is signal.SIGKILL else 3.0)  # of the living ones, too
    rows, episodes = steps(actors, 0, 11)
    if under_way:
        actors.send(an_action(TOYS, 11))
        strike(actors, 1, blow)
        row, ended = actors.receive()
    else:
        strike(actors, 1, blow)
        row, ended = actors.step(an_action(TOYS, 11))
    if actors.deaths == 0:  # the worker was done before the blow fell: the next step finds it out
        assert under_way
        rows, episodes = [*rows, row], episodes + ended
        row, ended = actors.step(an_action(TOYS, 12))
    assert row.is_first[1].all() and actors.is_first[1].all()
    assert actors.deaths == 1 and actors.lost.all(1).tolist() == [False, True, False]
    later_rows, later_episodes = steps(actors, len(rows) + 1, 40)
    actors.close()
    rows, episodes = [*rows, row, *later_rows], episodes + ended + later_episodes
    assert_true(rows, episodes)
    assert {(episode.task, episode.truncated) for episode in episodes if episode.lost} == {(1, True)}
    quiet_rows, quiet_episodes = run(0, 40)
    others = [0, 2]
    assert_same(*([Batch(*(x[others] for x in row[:5])) for row in part] for part in (rows, quiet_rows)))
    assert [x for x in episodes if x.task != 1] == [x for x in quiet_episodes if x.task != 1]
    assert "environment worker for grid lost" in capfd.readouterr().err


def test_a_worker_lost_while_saving_leaves_a_state_that_goes_on(capfd):
    actors = make_actors(3)
    rows, episodes = steps(actors, 0, 11)
    strike(actors, 1, signal.SIGKILL)
    state = actors.state()
    assert actors.is_first[1].all()
    restored = make_actors(0)
    restored.restore(state)
    assert restored.deaths == 1
    for going_on in (actors, restored):
        late_rows, late_episodes = steps(going_on, 11, 30)
        assert_true(rows + late_rows, episodes + late_episodes)
        assert [episode.lost for episode in late_episodes[:3]] == [True, True, False]
        going_on.close()


def test_a_worker_lost_while_episodes_are_restored_costs_its_own_alone(capfd):
    rows, _ = run(0, 40)
    first = make_actors(0)
    early_rows, early_episodes = steps(first, 0, 23)
    resumed = make_actors(3)
    strike(resumed, 2, signal.SIGKILL)
    resumed.restore(first.state())
    assert resumed.is_first[2].all() and "wall cannot go on: its process ended" in capfd.readouterr().err
    late_rows, late_episodes = steps(resumed, 23, 40)
    resumed.close()
    assert_true(early_rows + late_rows, early_episodes + late_episodes)
    others = lambda found: [Batch(*(x[:2] for x in row[:5])) for row in found]
    assert_same(others(rows), others(early_rows + late_rows))


def test_what_a_start_may_take_is_not_what_a_step_may_take(monkeypatch):
    actors = make_actors(1, ("grid",))
    state = actors.state()
    state["tasks"]["grid"]["environments"] = []
    strike(actors, 0, signal.SIGSTOP)
    monkeypatch.setattr(rules, "START_SECONDS", 0.2)
    with pytest.raises(WorkersFailed, match=r"grid cannot begin: .*\(0.2 seconds to begin episodes") as refusal:
        actors.restore(state)
    assert "actors.timeout" not in str(refusal.value)
    actors.close()


def test_too_many_losses_stop_the_run_in_a_state_that_can_be_saved(capfd):
    actors = make_actors(2, max_deaths=1)
    rows, episodes = steps(actors, 0, 8)
    strike(actors, 0, signal.SIGKILL)
    late_rows, late_episodes = steps(actors, 8, 11)
    strike(actors, 1, signal.SIGKILL)
    with pytest.raises(
        WorkersFailed, match=r"2 environment workers.*actors.max_deaths = 1.*grid, wall.*exit status -9"
    ):
        actors.step(an_action(TOYS, 11))
    state = actors.state()
    actors.close()
    restored = make_actors(2, max_deaths=1)
    restored.restore(state)
    assert restored.is_first.all()
    rows, episodes = rows + late_rows, episodes + late_episodes
    strike(restored, 1, signal.SIGKILL)  # a run that is started again may lose workers again
    late_rows, late_episodes = steps(restored, 11, 30)
    restored.close()
    assert restored.deaths == 3
    assert_true(rows + late_rows, episodes + late_episodes)


def test_an_error_in_a_worker_comes_back_as_its_traceback():
    actors = make_actors(1, max_deaths=0)
    with pytest.raises(WorkersFailed, match=r"(?s)Traceback.*ValueError: grid has no action 0"):
        actors.step(np.zeros((len(TOYS), ENVS), np.int32))
    actors.close()


def test_bad_input_in_a_worker_is_bad_input_here():
    task = Task("catch", "tou", True, 5, (True,) * 5, 5, None, None)
    with pytest.raises(BadInput, match="unknown suite 'tou': did you mean 'toy'") as caught:
        Actors([task], SETTINGS, envs=1, seed=0, name="x", workers=1)
    assert not isinstance(caught.value, WorkersFailed)


def test_a_worker_that_cannot_start_says_why():
    task = Task("nothing", "toy", True, 5, (True,) * 5, 5, None, None)
    with pytest.raises(WorkersFailed, match=r"(?s)nothing cannot start: Traceback.*KeyError"):
        Actors([task], SETTINGS, envs=1, seed=0, name="x", workers=1)


def test_send_does_not_wait():
    actors = make_actors(1)
    strike(actors, 0, signal.SIGSTOP)
    actors.send(an_action(TOYS, 0))
    strike(actors, 0, signal.SIGCONT)
    row, _ = actors.receive()
    actors.close()
    assert_same([row], run(0, 1)[0])
    assert actors.deaths == 0


def test_as_many_workers_as_cores_and_none_idle():
    actors = make_actors(-1)
    assert len(actors.workers) == min(len(os.sched_getaffinity(0)), len(TOYS) * ENVS)
    actors.close()
    actors = make_actors(9, ("catch",))
    assert len(actors.workers) == 2
    actors.close()


def test_nothing_is_left_open():
    def open_files() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    actors = make_actors(2)
    processes = [worker.process for worker in actors.workers]
    actors.close()
    actors.close()
    del actors
    assert open_files() == before
    assert all(process.returncode is not None for process in processes)


CALLER = """
import sys, time
import jax
from mow_jax.actors import Actors
from mow_jax.envs import resolve
settings = {"image_size": 16}
actors = Actors(resolve("toy", ("catch",), settings), settings, envs=2, seed=0, name="x", workers=2)
print(*(worker.process.pid for worker in actors.workers), flush=True)
sys.stdin.readline()
actors.step([[0, 0]])
print(actors.deaths, flush=True)
time.sleep(60)
"""


def test_a_worker_that_cannot_be_ended_is_left_behind(monkeypatch, capsys):
    environments = Actors(resolve("toy", ("catch",), SETTINGS), SETTINGS, envs=1, seed=SEED, name=NAME, workers=1)
    monkeypatch.setattr(module, "EXIT_SECONDS", 0.01)
    process = environments.workers[0].process
    with monkeypatch.context() as patch:
        patch.setattr(process, "kill", lambda: None)  # as with a driver that holds it
        os.kill(process.pid, signal.SIGSTOP)
        environments.close()
    assert f"worker {process.pid} cannot be ended" in capsys.readouterr().err
    process.kill()
    process.wait()


def test_workers_have_no_jax_outlive_ctrl_c_and_end_with_their_caller(tmp_path):
    (tmp_path / "caller.py").write_text(CALLER)
    caller = subprocess.Popen(
        [sys.executable, "-m", "caller"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with caller:
        workers = [int(pid) for pid in caller.stdout.readline().split()]
        assert len(workers) == 2
        assert "jaxlib" in Path(f"/proc/{caller.pid}/maps").read_text()
        assert not any("jaxlib" in Path(f"/proc/{pid}/maps").read_text() for pid in workers)
        assert [len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in workers] == [1, 1], "threads for nothing"
        for pid in workers:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        caller.stdin.write("go\n")
        caller.stdin.flush()
        assert caller.stdout.readline() == "0\n"
        caller.kill()
    deadline = time.monotonic() + 20
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, "a worker outlived its caller"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether the process runs; a dead one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_atari_streams_do_not_depend_on_workers_or_restores():
    pytest.importorskip("ale_py")
    from mow_jax.config import default

    settings = {"image_size": 16, **default().suite.atari.to_dict()}
    tasks = resolve("atari", ("Pong", "Breakout"), settings)

    def start(workers: int) -> Actors:
        return Actors(tasks, settings, envs=1, seed=3, name="x", workers=workers, max_steps=25)

    def go_on(actors: Actors, times: range) -> tuple[list[Batch], list[Episode]]:
        allowed = [np.flatnonzero(task.action_mask) for task in tasks]
        rows, episodes = [], []
        for t in times:
            row, ended = actors.step(np.array([[actions[t % len(actions)]] for actions in allowed]))
            rows.append(row)
            episodes += ended
        return rows, episodes

    whole, first, second = start(0), start(2), start(0)
    rows, episodes = go_on(whole, range(60))
    early_rows, early_episodes = go_on(first, range(33))
    state = first.state()
    assert_storable(state)
    second.restore(state)
    late_rows, late_episodes = go_on(second, range(33, 60))
    for actors in (whole, first, second):
        actors.close()
    assert_same(rows, early_rows + late_rows)
    assert episodes == early_episodes + late_episodes
    assert len(episodes) >= 4
