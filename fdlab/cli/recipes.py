"""``fdlab recipes``."""

from __future__ import annotations

import typer


def recipes(
    name: str = typer.Argument(None, help="Show this recipe's settings; without a name: list all."),
) -> None:
    """List the packaged recipes, or print one as TOML.

    Example: [bold]fdlab recipes digits/distill[/bold]
    """
    import tomli_w

    from fdlab.engine.recipe import names, read

    if name:
        typer.echo(tomli_w.dumps(read(name)), nl=False)
        return
    for each in names():
        typer.echo(f"{each}: {read(each).get('about', '')}")
