"""One process at a time writes into a workdir: the lock it takes, and whether one is taken. Used by workdir, jobs,
report and, for a file that several write, sweep.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mow_jax.types import BadInput

NAME = ".lock"
TRIES, PAUSE = 10, 0.05  # of taking a lock, and seconds between them


def take(workdir: str | os.PathLike) -> IO[str]:
    """Takes the one lock of a workdir, until the returned file is closed or the process ends. Who merely asks whether
    it is taken holds it for a moment, which is waited for.

    Raises BadInput where another process holds it or the workdir cannot be used.
    """
    path = Path(workdir) / NAME
    file = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
        for _ in range(TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(PAUSE)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if file is not None:
            file.close()
        if isinstance(error, BlockingIOError):
            message = f"workdir {workdir} is in use by another run; wait for it, stop it, or choose another --workdir"
        else:
            message = f"cannot use workdir {workdir}: {error.strerror}; choose another --workdir"
        raise BadInput(message) from error
    return file


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """The body runs in one process at a time, by a lock file; at once where that file cannot be made or locked."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            fcntl.flock(stack.enter_context(path.open("a")), fcntl.LOCK_EX)
        yield


def taken(workdir: str | os.PathLike) -> bool:
    """Whether a process is at work in a workdir. Asking leaves nothing behind."""
    try:
        with (Path(workdir) / NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
