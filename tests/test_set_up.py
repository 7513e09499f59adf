"""What stands before a test: programs of the system, named where they are missing, and the Python that builds."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import system
from processes import ROOT

NOBODY = 65534
SBIN = "/sbin:/usr/sbin"  # which the script adds to the path


def as_an_ordinary_user(**there: str) -> str:
    """What .ci/system says to one on a system with nothing but the shell functions `there`; the exit code must be 0."""
    if shutil.which("chromium", path=SBIN) or shutil.which("google-chrome", path=SBIN):
        pytest.skip("here a browser lies where ldconfig does")
    there = {"ldconfig": "true", "id": f'{shutil.which("id")} "$@"'} | there
    functions = {f"BASH_FUNC_{name}%%": f"() {{ {body}; }}" for name, body in there.items()}
    try:
        # From its text, in /: nobody may not be let into the checkout.
        found = subprocess.run(
            [str(shutil.which("bash"))],
            input=(ROOT / ".ci" / "system").read_text(),
            env={"PATH": "/nowhere", **functions},
            user=None if os.getuid() else NOBODY,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except PermissionError:
        pytest.skip("no other user can be had here")
    assert found.returncode == 0 and found.stdout == "", found
    return found.stderr


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ({}, "libosmesa6 chromium"),
        ({"ldconfig": "echo libOSMesa.so.8"}, "chromium"),
        ({"chromium": "true"}, "libosmesa6"),
        ({"google-chrome": "true"}, "libosmesa6"),
    ],
)
def test_an_ordinary_user_reads_in_one_line_what_is_missing_and_the_command_that_brings_it(there, missing):
    said = as_an_ordinary_user(**there)
    assert said.count("\n") == 1 and said.startswith(f"Not on this system: {missing}. ")
    command = "sudo apt-get update && sudo apt-get install -y --no-install-recommends "
    assert said.endswith(f"{command}{missing}\n")


def test_where_nothing_is_missing_nothing_is_said():
    assert as_an_ordinary_user(ldconfig="echo libOSMesa.so.8", chromium="true") == ""


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 127\n", "neither script nor program"])
def test_a_browser_that_does_not_start_is_a_missing_one(text, tmp_path, monkeypatch):
    fake = tmp_path / "chromium"
    fake.write_text(text)
    fake.chmod(0o755)
    monkeypatch.setattr(system, "CHROMIUM", str(fake))
    with pytest.raises(pytest.skip.Exception, match="chromium"):
        system.needs_chromium()


def test_a_browser_that_says_its_version_is_there(tmp_path, monkeypatch):
    fake = tmp_path / "chromium"
    fake.write_text('#!/bin/sh\n[ "$*" = --version ]\n')
    fake.chmod(0o755)
    monkeypatch.setattr(system, "CHROMIUM", str(fake))
    system.needs_chromium()


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ([], "python3.11"),
        (["oldest", "3.13"], "python3.11"),
        (["3.12"], "python3.12"),
        (["3.13", "3.11"], "python3.13"),
    ],
)
def test_the_wheel_is_built_with_the_first_python_that_is_asked_for(asked, first, tmp_path):
    for name in ("python3.11", "python3.12", "python3.13"):
        fake = tmp_path / name
        fake.write_text('#!/bin/sh\necho "${0##*/} $*"\nexit 3\n')
        fake.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    found = subprocess.run(
        [ROOT / ".ci" / "versions", *asked],
        env=os.environ | {"PATH": path, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert found.returncode == 3, "it ends where that Python cannot"
    command, *words, place = found.stdout.split()
    assert [command, *words] == [first, "-m", "venv"] and Path(place).name == "build"
