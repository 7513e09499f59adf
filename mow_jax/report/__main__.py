"""Command line of the report: a run's workdir to DIR/report/, the commands that make it again, or Atari 100k scores.

Bad input ends with exit code 2 and one message on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from mow_jax.report import reproduce, scores
from mow_jax.types import BadInput


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser("python -m mow_jax.report", description=__doc__, allow_abbrev=False)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--workdir", metavar="DIR", help="a run's directory: writes DIR/report/")
    choice.add_argument("--reproduce", metavar="DIR", help="print the commands that make this run again")
    choice.add_argument(
        "--scores",
        metavar="FILE.json",
        nargs="?",
        const=True,
        help='{"Game": [score of each seed, ...], ...}; without a file, the published STORM seeds',
    )
    options = parser.parse_args(arguments)
    try:
        if options.workdir is not None:
            _report(options.workdir)
        elif options.reproduce is not None:
            print(reproduce.commands(options.reproduce), end="")
        else:
            path = None if options.scores is True else options.scores
            print(json.dumps(scores.atari_scores(path), allow_nan=False))
    except BadInput as problem:
        print(f"mow_jax.report: {problem}", file=sys.stderr)
        return 2
    return 0


def _report(workdir: str) -> None:
    os.environ["MPLBACKEND"] = "agg"  # no display is needed, whatever the user's variable asks for
    from mow_jax.report import data, page, terminal  # here: --scores needs no matplotlib

    run = data.read(workdir)
    directory = page.write(run)
    terminal.show(run)
    print(f"report: {directory / 'index.html'} (the same in {directory / 'report.md'})")


if __name__ == "__main__":
    sys.exit(main())
