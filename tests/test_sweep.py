"""A sweep runs every variant with every seed once, survives being killed, and says in a table what came out."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import resource
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import ROOT, TINY, environment, own_git, refused, run

from mow_jax import command, jobs, sweep, trial
from mow_jax.jobs import Job
from mow_jax.report import sweeps

pytestmark = pytest.mark.usefixtures("signals_as_before")


def finished_run(variant: str, seed: int, *values: float) -> dict:
    tasks = dict(zip(("a", "b"), values, strict=False))
    run = dict(variant=variant, seed=seed, command="", commit="c", seconds=90, step=8, tasks=tasks)
    return run


def test_the_table_has_every_run_and_the_interval_of_each_variants_mean():
    runs = [finished_run("x", 0, 0.5, 0.7), finished_run("x", 1, 0.7, 0.9), finished_run("y", 0, 1.0, 0.0)]
    text = sweeps.table(runs)
    # Means of the two seeds are 0.6 and 0.8: standard error 0.1, times 12.706 for one degree of freedom.
    assert "| x | 2 | 0.60 | 0.80 | 0.700 [-0.571, 1.971] |" in text
    assert "| y | 1 | 1.00 | 0.00 | 0.500 |" in text
    assert "| x, seed 1 | 0.70 | 0.90 | 0.800 | 0.70 | 1.5 |" in text
    # One run has no interval, and nothing is compared; of two each, Welch's: 2 degrees of freedom at equal spread.
    assert "less x [95%, Welch] |" in text and "| y | 1 | 1.00 | 0.00 | 0.500 | 0.500 | -0.200 | – |" in text
    assert "comparison" not in text
    pair = [*runs, finished_run("y", 1, 1.0, 0.4), *(finished_run("z", seed, 0.1, seed / 100) for seed in (0, 1))]
    text = sweeps.table(pair)
    half = 4.3027 * 0.02**0.5  # standard errors of 0.1 and 0.1
    assert f"| -0.100 [{-0.1 - half:.3f}, {-0.1 + half:.3f}] |" in text and "2 comparisons with x" in text
    alone = [
        finished_run("x", 0, 0.5, 0.7) | {"tasks": {"a": 0.5}},
        finished_run("y", 0, 0.5, 0.7) | {"tasks": {"b": 0.7}},
    ]
    assert "| y | 1 | – | 0.70 | 0.700 |" in sweeps.table(alone) and "| x, seed 0 | 0.50 | – | 0.500 |" in sweeps.table(
        alone
    )
    assert "own tasks; figure.png too: none is in every run" in sweeps.table(alone) and "own" not in text
    assert "less x" not in sweeps.table(alone)
    partly = [*alone, finished_run("z", 0, 0.2, 0.4)]
    partly = [run | {"tasks": run["tasks"] | {"c": 0.5}} for run in partly]
    assert "figure.png leaves out a, b: not in every run" in sweeps.table(partly) and "less x" in sweeps.table(partly)
    assert sweeps.table([]) == "no run has finished yet\n"
    assert "| y, seed 0 | – | – | 1.5 |" in sweeps.table([finished_run("y", 0, None, None)])  # type: ignore[arg-type]


def test_the_table_has_sizes_and_core_minutes_where_runs_say_them(tmp_path):
    (tmp_path / "origin.json").write_text(json.dumps([{"commit": "c", "parameters": 2_211_780, "active": 446_000}]))
    busy = [{"step": 8, "seconds": 60.0, "time/cores_busy": 0.5}, {"step": 9, "seconds": 90.0, "time/cores_busy": 1.0}]
    whole = "".join(f"{json.dumps(line)}\n" for line in busy).encode()
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": \xff}\n[8]\n' + whole + b'{"step": 10')
    results = {"commit": "c", "step": 9, "tasks": {"a": {"normalised": 0.5}}}
    made = sweep.entry(Job("x", 0, tmp_path, ["mow_jax.train"]), results)
    assert (made["core_seconds"], made["parameters"], made["active"]) == (60, 2_211_780, 446_000)
    text = sweeps.table([made, finished_run("y", 0, 0.5)])
    assert "| parameters | of them for a task | core-minutes a run |" in text
    assert "| 2,211,780 | 446,000 | 1.0 |" in text and "| – | – | – |" in text


def test_a_table_says_where_runs_were_scored_by_different_numbers_of_episodes(tmp_path):
    def scored(seed: int, episodes: int) -> dict:
        results = {"commit": "c", "step": 9, "tasks": {"a": {"normalised": 0.5, "returns": [1.0] * episodes}}}
        return sweep.entry(Job("x", seed, tmp_path, ["mow_jax.train"]), results)

    said = lambda *counts: sweeps.table([scored(seed, count) for seed, count in enumerate(counts)])
    assert "scored by 2 or 20 episodes a task" in said(20, 2, 20) and "episodes" not in said(20, 20)


def test_a_table_names_the_variants_that_have_not_all_learned_for_as_many_steps():
    """As where runs are ended by equal minutes."""
    given = (("x", 0, 4200), ("x", 1, 3100), ("y", 0, 4200), ("y", 1, 4200), ("z", 0, None))
    runs = [finished_run(name, seed, 0.5) | {"step": step} for name, seed, step in given]
    assert "agent steps a task, x 3,100–4,200, y 4,200, z –: what differs" in sweeps.table(runs)
    assert "steps" not in sweeps.table([runs[0], *runs[2:]])
    returned = [run | {"tasks": {"a": None}, "returns": {"a": 9.0}} for run in runs]
    assert sweeps.table(returned).count("x 3,100–4,200") == 1


def test_a_table_says_by_which_actions_variants_were_scored_where_that_differs():
    result = {"protocol": {"evaluation": {"actions": "best"}}}
    assert (
        sweeps.actions(result) == "best"
        and sweeps.actions({}) == sweeps.actions({"protocol": {"evaluation": 1}}) == "–"
    )
    runs = [
        finished_run("x", 0, 0.5, 0.7) | {"actions": "sampled"},
        finished_run("y", 0, 1.0, 0.0) | {"actions": "best"},
    ]
    text = sweeps.table(runs)
    assert "| x | 1 | sampled | 0.50 |" in text and "| y | 1 | best | 1.00 |" in text and "--actions=best" in text
    same = sweeps.table([run | {"actions": "best"} for run in runs])
    assert "actions" not in same and "| y | 1 | 1.00 |" in same


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--config=nowhere.py"], ["nowhere.py", "experiments/toy.py"]),
        ([f"--config={TINY}", "--seeds=0,one"], ["0,one", "0,1,2"]),
        ([f"--config={TINY}", "--seeds=1,1"], ["--seeds=1,1", "once"]),
        ([f"--config={TINY}", "--jobs=-1"], ["--jobs=-1", "at least 0"]),
        ([f"--config={TINY}", "--only=1"], ["--only=1", "use 0 to 0"]),
        ([f"--config={TINY}", "--config.train.steps=none"], ["none", "train.steps"]),
        ([f"--config={TINY}", "--config.train.steps=0"], ["train.steps=0", "[1, 2147483647]"]),
        (["--config=experiments/ablations.py:toy", "--variants=mow,clusters=9"], ["'clusters=9'", "clusters=each"]),
        (
            ["--config=experiments/ablations.py:toy", "--variants=mow,clusters=3", "--config.suite.tasks=('grid',)"],
            ["'mow' and 'clusters=3'", "leave one"],
        ),
        ([f"--config={TINY}", "--wordkir=x"], ["--wordkir=x", "--config.key=value"]),
        ([f"--config={TINY}", "--seeds=2,3", "--config.seed=11"], ["--config.seed", "--seeds=N,M"]),
    ],
)
def test_what_cannot_be_swept_is_refused_and_nothing_written(options, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert sweep.main([*options, f"--workdir={tmp_path / 'new'}"]) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in parts) and not (tmp_path / "new").exists()


def test_tables_are_variants_of_a_sweep_in_folders_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    options = ["--config=experiments/ablations.py:toy", f"--workdir={tmp_path / 'new'}", "--count"]
    several = "--variants=mow,table=by/hand.json,routing=table+table=/found/clusters.json"
    assert sweep.main([several, *options]) == 0 and capsys.readouterr().out == "3\n"
    jobs = sweep.plan("f.py:toy", ["table=by/hand.json"], [4], tmp_path, overrides=[], minutes=1.0)
    assert jobs[0].directory == tmp_path / "table=by_hand.json" / "4"
    assert jobs[0].command[1] == "--config=f.py:toy/table=by/hand.json"
    alike = "--variants=table=by/hand.json,table=by_hand.json"
    assert sweep.main([alike, *options]) == 2
    assert f"would share {tmp_path / 'new' / 'table=by_hand.json'}" in capsys.readouterr().err


def test_variants_stand_as_planned_beside_the_first_whichever_runs_have_finished(tmp_path, monkeypatch):
    """The first variant's first run has failed; then all of its runs."""
    monkeypatch.setattr(sweep, "finished", lambda job: scores.get((job.variant, job.seed)))
    result = lambda value: {"commit": "c", "step": 8, "tasks": {"t": {"normalised": value}}}
    scores = {("w", 5): result(0.75), ("v", 6): result(0.5), ("w", 6): result(0.25), ("u/x", 5): result(1.0)}
    planned = sweep.plan("f.py", ["v", "u/x", "w"], [5, 6], tmp_path, overrides=[], minutes=1.0)
    rows = lambda: [line.split(" | ")[0] for line in (tmp_path / "table.md").read_text().splitlines()[2:5]]
    sweep.write(planned, tmp_path, [])
    text = (tmp_path / "table.md").read_text()
    assert "less v [95%" in text and rows() == ["| v", "| u/x", "| w"] and "| w | 2 | 0.50 | 0.500 [" in text
    assert "| u/x | 1 | 1.00 | 1.000 | 1.000 | +0.500 |" in text and "No differences" not in text
    drawn = []
    monkeypatch.setattr("mow_jax.report.comparing.overview", lambda runs, looks, path: drawn.append(list(looks)))
    sweep.draw(tmp_path)
    assert drawn == [["v", "u/x", "w"]]
    del scores["v", 6]
    sweep.write(planned, tmp_path, [])
    text = (tmp_path / "table.md").read_text()
    assert "less" not in text and "No differences: v, the first variant" in text and rows()[:2] == ["| u/x", "| w"]
    older = [
        {key: run[key] for key in run if key not in ("first", "place")}
        for run in json.loads((tmp_path / "sweep.json").read_text())
    ]
    assert f"less {older[0]['variant']} [" in sweeps.table(older)


