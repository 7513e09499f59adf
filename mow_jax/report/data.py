"""Reads what a run left in its workdir: config, metrics, clusters, results and frames.

`read(workdir)` gives one Run. An absent file is None (or empty) and named in `missing`; a damaged one is BadInput.
Called by python -m mow_jax.report.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mow_jax import files, locks
from mow_jax.report.scores import is_number
from mow_jax.types import BadInput

# The files of a workdir that the report reads, and how each comes about.
SOURCES = {
    "config.json": "python -m mow_jax.train writes it when it starts",
    "metrics.jsonl": "python -m mow_jax.train writes it while it learns",
    "clusters.json": "python -m mow_jax.train writes it when the warm-up ends",
    "results.json": "run python -m mow_jax.evaluate --workdir={workdir}",
    "frames.npz": "run python -m mow_jax.evaluate --workdir={workdir}",
}

# Numbers of a task's diagnostics that the report shows; runs of older versions lack some.
KNOWN = (
    *("rows", "reward_correlation", "reward_precision", "reward_base", "termination_share", "termination_predicted"),
    *("termination_at_ends", "termination_error", "action_nats", "ratio"),
)


class Series(NamedTuple):
    """One metric; lines where it was null are left out."""

    step: np.ndarray  # [N] agent steps a task
    update: np.ndarray  # [N]
    value: np.ndarray  # [N] float64


class Clusters(NamedTuple):
    """clusters.json: who shares what, and how alike the tasks' gradients were."""

    tasks: list[str]  # [K]
    cluster: np.ndarray  # [K] int
    experts: np.ndarray  # [K, n_k] int
    similarity: dict[str, np.ndarray | None]  # "cluster" and "experts", each [K, K], None where nothing was measured
    method: str
    seed: int | None


class Run(NamedTuple):
    """What a workdir holds."""

    directory: Path
    tasks: list[str]
    config: dict | None
    metrics: dict[str, Series]
    clusters: Clusters | None
    results: dict | None
    frames: Frames | None
    missing: list[str]  # one sentence a file that is not there
    lines: list[dict] = []  # of metrics.jsonl


class Frames:
    """frames.npz: real, reconstructed and imagined frames and one evaluation episode a task, read when asked for."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._arrays = np.load(path, allow_pickle=False)
            self.names = [str(name) for name in self._arrays["names"]]
            self.imagined_from = int(self._arrays["imagined_from"])  # first imagined frame; those before are context
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as problem:
            raise _damaged(path, str(problem)) from None

    def get(self, kind: str, task: str) -> np.ndarray | None:
        """[T, H, W, 3] uint8, or None where there are none; `kind`: real, reconstructed, imagined or episode."""
        name = f"{kind}/{self.names.index(task)}" if task in self.names else ""
        if name not in self._arrays:
            return None
        try:
            frames = self._arrays[name]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as problem:
            raise _damaged(self.path, f"{name}: {problem}") from None
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
            raise _damaged(self.path, f"{name} is {frames.dtype} {frames.shape}, not uint8 [T, H, W, 3]")
        return frames


def read(workdir: str) -> Run:
    """Everything in `workdir` that the report shows. Raises BadInput for a foreign directory or a damaged file."""
    directory = Path(workdir)
    present = [name for name in SOURCES if workdir and (directory / name).is_file()]
    if not present:
        what = "has none of " + ", ".join(SOURCES) if directory.is_dir() and workdir else "is no directory"
        raise BadInput(f"{workdir!r} is no workdir: it {what}; give the --workdir of python -m mow_jax.train")
    config = _config(directory / "config.json") if "config.json" in present else None
    lines, metrics = _metrics(directory / "metrics.jsonl") if "metrics.jsonl" in present else ([], {})
    clusters = _clusters(directory / "clusters.json") if "clusters.json" in present else None
    results = _results(directory / "results.json") if "results.json" in present else None
    frames = Frames(directory / "frames.npz") if "frames.npz" in present else None
    possible = {"clusters.json": has(config, "clustering"), "frames.npz": pictured(config)}
    wanted = [name for name in SOURCES if possible.get(name, True)]
    missing = [f"{name}: {SOURCES[name].format(workdir=workdir)}" for name in wanted if name not in present]
    if set(present) <= {"results.json", "frames.npz"}:  # an exported agent has been evaluated: of no training
        missing = []
    tasks = _tasks(metrics, clusters, results, frames)
    return Run(directory, tasks, config, metrics, clusters, results, frames, missing, lines)


def core_seconds(lines: list[dict]) -> float:
    """Seconds times cores that the process of a run was busy with, by the lines of its metrics."""
    busy = before = 0.0
    for line in lines:
        now = line.get("seconds") or before
        busy += max(now - before, 0.0) * (line.get("time/cores_busy") or 0.0)
        before = now
    return busy


def sizes(directory: Path) -> tuple[int | None, int | None]:
    """How many parameters a run has, and how many of them one task uses; None where origin.json does not say."""
    try:
        start = json.loads((directory / "origin.json").read_text())[-1]
        return start.get("parameters"), start.get("active")
    except (OSError, ValueError, LookupError, AttributeError):
        return None, None


def is_over(run: Run) -> bool:
    """Whether a run has been evaluated at its last step: as it was told to have, or at which it was stopped."""
    if run.results is None:
        return False
    step = run.results["step"]
    if step == (run.config or {}).get("train", {}).get("steps"):
        return True
    saved = files.numbered(run.directory / "checkpoints")
    return not locks.taken(run.directory) and not any(step is None or later > step for later in saved)


def last_change(workdir: str) -> list[float]:
    """When each file of a workdir that the report reads was written last, 0 where there is none."""
    paths = [Path(workdir) / name for name in SOURCES]
    return [path.stat().st_mtime if path.is_file() else 0.0 for path in paths]


def only_evaluated(run: Run) -> bool:
    """Whether the folder is an exported agent's evaluation: nothing of its training is there, or missed."""
    return run.config is None and not run.missing


