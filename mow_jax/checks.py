"""Tables of what single keys of a config may be, and whether a config keeps to them; a config as one flat dict. Used by
config, experiment files, workdir, sweep and report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mow_jax.types import BadInput

# Keys that a run may change when it goes on, but where its system locks them.
FREE_ON_RESUME = ("train.steps", "checkpoint", "log", "evaluation", "actors")


def numbers(config: ConfigDict, ranges: dict[str, str]) -> None:
    """`ranges`: interval -> keys that must lie in it, e.g. {"[0, 1)": "model.dropout model.unimix"}; a tuple's elements
    each, "whole [1, inf)": as whole numbers. Raises BadInput for the first number outside, NaN and infinity included.
    """
    for interval, keys in ranges.items():
        for key in keys.split():
            found = value(config, key)
            for number in found if isinstance(found, tuple) else (found,):
                if not _inside(number, interval):
                    kind = "whole numbers" if interval.startswith("whole") else "a number"
                    each = f"{kind} in {interval.removeprefix('whole ')}"
                    raise BadInput(f"{key}={found!r} is not allowed: it must be {each}")


def choices(config: ConfigDict, allowed: dict[str, tuple]) -> None:
    """`allowed`: key -> its possible values. Raises BadInput for the first key with another one."""
    for key, values in allowed.items():
        if (found := value(config, key)) not in values:
            raise BadInput(f"{key}={found!r} is not allowed: use one of {', '.join(map(str, values))}")


def rows(config: ConfigDict, longest: int, shorter: str) -> None:
    """Raises BadInput where the random rows or the replay's capacity hold no window of `longest` rows; `shorter` is the
    key that shortens it."""
    each = config.train.envs
    rows = config.warmup.steps // each
    if rows < longest:
        raise BadInput(
            f"warmup.steps={config.warmup.steps} leaves {rows} rows an environment, fewer than the longest window"
            f" ({longest}): raise warmup.steps to {longest * each} or shorten {shorter}"
        )
    if config.replay.capacity and config.replay.capacity // each < longest:
        raise BadInput(f"replay.capacity={config.replay.capacity} holds no window of {longest} steps: raise it")


def pixels(config: ConfigDict) -> None:
    """Raises BadInput where something else than pixels is to be seen: for systems whose models are of pixels."""
    if config.suite.observation != "pixels":
        raise BadInput(
            f"suite.observation={config.suite.observation!r}: {config.system} learns from pixels; set it to 'pixels',"
            " or use an experiment file of a system that learns from vectors"
        )


def variant(file: str, given: str, known: Iterable[str]) -> None:
    """Raises BadInput where --config=FILE:VARIANT asks for a variant that an experiment file does not have."""
    if given not in (names := tuple(known)):
        raise BadInput(f"variant {given!r} of {Path(file).name} is not known: use one of {', '.join(names)}")


def value(config: ConfigDict, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config


def flat(config: ConfigDict | dict, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value}."""
    result: dict[str, Any] = {}
    for key, item in config.items():
        name = f"{prefix}{key}"
        result |= flat(item, name + ".") if isinstance(item, ConfigDict | dict) else {name: item}
    return result


def scheduled(settings: dict[str, Any]) -> dict[str, Any]:
    """A flat config with the steps that its schedules refer to in train.schedule_steps: train.steps where that is 0."""
    steps = settings.get("train.schedule_steps") or settings.get("train.steps")
    return settings | ({"train.schedule_steps": steps} if steps else {})


def _inside(number: Any, interval: str) -> bool:
    whole, ends = interval.startswith("whole"), interval.removeprefix("whole ")
    if isinstance(number, bool) or not isinstance(number, int if whole else (int, float)):
        return False
    low, high = map(float, ends[1:-1].split(","))
    above = low <= number if ends[0] == "[" else low < number
    return above and (number <= high if ends[-1] == "]" else number < high)
