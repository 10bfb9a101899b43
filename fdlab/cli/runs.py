"""``fdlab runs``: what trainings there are, and how one of them went."""

from pathlib import Path
from typing import Any

import typer
from typer import Argument, Option

from fdlab.cli import options


def runs(
    words: list[str] | None = Argument(None, metavar="[FOLDER] | show RUN", help="Without words: the folder runs."),
    out: Path | None = Option(None, "-o", "--out", help="show: draw the log there (.png, .svg or .pdf)."),
    as_json: options.Json = False,
) -> None:
    """List runs with their state and last numbers, or show one: every number of its log, first to last.

    Examples: [bold]fdlab runs[/bold], [bold]fdlab runs show runs/student -o curves.png[/bold]
    """
    import json

    from fdlab.errors import USAGE, FdlabError
    from fdlab.records.training_log import read_run, runs_in

    words = words or ["runs"]
    if words[0] != "show":
        if len(words) > 1 or out is not None:
            fix = "Write fdlab runs FOLDER, or fdlab runs show RUN."
            raise FdlabError("One folder at a time.", fix=fix, code=USAGE)
        listed = runs_in(words[0])
        typer.echo(json.dumps(listed)) if as_json else _list(listed)
        return
    if len(words) != 2:
        raise FdlabError("One run at a time.", fix="Write fdlab runs show RUN.", code=USAGE)
    run = read_run(words[1])
    if out is not None:
        from fdlab.report.run_curves import save_curves

        typer.echo(f"Figure: {save_curves(out, run)}")
    elif as_json:
        typer.echo(json.dumps(run))
    else:
        _show(words[1], run)


def _list(runs: list[dict[str, Any]]) -> None:
    for run in runs:
        loss = "" if run["loss"] is None else f"  loss {run['loss']:.4g}"
        typer.echo(f"{run['run']}  {run['state']}  step {run['step']}{loss}")


def _show(name: str, run: dict[str, Any]) -> None:
    from fdlab.records.training_log import sparkline

    length = f" of {run['steps']}" if run["steps"] else f", {run['epochs']} epochs asked for"
    typer.echo(f"{name}: {run['state']}, step {run['step']}{length}")
    for metric, (steps, values) in run["series"].items():
        typer.echo(f"{metric:20} {sparkline(values)}  {values[0]:.4g} at {steps[0]}, {values[-1]:.4g} at {steps[-1]}")
