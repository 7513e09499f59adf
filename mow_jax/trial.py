"""Whether runs would begin: what training refuses before it touches a workdir, found out for several runs at once.

In, on standard input: [[DIR, [--config=FILE, ...]], ...]. Out: the first refusal, as a command's. Called by sweep, in a
process of its own, which ends with jax and all devices in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mow_jax import command, preflight, summary, workdir


def main() -> None:
    """The command. Raises BadInput for the first run that would be refused."""
    for directory, words in json.load(sys.stdin):
        settings = workdir.agree(Path(directory), command.settings(words), ())
        tasks, system = preflight.check(settings, Path(directory))
        summary.refuse_too_large(settings, system, tasks, Path(directory))


if __name__ == "__main__":
    sys.exit(command.guarded(main))
