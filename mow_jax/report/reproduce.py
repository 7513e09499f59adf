"""The commands that make a run again: commit, install, train. Called by python -m mow_jax.report and by sweep."""

from __future__ import annotations

import json
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
    others = sorted({other["commit"] for other in later} - {start["commit"]})
    notes = [f"# Started as: {start['command']}", f"# on {start['machine']}, Python {start['python']}."]
    notes += [f"# Resumed at other commits, so that it cannot be made again exactly: {', '.join(others)}."] * bool(
        others
    )
    # A folder with nothing but config.json is a run at its beginning: all settings are in it.
    train = ["mkdir -p again", f"cp {shlex.quote(str(folder / 'config.json'))} again/"]
    train.append("python -m mow_jax.train --workdir=again")
    return "\n".join([*notes, *install(start["commit"], start["versions"]), *train]) + "\n"


def install(commit: str, versions: dict[str, str]) -> list[str]:
    """Lines that bring a checkout to a commit and install it, with the packages that decide results as they were."""
    notes = {
        "+": "# Files differed from this commit: what they held is not known.",
        "unknown": "# The run was not started from a checkout: take the version of mow_jax that it names.",
    }
    found = [f"mow_jax=={versions['mow_jax']}"] if "mow_jax" in versions and commit == "unknown" else []
    pinned = found + [f"{name}=={version}" for name, version in versions.items() if name not in NO_PACKAGE]
    lines = [text for sign, text in notes.items() if commit.endswith(sign)]
    lines += [f"git checkout {commit.rstrip('+')}"] * (commit != "unknown")
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
