"""Every notebook runs from its first cell to its last, in its tiny form."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from processes import ROOT, environment, finished

from mow_jax.systems.mow import clustering

NOTEBOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))


def code(path: Path) -> str:
    """All code cells, one after the other."""
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path):
    env = environment() | {"NOTEBOOK_TINY": str(finished()), "NOTEBOOK_RUNS": str(tmp_path), "MPLBACKEND": "agg"}
    env["PYTHONPATH"] = f"{ROOT}:{path.parent}"
    script = tmp_path / "cells.py"
    script.write_text(code(path))
    done = subprocess.run(
        [sys.executable, script], cwd=path.parent, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("\n") >= 3, done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_one_and_says_what_it_asks(path: Path):
    held = json.loads(path.read_text())
    assert held["nbformat"] == 4 and len({cell["id"] for cell in held["cells"]}) == len(held["cells"])
    first, *rest = held["cells"]
    assert first["cell_type"] == "markdown" and len(rest) >= 6
    compile(code(path), path.name, "exec")
    assert str(Path.home()) not in path.read_text() and os.sep + "tmp" not in path.read_text()


@pytest.mark.slow
def test_the_stability_of_groups_is_told_for_every_method_and_reduction(monkeypatch):
    """Three seeds of which two say the same, in groups of unequal size, of thirteen tasks."""
    monkeypatch.syspath_prepend(ROOT / "experiments" / "notebooks")
    stability = importlib.import_module("stability")
    labels = np.repeat([0, 1, 2], [8, 3, 2])
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(3, 20))

    def gradients(labels: np.ndarray) -> dict:
        layers = {"kernel": centres[labels] + 0.1 * rng.normal(size=(13, 20))}
        return {vector: {"cluster": layers} for vector in clustering.VECTORS}

    seeds = {0: gradients(labels), 1: gradients(labels), 2: gradients(rng.permutation(labels))}
    found = stability.groupings(seeds, 13, 3)
    assert list(found)[:2] == [("agglomerative", "layer_mean"), ("kmeans", "layer_mean")]
    assert len(found) == 3 * 4 + 2 and set(found["random", "-"]) == {0, 1, 2}
    mean, low, high = stability.agreement(found["spectral", "projection"])
    assert high == 1.0 and low < 0.9 and low < mean < high
    text = stability.table(found)
    assert "| agreement of 3 seeds | range of 3 pairs |" in text and "| 8+3+2, 8+3+2, 8+3+2 |" in text
    by_lot = {line.split(" | ")[0]: line for line in text.splitlines()}
    assert "| shuffled" in by_lot and by_lot["| shuffled"].endswith("8+3+2, 8+3+2, 8+3+2 |")
    assert by_lot["| random"].endswith("5+4+4, 5+4+4, 5+4+4 |")
    low, high = stability.by_chance(found["spectral", "projection"])
    assert low < 0.05 and low < high < mean, "two seeds of three that agree are more than chance"
    alone = {seed: np.arange(13) for seed in range(3)}
    assert stability.by_chance(alone).tolist() == [1.0, 1.0], "groups of one each cannot differ"


@pytest.mark.long
def test_the_stability_command_warms_up_once_a_seed(tmp_path: Path):
    (tmp_path / "places").mkdir()
    env = environment() | {"NOTEBOOK_TINY": "none is looked at", "TMPDIR": str(tmp_path / "places")}
    script = ROOT / "experiments" / "notebooks" / "stability.py"
    words = [sys.executable, script, "--seeds=0,1", "--clusters=2", f"--out={tmp_path}"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("updates") == 2 and (tmp_path / "stability.md").read_text() in done.stdout
    assert len(json.loads((tmp_path / "stability.json").read_text())["groupings"]) == 14
    assert not list((tmp_path / "places").glob("mow_jax_buffer_*")), "buffers go with the process"


def test_a_studys_buffer_is_removed_with_the_next_one(tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments" / "notebooks")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    study = importlib.import_module("study")
    made = object.__new__(study.Study)  # without an experiment's agent
    made._folder = None
    for seed in range(3):
        (Path(made._new_folder()) / f"chunk_{seed}").touch()
        assert [path.name for path in tmp_path.glob("mow_jax_buffer_*/*")] == [f"chunk_{seed}"]
    made._folder.cleanup()


def test_a_run_is_used_again_only_where_nothing_was_changed(tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments" / "notebooks")
    study = importlib.import_module("study")
    begun = []

    def trained(words, **_):
        begun.append(words)
        place = Path(next(word.partition("=")[2] for word in words if word.startswith("--workdir=")))
        place.mkdir(parents=True)
        (place / "results.json").write_text("")
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(study.subprocess, "run", trained)
    monkeypatch.setattr(study, "RUNS", tmp_path)
    table = tmp_path / "table.json"
    table.write_text("[0, 1]")
    calls = [
        (("train.steps=7",), study.TOYS),
        (("train.steps=8",), study.TOYS),
        (("train.steps=7",), Path("other.py")),
        (("train.steps=7", f"clustering.table={table}"), study.TOYS),
    ]
    places = [study.train("x", *changes, file=file) for changes, file in calls]
    table.write_text("[1, 0]")
    places.append(study.train("x", *calls[-1][0], file=study.TOYS))
    assert len(set(places)) == len(begun) == 5 and all(place.name.startswith("x_") for place in places)
    assert study.train("x", "train.steps=8") == places[1] and len(begun) == 5
    own, root = tmp_path / "mine.py", tmp_path / "checkout"
    for name in ("mow_jax/parts/one.py", "experiments/two.py", "experiments/notebooks/three.ipynb"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("before")
    own.write_text("before")
    monkeypatch.setattr(study, "ROOT", root)
    kept = study.train("y", file=own)
    for path in (own, root / "mow_jax" / "parts" / "one.py", root / "experiments" / "two.py"):
        path.write_text("after")
        assert study.train("y", file=own) != kept, path
        kept = study.train("y", file=own)
    (root / "experiments" / "notebooks" / "three.ipynb").write_text("saved")
    assert study.train("y", file=own) == kept