def test_a_folder_with_a_run_of_other_settings_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    options = [f"--config={TINY}", "--variants=toy", f"--workdir={tmp_path}", "--jobs=0"]
    assert sweep.main(options) == 0 and "no run has finished" in capsys.readouterr().out
    saved = command.settings([f"--config={TINY}:toy", "--config.log.every=7"]).to_dict()
    (tmp_path / "toy" / "0").mkdir(parents=True)
    (tmp_path / "toy" / "0" / "config.json").write_text(json.dumps(saved, default=list))
    assert sweep.main(options) == 0  # how often it writes a line is its own affair
    assert sweep.main([*options, "--config.agent.entropy=0.5"]) == 2
    message = capsys.readouterr().err
    assert "agent.entropy=0.0003, not 0.5" in message and "another --workdir" in message
    (tmp_path / "toy" / "0").rename(tmp_path / "toy" / "4")
    assert sweep.main([*options, "--seeds=4"]) == 2 and "seed=0, not 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "key", "now"),
    [
        ("agent", "unimix", 0.01),  # older ones mixed nothing in, whatever is the default since
        ("router", "noise", 0.75),  # not the default, which they had
        ("agent", "unimix", None),  # a default that came later binds no older run, unless it is asked for
        ("suite", "gymnasium", None),  # of all keys the default, which is wanted
    ],
)
def test_a_run_of_an_older_version_is_of_the_settings_of_its_time(section, key, now, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    options = [f"--config={TINY}", "--variants=toy", f"--workdir={tmp_path}", "--jobs=0"]
    options += [f"--config.{section}.{key}={now}"] * (now is not None)
    saved = command.settings([f"--config={TINY}:toy"]).to_dict()
    del saved[section][key]
    (tmp_path / "toy" / "0").mkdir(parents=True)
    (tmp_path / "toy" / "0" / "config.json").write_text(json.dumps(saved, default=list))
    assert sweep.main(options) == (0 if now is None else 2)
    assert now is None or f"{section}.{key}=0.0, not {now}" in capsys.readouterr().err


def put(directory: Path, seed: int, commit: str, **versions: str) -> None:
    """What a sweep looks for in the folder of a finished run."""
    place = directory / "toy" / str(seed)
    place.mkdir(parents=True)
    settings = command.settings([f"--config={TINY}:toy", f"--config.seed={seed}"]).to_dict()
    results = {
        "step": settings["train"]["steps"],
        "commit": commit,
        "versions": versions,
        "tasks": {"a": {"normalised": 1}},
    }
    (place / "config.json").write_text(json.dumps(settings, default=list))
    (place / "results.json").write_text(json.dumps(results))


def test_the_commands_of_a_table_make_its_runs_as_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sweep, "draw", lambda directory: None)
    monkeypatch.setattr(sweep, "run", lambda *_: ([], False))
    put(tmp_path, 6, "0a1b2c", jax="0.10.7", mow_jax="0.9")
    put(tmp_path, 8, "7d8e9f+", jax="0.10.9", mow_jax="0.9")
    common = [f"--config={TINY}", "--variants=toy", f"--workdir={tmp_path}"]
    made = lambda *options: (sweep.main([*common, *options]), (tmp_path / "commands.sh").read_text())[1]
    text = made("--seeds=6,8", "--jobs", "0", "--only", "1")
    assert f"python -m mow_jax.sweep {' '.join(common)} --seeds=6,8\n" in text
    assert "several commits: 7d8e9f+, 0a1b2c." in text and "several versions" in text and "CPU core" not in text
    for seed, machine in ((6, "3 cores, 1 x cpu"), (8, "16 cores, 8 x NVIDIA H200")):
        start = {"commit": "0a1b2c", "machine": machine}
        (tmp_path / "toy" / str(seed) / "origin.json").write_text(json.dumps([start, start]))
    assert "# Each run had 3 CPU cores (taskset, --jobs)" in made("--seeds=6,8")
    assert "Files differed" in text and "git checkout 7d8e9f\n" in text and "jax==0.10.9\n" in text
    put(tmp_path, 3, "unknown", jax="0.10.8", mow_jax="0.9")
    text = made("--seeds=3", "--jobs=0")
    assert "pip install mow_jax==0.9 jax==0.10.8\n" in text and "several" not in text and "git" not in text
    assert "--jobs=2" in made("--seeds=3", "--jobs=2")


