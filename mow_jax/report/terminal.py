"""Prints a run's tables on the terminal: scores, aggregates, what the world model knows, and what is missing.

In: a data.Run. Called by python -m mow_jax.report.
"""

from __future__ import annotations

import rich.box
import rich.table
from rich.console import Console
from rich.text import Text

from mow_jax.report import tables
from mow_jax.report.data import Run


def show(run: Run) -> None:
    """Prints to standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # a file or a pipe has no width of its own; 80 would cut long task names
    if run.results is not None:
        _print(console, "Scores", tables.scores(run.results))
        _print(console, "", tables.aggregate(run.results))
        if run.results["diagnostics"]:
            _print(console, "What the world model knows", tables.knowledge(run.results["diagnostics"]))
    for sentence in run.missing:
        console.print(Text(f"missing: {sentence}"), soft_wrap=True)


def _print(console: Console, title: str, table: tables.Table) -> None:
    shown = rich.table.Table(title=title or None, title_justify="left", box=rich.box.SIMPLE_HEAD)
    shown.collapse_padding, shown.pad_edge = True, False  # a row of nine numbers in 120 columns
    for index, column in enumerate(table.columns):
        head = "\n".join(column.rsplit(" ", 1)) if len(column) > 10 else column  # names of tasks need the room
        shown.add_column(head, justify="right" if index else "left", vertical="bottom")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    console.print(shown)
