"""Everything that waits for a CUDA GPU, in one command; works offline, without ale-py, and in several goes.

    python benchmarks/gpu_suite.py --output=DIR [--parts=NAME,...] [--reference=STORM_CHECKOUT] [--minutes=9]

Most valuable first: throughput of storm, atari26, atari26_small and metaworld_mt50, the comparison with STORM's public
code (needs torch and a checkout), parity in float32, precision, then a learning run on three real games (needs ale-py),
which goes on from its checkpoint in the next call. Each part is a process that ends within `minutes`; its log, its JSON
and a line in DIR/suite.json stay whatever happens to the others. `--tiny` runs everything at test sizes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from mow_jax import command, logs, summary
from mow_jax.types import BadInput

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
THROUGHPUT = ("storm", "atari26", "atari26_small", "metaworld_mt50")
TINY = "tests/configs/tiny.py"
FULL_PRECISION = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}  # else a GPU multiplies float32 in TF32


class Part(NamedTuple):
    """One command of the suite."""

    name: str
    arguments: list[str]  # of python
    missing: str = ""  # why it cannot run here
    variables: dict[str, str] = {}


def parts(output: Path, reference: str | None, tiny: bool) -> list[Part]:
    """All parts, most valuable first."""
    small = ["--rounds=2", "--seconds=0.1"] if tiny else []
    measured = []
    for name in THROUGHPUT:
        config = f"--config={TINY if tiny else f'experiments/{name}.py'}"
        script = str(HERE / "throughput.py")
        measured.append(
            Part(f"throughput_{name}", [script, config, f"--output={output}/throughput_{name}.json", *small])
        )
    cost = [str(HERE / "task_cost.py"), f"--output={output}/task_cost.json"]
    tiny_config = [f"--config={TINY}", "--rounds=1"] if tiny else []
    measured.append(Part("task_cost", cost + tiny_config))
    why = "" if reference else "needs --reference=DIR"
    why = why or ("" if importlib.util.find_spec("torch") else "needs torch")
    compare = [str(HERE / "compare_storm.py"), f"--reference={reference}", "--dtype=bfloat16"]
    compared = Part("compare_storm", [*compare, f"--output={output}/compare_storm.json"], why)
    platform = {} if tiny else {"JAX_PLATFORMS": "cuda"}
    parity = Part(
        "parity", ["-m", "pytest", "-q", "-n", "0", "tests/test_storm_parity.py"], "", FULL_PRECISION | platform
    )
    script, updates = str(HERE / "precision.py"), "--updates=4" if tiny else "--updates=200"
    precision = [script, f"--config={TINY}"] if tiny else [script]
    learn = ["-m", "mow_jax.train", f"--config={TINY + ':atari' if tiny else 'experiments/atari26_small.py'}"]
    games = [] if tiny else ["--config.suite.tasks=('Pong','Boxing','Breakout')", "--config.checkpoint.every=1000"]
    return [
        measured[0],
        measured[1],
        compared,
        *measured[2:],
        parity,
        Part("precision", [*precision, updates, f"--output={output}/precision.json"]),
        Part(
            "learning",
            [*learn, *games, f"--workdir={output}/learning"],
            "" if importlib.util.find_spec("ale_py") else "needs ale-py",
        ),
    ]


def main(output: Path, wanted: list[str], reference: str | None, minutes: float, tiny: bool) -> None:
    """Runs the parts, one after the other."""
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    listed = parts(output, reference, tiny)
    if unknown := sorted(set(wanted) - {part.name for part in listed}):
        raise BadInput(f"--parts names {', '.join(unknown)}: choose from {', '.join(part.name for part in listed)}")
    record: dict[str, Any] = {"versions": summary.versions(), "commit": summary.commit(), "parts": {}}
    for part in listed:
        if not wanted or part.name in wanted:
            record["parts"][part.name] = run(part, output, minutes)
            (output / "suite.json").write_text(json.dumps(record, indent=1) + "\n")
    rows = [(name, entry["outcome"], f"{entry['seconds']:.0f}") for name, entry in record["parts"].items()]
    logs.table("GPU suite", ["part", "outcome", "seconds"], rows)


def run(part: Part, output: Path, minutes: float) -> dict[str, Any]:
    """One part, its output in a log; out of time it is asked to stop, which saves a learning run, then made to."""
    if part.missing:
        return {"outcome": f"skipped: {part.missing}", "seconds": 0.0}
    print(f"{part.name} ...", flush=True)
    begin = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}", **part.variables}
    with (output / f"{part.name}.log").open("w") as log:
        process = subprocess.Popen([sys.executable, *part.arguments], cwd=ROOT, env=environment, stdout=log, stderr=log)
        code = wait(process, 60 * minutes)
    outcome = {0: "done", None: "out of time"}.get(code, f"exit code {code}, see {part.name}.log")
    return {"outcome": outcome, "seconds": time.monotonic() - begin}


def wait(process: subprocess.Popen, seconds: float) -> int | None:
    """The exit code, or None if the process had to be stopped."""
    try:
        return process.wait(max(seconds - 40, 1))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return None


if __name__ == "__main__":
    _OUTPUT = flags.DEFINE_string("output", None, "Folder for logs and results.", required=True)
    _PARTS = flags.DEFINE_list("parts", [], "Names of parts; default all.")
    _REFERENCE = flags.DEFINE_string("reference", None, "Your checkout of the public STORM code.")
    _MINUTES = flags.DEFINE_float("minutes", 9.0, "Longest time of a part.")
    _TINY = flags.DEFINE_bool("tiny", False, "Test sizes, any device.")
    command.run(lambda: main(Path(_OUTPUT.value), _PARTS.value, _REFERENCE.value, _MINUTES.value, _TINY.value))