def test_a_table_of_all_runs_by_one_kind_of_actions_lies_beside_that_of_their_own(tmp_path, monkeypatch, capsys):
    """Two runs configured for "sampled", of which one has been scored by "best", too."""
    monkeypatch.chdir(ROOT)
    drawn = []
    monkeypatch.setattr(sweep, "draw", drawn.append)

    def score(seed: int, kind: str, score: float, where: str = "") -> None:
        place = tmp_path / "toy" / str(seed)
        own = {"protocol": {"evaluation": {"actions": kind}}, "tasks": {"a": {"normalised": score}}}
        results = json.loads((place / "results.json").read_text()) | own
        (place / where).mkdir(exist_ok=True)
        (place / where / "results.json").write_text(json.dumps(results))

    for seed in (6, 8):
        put(tmp_path, seed, "0a1b2c", jax="0.10.7")
        score(seed, "sampled", 0.25)
    score(8, "best", 0.75, "best")
    options = [f"--config={TINY}", "--variants=toy", "--seeds=6,8", "--jobs=0", f"--workdir={tmp_path}"]
    table = lambda *more: (sweep.main([*options, *more]), (tmp_path / drawn[-1] / "table.md").read_text())[1]
    assert "| toy | 2 | 0.25 |" in table() and drawn == [tmp_path]
    assert "| toy | 2 | 0.25 |" in table("--actions=sampled") and drawn[1:] == [tmp_path / "sampled"]
    assert "not finished" not in capsys.readouterr().out
    assert "| toy | 1 | 0.75 |" in table("--actions=best") and "1 of 2 runs are not finished" in capsys.readouterr().out
    assert "--actions=best" in (tmp_path / "best" / "commands.sh").read_text()
    assert "| toy | 2 | 0.25 |" in (tmp_path / "table.md").read_text(), "as it was"


