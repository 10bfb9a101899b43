"""``fdlab runs``: what trainings there are, and how one of them went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer


def runs(
    words: list[str] = typer.Argument(None, metavar="[FOLDER] | show RUN", help="Without words: the folder runs."),
    out: Path | None = typer.Option(None, "-o", "--out", help="show: draw the log there (.png, .svg or .pdf)."),
    json_: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """List runs with their state and last numbers, or show one: every number of its log, first to last.

    Examples: [bold]fdlab runs[/bold], [bold]fdlab runs show runs/student -o curves.png[/bold]
    """
    import json

    from fdlab.errors import USAGE, FdlabError
    from fdlab.records.training_log import read_run, runs_in, sparkline

    words = words or ["runs"]
    if words[0] != "show":
        if len(words) > 1 or out is not None:
            raise FdlabError(
                "One folder at a time.", "", "Write fdlab runs FOLDER, or fdlab runs show RUN.", code=USAGE
            )
        found = runs_in(words[0])
        typer.echo(json.dumps(found)) if json_ else _list(found)
        return
    if len(words) != 2:
        raise FdlabError("One run at a time.", "", "Write fdlab runs show RUN.", code=USAGE)
    shown = read_run(words[1])
    if out is not None:
        from fdlab.report.run_curves import save_curves

        typer.echo(f"Figure: {save_curves(out, shown)}")
        return
    if json_:
        typer.echo(json.dumps(shown))
        return
    asked = f" of {shown['steps']}" if shown["steps"] else f", {shown['epochs']} epochs asked for"
    typer.echo(f"{words[1]}: {shown['state']}, step {shown['step']}{asked}")
    for name, (steps, values) in shown["series"].items():
        typer.echo(f"{name:20} {sparkline(values)}  {values[0]:.4g} at {steps[0]}, {values[-1]:.4g} at {steps[-1]}")


def _list(found: list[dict[str, Any]]) -> None:
    for item in found:
        loss = "" if item["loss"] is None else f"  loss {item['loss']:.4g}"
        typer.echo(f"{item['run']}  {item['state']}  step {item['step']}{loss}")