def has(config: dict | None, section: str, key: str = "") -> bool:
    """Whether a run's system has these settings, as far as is known."""
    if config is None or "system" not in config:
        return True
    return section in config and (not key or key in config[section])


def pictured(config: dict | None) -> bool:
    """Whether a run saw pictures, as far as is known."""
    return config is None or config["suite"].get("observation") != "state"


def _tasks(metrics: dict, clusters: Clusters | None, results: dict | None, frames: Frames | None) -> list[str]:
    """Task names in the run's order, from whichever files name them."""
    names = [*(clusters.tasks if clusters else []), *(results["tasks"] if results else [])]
    names += frames.names if frames else []
    for area, end in (("harmony/", ""), ("episode/", "/return"), ("evaluation/", "/return")):
        found = [name for name in metrics if name.startswith(area) and name.endswith(end)]
        names += [name[len(area) : len(name) - len(end)] for name in found]
    return list(dict.fromkeys(names))


def _damaged(path: Path, problem: str) -> BadInput:
    how = SOURCES[path.name].format(workdir=path.parent)
    return BadInput(f"{path} cannot be read: {problem}. Move it away to report without it, or make it anew: {how}")


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise _damaged(path, str(problem)) from None
    if not isinstance(content, dict):
        raise _damaged(path, "it is not one JSON object")
    return content


def _config(path: Path) -> dict:
    config = _json(path)
    if not isinstance(config.get("suite"), dict):
        raise _damaged(path, "it has no 'suite', so it is not the config of a run")
    return config


def _metrics(path: Path) -> tuple[list[dict], dict[str, Series]]:
    """Its lines, and {"area/name": Series}. A last line that its writer has not finished is left out."""
    points: dict[str, list[tuple]] = {}
    texts, lines = path.read_bytes().split(b"\n"), []
    for number, text in enumerate(texts[:-1], start=1):
        line, found = _points(path, number, text)
        lines.append(line)
        for name, point in found:
            points.setdefault(name, []).append(point)
    return lines, {name: Series(*np.asarray(rows, np.float64).T) for name, rows in points.items()}


