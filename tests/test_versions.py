"""What earlier versions have saved is loaded and goes on, and what a later one has saved is refused with a hint."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from processes import ROOT, digests, metrics, run, train

from mow_jax import build, load_agent, make_env
from mow_jax import workdir as workdirs
from mow_jax.checkpoint import Checkpoints
from mow_jax.learner import abstract_state
from mow_jax.replay import Replay

KEPT = sorted((ROOT / "tests" / "data").glob("workdir-*.tar.gz"))


NAME = lambda path: path.name.removesuffix(".tar.gz")


@pytest.fixture(params=KEPT, ids=NAME)
def old(request, tmp_path) -> Path:
    """A workdir as a version left it."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


def test_config_checkpoint_and_replay_are_read(old):
    config = workdirs.read(old)
    tasks = build.tasks(config)
    system = build.system(config, tasks)
    step, state, [host] = Checkpoints(old / "checkpoints", keep=1).load(None, abstract_state(system))
    assert step == config.train.steps == 32 and int(state.update) == host["position"]["update"] == 22
    sizes = dict(envs=1, image_size=16, chunk_rows=10, capacity=0, seed=0)
    replay = Replay(old / "replay", tasks, **sizes)
    replay.restore(host["replay"])
    assert replay.sample(2, 8, 0, "world").reward.shape == (2, 2, 8)
    replay.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "old", [pytest.param(path, marks=[pytest.mark.long] * (path != KEPT[-1])) for path in KEPT], ids=NAME, indirect=True
)
def test_the_agent_acts_is_evaluated_and_learns_on(old):
    agent, env = load_agent(old), make_env(old, "catch")
    agent.reset("catch")
    assert 0 <= agent.act(env.reset(0, 0), "catch") < 3
    assert "evaluation at step 32" in run("evaluate", f"--workdir={old}", "--episodes=2")
    before = metrics(old)
    output = train(old, "--config.train.steps=33", config="tests/configs/least.py")
    assert "resumed from step 32 (update 22)" in output
    assert metrics(old)[: len(before)] == before and "33" in digests(old)


@pytest.mark.slow
def test_one_of_a_later_version_is_refused_and_stays(old):
    saved = json.loads((old / "config.json").read_text())
    saved["model"]["colour"] = 3
    (old / "config.json").write_text(json.dumps(saved))
    output = run("evaluate", f"--workdir={old}", code=2)
    assert "model.colour" in output and "this version does not know" in output and "Traceback" not in output
    assert "32" in digests(old)
