"""How our commands start and end: flags parsed, bad input as one message and exit code 2, signals. The mains use it."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from mow_jax.types import BadInput

# What absl, ml_collections and config files raise at flags and files that are wrong.
_MISTAKES = (flags.Error, AttributeError, LookupError, TypeError, ValueError, OSError, ImportError, SyntaxError)
DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
ONE_SIGNAL = 1.0  # seconds: a terminal's Ctrl-C reaches a process directly and, a moment later, through its launcher


def run(main: Callable[[], int | None]) -> None:
    """Runs `main` after parsing the flags, and exits with what it returns (None: 0)."""
    logging.set_verbosity(logging.WARNING)
    flags.DEFINE_bool("keep_memory", False, "Faster updates of large models on a CPU, for slower compilation.")
    app.run(lambda _: _guarded(main), flags_parser=_parse)


def _guarded(main: Callable[[], int | None]) -> None:
    if flags.FLAGS.keep_memory:
        keep_freed_memory()
    try:
        sys.exit(main() or 0)
    except BadInput as error:
        fail(str(error))
    except OSError as error:  # those of one place say more in their own words, this is for all others
        if error.errno not in DISK_FULL:
            raise
        fail(f"disk is full: {error.filename or 'a file'} cannot be written; free space and run the same command again")


def on_stop(first: Callable[[str], None]) -> None:
    """From now on the first SIGTERM or SIGINT calls `first` with its name, and a second one ends the process at once.

    A thread hears them: Python's handlers run between two of its own instructions only, and a program that is being
    compiled is one.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(heard, first), daemon=True).start()


def _listen(heard: int, first: Callable[[str], None]) -> None:
    first(signal.Signals(os.read(heard, 1)[0]).name)
    began = time.monotonic()
    while True:
        number = os.read(heard, 1)[0]
        if time.monotonic() - began > ONE_SIGNAL:
            os.write(2, b"ended at once by a second signal: the same command goes on from the last checkpoint\n")
            os._exit(128 + number)


def fail(message: str) -> None:
    """One message on standard error, exit code 2."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def _parse(argv: Sequence[str]) -> list[str]:
    """absl's parser; whatever it, ml_collections or a config file raise becomes one message."""
    try:
        left = flags.FLAGS(list(argv))
    except SystemExit:
        raise  # --help
    except BadInput as error:
        fail(str(error))
    except _MISTAKES as error:
        text = str(error.args[0] if error.args else error).strip("'\"").replace("\\n", " ").replace("\n", ". ")
        fail(f"{text} ({type(error).__name__}); see --help, and mow_jax/config.py for every --config key")
    if len(left) > 1:
        fail(f"{left[1]!r} is not understood: settings are given as --name=value, see --help")
    return left


def keep_freed_memory() -> None:
    """Tells glibc's allocator to reuse freed memory rather than to return it to the system.

    On a CPU a program's temporary buffers, gigabytes, are otherwise mapped and zeroed anew at every update. Must come
    before jax starts its threads, which keep the arenas that they have. With one arena for all, the compiler's threads
    wait for each other: compilation takes 1.5 times as long.
    """
    arena_max, mmap_max, trim_threshold = -8, -4, -1  # from malloc.h
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in ((arena_max, 1), (mmap_max, 0), (trim_threshold, -1)):
            mallopt(parameter, value)
