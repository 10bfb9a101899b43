"""``fdlab recipes``: the packaged settings, and where each of them comes from."""

import typer
from typer import Argument, Option


def recipes(
    words: list[str] | None = Argument(None, metavar="[show NAME]", help="Without words: list all."),
    toml: bool = Option(False, "--toml", help="Print the recipe as plain TOML, to be changed."),
) -> None:
    """List the packaged recipes, or show one: every setting and whether it is published, corrected or ours.

    Example: [bold]fdlab recipes show paper/clip-b-300ep[/bold]
    """
    import tomli_w

    from fdlab.engine.recipe import flat, names, origins, read
    from fdlab.errors import USAGE, FdlabError

    words = words or []
    wanted = words[1:] if words[:1] == ["show"] else words
    if len(wanted) > 1 or (words and not wanted):
        what = f"One recipe at a time, not {len(wanted)}." if wanted else "No recipe was named."
        raise FdlabError(what, fix="Write fdlab recipes show NAME.", code=USAGE)
    if not wanted:
        for name in names():
            typer.echo(f"{name}: {read(name).get('about', '')}")
        return
    recipe = read(wanted[0])
    if toml:
        typer.echo(tomli_w.dumps(recipe), nl=False)
        return
    notes = origins(wanted[0])
    typer.echo(recipe.pop("about", ""))
    for key, value in flat(recipe).items():
        note = notes.get(key)
        typer.echo(f"{key} = {tomli_w.dumps({'v': value}).strip()[4:]}" + (f"  # {note}" if note else ""))
