"""What code that is not ours may do wrong, each as one message: raise, exit, or give no number where one is due.

In: its calls and what they gave. Out: plain floats and bools. Called by the suites that run simulators of others.
"""

from __future__ import annotations

import contextlib
import os
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mow_jax.types import BadInput

LONGEST = 400  # characters of what somebody else's code says
LARGEST = float(np.finfo(np.float32).max)  # rewards are stored and learned as float32
_OURS = str(Path(__file__).parent.parent) + os.sep
_PYTHON = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = tuple(sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib"))
_GYMNASIUM = tuple(folder + "gymnasium" + os.sep for folder in _INSTALLED)
NOT_THEIRS = (BadInput, KeyboardInterrupt, GeneratorExit)  # what comes through their code from elsewhere


class EnvironmentFailed(BadInput):
    """An environment's own code raised: its last line, and where to look. Another try may go well."""


@contextlib.contextmanager
def own_code(doing: str, otherwise: str = "") -> Iterator[None]:
    """Around calls of an environment's own code: whatever it raises becomes EnvironmentFailed, also what is no
    Exception, such as sys.exit's, which would end a process without a word. `doing` names task and call; `otherwise` is
    where to look if no line of the environment's own was running, as where it cannot be called in this way or gives
    back something else.
    """
    try:
        yield
    except NOT_THEIRS:
        raise
    except BaseException as error:
        raise EnvironmentFailed(
            f"{doing} {said(error)} ({place(error) or otherwise or 'nothing says where'})"
        ) from error


def said(error: BaseException) -> str:
    """What an exception comes to, in one line."""
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        return f"called sys.exit({'' if error.code is None else repr(error.code)}), exit status {status}"
    return f"raised {type(error).__name__}: {shown(error, str)}".removesuffix(": ")


def shown(value: Any, write: Callable[[Any], str] = repr) -> str:
    """What somebody else's object says of itself, in one line; writing it runs code of theirs too."""
    try:
        return shortened(write(value))
    except Exception:
        return f"a {type(value).__name__}"


def shortened(text: str) -> str:
    """`text` in one line of at most LONGEST characters."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[:LONGEST] + " ..."


def place(error: BaseException | None) -> str:
    """The innermost line of the environment's own that was running: none of ours, of gymnasium's or of Python's; one
    of another package only where there is no better. Empty where there is none."""
    while error is not None:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
        better = [frame for frame in frames if not frame.filename.startswith(_INSTALLED)]
        if frames:
            frame = (better or frames)[-1]
            return f"{frame.filename}, line {frame.lineno}, in {frame.name}"
        error = error.__cause__
    return ""


def _is_own(path: str) -> bool:
    python = path.startswith(_PYTHON) and not path.startswith(_INSTALLED)
    return not python and not path.startswith(("<frozen", _OURS, *_GYMNASIUM))


def reward(value: Any, where: str) -> float:
    """A reward, which may be an array of one number, as a float. `where` names task and step.

    Raises BadInput for what is no finite number: stored, it would turn every loss to NaN.
    """
    try:
        number = np.nan if isinstance(value, (str, bytes)) else float(np.asarray(value).item())
    except Exception:  # numpy's, or of the value's own conversion
        number = np.nan
    if not abs(number) <= LARGEST:
        raise BadInput(
            f"{where} gave the reward {shown(value)}: a reward must be one finite number that float32 can"
            " hold; mend the environment"
        )
    return number


def flag(value: Any, where: str) -> bool:
    """Whether an episode has ended, given as anything that is one truth value. `where` names task, step and flag.

    Raises BadInput for anything else: None would be an episode without an end.
    """
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    array = numbers(value)
    if array is None or array.size != 1 or not np.isfinite(array).all():
        raise BadInput(f"{where} is {shown(value)}: it must be True or False; mend the environment")
    return bool(array.item())


def numbers(value: Any) -> np.ndarray | None:
    """`value` as an array of numbers or truth values, None where it is none."""
    try:
        array = np.asarray(value)
    except Exception:  # rows of unequal lengths, or whatever a conversion of its own raises
        return None
    return array if array.dtype.kind in "biuf" else None
