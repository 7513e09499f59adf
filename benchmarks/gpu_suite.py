"""Everything that waits for a CUDA GPU, for a machine that is there for minutes, offline, and keeps no disk.

    python benchmarks/gpu_suite.py --output=DIR [--back=FILE.tgz] [--minutes=9] [--parts=NAME,...] [--reference=DIR]

DIR is all that has to travel: compiled programs, results, logs, a learning run. Give it back, to the same place (what
is compiled is found by it), and the same command goes on with what is not done. Most valuable first; each part is a
process with a limit of its own, and what it had written stays whatever happens to it: after each one FILE.tgz has all
results and logs. `--tiny`: test sizes on any device. docs/performance.md says how packages get there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from mow_jax import command, files, logs, summary
from mow_jax.types import BadInput

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TINY = "tests/configs/tiny.py"
TRAVELS = 30e6  # bytes that DIR may have beside the project
SAVING = 40.0  # seconds at the end of a learning run's time for what it saves
FULL_PRECISION = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}  # else a GPU multiplies float32 in TF32
FAST_COMPILE = {"XLA_FLAGS": "--xla_gpu_enable_triton_gemm=false"}  # library products alone: nothing to try out
SHARED_MEMORY = {"XLA_CLIENT_MEM_FRACTION": "0.5"}  # the other half is torch's
LEARNING = "learning"
MACHINE = "machine"
# What the machine is, said by a part of its own: where jax finds no GPU all others would be timed on the CPU.
SAY = "import jax; print(jax.devices(), jax.jit(lambda x: x @ x)(jax.numpy.ones((8, 8)))[0, 0])"
PACKAGES = ("jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "torch")
SENSORS = "driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu,memory.used"


class Part(NamedTuple):
    """One command of the suite."""

    name: str
    minutes: float  # its limit
    arguments: list[str]  # of python
    missing: str = ""  # why it cannot run here
    variables: dict[str, str] = {}


def parts(output: Path, scratch: Path, reference: str | None, tiny: bool) -> list[Part]:
    """All parts, most valuable first: whole updates, whether numbers are right and repeat, rates, then all the rest."""
    quick = ["--rounds=2", "--seconds=0.1"] if tiny else []
    sizes = ["--tasks=2", "--images=2", "--channels=4", "--seconds=0.01"] if tiny else []
    few = ["--updates=3"] if tiny else []
    file = lambda name: f"--output={output}/{name}.json"
    experiment = lambda name: f"--config={TINY if tiny else f'experiments/{name}.py'}"

    def throughput(name: str, config: str, minutes: float, *more: str, **variables: str) -> Part:
        arguments = [str(HERE / "throughput.py"), experiment(config), file(name), *quick, *more]
        return Part(name, minutes, arguments, "", variables)

    def repeats(name: str, config: str, minutes: float, **variables: str) -> Part:
        made = file(name.removesuffix("_again"))  # which then says whether two processes agree
        return Part(name, minutes, [str(HERE / "repeats.py"), experiment(config), made, *few], "", variables)

    why = "" if reference else "needs --reference=DIR"
    why = why or ("" if importlib.util.find_spec("torch") else "needs torch")
    compare = [str(HERE / "compare_storm.py"), f"--reference={reference}", "--dtype=bfloat16", file("compare_storm")]
    some = ["-k", "holds_exactly"] if tiny else []
    # A warning of the machine's own packages is no failure.
    parity = ["-m", "pytest", "-q", "-n", "0", "-W", "default", "tests/test_storm_parity.py", *some]
    small = [f"--config={TINY}", "--config.model.compute_dtype=float32"]
    both = FULL_PRECISION if tiny else FULL_PRECISION | {"JAX_PLATFORMS": "cuda,cpu"}
    convolutions = lambda name: [str(HERE / "convolutions.py"), file(name), *sizes]
    updates, rounds = ("--updates=4", ["--rounds=1"]) if tiny else ("--updates=200", [])
    learn = ["-m", "mow_jax.train", f"--config={TINY}:atari" if tiny else "--config=experiments/atari26_small.py"]
    games = ["--config.suite.tasks=('Pong','Boxing','Breakout')", "--config.warmup.updates=500"]
    return [
        Part(MACHINE, 1, ["-c", SAY]),
        throughput("atari26_first", "atari26", 5, "--noparts", **FAST_COMPILE),
        throughput("storm", "storm", 3, "--noparts"),
        Part("agree", 2, [str(HERE / "agree.py"), *small, file("agree")], "", both),
        Part("parity", 3, parity, "" if importlib.util.find_spec("xdist") else "needs pytest-xdist", FULL_PRECISION),
        repeats("repeats", "storm", 2),  # of the program that is compiled already; so is atari26's below
        repeats("repeats_again", "storm", 2),
        repeats("atari26_repeats", "atari26", 2, **FAST_COMPILE),
        Part("convolutions", 2, [*convolutions("convolutions"), "--nonative"]),
        throughput("atari26_trace", "atari26", 2, "--noparts", f"--profile={output}/trace", **FAST_COMPILE),
        throughput("atari26", "atari26", 9),
        throughput("atari26_small", "atari26_small", 6),
        Part("compare_storm", 8, compare, why, SHARED_MEMORY),
        Part("convolutions_native", 5, convolutions("convolutions_native")),
        throughput("metaworld_mt50", "metaworld_mt50", 9, "--noparts"),
        Part("task_cost", 8, [str(HERE / "task_cost.py"), experiment("atari26"), file("task_cost"), *rounds]),
        Part("precision", 6, [str(HERE / "precision.py"), experiment("atari26_small"), updates, file("precision")]),
        Part(
            LEARNING,
            9,
            [*learn, *([] if tiny else games), f"--workdir={scratch}/{LEARNING}"],
            "" if importlib.util.find_spec("ale_py") else "needs ale-py",
        ),
    ]


def main(
    output: Path, wanted: list[str], reference: str | None, minutes: float, tiny: bool, back: Path | None = None
) -> None:
    """Runs what is not done yet, in order, until the minutes are over."""
    end, output = time.monotonic() + 60 * minutes, output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    path = output / "suite.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    record |= {"versions": summary.versions() | summary.installed(PACKAGES), "commit": summary.commit()}
    if not tiny:
        os.environ["JAX_PLATFORMS"] = "cuda"  # else what jax cannot start there would run on the CPU, unnoticed
    with tempfile.TemporaryDirectory() as scratch:
        listed = parts(output, Path(scratch), reference, tiny)
        if unknown := sorted(set(wanted) - {part.name for part in listed}):
            raise BadInput(f"--parts names {', '.join(unknown)}: choose from {', '.join(part.name for part in listed)}")
        for part in listed:
            done = record["parts"].get(part.name, {}).get("outcome") == "done"
            if part.name in wanted or (not wanted and not done):
                entry = record["parts"][part.name] = run(part, output, Path(scratch), end - time.monotonic())
                path.write_text(json.dumps(record, indent=1) + "\n")
                bring(output, back)
                if part.name == MACHINE and entry["outcome"].startswith("exit code"):
                    raise BadInput(f"jax finds no GPU here: {(output / f'{MACHINE}.log').read_text()[-1000:]}")
    rows = [(name, entry["outcome"], f"{entry['seconds']:.0f}") for name, entry in record["parts"].items()]
    logs.table("GPU suite", ["part", "outcome", "seconds"], rows)
    weigh(output)


def run(part: Part, output: Path, scratch: Path, left: float) -> dict[str, Any]:
    """One part within its own limit and the seconds that are left, its output in a log."""
    limit = min(60 * part.minutes, left)
    if part.missing:
        return {"outcome": f"skipped: {part.missing}", "seconds": 0.0}
    if limit < 30 * part.minutes:  # half of a part's time brings nothing as a rule
        return {"outcome": "not begun: too little time left", "seconds": 0.0}
    print(f"{part.name} ...", flush=True)
    begin = time.monotonic()
    compiled = {"JAX_COMPILATION_CACHE_DIR": str(output / "compiled")}  # with what XLA found out about products
    places = ":".join([str(ROOT), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": places, **compiled, **part.variables}
    unpack(output, scratch, part.name)
    before = sensors()
    with (output / f"{part.name}.log").open("a") as log:
        process = subprocess.Popen([sys.executable, *part.arguments], cwd=ROOT, env=environment, stdout=log, stderr=log)
        code = wait(process, limit, SAVING if part.name == LEARNING else 0.0)
    pack(output, scratch, part.name)
    outcome = {0: "done", None: "out of time"}.get(code, f"exit code {code}, see {part.name}.log")
    entry = {"outcome": outcome, "seconds": time.monotonic() - begin, "sensors": [before, sensors()]}
    return entry | {"variables": part.variables, "XLA_FLAGS": environment.get("XLA_FLAGS", "")}


def sensors() -> str:
    """What the GPU says of itself, "" where none does."""
    if not shutil.which("nvidia-smi"):
        return ""
    words = ["nvidia-smi", f"--query-gpu={SENSORS}", "--format=csv,noheader"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def bring(output: Path, back: Path | None) -> None:
    """All results and logs into one file; compiled programs and traces are for whoever carries DIR itself."""
    if back:
        left_out = ("compiled", "trace")
        with files.whole(back) as made, tarfile.open(made, "w:gz") as packed:
            for path in sorted(output.iterdir()):
                if path.name not in left_out:
                    packed.add(path, path.name)


def wait(process: subprocess.Popen, seconds: float, saving: float) -> int | None:
    """The exit code, or None where the process had to be stopped: asked first where that saves something."""
    grace = min(saving, seconds / 4)
    try:
        return process.wait(max(seconds - grace, 0.1))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(max(grace, 0.1))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return None


def unpack(output: Path, scratch: Path, name: str) -> None:
    """A part's folder from an earlier call back to where the part looks for it."""
    packed = output / f"{name}.tar.gz"
    if packed.exists():
        shutil.unpack_archive(packed, scratch / name, filter="data")


