"""The M3PO-style system through the house: it trains from vectors, is killed, goes on, is evaluated, loaded, exported;
and is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from processes import TINY, acted, assert_same_run, finished, kill_when, metrics, replay_files, run, train

import mow_jax
from mow_jax import load, play
from mow_jax.types import BadInput

pytestmark = pytest.mark.slow
CONFIG = f"{TINY}:m3po"
MOMENTS = {
    "collection": lambda w: any((w / "replay").rglob("*.rows")),
    "training": lambda w: any(line["update"] > 5 for line in metrics(w)),
}


@pytest.fixture(scope="module")
def whole():
    return finished(CONFIG)


def test_a_run_leaves_what_its_users_expect(whole):
    said = whole.with_suffix(".said").read_text()
    assert "M3PO-style (paper details unavailable)" in said and "1 of 2 environments a task" in said
    assert "vectors of 5 numbers" in said
    lines = metrics(whole)
    names = {name for line in lines for name in line}
    wanted = {"world/consistency/slide", "policy/entropy/slide_swap", "disagreement/model", "bonus/weight"}
    wanted |= {"acting/planner/slide", "acting/policy/slide", "fresh/augmented_loss", "train/skipped_in_row"}
    assert wanted | {"episode/slide/return", "evaluation/slide/return", "evaluation/mean"} <= names
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert max(line["fresh/first_moved"] for line in lines if "fresh/first_moved" in line) < 1e-5
    assert max(line["train/skipped"] for line in lines if "train/skipped" in line) == 0
    results = json.loads((whole / "results.json").read_text())
    assert results["protocol"]["planner"]["samples"] == 8 and results["protocol"]["suite"]["observation"] == "state"
    assert not (whole / "frames.npz").exists()
    page = (whole / "report" / "report.md").read_text()
    for section in ("Bonus", "Disagreement", "Planner against policy"):
        assert f"## {section}" in page
    assert "Harmonious" not in page and "Missing" not in page and "paints" not in page


def test_what_was_drawn_lies_beside_the_rows_of_the_bare_policy_and_rewards_are_raw(whole):
    record = np.dtype([("seen", "f4", 5), ("action", "f4", 2), ("reward", "f4"), ("flags", "u1", 2)])
    record = np.dtype([*record.descr, ("raw", "f4", 2), ("log_prob", "f4")])
    streams: dict[str, list[np.ndarray]] = {}
    for name, content in replay_files(whole).items():
        streams.setdefault(name.rpartition("/")[0], []).append(np.frombuffer(content, record))
    assert len(streams) == 4
    for name, parts in streams.items():
        rows = np.concatenate(parts)[:32]
        assert not rows["raw"][:12].any() and not rows["log_prob"][:12].any(), "random rows have none"
        first = name.endswith("/0")
        assert rows["log_prob"][12:].all() == first and rows["raw"][12:].any() == first
        if first:
            np.testing.assert_allclose(np.tanh(rows["raw"][12:]), rows["action"][12:], rtol=1e-5)
        # The reward is minus the distances after the push: no bonus has come into it.
        sign, inside = -1 if "swap" in name else 1, np.diff(rows["seen"][:, 0]) > 0
        block, goal = 16 * rows["seen"][:, 1:3].astype(np.float64), 16 * rows["seen"][:, 3:]
        after = np.clip(block + sign * 3 * rows["action"], 0, 12)
        np.testing.assert_allclose(rows["reward"], -np.abs(after - goal).sum(1) / 24, atol=1e-5)
        assert inside.any() and rows["flags"][:, 1].sum() >= 3, "episodes of ten steps"


@pytest.mark.parametrize(
    "moment", [pytest.param(moment, marks=[pytest.mark.long] * (moment not in {"training"})) for moment in MOMENTS]
)
def test_a_killed_run_ends_like_an_uninterrupted_one(whole, moment, tmp_path):
    workdir = tmp_path / "killed"
    kill_when(lambda: MOMENTS[moment](workdir), workdir, CONFIG)
    train(workdir, config=CONFIG)
    assert_same_run(whole, workdir)


def test_it_is_evaluated_loaded_and_exported(whole, tmp_path):
    before, file = json.loads((whole / "results.json").read_text()), tmp_path / "agent.npz"
    assert "2 tasks, step 64" in run("export", f"--workdir={whole}", f"--out={file}")
    for source, out in ((whole, "one"), (file, "other")):
        run("evaluate", f"--workdir={source}", f"--out={tmp_path / out}")
        assert json.loads((tmp_path / out / "results.json").read_text())["tasks"] == before["tasks"]
    played = [acted(source, "slide_swap", 5, seed=5) for source in 2 * (whole, file)]
    assert played.count(played[0]) == 4 and np.any(played[0][0] != played[0][1])
    agent = mow_jax.load_agent(file)
    with pytest.raises(BadInput, match=r"an observation is numbers \[5\], not uint8 \[16, 16, 3\]"):
        agent.act(np.zeros((16, 16, 3), np.uint8), "slide")
    assert not np.any(load.restore(file)[2].snapshot().target[0]["kernel"])


def test_the_task_is_played_alone_its_numbers_drawn_as_bars(whole):
    stage = play.stage(whole, "slide_swap", seed=5)
    about, views = stage.about(), [stage.step(None) for _ in range(5)]
    assert (about["system"], about["dream"], about["numbers"]) == ("m3po", False, 5) and "dream" not in views[0]
    same = np.round(acted(whole, "slide_swap", 5, seed=5), 2)
    np.testing.assert_array_equal(np.array([view["action"] for view in views], np.float32), same.astype(np.float32))


@pytest.mark.long
def test_without_the_additions_it_is_tdmpc2_bit_for_bit(tmp_path):
    """The preset's settings, and those of m3po with both off, in two runs."""
    off = ("--config.fresh.weight=0.0", "--config.bonus.kind=none", "--config.train.steps=40")
    more = ("--config.fresh.share=1.0", "--config.bonus.beta=0.9", "--config.fresh.epochs=7")
    train(tmp_path / "one", *off, config=CONFIG)
    train(tmp_path / "other", *off, *more, config=CONFIG)
    assert metrics(tmp_path / "one") == metrics(tmp_path / "other")
    assert replay_files(tmp_path / "one") == replay_files(tmp_path / "other")
    states = [load.restore(tmp_path / name)[2].snapshot() for name in ("one", "other")]
    assert set(states[0].optimizer) == {"model", "policy"}
    one, other = (np.concatenate([np.ravel(leaf) for leaf in np_leaves(state)]) for state in states)
    np.testing.assert_array_equal(one, other)


