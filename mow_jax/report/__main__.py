"""Command line of the report: a run's page, several runs' page, the commands that make one again, Atari 100k scores.

Bad input ends with exit code 2 and one message on standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from mow_jax import command
from mow_jax.report import reproduce, scores
from mow_jax.types import BadInput

EVERY = 10  # seconds between looks at a run that is followed


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser("python -m mow_jax.report", description=__doc__, allow_abbrev=False)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--workdir", metavar="DIR", help="a run's directory: writes DIR/report/")
    choice.add_argument(
        "--compare",
        metavar="DIR,DIR,...",
        help="runs, or folders of sweeps, side by side: writes DIR/comparison/, or --out",
    )
    choice.add_argument("--reproduce", metavar="DIR", help="print the commands that make this run again")
    choice.add_argument(
        "--scores",
        metavar="FILE.json",
        nargs="?",
        const=True,
        help='{"Game": [score of each seed, ...], ...}; without a file, the published STORM seeds',
    )
    parser.add_argument("--out", metavar="DIR", help="where --compare writes")
    parser.add_argument(
        "--actions",
        choices=("sampled", "best"),
        default="",
        help="with --compare: the scores by these, in RUN/ACTIONS where a run's own are by others, as a sweep leaves"
        " them; writes DIR/ACTIONS/comparison/",
    )
    parser.add_argument("--follow", action="store_true", help="with --workdir: write it anew until the run is over")
    options = parser.parse_args(arguments)
    return command.guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    apart = options.out or options.actions
    if (apart and not options.compare) or (options.follow and options.workdir is None):
        raise BadInput("--out and --actions go with --compare, --follow with --workdir")
    if options.workdir is not None:
        _report(options.workdir, options.follow)
    elif options.compare is not None:
        _compare(options.compare.split(","), options.out, options.actions)
    elif options.reproduce is not None:
        print(reproduce.commands(options.reproduce), end="")
    else:
        path = None if options.scores is True else options.scores
        print(json.dumps(scores.atari_scores(path), allow_nan=False))


def _report(workdir: str, follow: bool) -> None:
    from mow_jax.report import data, page, terminal  # here: --scores needs no matplotlib

    before, run = data.last_change(workdir), data.read(workdir)
    while follow and not data.is_over(run):
        directory = page.write(run, refresh=EVERY)
        print(f"report: {directory / 'index.html'}, written anew every {EVERY} s until the run is over", flush=True)
        while data.last_change(workdir) == before and not data.is_over(run):
            time.sleep(EVERY)
        before, run = data.last_change(workdir), data.read(workdir)
    directory = page.write(run)
    terminal.show(run)
    print(f"report: {directory / 'index.html'}, one file (the same in {directory / 'report.md'})")


def _compare(places: list[str], out: str | None, actions: str) -> None:
    from mow_jax.report import compare

    print(f"comparison: {compare.write(places, out, actions) / 'index.html'}, one file")


if __name__ == "__main__":
    sys.exit(main())
