"""Training and sweeps that the guides tell people to start name experiments, variants and settings that there are."""

from __future__ import annotations

import ast
import re
import runpy
import shlex

import pytest
from processes import ROOT

from mow_jax import config

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "results" / "ablations" / "README.md"]
FOR_THE_READER = re.compile(r"\.\.\.|\b(NAME|KEY|GAME|EXPERIMENT|VARIANT|FILE)\b")  # put in by hand


def commands(text: str) -> list[list[str]]:
    """The words of the commands in indented lines that train or sweep, continued lines joined."""
    lines = re.findall(r"^ {4,}(\S.*)$", re.sub(r"\\\n\s*", " ", text), re.MULTILINE)
    asked = [line for line in lines if re.search(r"mow_jax\.(train|sweep)\b.* --config=", line)]
    return [shlex.split(line, comments=True) for line in asked if not FOR_THE_READER.search(line)]


def configs(words: list[str]) -> list:
    """What a command would run, its settings put in."""
    value = {word.partition("=")[0]: word.partition("=")[2] for word in words if word.startswith("--")}
    path, _, variant = value["--config"].partition(":")
    get_config = runpy.run_path(str(ROOT / path))["get_config"]
    prefix = f"{variant}/" if variant else ""
    names = [prefix + name for name in value["--variants"].split(",")] if "--variants" in value else [variant]
    found = [get_config(name) if name else get_config() for name in names]
    for key in (key for key in value if key.startswith("--config.")):
        for made in found:
            made.update_from_flattened_dict({key.removeprefix("--config."): _value(value[key])})
    return found


def _value(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


GIVEN = [
    pytest.param(words, id=f"{page.stem}-{i}") for page in PAGES for i, words in enumerate(commands(page.read_text()))
]


@pytest.mark.parametrize("words", GIVEN)
def test_a_page_s_command_can_be_given(words: list[str]):
    for made in configs(words):
        config.check(made)


def test_pages_have_such_commands():
    pages = {given.id.rpartition("-")[0] for given in GIVEN}
    assert len(GIVEN) >= 20 and pages >= {"README", "first_experiments", "m3po", "scalezero"}


def test_no_page_s_evaluation_by_other_actions_replaces_a_run_s_own_results():
    """By other numbers of episodes it does where the page says so."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("results/**/*.md")]
    found = [
        line for page in pages for line in re.findall(r"mow_jax\.evaluate\b[^`\n]*--actions[^`\n]*", page.read_text())
    ]
    assert len(found) >= 2 and all("--out=" in line for line in found), found