def test_each_state_of_changed_files_is_another_commit(tmp_path):
    (tmp_path / "mow_jax").mkdir()
    file = shutil.copy(ROOT / "mow_jax" / "origin.py", tmp_path / "mow_jax" / "origin.py")
    known = ["git", "-c", "user.name=a", "-c", "user.email=b@c"]
    git = lambda *words: subprocess.run([*known, *words], cwd=tmp_path, check=True, env=own_git())
    git("init", "--quiet")
    commit = runpy.run_path(str(file))["commit"]
    assert commit() == "unknown"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOW_JAX_COMMIT", "5f1d0a+9c")
        assert commit() == "5f1d0a+9c", "as whoever copied the code says"
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    clean, before = commit(), file.read_text()
    found = [clean]
    for text in ("# one\n", "# two\n"):
        file.write_text(before + text)
        found += [commit(), commit()]
    file.write_text(before)
    (tmp_path / "notes.txt").write_text("not in the repository")
    assert commit() == clean and re.fullmatch("[0-9a-f]{12}", clean)
    assert found[1] == found[2] != found[3] == found[4]
    for name, text in (("experiments/mine.py", "one"), ("experiments/mine.py", "two"), ("mow_jax/table.json", "[]")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        found += [commit()]
        assert commit() == found[-1]
    (tmp_path / "loose.py").symlink_to("nowhere")
    found += [commit()]
    assert len(set(found)) == 7, "new files of the code count, by name and content, those that cannot be read by name"
    assert all(re.fullmatch(rf"{clean}\+[0-9a-f]{{6}}", changed) for changed in found[1:])


def test_a_sweep_goes_on_at_its_own_commit_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sweep, "draw", lambda directory: None)
    monkeypatch.setattr(sweep, "refused", lambda jobs, mine: 0)
    begun = []
    monkeypatch.setattr(sweep, "run", lambda mine, *_: (begun.append(len(mine)), ([], False))[1])
    monkeypatch.setattr(sweep.origin, "commit", lambda: "7d8e9f")
    put(tmp_path, 6, "0a1b2c", jax="0.10.7")
    common = [f"--config={TINY}", "--variants=toy", f"--workdir={tmp_path}"]
    assert sweep.main([*common, "--seeds=6"]) == 0 and begun == [1], "all is finished: only the table is made"
    assert sweep.main([*common, "--seeds=6,8"]) == 2
    message = capsys.readouterr().err
    assert "0a1b2c" in message and "7d8e9f" in message and "--allow_other_commit" in message and begun == [1]
    assert sweep.main([*common, "--seeds=6,8", "--only=1"]) == 2, "one of an array, beside those before it"
    assert sweep.main([*common, "--seeds=6,8", "--jobs=0"]) == 0 == sweep.main([*common, "--seeds=6,8", "--count"])
    assert sweep.main([*common, "--seeds=8"]) == 2 and "6 is of commit 0a1b2c" in capsys.readouterr().err, (
        "a part of it"
    )
    assert sweep.main([*common, "--seeds=6,8", "--allow_other_commit"]) == 0 and begun == [1, 2]
    (tmp_path / "toy" / "8").mkdir()
    (tmp_path / "toy" / "6" / "results.json").unlink()
    (tmp_path / "toy" / "6" / "origin.json").write_text(json.dumps([{"commit": "7d8e9f"}]))
    assert sweep.main([*common, "--seeds=6,8"]) == 0, "begun at this commit"
    (tmp_path / "toy" / "8" / "origin.json").write_text(json.dumps([{"commit": "7d8e9f"}, {"commit": "7d8e9f+"}]))
    assert sweep.main([*common, "--seeds=6,8"]) == 2 and "toy/8 is of commit 7d8e9f+" in capsys.readouterr().err


