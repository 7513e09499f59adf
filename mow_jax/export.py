"""One file with a trained agent: weights and settings, without optimiser and replay.

    python -m mow_jax.export --workdir=DIR --out=FILE [--step=S]

The file is a zip of plain arrays, no pickle; `load_agent` and `make_env` take it as they take a workdir.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from mow_jax import command, files, load, summary
from mow_jax.learner import Learner
from mow_jax.types import BadInput


def write(path: Path, config: ConfigDict, learner: Learner, step: int) -> None:
    """Writes the file, whole or not at all. Raises BadInput where it exists already or cannot be written."""
    if path.exists():
        raise BadInput(f"--out={path} exists already: name a new file, or remove it first")
    header = {"format": load.FORMAT, "step": step, "config": config.to_dict(), "commit": summary.commit()}
    header |= {"versions": summary.versions()}
    text = np.frombuffer(json.dumps(header, default=list).encode(), np.uint8)
    arrays = load.arrays(learner.snapshot(), learner.system)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, header=text, **arrays)
    except OSError as error:
        raise BadInput(f"cannot write --out={path}: {error.strerror}; free space or name another file") from None


if __name__ == "__main__":
    _DIRECTORY = flags.DEFINE_string("workdir", None, "Folder of the run.")
    _OUT = flags.DEFINE_string("out", None, "The file to write, e.g. agent.npz.")
    _STEP = flags.DEFINE_integer("step", None, "Agent steps of the checkpoint; default the newest.")

    def run() -> None:
        """The command."""
        if not _DIRECTORY.value or not _OUT.value:
            raise BadInput("give --workdir=DIR of a run and --out=FILE")
        config, tasks, learner, step = load.restore(Path(_DIRECTORY.value), _STEP.value)
        write(Path(_OUT.value), config, learner, step)
        size = Path(_OUT.value).stat().st_size / 1e6
        print(f"{_OUT.value}: {len(tasks)} tasks, step {step:,}, {size:.1f} MB", flush=True)

    command.run(run)
