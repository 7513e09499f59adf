"""Every override of every key either holds, is written and read again as it was, or is refused in one message."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from absl import flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags
from processes import ROOT

from mow_jax import checks, command, config, workdir
from mow_jax.types import BadInput

FILE = ROOT / "tests" / "configs" / "tiny.py"
KEYS = {system: checks.flat(config.default(system)) for system in config.SYSTEMS}
VARIANT = {config.FIRST: ""}  # of tests/configs/tiny.py; the others are called as their system
# No database: examples found on one machine stay out of the checkout.
OPTIONS = dict(database=None, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
QUICK, WIDE = settings(**OPTIONS, max_examples=90), settings(**OPTIONS, max_examples=5000)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


def values(system: str, name: str) -> st.SearchStrategy:
    """What a key of this kind can be given, sensible or not."""
    kind = type(KEYS[system][name])
    return {
        bool: st.booleans(),
        int: st.integers(-(2**40), 2**40) | st.integers(-1, 3),
        float: st.floats(allow_nan=False) | st.integers(-3, 3).map(float),
        str: TEXT | st.sampled_from(["kmeans", "table", "next", "off", "a/b c"]),
        tuple: st.lists(st.integers(0, 99) if name == "checkpoint.milestones" else TEXT, max_size=3).map(tuple),
    }[kind]


def parsed(system: str, *arguments: str) -> ConfigDict:
    """The config that a command would get."""
    file = f"{FILE}:{VARIANT.get(system, system)}".rstrip(":")
    found, argv = flags.FlagValues(), ["train", f"--config={file}", *arguments]
    with mock.patch.object(sys, "argv", argv), mock.patch.object(flags, "FLAGS", found):  # ml_collections reads argv
        flag = config_flags.DEFINE_config_file("config", None, flag_values=found)
        command._parse(argv)
        return flag.value


@functools.cache
def unchanged(system: str) -> dict[str, Any]:
    """Every key without any override."""
    return checks.flat(parsed(system))


def survives(made: ConfigDict) -> None:
    """A config is checked with at most one message, and comes back from its file as it was."""
    if (
        made.system not in config.SYSTEMS
    ):  # no file can have it: it is refused before one is written, and when one is read
        for read in (config.check, lambda config: workdir.from_saved(config.to_dict(), Path("config.json"))):
            with pytest.raises(BadInput):
                read(made)
        return
    with contextlib.suppress(BadInput):
        config.check(made)
    again = workdir.from_saved(json.loads(json.dumps(made.to_dict(), default=list)), Path("config.json"))
    assert checks.flat(again) == checks.flat(made)


def sets_what_it_says(data: st.DataObject) -> None:
    """A value of the key's kind."""
    system = data.draw(st.sampled_from(config.SYSTEMS))
    name = data.draw(st.sampled_from(sorted(KEYS[system])))
    value = data.draw(values(system, name))
    made = parsed(system, f"--config.{name}={value}")
    changed = {key for key, found in checks.flat(made).items() if found != unchanged(system)[key]}
    assert checks.value(made, name) == value and changed <= {name}
    survives(made)


def is_taken_or_refused(data: st.DataObject) -> None:
    """Any text, for a key that there is or that there is not."""
    system = data.draw(st.sampled_from(config.SYSTEMS))
    known = st.sampled_from([*sorted(KEYS[system]), "model", "suite.atari"])
    inside = st.builds("{}{}".format, known, st.sampled_from(["[0]", "[9]", "[-1]", "[", ".x", "."]))
    name = data.draw(known | inside | st.text("abcdelmorst._[0]", max_size=12))
    code = 0
    try:
        made = parsed(system, f"--config.{name}={data.draw(TEXT)}")
    except SystemExit as end:
        code = end.code
    if code:
        assert code == 2
    else:
        survives(made)


@pytest.mark.parametrize("system", config.SYSTEMS)
def test_no_key_is_a_name_of_ml_collections(system):
    """By a flag it could not be set: what the flag finds is the method."""
    made = config.default(system)
    assert [name for name in checks.flat(made) if any(hasattr(ConfigDict, part) for part in name.split("."))] == []


def test_a_key_that_had_such_a_name_is_read_from_older_runs():
    made = workdir.from_saved({"system": "m3po", "model": {"values": 7, "bins": 31}}, Path("config.json"))
    assert (made.model.value_functions, made.model.bins) == (7, 31)
    assert checks.flat(made).keys() == checks.flat(config.default("m3po")).keys()


@pytest.mark.parametrize(
    "name",
    ["a.b", "mow.agent", "__init__", "", ".", "..systems", "systems.mow", "os", "mow ", "MOW", "checks", 3, None],
)
def test_a_system_that_is_none_is_refused_before_anything_is_imported(name):
    before = set(sys.modules)
    for ask in (config.of_system, config.default, lambda name: workdir.from_saved({"system": name}, Path("x.json"))):
        with pytest.raises(BadInput, match="is not allowed: use one of .*scalezero"):
            ask(name)
    assert set(sys.modules) == before


@pytest.mark.parametrize("options", [QUICK, pytest.param(WIDE, marks=pytest.mark.long)], ids=["quick", "wide"])
@pytest.mark.parametrize("idea", [sets_what_it_says, is_taken_or_refused])
def test_an_override(idea, options, capsys):
    options(given(st.data())(idea))()
    said = capsys.readouterr().err.split("\n")[:-1]
    assert all(line.startswith("error: ") for line in said), said[:5]