def test_no_run_is_begun_once_the_checkout_has_changed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sweep, "draw", lambda directory: None)
    monkeypatch.setattr(sweep, "refused", lambda jobs, mine: 0)
    commits = ["7d8e9f"] * 2  # when the folder is looked at, and when the first run is to begin
    monkeypatch.setattr(sweep.origin, "commit", lambda: commits.pop() if commits else "0a1b2c")
    monkeypatch.setattr(jobs, "_start", lambda *_: pytest.fail("a run was begun"))
    options = [f"--config={TINY}", "--variants=toy", f"--workdir={tmp_path}"]
    assert sweep.main(options) == 2
    heard = capsys.readouterr()
    assert "commit 7d8e9f" in heard.err and "0a1b2c" in heard.err and "1 of 1 runs are not finished" in heard.out


@pytest.mark.parametrize(
    ("system", "key", "value", "refused"),
    [
        ("mow", "train.schedule_steps", 22_000, True),  # the router's temperature follows them
        ("mow", "train.schedule_steps", 11_000, False),  # train.steps, which 0 means
        ("mow", "evaluation.every", 700, False),
        ("scalezero", "evaluation.every", 700, True),  # its stages follow evaluations
        ("scalezero", "checkpoint.every", 700, False),
    ],
)
def test_what_decides_what_a_run_learns_must_be_as_it_was(system, key, value, refused, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    saved = command.settings([f"--config=experiments/toy.py:{system}", f"--config.{key}={value}"])
    (tmp_path / system / "0").mkdir(parents=True)
    (tmp_path / system / "0" / "config.json").write_text(json.dumps(saved.to_dict(), default=list))
    arguments = ["--config=experiments/toy.py", f"--variants={system}", f"--workdir={tmp_path}", "--jobs=0"]
    assert sweep.main(arguments) == (2 if refused else 0)
    assert (f"{key}={value}" in capsys.readouterr().err) == refused


def test_tasks_without_a_normalised_score_are_set_side_by_side_by_their_returns(tmp_path):
    given = (("x", 0, -120.0), ("x", 1, -140.0), ("y", 0, -900.0))
    runs = [finished_run(name, seed, None, None) | {"returns": {"a": value}} for name, seed, value in given]  # type: ignore[arg-type]
    text = sweeps.table(runs)
    assert "| x | 2 | -130.00 | -130.000 [-257.062, -2.938] |" in text and "all numbers are of mean returns" in text
    assert "| y, seed 0 | -900.00 | -900.000 | -900.00 | 1.5 |" in text
    (tmp_path / "sweep.json").write_text(json.dumps(runs))
    sweep.draw(tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 5000
    scored = finished_run("x", 0, 0.5, 0.7) | {"returns": {"a": 3.0, "b": 4.0}}
    assert not sweeps.by_returns([scored, *runs]) and "mean returns" not in sweeps.table([scored])
    results = {"commit": "c", "step": 8, "tasks": {"a": {"normalised": None, "returns": [1.0, 2.0]}}}
    job = sweep.plan("f.py", ["x"], [0], tmp_path, overrides=[], minutes=1.0)[0]
    assert sweep.entry(job, results)["returns"] == {"a": 1.5}


# --- Refused before anything runs, and places that cannot be used -----------------------------------------------------


def trial_of(monkeypatch, directory: Path, *runs: list[str]) -> int:
    """What the trial of runs with these overrides, each in a folder of its own, ends with."""
    asked = [[str(directory / str(i)), [f"--config={ROOT / TINY}", *words]] for i, words in enumerate(runs)]
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asked)))
    return command.guarded(trial.main)


