"""The application: collects the verbs, turns errors into three lines and an exit code."""

from __future__ import annotations

import os
import sys
import warnings

import typer

from fdlab.cli import (
    claims,
    compare,
    demo,
    diagnose,
    doctor,
    evaluate,
    explore,
    export,
    figures,
    inspect,
    predict,
    rank,
    recipes,
    report,
    runs,
    sweep,
    train,
    trainability,
)
from fdlab.errors import INTERRUPTED, FdlabError

app = typer.Typer(
    name="fdlab",
    help="Why do some pre-trained vision transformers fine-tune better than others? Distil, diagnose and compare them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
VERBS = {
    "Start here": (demo.demo,),
    "Train": (train.pretrain, train.distill, train.finetune, predict.predict, sweep.sweep, runs.runs, recipes.recipes),
    "Measure": (trainability.trainability, inspect.inspect, export.export, inspect.explain, doctor.doctor),
    "Read": (compare.compare, explore.explore, claims.claims, rank.rank, figures.figures, report.report),
}
for panel, verbs in VERBS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)
app.add_typer(diagnose.app, name="diagnose", rich_help_panel="Measure")
app.add_typer(evaluate.app, name="evaluate", rich_help_panel="Measure")


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(False, "--version", help="Print the version and leave.", is_eager=True),
) -> None:
    """Options of every verb."""
    if version:
        from fdlab.version import __version__

        typer.echo(__version__)
        raise typer.Exit()
    if debug:
        os.environ["FDLAB_DEBUG"] = "1"


def main() -> None:
    """Runs the command line; an error becomes three lines on stderr and its exit code, whatever it is."""
    warnings.formatwarning = lambda message, *_args, **_kw: f"Note: {message}\n"
    try:
        app()
    except FdlabError as error:
        if os.environ.get("FDLAB_DEBUG"):
            raise
        typer.echo(str(error), err=True)
        sys.exit(error.code)
    except KeyboardInterrupt:
        typer.echo("Stopped. What was finished is on disk; give the same command again to continue.", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of the output is gone, as with `| head`; nobody is left to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("FDLAB_DEBUG"):
            raise
        from fdlab.cli.net import caught

        lines = caught(error)
        typer.echo(str(lines), err=True)
        sys.exit(lines.code)
