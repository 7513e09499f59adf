"""A training run without the training: locks its folder, saves after every step, ends at a signal, resumes.

`python -m stand_in --config=... --config.seed=S --workdir=DIR --config.train.steps=N`, as sweep starts mow_jax.train.
Every step that is done leaves a line in DIR/done.txt; a step done twice would leave two. It learns a number, which each
step changes and saves: a step that is lost, done twice or done from another state changes the scores.
"""

from __future__ import annotations

import fcntl
import json
import signal
import sys
import time
from pathlib import Path

from mow_jax import command

SECONDS = 0.04  # of a step

flags = dict(word.partition("=")[::2] for word in sys.argv[1:])
workdir, seed, steps = Path(flags["--workdir"]), int(flags["--config.seed"]), int(flags["--config.train.steps"])
workdir.mkdir(parents=True, exist_ok=True)
lock = (workdir / ".lock").open("w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
settings = command.settings([word for word in sys.argv[1:] if word.startswith("--config")]).to_dict()
(workdir / "config.json").write_text(json.dumps(settings, default=list))
checkpoints = workdir / "checkpoints"
checkpoints.mkdir(exist_ok=True)
newest = max((int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal()), default=0)
learned = int((checkpoints / str(newest) / "learned").read_text()) if newest else seed + len(flags["--config"])
for step in range(newest + 1, steps + 1):
    time.sleep(SECONDS)
    learned = (31 * learned + step) % 1009
    with (workdir / "done.txt").open("a") as file:
        file.write(f"{step}\n")
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "update": step, "seconds": step * SECONDS}) + "\n")
    saving = checkpoints / "saving"
    saving.mkdir(exist_ok=True)
    (saving / "learned").write_text(str(learned))
    saving.rename(checkpoints / str(step))
    if stop:
        time.sleep(0.3)  # saving takes a while
        sys.exit(0)
score = learned / 1009
results = {"step": steps, "commit": "c", "tasks": {"a": {"normalised": score}, "b": {"normalised": 1 - score / 2}}}
(workdir / "results.json").write_text(json.dumps(results))
