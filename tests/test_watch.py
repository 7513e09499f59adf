"""The agent that comes with the project: it loads in this version, and has learned what it is said to have."""

from __future__ import annotations

from pathlib import Path

import pytest

import mow_jax

AGENT = Path(__file__).resolve().parent.parent / "results" / "atari_cpu" / "agent.npz"


def test_the_agent_is_small_and_of_this_version():
    assert AGENT.stat().st_size < 20e6
    agent = mow_jax.load_agent(AGENT)
    assert [task.name for task in agent.tasks] == ["Boxing", "RoadRunner", "CrazyClimber", "Assault"]
    assert agent.step == 50_000


@pytest.mark.slow
def test_the_agent_still_plays_road_runner():
    """Twenty episodes of its evaluation lie between 1,500 and 16,400; chance makes 11.5."""
    agent, env = mow_jax.load_agent(AGENT), mow_jax.make_env(AGENT, "RoadRunner")
    agent.reset("RoadRunner", seed=0)
    frame, total, ended = env.reset(seed=0), 0.0, False
    while not ended:
        step = env.step(agent.act(frame, "RoadRunner"))
        frame, total, ended = step.observation, total + step.reward, step.terminated or step.truncated
    assert total >= 1000
