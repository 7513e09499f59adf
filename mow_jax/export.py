"""One file with a trained agent: weights, tables, return scales and settings, without optimiser and replay.

    python -m mow_jax.export --workdir=DIR --out=FILE [--step=S]

The file is a zip of plain arrays, no pickle; `load_agent` and `make_env` take it as they take a workdir.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from mow_jax import command, summary, workdir
from mow_jax.types import BadInput, TrainState

FORMAT = 1  # raised when a file of a new version means something else to an old one
PARTS = ("params", "statistics", "harmony", "actor", "critic", "return_scale", "table")  # of TrainState


def write(path: Path, config: ConfigDict, state: TrainState, step: int) -> None:
    """Writes the file, whole or not at all. Raises BadInput where it exists already or cannot be written."""
    if path.exists():
        raise BadInput(f"--out={path} exists already: name a new file, or remove it first")
    header = {"format": FORMAT, "step": step, "config": config.to_dict(), "commit": summary.commit()}
    header |= {"versions": summary.versions()}
    text = json.dumps(header, default=list).encode()
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez_compressed(file, header=np.frombuffer(text, np.uint8), **_arrays(state))
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BadInput(f"cannot write --out={path}: {error.strerror}; free space or name another file") from None


def _arrays(state: Any) -> dict[str, Any]:
    """{"params['cluster']['prior']['kernel']": array, ...} of the exported parts."""
    return {
        part + jax.tree_util.keystr(key): leaf
        for part in PARTS
        for key, leaf in jax.tree_util.tree_leaves_with_path(getattr(state, part))
    }


def read_config(path: Path) -> ConfigDict:
    """The settings of an exported agent. Raises BadInput where the file is none, or is of a later version."""
    header = json.loads(bytes(_read(path, ["header"])["header"]))
    if header["format"] > FORMAT:
        made = header["versions"].get("mow_jax", "later")
        raise BadInput(f"{path} was written by mow_jax {made}, which this version cannot read: update mow_jax")
    return workdir.from_saved(header["config"], path)


def read(path: Path, like: TrainState) -> tuple[int, TrainState]:
    """Step and state of an exported agent; what it does not hold (optimisers) is zero.

    `like`: shapes and dtypes. Raises BadInput where the file is damaged or of other shapes.
    """
    wanted = _arrays(like)
    arrays = _read(path, ["header", *wanted])
    for name, leaf in wanted.items():
        if arrays[name].shape != leaf.shape or arrays[name].dtype != leaf.dtype:
            raise BadInput(
                f"{path} does not fit this version: {name} is {arrays[name].dtype} {arrays[name].shape} there and"
                f" {leaf.dtype} {leaf.shape} here; export it anew from its workdir, or use the version that wrote it"
            )
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    restored = {
        part: jax.tree_util.tree_map_with_path(
            lambda key, _, part=part: arrays[part + jax.tree_util.keystr(key)], getattr(like, part)
        )
        for part in PARTS
    }
    state = state._replace(slow_critic=restored["critic"], **restored)
    return int(json.loads(bytes(arrays["header"]))["step"]), state


def _read(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Arrays of the file by name; every byte is checked by the zip's own sums."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(
            f"{path} is no exported agent, or a damaged one ({error}): write it with python -m mow_jax.export"
        ) from None


if __name__ == "__main__":
    _DIRECTORY = flags.DEFINE_string("workdir", None, "Folder of the run.")
    _OUT = flags.DEFINE_string("out", None, "The file to write, e.g. agent.npz.")
    _STEP = flags.DEFINE_integer("step", None, "Agent steps of the checkpoint; default the newest.")

    def run() -> None:
        """The command."""
        from mow_jax import load  # which reads such files, with what is above

        if not _DIRECTORY.value or not _OUT.value:
            raise BadInput("give --workdir=DIR of a run and --out=FILE")
        config, tasks, learner, step = load.restore(Path(_DIRECTORY.value), _STEP.value)
        write(Path(_OUT.value), config, learner.snapshot(), step)
        size = Path(_OUT.value).stat().st_size / 1e6
        print(f"{_OUT.value}: {len(tasks)} tasks, step {step:,}, {size:.1f} MB", flush=True)

    command.run(run)
