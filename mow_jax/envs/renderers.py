"""With what MuJoCo draws: chosen before it is imported, tried in a process of its own, refused where it cannot.

Called by metaworld and gymnasium.
"""

from __future__ import annotations

import ctypes.util
import functools
import importlib.util
import os
import subprocess
import sys

from mow_jax.types import BadInput

OSMESA = "install OSMesa (Debian: apt-get install libosmesa6)"
ON_CPU = ("llvmpipe", "softpipe", "swrast")  # what OpenGL calls itself then
# Draws with what MUJOCO_GL says, names what drew, and ends before destructors can write or fail.
TRIAL = """
import os
try:
    import mujoco
    renderer = mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8)
    renderer.render()
    try:
        from OpenGL import GL
        print((GL.glGetString(GL.GL_RENDERER) or b"").decode(), flush=True)
    except Exception:
        pass
except BaseException as error:
    print(" ".join(f"{type(error).__name__}: {error}".split()), flush=True)
    os._exit(1)
os._exit(0)
"""


def choose(who: str) -> None:
    """EGL where a device answers, else OSMesa, said by the name of who is drawn where that is the CPU: mujoco reads the
    choice from the environment, once, when imported."""
    if os.environ.get("MUJOCO_GL"):
        return
    if ctypes.util.find_library("EGL") and not _fault("egl"):
        os.environ["MUJOCO_GL"] = "egl"
        if any(name in _trial("egl")[1] for name in ON_CPU):
            print(
                f"{who} renders on the CPU: EGL has no GPU to draw with ({_trial('egl')[1]})",
                file=sys.stderr,
                flush=True,
            )
        return
    os.environ["MUJOCO_GL"] = "osmesa"
    if not _fault("osmesa"):  # else `refuse` says what to do
        print(f"{who} renders on the CPU with OSMesa: no EGL device answers", file=sys.stderr, flush=True)


def refuse() -> None:
    """Raises BadInput where MuJoCo is there and cannot draw with MUJOCO_GL as it is."""
    backend = os.environ.get("MUJOCO_GL", "")
    if importlib.util.find_spec("mujoco") is None or not (fault := _fault(backend)):
        return
    remedies = [] if ctypes.util.find_library("OSMesa") else [OSMESA]
    if backend != "osmesa" or not remedies:
        remedies.insert(0, "unset MUJOCO_GL and PYOPENGL_PLATFORM")
    raise BadInput(f"MuJoCo cannot render with MUJOCO_GL={backend} ({fault}): {', '.join(remedies)}")


def _fault(backend: str) -> str:
    """What goes wrong when MuJoCo draws with MUJOCO_GL=`backend`, "" where nothing does."""
    status, said = _trial(backend)
    return (said or f"exit status {status}") if status else ""


@functools.cache
def _trial(backend: str) -> tuple[int, str]:
    """The exit status of drawing with MUJOCO_GL=`backend`, and what drew or what went wrong: in a process of its own,
    as a renderer that is missing may end it, or leave objects behind that fail once more."""
    environment = {**os.environ, "MUJOCO_GL": backend}
    trial = subprocess.run([sys.executable, "-c", TRIAL], env=environment, capture_output=True, text=True, check=False)
    return trial.returncode, trial.stdout.strip()