def pack(output: Path, scratch: Path, name: str) -> None:
    """The folder that a part left, if any, into one file that travels: frames shrink to a fraction."""
    if (scratch / name).is_dir():
        shutil.make_archive(str(output / name), "gztar", scratch / name)


def weigh(output: Path) -> None:
    """Says what has to travel, and what is largest where that is too much."""
    sizes = {path: path.stat().st_size for path in output.rglob("*") if path.is_file()}
    total = sum(sizes.values())
    print(f"{output} holds {summary.size(total)}", end="")
    if total > TRAVELS:
        large = sorted(sizes, key=lambda path: -sizes[path])[:3]
        named = ", ".join(f"{path.relative_to(output)} {summary.size(sizes[path])}" for path in large)
        print(f", more than the {summary.size(TRAVELS)} that are to travel; largest: {named}", end="")
    print()


if __name__ == "__main__":
    _OUTPUT = flags.DEFINE_string("output", None, "The folder that travels.", required=True)
    _PARTS = flags.DEFINE_list("parts", [], "Names of parts; default all that are not done.")
    _REFERENCE = flags.DEFINE_string("reference", None, "Your checkout of the public STORM code.")
    _BACK = flags.DEFINE_string("back", None, "A file with all results and logs, written anew after every part.")
    _MINUTES = flags.DEFINE_float("minutes", 9.0, "Longest time of this call.")
    _TINY = flags.DEFINE_bool("tiny", False, "Test sizes, any device.")

    def suite() -> None:
        """The command."""
        back = Path(_BACK.value) if _BACK.value else None
        main(Path(_OUTPUT.value), _PARTS.value, _REFERENCE.value, _MINUTES.value, _TINY.value, back)

    command.run(suite)