@pytest.mark.parametrize(
    ("runs", "parts"),
    [
        ([["--config.seed=3"], ["--config.suite.tasks=('gird','catch')"]], ["gird", "grid"]),
        ([["--config.clustering.table=absent.json"]], ["absent.json"]),
        ([["--config.train.init_from=absent"]], ["absent", "config.json"]),
        ([["--config.evaluation.parallel=1000000000", "--config.evaluation.episodes=1000000000"]], ["memory"]),
    ],
)
def test_a_trial_refuses_what_training_would(runs, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert trial_of(monkeypatch, tmp_path / "new", *runs) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and all(part in message for part in parts) and not list(tmp_path.iterdir())


def test_a_trial_of_runs_that_can_begin_leaves_nothing(tmp_path, monkeypatch, capsys):
    assert trial_of(monkeypatch, tmp_path / "new", ["--config.seed=3"]) == 0
    assert not capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_sweep_tries_the_first_run_that_has_nothing_yet_of_each_variant(tmp_path, monkeypatch):
    asked: list = []

    def tried(words, input, **_):
        asked.append(json.loads(input))
        return subprocess.CompletedProcess(words, 2)

    monkeypatch.setattr(sweep.subprocess, "run", tried)
    options = dict(overrides=["--config.log.every=7"], minutes=1.0)
    runs = sweep.plan("f.py", ["x", "y", "z"], [4, 5], tmp_path, **options)
    for job in (runs[0], runs[2], runs[5]):  # x 4, z 4 and z 5
        job.directory.mkdir(parents=True)
        (job.directory / "config.json").write_text("{}")
    assert sweep.refused(runs, runs) == 2
    words = lambda name, seed: [f"--config=f.py:{name}", f"--config.seed={seed}", "--config.log.every=7"]
    expected = [[str(tmp_path / "x" / "5"), words("x", 5)], [str(tmp_path / "y" / "4"), words("y", 4)]]
    assert sorted(asked.pop()) == expected
    assert sweep.refused(runs, [runs[0], runs[5]]) == 0 and not asked, "those have begun"
    with (runs[2].directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sweep.refused(runs, runs) == 0 and not asked, "one is at work"


def test_actions_that_a_system_has_not_are_refused_before_its_runs_begin(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    words = ["--config=experiments/pendulum.py", "--variants=m3po", f"--workdir={tmp_path / 'new'}", "--jobs=0"]
    assert sweep.main([*words, "--actions=sampled"]) == 2 and not (tmp_path / "new").exists()
    assert "evaluation.actions" in capsys.readouterr().err
    assert sweep.main([*words, "--actions=best"]) == 0


def test_what_a_trial_refuses_ends_a_sweep_before_its_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sweep.subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 2))
    monkeypatch.setattr(sweep, "run", lambda *_: pytest.fail("a run was begun"))
    assert sweep.main([f"--config={TINY}", "--variants=toy", f"--workdir={tmp_path / 'new'}"]) == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_sweep_that_is_told_to_end_during_its_trial_says_so(signum, tmp_path, monkeypatch, capsys):
    real = subprocess.run

    def told(words, **options):
        if "mow_jax.trial" not in words:
            return real(words, **options)
        os.kill(os.getpid(), signum)
        return time.sleep(60)

    monkeypatch.setattr(sweep.subprocess, "run", told)
    monkeypatch.setattr(sweep, "run", lambda *_: pytest.fail("a run was begun"))
    words = [f"--config={TINY}", "--variants=toy", f"--workdir={tmp_path / 'new'}", "--preempted_exit_code=75"]
    with pytest.raises(SystemExit) as ended:
        sweep.main(words)
    assert ended.value.code == 75 and not (tmp_path / "new").exists()
    assert "told to end before a run began" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "variables", "part"),
    [
        (["--config.suite.tasks=('slide','grid')"], {}, "mixes discrete actions"),
        ([], {"JAX_PLATFORMS": "tpu"}, "JAX_PLATFORMS='tpu'"),
    ],
)
def test_a_sweep_says_first_what_its_runs_would(words, variables, part, tmp_path):
    options = [f"--config={TINY}", "--variants=toy", f"--workdir={tmp_path / 'new'}", *words]
    assert part in refused("sweep", *options, **variables) and not (tmp_path / "new").exists()


