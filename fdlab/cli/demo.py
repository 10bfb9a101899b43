"""``fdlab demo``."""

from __future__ import annotations

import sys
from pathlib import Path

import typer


def demo(
    out: Path = typer.Option(Path("reports/demo"), "-o", "--out", help="Folder of the report."),
    seed: int = typer.Option(0, min=0, help="Seed of everything."),
    minutes: float = typer.Option(
        5.0, help="Scales all step counts by minutes / 5, a fixed rule: equal commands give equal numbers."
    ),
    workers: int = typer.Option(2, min=1, help="Worker processes; the numbers do not depend on it."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress; print the page's path only."),
    json_: bool = typer.Option(False, "--json", help="Print the numbers as JSON."),
) -> None:
    """Train, distil, diagnose and draw on real digits: the whole study in about five minutes on two cores.

    Example: [bold]fdlab demo --minutes 5 --seed 0 -o reports/demo[/bold]
    """
    from fdlab.experiments.digits import demo as run

    result = run(
        out,
        seed=seed,
        minutes=minutes,
        workers=workers,
        quiet=quiet,
        command=f"fdlab demo --seed {seed} --minutes {minutes:g}",
    )
    if json_:
        typer.echo(result["numbers"].to_json(orient="records"))
        return
    if not quiet:
        from fdlab.cli.tables import print_table

        print_table(result["summary"], title="Attention columns: means over the last half of the blocks")
        for name, seconds in result["seconds"].items():
            typer.echo(f"{name}: {seconds:g} s", err=True)
    typer.echo(f"Report: {result['page']}" if sys.stdout.isatty() or not quiet else result["page"])
