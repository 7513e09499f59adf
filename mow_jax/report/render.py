"""Turns the report's sections into Markdown and into one HTML page with its own style sheet.

In: Section records with plain text (anything in them is escaped). Out: strings. Called by page.
"""

from __future__ import annotations

import html
import itertools
import re
from typing import NamedTuple

from mow_jax.report.tables import Table

CSS = """
:root { --ink: #222b36; --quiet: #5d6874; --line: #dfe4e9; --accent: #2f6fb7; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 1180px; color: var(--ink); background: #fff;
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.8rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { max-width: 78ch; margin: .5rem 0; }
.quiet, figcaption { color: var(--quiet); font-size: .9rem; }
nav { margin: 1rem 0; } nav a { color: var(--accent); margin-right: 1.1rem; text-decoration: none; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0 1.2rem; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .9rem .28rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
table.text th, table.text td { text-align: left; overflow-wrap: anywhere; }
th { color: var(--quiet); font-weight: 600; }
tbody tr:hover { background: #f5f8fb; }
figure { margin: 1rem 0 1.6rem; } img { max-width: 100%; height: auto; display: block; }
.gallery { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; } .gallery figure { margin: .4rem 0; }
"""


class Picture(NamedTuple):
    """An image by its path relative to the report."""

    path: str
    caption: str


class Section(NamedTuple):
    """A heading, paragraphs, tables, large pictures and galleries (rows of pictures that belong together)."""

    title: str
    text: list[str] = []
    tables: list[Table] = []
    pictures: list[Picture] = []
    galleries: list[list[Picture]] = []


def markdown(title: str, subtitle: str, sections: list[Section]) -> str:
    """The whole report as Markdown."""
    blocks = [f"# {_quiet(title)}", _quiet(subtitle)]
    for section in sections:
        blocks += [f"## {_quiet(section.title)}", *map(_quiet, section.text), *map(_markdown_table, section.tables)]
        for picture in [*section.pictures, *itertools.chain(*section.galleries)]:
            blocks.append(f"![{_quiet(picture.caption)}]({picture.path})")
    return "\n\n".join(blocks) + "\n"


def _quiet(text: str) -> str:
    """Text without the characters that Markdown or HTML would act on."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _markdown_table(table: Table) -> str:
    lines = [table.columns, ["---", *["--:"] * (len(table.columns) - 1)]]
    lines += [list(map(_quiet, row)) for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(title: str, subtitle: str, sections: list[Section]) -> str:
    """The whole report as one HTML page."""
    links = " ".join(f'<a href="#{_anchor(section)}">{html.escape(section.title)}</a>' for section in sections)
    head = f"<h1>{html.escape(title)}</h1>\n<p class=quiet>{html.escape(subtitle)}</p>\n<nav>{links}</nav>"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n{head}\n"
        + "\n".join(map(_section, sections))
        + "\n</body>\n</html>\n"
    )


def _anchor(section: Section) -> str:
    return re.sub(r"\W+", "-", section.title.lower())


def _section(section: Section) -> str:
    parts = [f'<h2 id="{_anchor(section)}">{html.escape(section.title)}</h2>']
    parts += [f"<p>{html.escape(text)}</p>" for text in section.text]
    parts += map(_table, section.tables)
    parts += map(_figure, section.pictures)
    parts += [f"<div class=gallery>{''.join(map(_figure, pictures))}</div>" for pictures in section.galleries]
    return "\n".join(parts)


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    kind = ' class="text"' if table.columns[0] == "field" else ""
    return f"<div class=wide><table{kind}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"


def _figure(picture: Picture) -> str:
    path, caption = html.escape(picture.path), html.escape(picture.caption)
    return f'<figure><img src="{path}" alt="{caption}" loading="lazy"><figcaption>{caption}</figcaption></figure>'
