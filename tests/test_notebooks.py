"""Every notebook runs from its first cell to its last, in its tiny form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT, environment

NOTEBOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))


def code(path: Path) -> str:
    """All code cells, one after the other."""
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path):
    env = environment() | {"NOTEBOOK_TINY": "1", "NOTEBOOK_RUNS": str(tmp_path), "MPLBACKEND": "agg"}
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