def np_leaves(state) -> list[np.ndarray]:
    import jax

    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(state)]


@pytest.mark.long
def test_of_fresh_rows_alone_a_run_learns(tmp_path):
    """As the preset m3po_onpolicy has it: all act by the bare policy, which replay does not move."""
    alone = ("--config.fresh.share=1.0", "--config.policy.replay=False", "--config.fresh.weight=1.0")
    output = train(tmp_path / "run", *alone, "--config.train.steps=40", config=CONFIG)
    assert "2 of 2 environments a task" in output
    names = {name for line in metrics(tmp_path / "run") for name in line}
    assert {"acting/policy/slide", "fresh/step"} <= names and "acting/planner/slide" not in names
    assert all(np.isfinite(value) for line in metrics(tmp_path / "run") for value in line.values())
    assert max(line.get("fresh/step", 0) for line in metrics(tmp_path / "run")) > 0


@pytest.mark.long
def test_it_learns_from_pictures_too(tmp_path):
    pixels = ("--config.suite.observation=pixels", "--config.model.shift=1", "--config.train.steps=40")
    output = train(tmp_path / "run", *pixels, config=CONFIG)
    assert "pictures" in output and (tmp_path / "run" / "frames.npz").exists()
    assert "episodes/" in (tmp_path / "run" / "report" / "report.md").read_text()


def test_a_resumed_run_keeps_what_it_sees(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    output = train(tmp_path / "run", "--config.suite.observation=pixels", config=CONFIG, code=2)
    assert "suite.observation: 'state' -> 'pixels'" in output
