"""The folder of a run: its lock, its config.json, and whether a command may go on in it. Used by train and evaluate."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ml_collections import ConfigDict

from mow_jax import checkpoint, processes
from mow_jax.config import BEFORE, default, differences, flat
from mow_jax.types import BadInput

FILES = ("config.json", ".lock", "metrics.jsonl", "clusters.json", "checkpoints", "replay", "tensorboard")


def settle(config: ConfigDict | None, directory: str | None, *, dry_run: bool) -> tuple[ConfigDict, Path]:
    """The config and workdir that the flags mean: without --config that of the workdir's run.

    Raises BadInput where neither is given.
    """
    if config is None:
        if directory is None:
            raise BadInput("give --config=experiments/NAME.py and --workdir=DIR (or --workdir of a run to resume)")
        return read(Path(directory)), Path(directory)
    if directory is None and not dry_run:
        raise BadInput("give --workdir=DIR, the folder of the run, e.g. --workdir=runs/first")
    return config, Path(directory or "runs")


@contextlib.contextmanager
def claim(workdir: Path, config: ConfigDict, allowed: tuple[str, ...]) -> Iterator[ConfigDict]:
    """The config to run, in a workdir that process 0 has locked for its job. Raises BadInput as below."""
    lock: contextlib.AbstractContextManager = contextlib.nullcontext()
    with processes.first_alone("workdir claimed"):
        if processes.index():
            config = read(workdir)
        else:
            lock, config = _claim(workdir, config, allowed)
    with lock:
        yield config


def _claim(workdir: Path, config: ConfigDict, allowed: tuple[str, ...]) -> tuple[IO[str], ConfigDict]:
    """Locks a new workdir or one of the same config, writes config.json, and returns the lock and the config to run.

    Raises BadInput for a foreign folder, one in use, or a config that differs in more than a resumed run may change.
    """
    _refuse_foreign(workdir)
    lock = checkpoint.lock(workdir)
    config = config.copy_and_resolve_references()
    config.train.schedule_steps = config.train.schedule_steps or config.train.steps
    path = workdir / "config.json"
    if path.exists():
        old = read(workdir)
        config.train.schedule_steps = old.train.schedule_steps
        changed = differences(old, config, allowed)
        if changed:
            keys = ",".join(line.split(":")[0] for line in changed)
            raise BadInput(
                f"{workdir} holds a run of another config:\n  " + "\n  ".join(changed) + "\n"
                f"Use another --workdir, or take the changes over with --allow_config_change={keys}"
            )
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(json.dumps(config.to_dict(), indent=1, default=list) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}; free space or choose another --workdir") from error
    return lock, config


def read(workdir: Path) -> ConfigDict:
    """The config of a run. Raises BadInput where there is none or it is damaged."""
    path = workdir / "config.json"
    try:
        saved = json.loads(path.read_text())
    except FileNotFoundError:
        raise BadInput(f"{workdir} is no workdir of mow_jax: it has no config.json; give --workdir of a run") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read ({error}); restore it or use another --workdir") from None
    return from_saved(saved, path)


def from_saved(saved: Any, path: Path) -> ConfigDict:
    """The config that JSON out of the file `path` means. Raises BadInput where it is none of this version's."""
    try:
        config = default()
        config.update(BEFORE)
        config.update(_tuples(saved))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} cannot be read ({error}); restore it or use another --workdir") from None
    unknown = sorted(flat(config).keys() - flat(default()).keys())
    if unknown:
        raise BadInput(f"{path} has keys that this version does not know: {', '.join(unknown)}")
    return config


def _tuples(node):
    """JSON's lists as the tuples that they were."""
    if isinstance(node, dict):
        return {key: _tuples(item) for key, item in node.items()}
    return tuple(node) if isinstance(node, list) else node


def _refuse_foreign(workdir: Path) -> None:
    if not workdir.exists():
        return
    if not workdir.is_dir():
        raise BadInput(f"--workdir={workdir} is a file: give a folder")
    inside = [path.name for path in workdir.iterdir()]
    if inside and "config.json" not in inside and not set(inside) <= set(FILES):
        raise BadInput(f"--workdir={workdir} holds other things ({inside[0]!r}): give a new folder or a run's workdir")