def told(capsys, *options: str) -> str:
    """The one line with which a sweep of the smallest run ends."""
    assert sweep.main([f"--config={TINY}", "--variants=toy", *options]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1, message
    return message


@pytest.mark.parametrize("name", ["sweep.json", "table.md", "commands.sh"])
@pytest.mark.parametrize("jobs", [0, 2])
def test_files_that_cannot_be_written_end_a_sweep_before_its_runs(name, jobs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sweep, "refused", lambda jobs, mine: 0)
    monkeypatch.setattr(sweep, "run", lambda *_: pytest.fail("a run was begun"))
    (tmp_path / name).mkdir()
    message = told(capsys, f"--jobs={jobs}", f"--workdir={tmp_path}")
    assert f"cannot write {tmp_path / name}: Is a directory" in message and "another --workdir" in message
    assert not list(tmp_path.glob("*.tmp*"))


def test_a_full_disk_or_a_folder_that_takes_no_files_ends_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert "cannot write /proc/self/sweep.json: " in told(capsys, "--jobs=0", "--workdir=/proc/self")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        message = told(capsys, "--jobs=0", f"--workdir={tmp_path}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"cannot write {tmp_path / 'sweep.json'}: File too large; free space" in message
    assert [path.name for path in tmp_path.iterdir()] == [".table.lock"]


def test_a_table_is_printed_before_a_figure_that_cannot_be_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    put(tmp_path, 5, "0a1b2c", jax="0.10.7")
    (tmp_path / "figure.png").mkdir()
    assert sweep.main([f"--config={TINY}", "--variants=toy", "--seeds=5", "--jobs=0", f"--workdir={tmp_path}"]) == 2
    said = capsys.readouterr()
    assert "| toy | 1 |" in said.out and said.err.count("\n") == 1 and "figure.png cannot be used" in said.err


STEPS = 24  # of a stand-in
# A sweep whose runs are tests/stand_in.py.
DRIVER = """
import sys
from mow_jax import command, sweep
from mow_jax.jobs import Job
from mow_jax.report import sweeps
sweep.TRAIN, sweep.PAUSE = "stand_in", 0.02
sweep.origin.commit = lambda: "c"  # a stand-in's
sweep.refused = lambda jobs, mine: 0  # which needs no trial
sys.exit(sweep.main(sys.argv[1:]))
"""


def start(directory: Path, *options: str) -> subprocess.Popen:
    arguments = [f"--config={TINY}", "--variants=toy", "--seeds=0,1,2", f"--workdir={directory}", *options]
    arguments.append(f"--config.train.steps={STEPS}")
    env = environment() | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments], cwd=ROOT, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


def wait_for(happened) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.005)


