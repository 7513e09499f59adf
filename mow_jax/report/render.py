"""Turns the report's sections into Markdown and into one HTML page that has its style sheet and pictures in it.

In: Section records with plain text (anything in them is escaped). Out: strings. Called by page and compare.
"""

from __future__ import annotations

import base64
import html
import itertools
import re
from pathlib import Path
from typing import NamedTuple

from mow_jax import files
from mow_jax.report.tables import Table

CSS = """
:root { color-scheme: light dark; --ink: #222b36; --quiet: #5d6874; --line: #dfe4e9; --accent: #2f6fb7; --ground: #fff;
        --hover: #f5f8fb; --note: #fff4e8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ed; --quiet: #9aa5b1; --line: #2c333c; --accent: #6aa5e8; --ground: #14181d; --hover: #1c2229;
          --note: #2b2118; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 1180px; color: var(--ink); background: var(--ground);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.8rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { max-width: 78ch; margin: .5rem 0; overflow-wrap: anywhere; }
p.note { background: var(--note); border-left: 3px solid #d9651f; padding: .5rem .8rem; }
pre { overflow-x: auto; font-size: .85rem; padding: .6rem .8rem; border: 1px solid var(--line); }
.quiet, figcaption { color: var(--quiet); font-size: .9rem; }
nav { margin: 1rem 0; } nav a { color: var(--accent); margin-right: 1.1rem; text-decoration: none; }
nav a { white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0 1.2rem; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .9rem .28rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
table.text th, table.text td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.text td:first-child { white-space: nowrap; }
th { color: var(--quiet); font-weight: 600; white-space: normal; vertical-align: bottom; }
tbody tr:hover { background: var(--hover); }
figure { margin: 1rem 0 1.6rem; } img { max-width: 100%; height: auto; display: block; }
.gallery { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; } .gallery figure { margin: .4rem 0; }
@media (max-width: 640px) {
  body { padding: 1.2rem 1rem 3rem; } h1 { font-size: 1.35rem; }
  .plot { overflow-x: auto; } .plot img { max-width: 720px; min-width: 100%; }
}
"""
MOST = 14_500_000  # bytes of pictures in a page


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
    notes: list[str] = []  # what should catch the eye
    code: str = ""  # commands


def markdown(title: str, subtitle: str, sections: list[Section]) -> str:
    """The whole report as Markdown."""
    blocks = [f"# {_quiet(title)}", _quiet(subtitle)]
    for section in sections:
        blocks += [f"## {_quiet(section.title)}", *(f"**{_quiet(note)}**" for note in section.notes)]
        blocks += [*map(_quiet, section.text), *map(_markdown_table, section.tables)]
        blocks += ["\n".join(f"    {line}" for line in section.code.splitlines())] * bool(section.code)
        for picture in [*section.pictures, *itertools.chain(*section.galleries)]:
            blocks.append(f"![{_quiet(picture.caption)}]({picture.path})")
    return "\n\n".join(blocks) + "\n"


def _quiet(text: str) -> str:
    """Text without the characters that Markdown or HTML would act on."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _markdown_table(table: Table) -> str:
    lines = [list(map(_quiet, table.columns)), ["---", *["--:"] * (len(table.columns) - 1)]]
    lines += [list(map(_quiet, row)) for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(title: str, subtitle: str, sections: list[Section], directory: Path, refresh: int = 0) -> str:
    """The whole report as one HTML page with the pictures of `directory` in it, as far as they fit; `refresh`: seconds
    after which a browser reads it again."""
    links = " ".join(f'<a href="#{_anchor(section)}">{html.escape(section.title)}</a>' for section in sections)
    head = f"<h1>{html.escape(title)}</h1>\n<p class=quiet>{html.escape(subtitle)}</p>\n<nav>{links}</nav>"
    again = f'<meta http-equiv="refresh" content="{refresh}">\n' if refresh else ""
    kept = _embedded(sections, directory)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{again}'
        f"<title>{html.escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n{head}\n"
        + "\n".join(_section(section, kept) for section in sections)
        + "\n</body>\n</html>\n"
    )


def put(path: Path, text: str) -> None:
    """Writes a file whole, as a browser may be reading it."""
    with files.whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _embedded(sections: list[Section], directory: Path) -> dict[str, str]:
    """{path: data URI} of what fits into a page: figures first, then small pictures before large ones."""
    figures = [picture.path for section in sections for picture in section.pictures]
    figures += [dark for path in figures if (directory / (dark := _dark(path))).exists()]
    others = [picture.path for section in sections for picture in itertools.chain(*section.galleries)]
    others.sort(key=lambda path: (directory / path).stat().st_size)
    kept, size = {}, 0
    for path in figures + others:
        text = base64.b64encode((directory / path).read_bytes()).decode()
        size += len(text)
        if size > MOST:
            break
        kept[path] = f"data:image/{path.rpartition('.')[2]};base64,{text}"
    return kept


def _dark(path: str) -> str:
    """The same figure in dark colours (plotting.dark)."""
    stem, _, suffix = path.rpartition(".")
    return f"{stem}.dark.{suffix}"


def _anchor(section: Section) -> str:
    return re.sub(r"\W+", "-", section.title.lower())


def _section(section: Section, kept: dict[str, str]) -> str:
    parts = [f'<h2 id="{_anchor(section)}">{html.escape(section.title)}</h2>']
    parts += [f"<p class=note>{html.escape(text)}</p>" for text in section.notes]
    parts += [f"<p>{html.escape(text)}</p>" for text in section.text]
    parts += map(_table, section.tables)
    parts += [f"<pre>{html.escape(section.code)}</pre>"] * bool(section.code)
    parts += [_figure(picture, kept, " class=plot") for picture in section.pictures]
    for pictures in section.galleries:
        parts.append(f"<div class=gallery>{''.join(_figure(picture, kept) for picture in pictures)}</div>")
    return "\n".join(parts)


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    kind = ' class="text"' if table.columns[0] == "field" else ""
    return f"<div class=wide><table{kind}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"


def _figure(picture: Picture, kept: dict[str, str], kind: str = "") -> str:
    """The picture, for dark pages in its dark colours where it has such; one that does not fit is named."""
    path, caption = picture.path, html.escape(picture.caption)
    if path not in kept:
        return f"<figure><figcaption>{caption}: in {html.escape(path)}, too large for this page</figcaption></figure>"
    dark = kept.get(_dark(path))
    source = f'<source srcset="{dark}" media="(prefers-color-scheme: dark)">' if dark else ""
    image = f'<picture>{source}<img src="{kept[path]}" alt="{caption}"></picture>'
    return f"<figure><div{kind}>{image}</div><figcaption>{caption}</figcaption></figure>"
