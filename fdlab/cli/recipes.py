"""``fdlab recipes``."""

from __future__ import annotations

import typer


def recipes(
    words: list[str] = typer.Argument(None, metavar="[show NAME]", help="Without words: list all."),
    toml: bool = typer.Option(False, "--toml", help="Print the recipe as plain TOML, to be changed."),
) -> None:
    """List the packaged recipes, or show one: every setting and whether it is published, corrected or ours.

    Example: [bold]fdlab recipes show paper/clip-b-300ep[/bold]
    """
    import tomli_w

    from fdlab.engine.recipe import flat, names, origins, read
    from fdlab.errors import USAGE, FdlabError

    words = words or []
    if words[:1] == ["show"]:
        words = words[1:]
        if not words:
            raise FdlabError("No recipe was named.", "", "Write fdlab recipes show NAME.", code=USAGE)
    if len(words) > 1:
        raise FdlabError(f"One recipe at a time, not {len(words)}.", "", "Write fdlab recipes show NAME.", code=USAGE)
    if not words:
        for each in names():
            typer.echo(f"{each}: {read(each).get('about', '')}")
        return
    tables = read(words[0])
    if toml:
        typer.echo(tomli_w.dumps(tables), nl=False)
        return
    said = origins(words[0])
    typer.echo(tables.pop("about", ""))
    for key, value in flat(tables).items():
        note = said.get(key)
        typer.echo(f"{key} = {tomli_w.dumps({'v': value}).strip()[4:]}" + (f"  # {note}" if note else ""))
