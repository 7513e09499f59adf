"""Who may import whom, and which rooms stay free of jax."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mow_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

MAY_IMPORT: dict[str, set[str]] = {
    "__init__": {"load"},
    "types": set(),
    "seeding": set(),
    "checks": {"types"},
    "config": {"checks", "types"},
    "ops": {"types"},
    "processes": {"types"},
    "locks": {"types"},
    "files": set(),
    "xla": set(),
    "advice": set(),
    "origin": set(),
    "flops": set(),
    "meter": {"types"},
    "learner": {"flops", "processes", "types", "xla"},
    "diagnostics": {"files", "learner", "processes", "types"},
    "systems": {"types"},
    "build": {"config", "envs", "systems", "types"},
    "envs": {"types", "seeding", "config"},
    "workers": {"envs", "types"},
    "episodes": {"seeding", "workers"},
    "actors": {"episodes", "seeding", "workers", "types"},
    "memory": set(),
    "replay": {"files", "memory", "types", "seeding"},
    "checkpoint": {"", "files", "processes", "types"},  # "": the package itself, for its version
    "logs": {"types"},
    "report": {"advice", "checks", "command", "envs", "files", "locks", "types"},
    "command": {"types"},
    "trial": {"command", "preflight", "summary", "workdir"},
    "workdir": {"checks", "config", "locks", "processes", "types"},
    "summary": {
        "",
        "build",
        "envs",
        "files",
        "learner",
        "logs",
        "origin",
        "processes",
        "replay",
        "types",
        "xla",
    },  # "": for its version
    "transfer": {"build", "checkpoint", "learner", "processes", "workdir", "types"},
    "preflight": {"build", "config", "envs", "logs", "meter", "processes", "transfer", "types"},
    "mirror": {"learner", "replay", "types"},
    "play": {"command", "load", "types"},
    "jobs": {"files", "locks"},
    "sweep": {"checks", "command", "config", "envs", "files", "jobs", "locks", "origin", "report", "types"},
    "export": {"command", "files", "learner", "load", "summary", "types"},
    "load": {"build", "checkpoint", "config", "envs", "learner", "types", "workdir"},
}
MAY_IMPORT["run"] = {"actors", "build", "checkpoint", "advice", "learner", "logs", "meter", "mirror"} | {
    *("processes", "replay", "summary", "transfer", "types")
}
MAY_IMPORT["train"] = MAY_IMPORT["evaluate"] = {*MAY_IMPORT, "train", "evaluate"} - {"systems"}
# Every system's folder: the algorithm itself needs the first two only; what the house calls, gets the others.
A_SYSTEM = {"files", "ops", "types", "learner", "processes", "replay"}
JAX_FREE = (
    "types",
    "seeding",
    "checks",
    "config",
    "envs",
    "workers",
    "episodes",
    "actors",
    "memory",
    "replay",
    "logs",
    "advice",
    "files",
    "report",
    "jobs",
    "locks",
    "origin",
    "sweep",
    "command",
)
JAX = {"jax", "jaxlib", "flax", "optax", "chex", "orbax"}


def imports(source: str) -> list[str]:
    """Every module that a source text imports, wherever the statement stands; a relative one keeps its dots."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            found += [f"{origin}.{alias.name}" for alias in node.names]
    return found


def violations(room: str, source: str) -> list[str]:
    """The imports in `source`, a file of `room`, that the table above forbids."""
    wrong = []
    for name in imports(source):
        first, _, rest = name.partition(".")
        if first == "":
            wrong.append(f"{name} is relative")
        elif first == "mow_jax" and not rest.startswith(room) and rest.split(".")[0] not in allowed(room):
            wrong.append(f"{room} imports {name}")
        elif rest.startswith("config") and room == "envs" and not rest.rpartition(".")[2].isupper():
            wrong.append(f"{room} imports {name}, which is no preset")
        elif first in JAX and room in JAX_FREE:
            wrong.append(f"{room} imports {name}")
    return wrong


def allowed(room: str) -> set[str]:
    """The rooms that a room may import; a system's folder is "systems.NAME"."""
    return A_SYSTEM if room.startswith("systems.") else MAY_IMPORT[room]


