"""The folder of a run: its lock, its config.json, and whether a command may go on in it. Used by train and evaluate."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mow_jax import locks, processes
from mow_jax.checks import FREE_ON_RESUME, flat
from mow_jax.config import check_keys, default, kept, of_saved, of_system
from mow_jax.types import BadInput

# What a run owes is counted by these from its first step: changed later, none of it or thousands of updates are due.
COUNTED = ("train.ratio", "train.burst", "warmup.steps", "warmup.updates")
RECORDS = ("metrics.jsonl", "results.json")  # what a run has only once it has saved a checkpoint
FILES = (
    "config.json",
    "config.tmp",
    "origin.json",
    ".lock",
    "metrics.jsonl",
    "clusters.json",
    "checkpoints",
    "replay",
    "tensorboard",
    "wandb",
)


def settle(config: ConfigDict | None, directory: str | None, *, dry_run: bool) -> tuple[ConfigDict, Path]:
    """The config and workdir that the flags mean: without --config that of the workdir's run.

    Raises BadInput where neither is given, or the config is none of its system's.
    """
    if config is None:
        if not directory:
            raise BadInput("give --config=experiments/NAME.py and --workdir=DIR (or --workdir of a run to resume)")
        return read(Path(directory)), Path(directory)
    check_keys(config)
    if not directory and not dry_run:
        raise BadInput("give --workdir=DIR, the folder of the run, e.g. --workdir=runs/first")
    return config, Path(directory or "runs")


def agree(workdir: Path, config: ConfigDict, allowed: tuple[str, ...]) -> ConfigDict:
    """The config to run in a workdir, of which nothing is touched: what resuming must keep is kept.

    Raises BadInput for a foreign folder, one whose run has lost its checkpoints, or a config that differs in more than
    a resumed run may change, or in what even `allowed` cannot change once a run has saved.
    """
    _refuse_foreign(workdir)
    _refuse_lost(workdir)
    config = config.copy_and_resolve_references()
    if not (workdir / "config.json").exists():
        config.train.schedule_steps = config.train.schedule_steps or config.train.steps
        return config
    old, saved = read(workdir), json.loads((workdir / "config.json").read_text())
    if old.system == config.system:  # a value that is the default may still have been asked for: the command says
        began = kept(saved, config, sys.argv)
        config.update_from_flattened_dict({k: began[k] for k in began if not _under(k, allowed)})
    config.train.schedule_steps = config.train.schedule_steps or old.train.schedule_steps
    counted = [line for line in differences(old, config) if line.split(":")[0] in COUNTED]
    if counted and has_saved(workdir):
        raise BadInput(
            f"{workdir} holds a run with checkpoints of another config:\n  " + "\n  ".join(counted) + "\n"
            "Updates are counted by it from a run's first step: changed now, all at once or none would be due, whatever"
            f" --allow_config_change says. Keep it, or begin a run in another --workdir with train.init_from={workdir}"
        )
    if changed := differences(old, config, allowed):
        keys = ",".join(line.split(":")[0] for line in changed)
        raise BadInput(
            f"{workdir} holds a run of another config:\n  " + "\n  ".join(changed) + "\n"
            f"Use another --workdir, or take the changes over with --allow_config_change={keys}"
        )
    return config


@contextlib.contextmanager
def claim(workdir: Path, config: ConfigDict, allowed: tuple[str, ...]) -> Iterator[ConfigDict]:
    """Locks a workdir for process 0 and its job; the config to run is process 0's. Raises BadInput as `agree` does, and
    where another run is in the folder."""
    lock: contextlib.AbstractContextManager = contextlib.nullcontext()
    with processes.first_alone("workdir claimed"):
        if not processes.index():
            _refuse_foreign(workdir)  # before the lock's file lies in it
            lock = locks.take(workdir)
            config = agree(workdir, config, allowed)  # again: only now no other run can write a config.json
    if processes.count() > 1:
        config = from_saved(processes.from_first(config.to_dict()), workdir / "config.json")
    with lock:
        yield config


def try_writing(workdir: Path) -> None:
    """Raises BadInput where nothing can be written into a run's folder, before work is done for it."""
    try:
        with tempfile.TemporaryFile(dir=workdir) as file:
            file.write(bytes(512))
            file.flush()
    except FileNotFoundError:
        return  # read() says that this is no workdir
    except OSError as error:
        raise BadInput(
            f"cannot write into {workdir}: {error.strerror}; free space, make it writable, or evaluate a copy"
        ) from None


def write(workdir: Path, config: ConfigDict) -> None:
    """Process 0 writes config.json, which makes the folder this run's. Raises BadInput where it cannot."""
    if processes.index():
        return
    path = workdir / "config.json"
    temporary, text = path.with_suffix(".tmp"), json.dumps(config.to_dict(), indent=1, default=list) + "\n"
    try:
        if path.exists() and path.read_text() == text:
            return  # nothing that a power cut could spoil
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise BadInput(f"cannot write {path}: {error.strerror}; free space or choose another --workdir") from error


def differences(old: ConfigDict, new: ConfigDict, allowed: tuple[str, ...] = ()) -> list[str]:
    """Lines "key: old -> new" for the keys that a resumed run must not change, those under `allowed` left out."""
    before, after = flat(old), flat(new)
    free = (*(key for key in FREE_ON_RESUME if key not in of_system(old.system).LOCKED), *allowed)
    locked = [k for k in sorted(before | after) if not _under(k, free)]
    return [f"{k}: {before.get(k)!r} -> {after.get(k)!r}" for k in locked if before.get(k) != after.get(k)]


def _under(key: str, names: tuple[str, ...]) -> bool:
    """Whether a key is one of the names, or in a section that is."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


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
        config = of_saved(_tuples(saved))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} cannot be read ({error}); restore it or use another --workdir") from None
    unknown = sorted(flat(config).keys() - flat(default(config.system)).keys())
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
    inside = {path.name for path in workdir.iterdir()}
    if "config.json" not in inside and (foreign := sorted(inside - set(FILES))):
        raise BadInput(f"--workdir={workdir} holds other things ({foreign[0]!r}): give a new folder or a run's workdir")


def has_saved(workdir: Path) -> bool:
    """Whether a run's folder has a checkpoint, whole or damaged; a first one that was never completed is none."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return any(name.isdecimal() or name.startswith(("replaced-", "damaged-")) for name in names)


def _refuse_lost(workdir: Path) -> None:
    """Raises BadInput for the records of a run without a checkpoint: a run that began there would erase them."""
    told = [name for name in RECORDS if (workdir / name).is_file() and (workdir / name).stat().st_size]
    if told and not has_saved(workdir):
        raise BadInput(
            f"{workdir} holds {' and '.join(told)} of a run and no checkpoint to go on from, and a new run would erase"
            " them: bring its checkpoints folder back from a copy, or give another --workdir"
        )