def _points(path: Path, number: int, line: bytes) -> tuple[dict, list[tuple[str, tuple]]]:
    """One line of metrics.jsonl, and its [(name, (step, update, value)), ...]."""
    try:
        entry = json.loads(line)
        step, update = entry["step"], entry["update"]
        values = {name: value for name, value in entry.items() if "/" in name and value is not None}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _damaged(path, f"line {number} is no metrics line") from None
    for name, value in {"step": step, "update": update, **values}.items():
        if not is_number(value):
            raise _damaged(path, f"line {number} has {name} = {value!r}, not a number")
    return entry, [(name, (step, update, value)) for name, value in values.items()]


def _clusters(path: Path) -> Clusters:
    content = _json(path)
    try:
        tasks = [str(name) for name in content["tasks"]]
        cluster, experts = np.asarray(content["cluster"], np.int64), np.asarray(content["experts"], np.int64)
        given = content.get("similarity") or {}
        similarity = {kind: _matrix(given.get(kind)) for kind in ("cluster", "experts")}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as problem:
        raise _damaged(path, f"{type(problem).__name__}: {problem}") from None
    shapes = {"cluster": cluster.shape, "experts": experts.shape[:1] if experts.ndim == 2 else None}
    if not tasks or any(shape != (len(tasks),) for shape in shapes.values()):
        raise _damaged(path, f"'cluster' and 'experts' need one entry for each of the {len(tasks)} tasks")
    if not experts.size or min(cluster.min(), experts.min()) < 0:
        raise _damaged(path, "a task has no expert, or a row below 0")
    if any(matrix is not None and matrix.shape != 2 * (len(tasks),) for matrix in similarity.values()):
        raise _damaged(path, f"a similarity matrix is not {len(tasks)} by {len(tasks)}")
    return Clusters(tasks, cluster, experts, similarity, str(content.get("method", "")), content.get("seed"))


def _matrix(rows: list | None) -> np.ndarray | None:
    return None if rows is None else np.asarray(rows, np.float64)


def _results(path: Path) -> dict:
    """results.json, with every field the report shows known to be there and of its kind (or None)."""
    content = _json(path)
    tasks = content.get("tasks")
    if not isinstance(tasks, dict) or not tasks or not all(isinstance(entry, dict) for entry in tasks.values()):
        raise _damaged(path, "it has no 'tasks'")
    for name, entry in tasks.items():
        for key in ("returns", "success"):
            entry[key] = entry.get(key) or []
            if not _is_list(entry[key]):
                raise _damaged(path, f"{key} of {name!r} is not a list of numbers")
        _numbers(path, name, entry, ("normalised", "random", "reference", "random_success"))
        if "stages" in entry:
            _numbers(path, f"stages of {name}", entry["stages"], ("steps", "score"))
    aggregate = content["aggregate"] = content.get("aggregate") or {}
    diagnostics = content["diagnostics"] = content.get("diagnostics") or {}
    if not isinstance(aggregate, dict) or not isinstance(diagnostics, dict):
        raise _damaged(path, "'aggregate' or 'diagnostics' is not an object")
    _numbers(path, "results", content, ("step",))
    _numbers(path, "aggregate", aggregate, ("mean", "median", "iqm"))
    if not _is_list(aggregate.get("interval") or []):
        raise _damaged(path, "'interval' is not a pair of numbers")
    if any(entry["success"] and entry["normalised"] is not None for entry in tasks.values()):  # in older files
        aggregate |= {"iqm": None, "interval": None}
    for name, entry in diagnostics.items():
        _numbers(path, name, entry, KNOWN)
        bins = entry["termination_bins"] = entry.get("termination_bins") or []
        if not isinstance(bins, list) or not all(_is_list(part) and len(part) == 3 for part in bins):
            raise _damaged(path, f"termination_bins of {name!r} are not three numbers each")
    return content


def _is_list(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, bool) or is_number(value) for value in values)


def _numbers(path: Path, name: str, entry: object, keys: tuple[str, ...]) -> None:
    for key in keys:
        if not isinstance(entry, dict) or not (entry.setdefault(key, None) is None or is_number(entry[key])):
            raise _damaged(path, f"{key} of {name!r} is not a number")