@pytest.mark.slow
def test_a_sweep_killed_at_any_moment_repeats_nothing_and_changes_no_score(tmp_path: Path):
    """Started again at once after each SIGKILL, while what the killed one left behind still saves; two runs at a time,
    of which the second kill comes between a run's last step and its results."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(whole, "--jobs=2")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    place = lambda seed, *names: killed.joinpath("toy", str(seed), *names)
    moments = [
        lambda: place(0, "checkpoints", "3").exists(),
        lambda: place(1, "checkpoints", str(STEPS)).exists(),
        lambda: place(2, "checkpoints", "5").exists(),
    ]
    for moment in moments:
        process = start(killed, "--jobs=2")
        wait_for(moment)
        process.kill()
        process.communicate()
    process = start(killed, "--jobs=2", "--preempted_exit_code=75")
    assert process.stdout and process.stdout.readline()  # it has begun: a run's name, or the table if all are over
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode in (75, 0), output
    process = start(killed, "--jobs=2")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    for seed in range(3):
        assert place(seed, "done.txt").read_text().split() == [str(step) for step in range(1, STEPS + 1)]  # each once
    runs, expected = (json.loads((folder / "sweep.json").read_text()) for folder in (killed, whole))
    strip = lambda runs: [{key: run[key] for key in ("variant", "seed", "step", "tasks")} for run in runs]
    assert strip(runs) == strip(expected) and [run["seed"] for run in runs] == [0, 1, 2]
    summary = lambda folder: (folder / "table.md").read_text().split("\n\n")[0]
    assert summary(killed) == summary(whole)
    assert (killed / "figure.png").stat().st_size > 5000
    script = (killed / "commands.sh").read_text()
    assert "git checkout c\n" in script and "--seeds=0,1,2" in script and script.count("--config.seed=") == 3


@pytest.mark.long
def test_jobs_of_an_array_make_the_same_table(tmp_path: Path):
    assert start(tmp_path, "--count").communicate(timeout=300)[0] == "3\n"
    several = [start(tmp_path, f"--only={index}") for index in range(3)]
    for process in several:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    process = start(tmp_path, "--jobs=0")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "| toy | 3 |" in output and "not finished" not in output
    assert all((tmp_path / "toy" / str(seed) / "done.txt").read_text().split()[-1] == str(STEPS) for seed in range(3))
    assert not list(tmp_path.glob("*.tmp*"))


def test_runs_of_a_sweep_share_what_they_compile(monkeypatch):
    name, options = "JAX_COMPILATION_CACHE_DIR", SimpleNamespace(jobs=2, minutes=float("inf"))
    monkeypatch.setattr(sweep.os, "sched_getaffinity", lambda _: set(range(4)))

    def folder(runs: int, **changes) -> str | None:
        with sweep.compiled_once(SimpleNamespace(**{**vars(options), **changes}), runs):
            return os.environ.get(name)

    monkeypatch.setenv(name, "given")
    assert folder(2) == "given"
    monkeypatch.delenv(name)
    assert folder(1) is None, "nobody would load it"
    assert folder(2, minutes=5.0) is None, "the first run alone would compile in its minutes"
    assert folder(2, jobs=3) is None, "of four cores one run has two, the others one"
    assert folder(2, jobs=0) is not None is not folder(9, jobs=8)
    with sweep.compiled_once(options, 2):
        made = Path(os.environ[name])
        assert made.stat().st_mode & 0o777 == 0o700, "who can write to it can have anything run"
        (made / "program").touch()
    assert name not in os.environ and not made.exists()


@pytest.mark.long
def test_a_killed_sweep_of_real_runs_goes_on_and_repeats_nothing(tmp_path: Path):
    """SIGKILL to the sweep in the middle of its second run, then SIGTERM, then to the end."""
    compiled = tmp_path / "compiled"
    shared = environment() | {"JAX_COMPILATION_CACHE_DIR": str(compiled)}
    command = [sys.executable, "-m", "mow_jax.sweep", f"--config={TINY}", "--variants=toy", "--seeds=0,1"]
    command += [f"--workdir={tmp_path}", "--config.evaluation.every=0", "--config.train.steps=48"]
    first, second = tmp_path / "toy" / "0", tmp_path / "toy" / "1"

    def begin() -> subprocess.Popen:
        return subprocess.Popen(command, cwd=ROOT, env=shared, stdout=subprocess.PIPE, text=True)

    killed = begin()
    wait_for(lambda: (second / "checkpoints" / "24").exists())
    killed.kill()
    killed.communicate()
    result = (first / "results.json").stat().st_mtime_ns
    stopped = begin()
    wait_for(lambda: (tmp_path / "toy" / "1.log").read_text().count("resumed from step") == 1)
    stopped.send_signal(signal.SIGTERM)
    output, _ = stopped.communicate(timeout=300)
    assert stopped.returncode == 0, output

    command.append("--minutes=0.001")  # it has learned for longer: what it has saved is evaluated
    timed = subprocess.run(command, cwd=ROOT, env=shared, capture_output=True, text=True, timeout=300, check=False)
    assert timed.returncode == 0, timed
    found = json.loads((second / "results.json").read_text())
    assert 24 <= found["step"] < 48 and found["tasks"].keys() == {"catch", "grid"}
    del command[-1]

    ended = begin()
    output, _ = ended.communicate(timeout=300)
    assert ended.returncode == 0 and "toy, seed 1" in output, output
    assert (first / "results.json").stat().st_mtime_ns == result
    runs = json.loads((tmp_path / "sweep.json").read_text())
    assert [(run["variant"], run["seed"], run["step"]) for run in runs] == [("toy", 0, 48), ("toy", 1, 48)]
    programs = [path.name.partition("-")[0] for path in compiled.glob("jit_*-cache")]
    assert {name: programs.count(name) for name in ("jit_update", "jit_warmup_update", "jit_init")} == {
        "jit_update": 1,
        "jit_warmup_update": 1,
        "jit_init": 1,
    }, "both seeds have the same programs"
    words = [word for word in shlex.split(runs[1]["command"])[3:] if not word.startswith("--workdir=")]
    run("train", *words, f"--workdir={tmp_path / 'whole'}")  # never interrupted
    whole = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert runs[1]["tasks"] == {name: task["normalised"] for name, task in whole["tasks"].items()}
    assert runs[1]["returns"] == sweeps.returns(whole) and None not in runs[1]["tasks"].values()
    assert "--config.train.steps=48" in runs[1]["command"] and "| toy | 2 |" in (tmp_path / "table.md").read_text()
