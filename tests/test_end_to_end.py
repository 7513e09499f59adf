"""Whole runs through the commands: what they write, and every way to begin one."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import processes
import pytest
from processes import acted, digests, metrics, run, train
from test_metrics_page import documented

import mow_jax
from mow_jax import config
from mow_jax.report import data
from mow_jax.types import BadInput

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return shutil.copytree(processes.finished(), tmp_path_factory.mktemp("finished") / "run")


def results(workdir: Path) -> dict:
    return json.loads((workdir / "results.json").read_text())


def test_a_run_leaves_what_its_users_expect(finished):
    found = results(finished)
    assert found["tasks"].keys() == {"catch", "grid"} and found["step"] == 64
    assert {"protocol", "commit", "versions", "aggregate"} <= found.keys()
    for task in found["tasks"].values():
        expected = np.mean([(r - task["random"]) / (task["reference"] - task["random"]) for r in task["returns"]])
        assert len(task["returns"]) == 2 and task["normalised"] == pytest.approx(expected)
    assert {"mean", "median", "iqm", "interval"} <= found["aggregate"].keys()
    for name, known in found["diagnostics"].items():
        assert (
            known["rows"]
            == sum(found["tasks"][name]["lengths"])
            == sum(rows for _, _, rows in known["termination_bins"])
        )
        assert 0 < known["ratio"] < np.inf and 0 <= known["termination_error"] <= 1
    catch = found["diagnostics"]["catch"]  # whose every episode ends with the only reward
    assert catch["termination_share"] == catch["reward_base"] == 2 / catch["rows"]
    assert 0 < catch["reward_precision"] <= 1 and -1 <= catch["reward_correlation"] <= 1
    table = json.loads((finished / "clusters.json").read_text())
    assert table["tasks"] == ["catch", "grid"] and len(set(table["cluster"])) == 2
    names = {name for line in metrics(finished) for name in line}
    wanted = {"world/reconstruction", "harmony/catch", "router/load/0", "router/switches", "agent/return/grid"}
    assert wanted | {"episode/catch/return", "evaluation/grid/return"} <= names
    assert {re.sub(r"/(catch|grid|\d+)(?=/|$)", "", name) for name in names} <= documented() | {"step", "update"}
    looked = [line["step"] for line in metrics(finished) if "evaluation/catch/reward_precision" in line]
    assert (
        looked == [40, 64]
        and {f"evaluation/grid/{name}" for name in ("termination_error", "reconstruction_ratio")} <= names
    )
    assert all(value is not None and np.isfinite(value) for line in metrics(finished) for value in line.values())
    for line in map(json.loads, (finished / "metrics.jsonl").read_text().splitlines()):
        cost = {f"time/{name}" for name in ("updates_per_second", "steps_per_second", "cores_busy", "memory_gb")}
        assert cost <= line.keys() and line["time/memory_gb"] > 0.05, line
        assert line.get("time/flop_per_second", 0) > 0 or "world/gradient_norm" not in line, line
    assert (finished / "report" / "index.html").exists() and list((finished / "report").rglob("*.gif"))


def test_a_run_is_scored_by_other_actions_than_configured(finished, tmp_path):
    out = tmp_path / "best"
    run("evaluate", f"--workdir={finished}", "--actions=best", f"--out={out}")
    assert results(out)["protocol"]["evaluation"]["actions"] == "best"
    assert "use one of sampled, best" in run("evaluate", f"--workdir={finished}", "--actions=worst", code=2)


def test_evaluation_repeats_itself_and_takes_another_count(finished):
    before = results(finished)
    run("evaluate", f"--workdir={finished}")
    assert results(finished) == before
    output = run("evaluate", f"--workdir={finished}", "--episodes=3")
    assert "catch" in output and len(results(finished)["tasks"]["grid"]["returns"]) == 3
    assert results(finished)["diagnostics"]["catch"]["rows"] == 3 * 5
    asked = dict(json.loads((finished / "config.json").read_text()))
    asked["evaluation"]["rows"] = 100
    (finished / "config.json").write_text(json.dumps(asked))
    run("evaluate", f"--workdir={finished}", "--episodes=3")
    found = results(finished)
    assert found["protocol"]["evaluation"]["actions"] == "sampled"
    assert len(found["tasks"]["catch"]["returns"]) == 3
    assert all(100 <= entry["rows"] < 100 + 2 * 20 for entry in found["diagnostics"].values())


def test_a_loaded_agent_plays(finished):
    agent, env = mow_jax.load_agent(finished), mow_jax.make_env(finished, "grid")
    actions = []
    for _ in range(2):
        agent.reset("grid", seed=3)
        observation = env.reset(3)
        for _ in range(6):
            action = agent.act(observation, "grid")
            actions.append(action)
            observation = env.step(action).observation
    assert actions[:6] == actions[6:], "the same seed gives the same actions"
    agent.act(np.zeros((50, 70, 3), np.uint8), "catch")
    with pytest.raises(BadInput, match="catch, grid"):
        agent.act(observation, "pong")


def test_an_exported_agent_plays_what_its_workdir_plays_and_a_damaged_one_is_refused(finished, tmp_path):
    path = tmp_path / "agent.npz"
    assert "2 tasks, step 64" in run("export", f"--workdir={finished}", f"--out={path}")
    assert acted(finished, "grid", 12, seed=5) == acted(path, "grid", 12, seed=5)
    assert mow_jax.load_agent(path).step == 64
    assert path.stat().st_size < 0.5 * sum(f.stat().st_size for f in (finished / "checkpoints" / "64").rglob("*"))

    assert "exists already" in run("export", f"--workdir={finished}", f"--out={path}", code=2)
    assert "checkpoint of step 63" in run("export", f"--workdir={finished}", f"--out={path}x", "--step=63", code=2)
    whole = path.read_bytes()
    header = zipfile.ZipFile(path).infolist()[0]
    place = header.header_offset + 30 + len(header.filename) + header.compress_size // 2  # inside its data
    for damaged in (
        whole[: len(whole) // 2],
        whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
        b"no zip",
    ):
        path.write_bytes(damaged)
        with pytest.raises(BadInput, match="no exported agent, or a damaged one"):
            mow_jax.load_agent(path)


def test_an_exported_agent_is_evaluated_like_its_workdir_and_into_another_folder(finished, tmp_path):
    path, out = tmp_path / "agent.npz", tmp_path / "new" / "out"
    run("export", f"--workdir={finished}", f"--out={path}")
    run("evaluate", f"--workdir={finished}")
    before = (finished / "results.json").read_bytes()
    assert "give a folder as well, --out=DIR" in run("evaluate", f"--workdir={path}", code=2)
    lost = run("evaluate", f"--workdir={path}", f"--out={finished}", code=2)
    assert "is the folder of a run, whose results would be lost" in lost
    run("evaluate", f"--workdir={path}", f"--out={out}")
    assert json.loads((out / "results.json").read_text())["tasks"] == json.loads(before)["tasks"]
    run("evaluate", f"--workdir={finished}", f"--out={out}", "--episodes=1")
    assert (finished / "results.json").read_bytes() == before
    assert {len(task["returns"]) for task in results(out)["tasks"].values()} == {1}
    run("report", f"--workdir={out}")
    assert "strips/" in (out / "report" / "report.md").read_text()
    assert "data:image/png" in (out / "report" / "index.html").read_text()


def test_an_exported_agent_of_another_version_is_refused_with_a_hint(finished, tmp_path):
    path, later = tmp_path / "agent.npz", tmp_path / "later.npz"
    run("export", f"--workdir={finished}", f"--out={path}")
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(bytes(arrays["header"]))
    header |= {"format": 99, "versions": {"mow_jax": "9.9"}}
    np.savez(later, **arrays | {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)})
    with pytest.raises(BadInput, match=r"written by mow_jax 9\.9.*update mow_jax"):
        mow_jax.make_env(later, "grid")
    name = next(name for name in arrays if name.startswith("actor"))
    np.savez(later, **arrays | {name: arrays[name][..., :-1]})
    with pytest.raises(BadInput, match="does not fit this version: actor"):
        mow_jax.load_agent(later)
    np.savez(later, **{other: array for other, array in arrays.items() if other != name})
    with pytest.raises(BadInput, match=r"does not fit this version: actor.* is missing there and float32"):
        mow_jax.load_agent(later)
    np.savez(later, **arrays | {"params['memory']": np.zeros(3, np.float32)})
    with pytest.raises(BadInput, match=r"params\['memory'\] is float32 \(3,\) there and missing here"):
        mow_jax.load_agent(later)


class Trap:
    """A pickle of it makes a folder when it is read."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_a_file_of_others_runs_nothing(finished, tmp_path):
    trap = np.array([Trap(tmp_path / "ran")], object)
    np.savez(tmp_path / "agent.npz", header=trap)
    with pytest.raises(BadInput, match="no exported agent, or a damaged one"):
        mow_jax.load_agent(tmp_path / "agent.npz")
    shutil.copytree(finished, tmp_path / "run")
    np.savez(tmp_path / "run" / "frames.npz", names=trap, imagined_from=trap)
    with pytest.raises(BadInput, match=r"frames\.npz"):
        data.read(str(tmp_path / "run"))
    assert not (tmp_path / "ran").exists()


