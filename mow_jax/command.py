"""How our commands start and end: flags parsed, the experiment file found and run; bad input, places that cannot be
used and a device that is not there as one message and exit code 2; signals. Used by the mains."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import difflib
import errno
import importlib.machinery
import io
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from mow_jax.types import DISK_FULL, BadInput

# What comes with the project: mow_jax/experiments in a wheel, beside mow_jax in a checkout.
_HERE = Path(__file__).resolve().parent
EXPERIMENTS = next(
    (folder for folder in (_HERE / "experiments", _HERE.parent / "experiments") if folder.is_dir()), _HERE
)
# What absl and ml_collections raise at flags that are wrong.
_MISTAKES = (flags.Error, AttributeError, LookupError, TypeError, ValueError, OSError, ImportError, SyntaxError)
# What to do about a place that cannot be used, by what the system says of it.
_ADVICE = {
    errno.EACCES: "give this user the permission, or name another place",
    errno.EPERM: "give this user the permission, or name another place",
    errno.EROFS: "name a place that can be written to",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.ENOTDIR: "a part of this path is a file where a folder is needed: name another place",
    errno.EISDIR: "a file is needed where this folder lies: move it, or name another place",
    errno.ENOENT: "restore it, or name another place",
}
LONGEST = 300  # characters of what an experiment file raises
ONE_SIGNAL = 1.0  # seconds: a terminal's Ctrl-C reaches a process directly and, a moment later, through its launcher


def run(main: Callable[[], int | None]) -> None:
    """Runs `main` after parsing the flags, and exits with what it returns (None: 0)."""
    logging.set_verbosity(logging.WARNING)
    flags.DEFINE_bool("keep_memory", False, "Faster updates of large models on a CPU, for slower compilation.")
    app.run(lambda _: _run(main), flags_parser=_parse)


def _run(main: Callable[[], int | None]) -> int:
    if flags.FLAGS.keep_memory:
        keep_freed_memory()
    return guarded(main)


def guarded(main: Callable[[], int | None]) -> int:
    """The exit code of a command: what `main` returns (None: 0), or 2 after one message where something is wrong that
    the user can mend. A mistake of ours keeps its traceback."""
    os.environ["MPLBACKEND"] = "agg"  # reports are drawn without a display, whatever the user's variable asks for
    if isinstance(sys.stdout, io.TextIOWrapper) and "utf" not in sys.stdout.encoding.lower():
        sys.stdout.reconfigure(errors="replace")  # a sign that the user's locale lacks is no reason to end
    try:
        return main() or 0
    except BadInput as error:
        message = str(error)
    except (AssertionError, RuntimeError) as error:  # which of them depends on the platform that is asked for
        if not traceback.extract_tb(error.__traceback__)[-1].filename.endswith("xla_bridge.py"):
            raise
        message = _no_device(error)
    except OSError as error:  # those of one place say more in their own words, this is for all others
        if not (message := _unusable(error)):
            raise
    print(f"error: {message}", file=sys.stderr, flush=True)
    return 2


def _unusable(error: OSError) -> str:
    """The message for a place that cannot be used; empty where the error names none, or a file of this package: then
    the mistake is ours."""
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else ""
    if error.errno in DISK_FULL:
        return f"disk is full: {place or 'a file'} cannot be written; free space and run the same command again"
    if not place or _HERE in Path(os.path.realpath(place)).parents:
        return ""
    advice = _ADVICE.get(error.errno or 0, "see to it, or name another place")
    return f"{place} cannot be used: {error.strerror or error}; {advice}"


def _no_device(error: Exception) -> str:
    """The message for what jax raises where it starts its devices."""
    because = f" ({error})" if str(error) else ""
    return (
        f"jax finds no device with JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')!r}{because}: unset it, set"
        " JAX_PLATFORMS=cpu, or install jax's package for your accelerator beside this one, e.g. pip install -e ."
        " 'jax[cuda13]' or 'jax[cuda12]'"
    )


def on_stop() -> list[str]:
    """From now on, until this process ends, the first SIGTERM or SIGINT has its name added to the returned list, and a
    second one ends the process at once: for mains alone, as no signal does what it did before.

    A thread hears them: Python's handlers run between two of its own instructions only, and a program that is being
    compiled is one.
    """
    names: list[str] = []
    heard, told = os.pipe()
    os.set_blocking(told, False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(heard, names), daemon=True).start()
    return names


def _listen(heard: int, names: list[str]) -> None:
    names.append(signal.Signals(os.read(heard, 1)[0]).name)
    began = time.monotonic()
    while True:
        number = os.read(heard, 1)[0]
        if time.monotonic() - began > ONE_SIGNAL:
            os.write(2, b"ended at once by a second signal: the same command goes on from the last checkpoint\n")
            os._exit(128 + number)


def fail(message: str) -> NoReturn:
    """One message on standard error, exit code 2."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def settings(words: Sequence[str]) -> ConfigDict:
    """The config that a command with these arguments, --config=FILE and --config.key=value, would get.

    Raises BadInput where it would be refused.
    """
    known, argv = flags.FlagValues(), sys.argv
    sys.argv = [argv[0], *words]  # ml_collections looks for overrides there
    try:
        flag = config_flags.DEFINE_config_file("config", None, flag_values=known)
        _parsed(sys.argv, known)
        return flag.value
    finally:
        sys.argv = argv


