"""Who may import whom, and which rooms stay free of jax."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mow_jax"

MAY_IMPORT: dict[str, set[str]] = {
    "__init__": {"load"},
    "types": set(),
    "seeding": set(),
    "checks": {"types"},
    "config": {"checks", "types"},
    "ops": {"types"},
    "models": {"ops", "types"},
    "agent": {"models", "ops", "types"},
    "inspection": {"agent", "models", "ops", "types"},
    "clustering": {"types"},
    "processes": {"types"},
    "learner": {"agent", "inspection", "models", "processes", "types"},
    "diagnostics": {"learner", "processes", "types"},
    "build": {"agent", "config", "envs", "models", "types"},
    "envs": {"types", "seeding", "config"},
    "workers": {"envs", "types"},
    "actors": {"workers", "types", "seeding"},
    "replay": {"types", "seeding"},
    "checkpoint": {"", "processes", "types"},  # "": the package itself, for its version
    "logs": {"types"},
    "report": {"types"},
    "command": {"types"},
    "workdir": {"checkpoint", "checks", "config", "processes", "types"},
    "summary": {"", "agent", "build", "envs", "logs", "types"},  # "": the package itself, for its version
    "transfer": {"agent", "build", "checkpoint", "learner", "processes", "workdir", "types"},
    "preflight": {"agent", "build", "config", "processes", "transfer", "types", "warmup"},
    "warmup": {"agent", "clustering", "learner", "processes", "replay", "types"},
    "mirror": {"learner", "replay", "types"},
    "play": {"agent", "command", "load", "models", "types"},
    "sweep": {"command", "report", "types"},
    "export": {"command", "load", "summary", "types", "workdir"},
    "load": {"build", "checkpoint", "config", "envs", "export", "learner", "types", "workdir"},
}
MAY_IMPORT["run"] = {"actors", "build", "checkpoint", "clustering", "learner", "logs", "mirror"} | {
    *("processes", "replay", "summary", "transfer", "types")
}
MAY_IMPORT["train"] = MAY_IMPORT["evaluate"] = {*MAY_IMPORT, "train", "evaluate"}
JAX_FREE = (
    "types",
    "seeding",
    "checks",
    "config",
    "envs",
    "workers",
    "actors",
    "replay",
    "logs",
    "report",
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
        elif first == "mow_jax" and rest.split(".")[0] not in MAY_IMPORT[room] | {room}:
            wrong.append(f"{room} imports {name}")
        elif rest.startswith("config") and room == "envs" and not rest.rpartition(".")[2].isupper():
            wrong.append(f"{room} imports {name}, which is no preset")
        elif first in JAX and room in JAX_FREE:
            wrong.append(f"{room} imports {name}")
    return wrong


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_lies_below_it(path: Path):
    assert room_of(path) in MAY_IMPORT, "a new room needs its line in MAY_IMPORT"
    assert violations(room_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("models", "from mow_jax.agent import update"),
        ("models", "def late():\n    import mow_jax.agent"),
        ("models", "from mow_jax import agent"),
        ("models", "import mow_jax"),
        ("models", "from ..agent import update"),
        ("models", "from . import vae"),
        ("envs", "from mow_jax.config import default"),
        ("replay", "def late():\n    import jax.numpy as jnp"),
    ],
)
def test_a_forbidden_import_is_seen(room: str, source: str):
    assert len(violations(room, source)) == 1


def test_what_is_allowed_passes():
    assert violations("models", "import jax\nfrom mow_jax.ops import returns\nfrom mow_jax.models.vae import Vae") == []
    assert violations("envs", "from mow_jax.config import ATARI_PROTOCOLS\nfrom mow_jax import types") == []


IMPORT_WHOLE_ROOM = """
import importlib, pkgutil, sys
room = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(getattr(room, "__path__", ()), room.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"jax", "jaxlib"}))
"""


@pytest.mark.parametrize("room", ["envs", "workers", "actors", "replay", "report", "logs", "sweep"])
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
