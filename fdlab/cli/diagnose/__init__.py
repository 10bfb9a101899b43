"""``fdlab diagnose``: one file a probe, each with one command; read ``attention.py`` first."""

from __future__ import annotations

import typer

from fdlab.cli.diagnose import attention, attribution, features, hessian, landscape, sharpness

app = typer.Typer(help="Measure models with a probe; all see the same images.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Measure models with a probe; all see the same images."""


app.command()(attention.attention)
app.command()(attribution.attribution)
app.command()(features.features)
app.command()(hessian.hessian)
app.command()(landscape.landscape)
app.command()(sharpness.sharpness)