def room_of(path: Path) -> str:
    first, *rest = path.relative_to(PACKAGE).parts
    return f"{first}.{rest[0]}" if first == "systems" and len(rest) > 1 else first.removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_lies_below_it(path: Path):
    assert room_of(path).startswith("systems.") or room_of(path) in MAY_IMPORT, (
        "a new room needs its line in MAY_IMPORT"
    )
    assert violations(room_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("ops", "from mow_jax.learner import Learner"),
        ("ops", "def late():\n    import mow_jax.learner"),
        ("ops", "from mow_jax import learner"),
        ("ops", "import mow_jax"),
        ("ops", "from ..learner import Learner"),
        ("ops", "from . import twohot"),
        ("systems.one", "from mow_jax.systems.other import agent"),
        ("systems.one", "from mow_jax.config import default"),
        ("systems.one", "from mow_jax.run import Run"),
        ("learner", "from mow_jax.systems.one import agent"),
        ("envs", "from mow_jax.config import default"),
        ("replay", "def late():\n    import jax.numpy as jnp"),
    ],
)
def test_a_forbidden_import_is_seen(room: str, source: str):
    assert len(violations(room, source)) == 1


def test_what_is_allowed_passes():
    source = "import jax\nfrom mow_jax.ops import returns\nfrom mow_jax.systems.one.blocks import Head"
    assert violations("systems.one", source) == []
    assert violations("envs", "from mow_jax.config import ATARI_PROTOCOLS\nfrom mow_jax import types") == []


def test_no_file_imports_itself_by_way_of_others():
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES}
    graph = {name: {found for found in imports(path.read_text()) if found} for path, name in names.items()}
    known = set(graph) - {"mow_jax"}  # the package itself is only its version
    edges = {
        name: {part for each in found for part in (each, each.rpartition(".")[0]) if part in known} - {name}
        for name, found in graph.items()
        if name in known
    }
    left = set(known)
    while free := {name for name in left if not edges[name] & left}:
        left -= free
    assert sorted(left) == []


def maps_over_devices(source: str) -> int:
    """How often a source text names pmap outside of words: its calls, and its imports under whatever name."""
    nodes = ast.walk(ast.parse(source))
    return sum(
        (isinstance(node, ast.Attribute) and node.attr == "pmap")
        or (isinstance(node, ast.alias) and node.name == "pmap")
        for node in nodes
    )


def test_one_function_maps_over_devices():
    """jax may give pmap up one day: then that function changes, and nothing else."""
    files = [*FILES, *sorted((ROOT / "benchmarks").glob("*.py"))]
    found = {str(path.relative_to(ROOT)): maps_over_devices(path.read_text()) for path in files}
    assert {name: count for name, count in found.items() if count} == {"mow_jax/processes.py": 1}
    assert maps_over_devices("import jax\nrun = jax.pmap(len)  # pmap(") == 1
    assert maps_over_devices("from jax import pmap as mapped\nmapped(len)") == 1


def test_no_file_is_long():
    assert {str(path): count for path in FILES if (count := len(path.read_text().splitlines())) > 400} == {}


def test_a_newcomer_reads_the_loop_the_algorithm_its_model_and_an_experiment():
    path = ("mow_jax/train.py", *(f"mow_jax/systems/mow/{name}.py" for name in ("agent", "world_model")))
    read = [*path, "experiments/quickstart.py"]
    assert all(f"`{name}`" in (ROOT / "README.md").read_text() for name in read)
    assert sum(len((ROOT / name).read_text().splitlines()) for name in read) <= 800


@pytest.mark.parametrize(
    "path",
    [
        ("scalezero_quickstart", "scalezero/agent", "scalezero/world_model", "scalezero/search"),
        ("toy_slide", "m3po/agent", "m3po/world_model", "m3po/planner"),
    ],
    ids=lambda path: path[1].partition("/")[0],
)
def test_another_system_s_algorithm_and_model_are_no_longer_to_read(path: tuple[str, ...]):
    files = [f"experiments/{path[0]}.py", *(f"mow_jax/systems/{name}.py" for name in path[1:])]
    assert all(f"`{name}`" in (ROOT / "README.md").read_text() for name in files)
    assert sum(len((ROOT / name).read_text().splitlines()) for name in files) <= 800


IMPORT_WHOLE_ROOM = """
import importlib, pkgutil, sys
room = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(getattr(room, "__path__", ()), room.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"jax", "jaxlib"}))
"""


@pytest.mark.parametrize("room", ["config", "envs", "workers", "actors", "replay", "report", "logs", "sweep"])
def test_a_fresh_process_gets_no_jax(room: str):
    assert modules_of_jax([sys.executable, "-c", IMPORT_WHOLE_ROOM, f"mow_jax.{room}"]) == []


def test_the_package_itself_brings_no_jax():
    code = "import sys, mow_jax; mow_jax.__version__; print(*{'jax', 'jaxlib'} & set(sys.modules))"
    assert modules_of_jax([sys.executable, "-c", code]) == []


def modules_of_jax(command: list[str]) -> list[str]:
    """What the command prints, in words."""
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()