def _parse(argv: Sequence[str]) -> list[str]:
    """The flags of a command; what is wrong with them ends it with one message."""
    try:
        return _parsed(argv, flags.FLAGS)
    except BadInput as error:
        fail(str(error))


def _parsed(argv: Sequence[str], known: flags.FlagValues) -> list[str]:
    """absl's parser; whatever it, ml_collections or a config file raise becomes one message."""
    if "config" in known:
        known["config"].parser = _Experiment("config")
    try:
        left = known(_with_experiment(argv))
    except SystemExit:
        raise  # --help
    except _MISTAKES as error:
        place = _unusable(error) if isinstance(error, OSError) else ""
        said = f"{_one_line(str(error))} ({type(error).__name__})"
        raise BadInput(place or f"{said}; see --help, and mow_jax/config/ for every --config key") from None
    if len(left) > 1:
        raise BadInput(f"{left[1]!r} is not understood: settings are given as --name=value, see --help")
    return left


def _with_experiment(argv: Sequence[str]) -> list[str]:
    """The arguments, --config=FILE and --config FILE with a file that exists."""
    found = list(argv)
    for place, word in enumerate(found):
        name, equals, value = word.partition("=")
        if name == "--":
            break
        if name not in ("--config", "-config"):
            continue
        if equals:
            found[place] = f"{name}={experiment_file(value)}"
        elif place + 1 < len(found):
            found[place + 1] = experiment_file(found[place + 1])
    return found


def experiment_file(given: str) -> str:
    """The experiment that --config=FILE or --config=FILE:VARIANT means, with a file that exists: that file, else, for
    experiments/NAME.py, the project's own. Raises BadInput where there is neither.
    """
    name, colon, variant = given.partition(":")
    own = EXPERIMENTS / Path(name).name
    if Path(name).is_file():
        return given
    if Path(name).parent == Path("experiments") and own.is_file():
        return f"{own}{colon}{variant}"
    known = {path.stem: f"experiments/{path.name}" for path in sorted(EXPERIMENTS.glob("*.py"))}
    near = difflib.get_close_matches(Path(name).stem, known, n=1)
    advice = f"did you mean {known[near[0]]}?" if near else f"choose from {', '.join(known.values())}"
    raise BadInput(f"--config={given}: there is no file {name!r} in {Path.cwd()}; {advice}")


class _Experiment(config_flags.ConfigFileFlagParser):
    """Parses --config=FILE[:VARIANT] by running the file: ml_collections keeps some of what that raises for later, and
    makes a text of the rest."""

    def parse(self, path: str) -> ConfigDict:
        """What the file's get_config returns. Raises BadInput, whatever the file does."""
        name, colon, variant = path.partition(":")
        try:
            config = _function(name)(*[variant] * bool(colon))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit() too
            raise BadInput(_of_file(path, error)) from None
        if type(config) is not ConfigDict:  # a frozen one is a kind of it
            raise BadInput(
                f"--config={path}: get_config() returned {type(config).__name__}, not a ConfigDict: begin it with"
                " config = mow_jax.config.default() and end it with return config"
            )
        config.lock()
        return config


def _function(name: str) -> Callable[..., Any]:
    """The function get_config of a file, which is run."""
    loader = importlib.machinery.SourceFileLoader("config_config", name)
    module = types.ModuleType(loader.name)
    module.__file__ = name
    sys.modules[loader.name] = module  # dataclasses look there for the module that they are in
    loader.exec_module(module)
    if not callable(found := getattr(module, "get_config", None)):
        raise BadInput("it has no function get_config()")
    return found


def _of_file(given: str, error: BaseException) -> str:
    """The message for what an experiment file has raised, with its line of the file where one is known."""
    name, colon, _ = given.partition(":")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    said = str(error)
    if isinstance(error, SyntaxError) and error.filename == name:
        lines, said = [error.lineno], error.msg
    if not lines and "get_config() takes 0 positional arguments" in said:
        return f"--config={given}: this experiment has no variants, leave out the colon and all after it"
    if not lines and not colon and "get_config() missing 1 required positional argument" in said:
        return f"--config={given}: this experiment has variants only, name one: --config={given}:VARIANT"
    place = f"--config={given}, line {lines[-1]}" if lines and lines[-1] else f"--config={given}"
    if isinstance(error, BadInput):
        return f"{place}: {said}"
    last = _one_line((said.strip().splitlines() or [""])[-1])
    return f"{place}: {type(error).__name__}{': ' * bool(last)}{last}"


def _one_line(said: str) -> str:
    """A text in one line, without the quotes and signs that a KeyError puts around and into it."""
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        said = read if isinstance(read := ast.literal_eval(said.strip()), str) else said
    line = ". ".join(said.strip().splitlines())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


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
