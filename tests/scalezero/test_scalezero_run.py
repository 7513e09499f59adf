"""ScaleZero through the house alone: it trains, is killed, goes on, is evaluated, loaded, exported; and is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from processes import TINY, acted, assert_same_run, finished, kill_when, metrics, replay_files, run, train

from mow_jax import load, play

pytestmark = pytest.mark.slow
CONFIG = f"{TINY}:scalezero"
ROW = np.dtype(
    [("pixels", np.void, 16 * 16 * 3), ("action", "i4"), ("reward", "f4"), ("flags", "u1", 2), ("policy", "f4", 5)]
)


def searched(workdir: Path) -> bool:
    """Whether a search has acted: only then a policy is stored. Files may be new, and not yet of their size."""
    chunks = [content[: len(content) // ROW.itemsize * ROW.itemsize] for content in replay_files(workdir).values()]
    return any(np.frombuffer(chunk, ROW)["policy"].any() for chunk in chunks)


MOMENTS = {
    "collection": lambda w: any((w / "replay").rglob("*.rows")),
    "a save": lambda w: any((w / "checkpoints").glob("temporary-*")),
    "a search": searched,
    "training": lambda w: any(line["update"] > 5 for line in metrics(w)),
    "the second stage": lambda w: any(line.get("stages/stage") == 1 for line in metrics(w)),
}


@pytest.fixture(scope="module")
def whole():
    return finished(CONFIG)


def test_a_run_leaves_what_its_users_expect(whole):
    said = whole.with_suffix(".said").read_text()
    assert "4 simulations an action (puct)" in said and "adapters of rank 2" in said
    lines = metrics(whole)
    names = {name for line in lines for name in line}
    wanted = {"world/latent/catch", "world/policy/grid", "world/dormant", "router/load/1", "train/skipped_in_row"}
    assert wanted | {"episode/catch/return", "evaluation/grid/return", "evaluation/mean"} <= names
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert [line["stages/stage"] for line in lines if "stages/stage" in line][-1] == 1
    results = json.loads((whole / "results.json").read_text())
    assert results["protocol"]["search"]["simulations"] == 4 and "mctx" in results["versions"]
    page = (whole / "report" / "report.md").read_text()
    assert "paints no pictures" in page and "strips/" not in page and "episodes/" in page
    assert "Use of the experts" in page and "Harmonious" not in page and "Missing" not in page


def test_searched_policies_lie_beside_the_rows_that_were_acted(whole):
    streams: dict[str, list[np.ndarray]] = {}
    for name, content in replay_files(whole).items():
        streams.setdefault(name.rpartition("/")[0], []).append(np.frombuffer(content, ROW))
    assert len(streams) == 4
    for name, parts in streams.items():
        rows = np.concatenate(parts)[:32]
        assert not rows["policy"][:12].any(), "random rows have none"
        assert np.allclose(rows["policy"][12:].sum(-1), 1)
        assert (np.take_along_axis(rows["policy"], rows["action"][:, None], 1)[12:] > 0).all(), "what was searched"
        forbidden = slice(3, 5) if name.startswith("catch") else slice(0, 1)
        assert not rows["policy"][:, forbidden].any()


@pytest.mark.parametrize(
    "moment",
    [pytest.param(moment, marks=[pytest.mark.long] * (moment not in {"the second stage"})) for moment in MOMENTS],
)
def test_a_killed_run_ends_like_an_uninterrupted_one(whole, moment, tmp_path):
    workdir = tmp_path / "killed"
    kill_when(lambda: MOMENTS[moment](workdir), workdir, CONFIG)
    output = train(workdir, config=CONFIG)
    assert "resumed from step" in output or moment in ("collection", "a save")
    assert_same_run(whole, workdir)


def test_it_is_evaluated_loaded_and_exported(whole, tmp_path):
    before, file = json.loads((whole / "results.json").read_text()), tmp_path / "agent.npz"
    assert "2 tasks, step 64" in run("export", f"--workdir={whole}", f"--out={file}")
    for source, out in ((whole, "one"), (file, "other")):
        run("evaluate", f"--workdir={source}", f"--out={tmp_path / out}")
        assert json.loads((tmp_path / out / "results.json").read_text())["tasks"] == before["tasks"]
    played = [acted(source, "grid", 8, seed=5) for source in 2 * (whole, file)]
    assert played.count(played[0]) == 4 and 0 not in played[0], "the same, and nothing that grid does not have"
    state = load.restore(file)[2].snapshot()
    assert int(state.stage) == 1 and not any(np.any(x) for x in state.target["encoder"].values() if np.ndim(x))


@pytest.mark.long
def test_other_tasks_start_from_its_weights(whole, tmp_path):
    names = "--config.suite.tasks=('cue','wall','catch')"
    train(tmp_path / "run", names, f"--config.train.init_from={whole}", "--config.train.steps=24", config=CONFIG)
    new, old = (load.restore(path)[2].snapshot() for path in (tmp_path / "run", whole))
    assert all((new.params["tokens"][name] == old.params["tokens"][name]).all() for name in ("action", "positions"))
    assert len(new.params["heads"]["value"]["Dense_0"]["kernel"]) == 3 and int(new.stage) == 0


def test_the_game_is_played_alone(whole):
    stage = play.stage(whole, "grid", seed=5)
    about, views = stage.about(), [stage.step(None)]
    assert (about["system"], about["dream"], about["experts"]) == ("scalezero", False, 0) and "dream" not in views[0]
    while not views[-1]["ended"] and len(views) < 8:  # how soon it ends is the policy's, and differs between processors
        views.append(stage.step(None))
    names = [stage.names[action] for action in acted(whole, "grid", len(views), seed=5)]
    assert [view["action"] for view in views] == names


def test_a_resumed_run_keeps_its_evaluations_as_stages_depend_on_them(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    output = train(tmp_path / "run", "--config.evaluation.episodes=3", config=CONFIG, code=2)
    assert "evaluation.episodes: 2 -> 3" in output