def test_a_file_of_others_imports_nothing(tmp_path, monkeypatch):
    """gymnasium would import what stands before the colon; whoever trusts it has imported it before."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "surprise.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    settings = config.default()
    settings.suite.update(name="gymnasium", tasks=("CartPole-v1", "surprise:Foo-v0"))
    header = {"format": 1, "step": 8, "config": settings.to_dict()}
    np.savez(tmp_path / "agent.npz", header=np.frombuffer(json.dumps(header, default=list).encode(), np.uint8))
    for load in (mow_jax.load_agent, lambda path: mow_jax.make_env(path, "CartPole-v1")):
        with pytest.raises(BadInput, match="the module 'surprise' would be imported"):
            load(tmp_path / "agent.npz")
    assert not (tmp_path / "ran").exists() and "surprise" not in sys.modules
    monkeypatch.setitem(sys.modules, "surprise", ModuleType("surprise"))
    with pytest.raises(BadInput) as caught:
        mow_jax.load_agent(tmp_path / "agent.npz")
    assert "would be imported" not in str(caught.value), "it goes on, to a task that there is not"


@pytest.mark.long
def test_other_tasks_start_from_a_runs_weights(finished, tmp_path):
    other = ["--config.suite.tasks=('wall','grid','catch')", f"--config.train.init_from={finished}"]
    train(tmp_path / "run", *other, "--config.warmup.updates=0", "--config.evaluation.every=0")
    assert results(tmp_path / "run")["tasks"].keys() == {"wall", "grid", "catch"}
    rows = json.loads((tmp_path / "run" / "clusters.json").read_text())["cluster"]
    assert len(rows) == 3 and set(rows) <= {0, 1}


@pytest.mark.long
def test_a_table_is_reused_and_kept(finished, tmp_path):
    table = json.loads((finished / "clusters.json").read_text())
    table["cluster"], table["experts"] = [1, 0], [[1], [1]]
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(table))
    workdir = tmp_path / "run"
    train(workdir, f"--config.clustering.table={path}", "--config.router.mode=table")
    written = json.loads((workdir / "clusters.json").read_text())
    assert (written["cluster"], written["experts"]) == ([1, 0], [[1], [1]])
    assert all(
        line["router/load/1"] == 1 for line in metrics(workdir) if line["update"] > 15 and "router/load/1" in line
    )


@pytest.mark.long
@pytest.mark.parametrize("tasks", [("CartPole-v1",), ("CartPole-v1", "Acrobot-v1")])
def test_gymnasium_environments_train_and_resume(tasks, tmp_path):
    options = ["--config.suite.name=gymnasium", f"--config.suite.tasks={tasks}", "--config.evaluation.max_steps=10"]
    train(tmp_path, *options, "--config.train.steps=32")
    output = train(tmp_path, *options, "--config.train.steps=48")
    assert "resumed from step 32" in output
    found = results(tmp_path)["tasks"]
    assert found.keys() == set(tasks) and all(task["normalised"] is not None for task in found.values())


@pytest.mark.long
def test_continuous_actions_train_and_so_does_one_thing_after_the_other(tmp_path):
    train(tmp_path, "--config.suite.tasks=('slide',)", "--config.train.overlap=False")
    assert digests(tmp_path).keys() == {"48", "64"} and results(tmp_path)["tasks"]["slide"]["normalised"] is not None


@pytest.mark.long
def test_a_mirror_on_the_device_changes_nothing(finished, tmp_path):
    train(tmp_path, "--config.replay.device_mirror=True")
    assert metrics(tmp_path) == metrics(finished)


@pytest.mark.long
def test_storm_mode_trains(tmp_path):
    sizes = ["model.width=16", "model.heads=2", "model.channels=4", "model.head_width=16", "agent.width=16"]
    lengths = [
        "agent.contexts=4",
        "agent.context=3",
        "agent.horizon=3",
        "agent.act_context=4",
        "batch.sequences=2",
        "batch.length=8",
        "train.steps=24",
        "warmup.steps=16",
    ]
    others = ["suite.image_size=16", "evaluation.episodes=1", "evaluation.max_steps=10", "log.every=2"]
    options = [f"--config.{setting}" for setting in sizes + lengths + others]
    train(tmp_path, *options, config="experiments/storm.py")
    assert metrics(tmp_path)[-1]["step"] == 24
    agent = mow_jax.load_agent(tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (2, 20, 16, 16, 3), np.uint8)
    actions: list[list[int]] = []
    for before in frames:  # different episodes before it
        for frame in before:
            agent.act(frame, "Pong")
        agent.reset("Pong", seed=0)
        actions.append([agent.act(frame, "Pong") for frame in frames[0]])
    assert actions[0] == actions[1], "an episode knows nothing of the one before it"
