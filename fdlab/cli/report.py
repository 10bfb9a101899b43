"""``fdlab report``: the page of a report again, from its table and facts."""

from pathlib import Path

import typer
from typer import Argument, Option

from fdlab.cli import options


def report(
    folder: Path = Argument(..., help="A folder that compare, diagnose, demo or a study wrote."),
    teach: bool = Option(False, "--teach", help="Add a question before each figure, a glossary and exercises."),
    title: str = Option("", help="Another title."),
    out: Path | None = Option(None, "-o", "--out", help="Write there instead; the folder stays as it is."),
    quiet: options.PathOnly = False,
) -> None:
    """One self-contained page (no network, light and dark, prints on A4), figures and LaTeX; nothing is computed.

    Example: [bold]fdlab report reports/mine --teach[/bold]
    """
    from fdlab.study.publish import publish

    page = publish(folder, out or folder, teach=teach, title=title)
    typer.echo(str(page) if quiet else f"Report: {page}")
