"""The commands that make a run again: commit, install, train. Called by python -m mow_jax.report and by sweep."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from mow_jax.types import BadInput

NO_PACKAGE = ("mow_jax",)  # of the versions: what the checkout itself is


def commands(workdir: str) -> str:
    """A shell script that trains in ./again what `workdir` holds. Raises BadInput where its files do not say."""
    folder = Path(workdir)
    if not (folder / "config.json").is_file():
        raise BadInput(
            f"{workdir!r} is no workdir: it has no config.json; give the --workdir of python -m mow_jax.train"
        )
    start, *later = _starts(folder)
    config = _read(folder / "config.json")
    notes = [f"# Started as: {start['command']}", f"# on {start['machine']}, Python {start['python']}."]
    notes += [f"# Not exactly this run: {why}." for why in _departures(folder, config, start, later)]
    # A folder with nothing but config.json is a run at its beginning: all settings are in it. It is copied first, as
    # going back to the commit that made them takes results away that were committed later.
    kept = ["mkdir -p again", f"cp {shlex.quote(str(folder / 'config.json'))} again/"]
    aside, back = _groups(folder, config.get("clustering", {}).get("table", ""))
    source = install(start["commit"], start["versions"])
    return "\n".join([*notes, *kept, *aside, *source, *back, *_train(start["machine"])]) + "\n"


def _train(machine: str) -> list[str]:
    """The line that trains; with the CPU cores of a run that computed on them."""
    cores = re.match(r"(\d+) cores, \d+ x cpu", machine)
    line = "python -m mow_jax.train --workdir=again"
    if not cores:
        return [line]
    last = int(cores[1]) - 1
    return ["# As many CPU cores as it had: scores depend on that, by rounding.", f"taskset -c 0-{last} {line}"]


def _departures(folder: Path, config: dict, start: dict, later: list[dict]) -> list[str]:
    """What the commands leave out or do otherwise."""
    commits = sorted({other["commit"] for other in later} - {start["commit"]})
    found = [f"it was resumed at other commits, {', '.join(commits)}"] * bool(commits)
    found += ["it was resumed with other versions of packages, see origin.json"] * any(
        start["versions"].get(name, version) != version
        for other in later
        for name, version in other["versions"].items()
    )
    if any("--allow_config_change" in other["command"] for other in later):
        found.append("settings were changed on the way, and config.json has the last ones")
    settings = config.get("train", {})
    if parent := settings.get("init_from"):
        found.append(f"it began with the weights of {parent} (train.init_from), which must still be there")
    step = _furthest(folder) if (folder / "results.json").is_file() else None
    if step is not None and step < settings.get("steps", step):
        found.append(f"it ended at step {step:,} of {settings['steps']:,}, to which the commands train")
    return found


def _furthest(folder: Path) -> int | None:
    """The last step that a run's lines or results are of; results may be those of an earlier checkpoint."""
    try:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()[-2:]]
    except (OSError, ValueError):  # none, or one that is being written
        lines = []
    steps = [entry.get("step") for entry in [*lines, _read(folder / "results.json")]]
    return max((step for step in steps if step is not None), default=None)


def _groups(folder: Path, table: str) -> tuple[list[str], list[str]]:
    """Lines that keep a copy of what a run took from a clusters.json of the user's, and such as put it back, at the
    commit of the run, where that file is gone."""
    kept = folder / "clusters.json"
    if not table or not kept.is_file():
        return [], []
    there, folder_of = shlex.quote(table), shlex.quote(str(Path(table).parent))
    aside = f"cp {shlex.quote(str(kept))} again-clusters.json"
    back = f"test -e {there} || {{ mkdir -p {folder_of} && cp again-clusters.json {there}; }}"
    return [aside], [f"# What the run took from {table}, if it is gone.", back]


def _read(path: Path) -> dict:
    try:
        held = json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        raise BadInput(f"{path} cannot be read: {problem}; restore it") from None
    if not isinstance(held, dict):
        raise BadInput(f"{path} is none of mow_jax's: restore it")
    return held


def install(commit: str, versions: dict[str, str]) -> list[str]:
    """Lines that bring a checkout to a commit and install it, with the packages that decide results as they were."""
    notes = {
        "+": "# Files differed from this commit: what they held is not known.",
        "unknown": "# The run was not started from a checkout: take the version of mow_jax that it names.",
    }
    found = [f"mow_jax=={versions['mow_jax']}"] if "mow_jax" in versions and commit == "unknown" else []
    pinned = found + [f"{name}=={version}" for name, version in versions.items() if name not in NO_PACKAGE]
    lines = [text for sign, text in notes.items() if sign in commit]
    lines += [f"git checkout {commit.partition('+')[0]}"] * (commit != "unknown")
    lines.append("python -m venv .venv && . .venv/bin/activate")
    return [*lines, shlex.join(["pip", "install", *(["-e", ".[all]"] if commit != "unknown" else []), *pinned])]


def _starts(folder: Path) -> list[dict]:
    path = folder / "origin.json"
    try:
        starts = json.loads(path.read_text())
        complete = all({"commit", "versions", "machine", "python", "command"} <= set(start) for start in starts)
    except FileNotFoundError:
        raise BadInput(f"{path} is not there: runs begun by older versions do not say what they came from") from None
    except (OSError, ValueError, TypeError) as problem:
        raise BadInput(f"{path} cannot be read: {problem}; restore it") from None
    if not starts or not complete:
        raise BadInput(f"{path} does not name commit, versions, machine and command: restore it")
    return starts
