"""``fdlab inspect`` and ``fdlab explain``."""

from __future__ import annotations

import typer


def inspect(
    model: str = typer.Argument(..., help="SOURCE: a file, a run folder, timm:NAME, random:NAME."),
    heads: int = typer.Option(None, help="Number of heads, where the file does not hold it."),
    json_: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """What a checkpoint holds, as fdlab understands it, and what it had to assume.

    Example: [bold]fdlab inspect dino_vitbase16_pretrain.pth[/bold]
    """
    import json
    from dataclasses import asdict

    from fdlab.encoders.open import open_model

    facts = asdict(open_model(model, heads=heads).info)
    if json_:
        typer.echo(json.dumps(facts, default=str))
        return
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        typer.echo(f"{name.replace('_', ' ')}: {shown}")


def explain(name: str = typer.Argument(..., help="A metric, e.g. distance or nmi.")) -> None:
    """A metric's formula and range, what it says and what it cannot say.

    Example: [bold]fdlab explain r2_relative[/bold]
    """
    from fdlab.records.metrics import metric

    found = metric(name)
    for field in ("label", "unit", "formula", "low", "high", "says", "not_says", "source"):
        value = getattr(found, field)
        if value not in ("", None):
            typer.echo(f"{field.replace('_', ' ')}: {value}")
