"""What verbs print: tables, lines, notes and the path of the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from shutil import get_terminal_size
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = 80  # of a terminal, at most
BELOW = 2  # further sentences of a question that a terminal shows


def show(
    result: Mapping[str, Any],
    *,
    quiet: bool,
    as_json: bool,
    tables: Mapping[str, pd.DataFrame] | None = None,
    lines: Iterable[str] = (),
    first: Iterable[str] = (),
) -> None:
    """Prints a result for its reader: as JSON, as the page's path alone, or with tables, lines and notes.

    Args:
        result: ``table``, the rows that JSON holds; ``page``, the path; ``notes``, sentences for stderr.
        tables: title -> a table of text; empty ones are left out.
        first: lines above the tables. lines: what follows them.
    """
    if as_json:
        typer.echo(result["table"].to_json(orient="records"))
        return
    if quiet:
        typer.echo(str(result["page"]))
        return
    for line in first:
        typer.echo(line)
    for title, table in (tables or {}).items():
        if len(table):
            print_table(table, title)
    for line in lines:
        typer.echo(line)
    for note in result.get("notes", ()):
        typer.echo(f"Note: {note}", err=True)
    typer.echo(f"Report: {result['page']}")


def findings(facts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The sentence of each question, with up to two that stand below it, in lines of 80 columns at most."""
    from fdlab.report.findings import by_question, scope

    for asks, first, others in by_question(facts):
        badge = f" [{first['badge']}]" if first.get("badge") else ""
        yield from _wrapped(f"{asks}{badge}", "")
        yield from _wrapped(first["sentence"], "  ")
        for other in others[:BELOW]:
            yield from _wrapped(f"- {other['sentence']}", "  ", "    ")
        if len(others) > BELOW:
            yield f"  - {len(others) - BELOW} more on the page."
    if facts:
        yield from ("", *_wrapped(scope(facts), ""), "")


def _wrapped(text: str, indent: str, further: str | None = None) -> list[str]:
    width = min(COLUMNS, get_terminal_size((COLUMNS, 24)).columns)
    following = indent if further is None else further
    return wrap(text, width, initial_indent=indent, subsequent_indent=following, break_on_hyphens=False)


def print_table(table: pd.DataFrame, title: str = "") -> None:
    """Prints a table of text; off a terminal as wide as it needs, so that nothing is cut."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=220)
    drawn = Table(title=title or None, title_justify="left", header_style="bold")
    for column in table.columns:
        drawn.add_column(str(column).replace("late_", "").replace("_", " "))
    for row in table.astype(str).itertuples(index=False):
        drawn.add_row(*row)
    console.print(drawn)


def number(row: Any) -> str:
    """The value of a row of the table, with its interval where it has one.

    >>> from types import SimpleNamespace as Row
    >>> number(Row(value=0.5, low=0.25, high=1.0)), number(Row(value=3.0, low=float("nan"), high=float("nan")))
    ('0.5 (0.25 to 1)', '3')
    """
    bounds = f" ({row.low:.4g} to {row.high:.4g})" if row.low == row.low else ""
    return f"{row.value:.4g}{bounds}"


def rows(table: pd.DataFrame) -> Iterator[Any]:
    """The rows of a table, each with the columns as attributes."""
    return table.itertuples()
