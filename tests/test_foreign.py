"""Environments of others: what they give is scaled or refused, what they raise is told, once, in one message."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import odd
import pytest
from processes import ROOT, TINY, refused

from mow_jax import config, envs, summary
from mow_jax.actors import Actors
from mow_jax.envs.base import Environment
from mow_jax.envs.foreign import EnvironmentFailed
from mow_jax.envs.gymnasium import native_action
from mow_jax.types import BadInput

HERE = Path(__file__).resolve().parent


def called(kind: str) -> str:
    return f"odd:odd/{kind}-v0"


def settings_of() -> dict:
    return {**config.default().suite.gymnasium.to_dict(), "image_size": 8}


def environment_of(kind: str, **changes: int) -> Environment:
    settings = settings_of() | changes
    return envs.make(envs.resolve("gymnasium", (called(kind),), settings)[0], settings)


def play(kind: str, steps: int = 4) -> list[tuple]:
    """The grey of every frame, and the rewards."""
    environment = environment_of(kind)
    frames, rewards = [environment.reset(0)], []
    for _ in range(steps):
        step = environment.step(1)
        frames.append(step.observation)
        rewards.append(step.reward)
    assert all(frame.dtype == np.uint8 and frame.shape == (8, 8, 3) for frame in frames)
    return [tuple(int(frame.mean()) for frame in frames), tuple(rewards)]


def refusal(kind: str, steps: int = 4) -> str:
    """The one message of an environment that cannot be used."""
    with pytest.raises(BadInput) as refused:
        play(kind, steps)
    return str(refused.value)


@pytest.mark.parametrize(
    ("kind", "grey"),
    [
        ("plain", (0, 10, 20, 30, 40)),
        ("high_1", (0, 255, 0, 255, 0)),
        ("fading", (0, 51, 102, 153, 204)),
        ("centred", (0, 51, 102, 153, 204)),
        ("flags", (0, 255, 0, 255, 0)),
        ("deep", (0, 1, 2, 3, 4)),
        ("dark", (0, 0, 0, 0, 0)),
        ("darkens", (0, 200, 0, 1, 0)),
        ("drawn", (0, 10, 20, 30, 40)),
    ],
)
def test_frames_are_scaled_as_their_space_says(kind, grey):
    assert play(kind)[0] == grey


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("float_as_bytes", "observation is float32 (12, 10, 3) in 0..0"),
        ("bytes_0_1", "observation is uint8 (12, 10, 3) in 1..1"),
        ("late_0_1", "observation is uint8 (12, 10, 3) in 1..1"),
        ("late_0_1_wide", "observation is int16 (12, 10, 1) in 1..1"),
        ("late_float", "observation is float32 (12, 10, 3) in 0.5..0.5"),
        ("too_bright", "observation is int16 (12, 10, 3) in 300..300"),
        ("not_finite", "observation is float32 (12, 10, 3) in nan..nan"),
        ("turned", "observation is uint8 (3, 12, 10) in 0..0"),
        ("grown", "observation is uint8 (13, 10, 3) in 0..0"),
        ("none", "observation is None"),
        ("torn", "observation is a Torn"),
        ("words", "observation is a str"),
        ("drawn_late_0_1", "rgb_array rendering is uint8 (6, 5, 3) in 1..1"),
        ("drawn_none", "rgb_array rendering is None"),
        ("drawn_float", "rgb_array rendering is float64 (6, 5, 3) in 0.5..0.5"),
        ("drawn_list", "rgb_array rendering is uint8 (2, 6, 5, 3) in 0..0"),
    ],
)
def test_frames_that_are_not_as_said_are_refused(kind, found):
    message = refusal(kind)
    assert found in message and called(kind) in message and "\n" not in message
    assert {"not_finite": "in 0..1:", "late_0_1_wide": "in -300..300:"}.get(kind, "in 0..255") in message


@pytest.mark.parametrize("saved", [{}, {"seen": True}])
def test_a_dark_frame_is_true_after_a_restore_too(saved: dict):
    environment, other = environment_of("darkens"), environment_of("darkens")
    environment.reset(4)
    for _ in range(2):
        environment.step(1)
    state = environment.state()
    other.restore(state | saved if saved else {name: kept for name, kept in state.items() if name != "seen"})
    assert other.step(1).observation.max() == environment.step(1).observation.max() == 1
    assert state["seen"]


def test_a_restore_does_not_take_for_seen_what_was_not():
    environment, other = environment_of("late_0_1"), environment_of("late_0_1")
    environment.reset(4)
    environment.step(1)
    other.restore(environment.state())
    other.step(1)
    with pytest.raises(BadInput, match=r"uint8 \(12, 10, 3\) in 1..1"):
        other.step(1)


@pytest.mark.parametrize("most", [3, 5])
def test_an_episode_that_ends_while_it_is_played_again_cannot_go_on(most: int):
    environment = environment_of("plain")
    environment.reset(4)
    for _ in range(5):
        environment.step(1)
    with pytest.raises(
        EnvironmentFailed, match=f"step {most} of an episode ended it, and it had not when it was saved"
    ):
        environment_of("plain", max_steps=most).restore(environment.state())
    environment_of("plain", max_steps=6).restore(environment.state())


def test_a_picture_without_bounds_is_none():
    assert "has no picture: its observations are float32 (12, 10, 3)" in refusal("unbounded")


@pytest.mark.parametrize("kind", ["plain", "reward_array", "reward_scalar"])
def test_rewards_may_be_numbers_or_arrays_of_one(kind):
    rewards = play(kind)[1]
    assert rewards == (1.0, 2.0, 3.0, 4.0) and all(type(reward) is float for reward in rewards)


@pytest.mark.parametrize("value", ["nan", "inf", "huge", "none", "text", "pair", "complex", "empty", "torn"])
def test_any_other_reward_is_refused_where_it_enters(value):
    kind = f"reward_{value}"
    assert play(kind, odd.BLOWN - 1)[1] == (1.0, 2.0)
    said = {"nan": "nan", "inf": "-inf", "huge": "1e+39", "none": "None", "text": "'1'", "pair": "array([1., 1.])"}
    message = refusal(kind)
    assert f"{called(kind)}: step {odd.BLOWN} of an episode gave the reward {said.get(value, '')}" in message


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("making", "cannot be made: it raised RuntimeError: no licence for this simulator"),
        ("making_exit", "cannot be made: it called sys.exit('no display'), exit status 1"),
        ("reset", "reset raised KeyError: 'level'"),
        ("step", "step 1 of an episode raised ZeroDivisionError: division by zero"),
        ("step_late", "step 3 of an episode raised OSError: lost the connection"),
        ("step_exit", "step 1 of an episode called sys.exit(3), exit status 3"),
        ("making_abort", "cannot be made: it raised Aborted: no seat"),
        ("reset_abort", "reset raised Aborted ("),
        ("step_cancelled", "step 3 of an episode raised CancelledError: too late"),
    ],
)
def test_whatever_it_raises_is_told_with_its_own_line(kind, said):
    message = refusal(kind)
    assert called(kind) in message and said in message and "\n" not in message
    assert f"{HERE / 'odd.py'}, line " in message and "in fall_over" in message


@pytest.mark.parametrize("kind", ["old_step", "old_reset", "step_none", "seedless"])
def test_another_api_is_told_with_what_is_wanted(kind):
    message = refusal(kind)
    assert called(kind) in message and f"{HERE / 'odd.py'}, class " in message
    assert "reset(seed=, options=)" in message and "\n" not in message


def test_what_is_raised_at_the_end_is_of_no_account():
    environment = environment_of("close_abort")
    environment.reset(0)
    environment.close()


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("ended_none", "None"),
        ("ended_text", "'no'"),
        ("ended_rows", "[0, [1, 0]]"),
        ("ended_nan", "array([nan]"),
        ("ended_inf", "inf"),
        ("ended_torn", "a Torn"),
    ],
)
def test_an_end_is_true_or_false(kind, given):
    assert f"step 1 of an episode gave a termination that is {given}" in refusal(kind)
    environment = environment_of("ended_one")
    environment.reset(0)
    assert environment.step(0).terminated is True


def native(kind: str, share: float) -> list:
    """What the environment is given for an action of this size in every dimension."""
    space = odd.KINDS[kind]["action_space"]
    action = native_action(kind, space, np.full(space.shape, share, np.float32))
    assert space.contains(action)
    return action.tolist()


def test_integer_actions_have_equal_shares_up_to_the_top():
    shares = (-1, -0.51, -0.49, -0.01, 0.01, 0.49, 0.51, 1)
    assert [native("levels", share)[0] for share in shares] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert native("bytes", 1) == [255, 255] and native("bytes", -1) == [0, 0]
    assert native("wide", 1) == [2**63 - 1] and native("wide", -1) == [-(2**63)]


def test_bounds_that_are_far_apart_do_not_overflow():
    assert [native("far", share)[0] for share in (-1, 0, 1)] == [-1.7e308, 0, 1.7e308]
    assert native("far", 0.5)[0] == pytest.approx(0.85e308)


def broken(kind: str, workers: int, **options) -> tuple[Actors, str]:
    """Steps until no further environment is tried; what is said then."""
    settings = settings_of()
    tasks = envs.resolve("gymnasium", (called(kind),), settings)
    actors = Actors(tasks, settings, envs=2, seed=0, name="collect", workers=workers, timeout=30, **options)
    with contextlib.closing(actors), pytest.raises(BadInput) as refused:  # noqa: PT012, each step may be the one
        for _ in range(40):
            actors.step(np.ones((1, 2), np.int32))
    return actors, str(refused.value)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_what_is_raised_at_once_again_is_not_tried_further(workers):
    actors, message = broken("step", workers, max_deaths=1000)
    assert actors.deaths <= 2 and "ZeroDivisionError: division by zero" in message
    assert "at once in a new environment too" in message


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_raised_now_and_then_is_replaced_up_to_the_limit(workers, capfd):
    actors, message = broken("step_late", workers, max_deaths=4)
    assert actors.deaths == 5 and "5 environment workers were lost" in message and "lost the connection" in message
    assert capfd.readouterr().err.count("replaced, its open episodes are cut") == 4


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["reward_nan", "late_float", "ended_rows"])
def test_what_cannot_be_used_ends_at_once(kind, workers):
    actors, message = broken(kind, workers, max_deaths=1000)
    assert actors.deaths == 0 and called(kind) in message


@pytest.mark.parametrize("kind", ["leaves_quietly", "leaves"])
def test_the_exit_status_is_the_worker_s_own(kind):
    _, message = broken(kind, 1, max_deaths=1)
    assert "exit status 3" in message and "-9" not in message


def test_the_first_screen_says_which_picture_is_seen_and_why():
    kinds = ("plain", "fading", "drawn")
    tasks = envs.resolve("gymnasium", tuple(map(called, (*kinds, "reward_array"))), settings_of())
    plain, fading, drawn, other = (task.name for task in tasks)
    shown = "\n".join(text for _, text in summary.pictures(tasks))
    assert f"{plain}, {other}: its observation, uint8 (12, 10, 3) in 0..255 (a picture as" in shown
    assert f"{fading}: its observation, float32 (12, 10, 3) in 0..1 (scaled to 0..255" in shown
    assert f"{drawn}: its rgb_array rendering, uint8 (H, W, 3) in 0..255 (its observations are a Disc" in shown
    assert summary.pictures(envs.resolve("toy", ("catch",), {"image_size": 16})) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "workers", "said"),
    [
        ("making", 2, "RuntimeError: no licence for this simulator"),
        ("step", 2, "ZeroDivisionError: division by zero"),
        ("reward_nan", 0, "step 3 of an episode gave the reward nan"),
        ("late_float", 2, "observation is float32 (12, 10, 3) in 0.5..0.5"),
        ("seedless", 0, "reset(seed=, options=)"),
    ],
)
def test_a_run_ends_with_one_message(kind, workers, said, tmp_path):
    settings = {"suite.name": "gymnasium", "suite.tasks": (called(kind),), "actors.workers": workers}
    overrides = [f"--config.{key}={value}" for key, value in settings.items()]
    path = f"{ROOT}:{HERE}"
    output = refused("train", f"--config={TINY}", f"--workdir={tmp_path / 'run'}", *overrides, PYTHONPATH=path)
    assert said in output and called(kind) in output
