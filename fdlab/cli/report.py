"""``fdlab report``: the page of a report again, from its table and facts."""

from __future__ import annotations

from pathlib import Path

import typer


def report(
    folder: Path = typer.Argument(..., help="A folder that compare, diagnose, demo or a study wrote."),
    teach: bool = typer.Option(False, "--teach", help="Add a question before each figure, a glossary and exercises."),
    title: str = typer.Option("", help="Another title."),
    out: Path | None = typer.Option(None, "-o", "--out", help="Write there instead; the folder stays as it is."),
    quiet: bool = typer.Option(False, "--quiet", help="Print the page's path only."),
) -> None:
    """One self-contained page (no network, light and dark, prints on A4), figures and LaTeX; nothing is computed.

    Example: [bold]fdlab report reports/mine --teach[/bold]
    """
    from fdlab.study.publish import publish

    page = publish(folder, out or folder, teach=teach, title=title)
    typer.echo(str(page) if quiet else f"Report: {page}")
