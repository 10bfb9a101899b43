"""``fdlab sweep``: a recipe over a small grid of settings and seeds."""

from __future__ import annotations

from pathlib import Path

import typer


def sweep(
    recipe: str = typer.Argument(..., help="Recipe: a packaged name (fdlab recipes) or a TOML file."),
    over: list[str] = typer.Option([], "--over", help="A setting and its values: optim.lr=1e-3,3e-3 (repeatable)."),
    seeds: int = typer.Option(1, min=1, help="Runs a point, with seeds --seed, --seed + 1, ..."),
    seed: int = typer.Option(0, min=0, help="The first seed."),
    out: Path = typer.Option(Path("sweeps/sweep"), "-o", "--out", help="Folder of the runs and of table.csv."),
    set_: list[str] = typer.Option([], "--set", help="A setting of every run, e.g. run.steps=100 (repeatable)."),
    config: str = typer.Option(None, "--config", help="TOML file laid over the recipe."),
    workers: int = typer.Option(2, min=1, help="Trainings at a time, one thread each; no number depends on it."),
    part: str = typer.Option("1/1", "--part", help="I/N: only every N-th run from the I-th on (an array of jobs)."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress."),
    json_: bool = typer.Option(False, "--json", help="Print the means over seeds as JSON."),
) -> None:
    """Train a recipe over a small grid of settings and seeds, into one table. The same command continues it.

    Example: [bold]fdlab sweep digits/distill --set distill.teacher=runs/contrastive --over
    distill.loss=smooth-l1,mse,cosine --seeds 3 -o sweeps/loss[/bold]
    """
    import json

    from fdlab.cli.tables import print_table
    from fdlab.engine.recipe import parse_overrides
    from fdlab.errors import USAGE, FdlabError
    from fdlab.study.sweep import parse_over
    from fdlab.study.sweep import sweep as train_all

    turn, slash, turns = part.partition("/")
    if not (slash and turn.isdigit() and turns.isdigit()):
        raise FdlabError(f"--part {part!r} is no I/N.", "", "Write --part 2/8.", code=USAGE)
    table = train_all(
        recipe,
        parse_over(over),
        out,
        seeds=seeds,
        seed=seed,
        overrides=parse_overrides(set_),
        config=config,
        workers=workers,
        part=(int(turn), int(turns)),
        quiet=quiet,
    )
    means = table[table["seed"].isna()][["model", "metric", "value", "low", "high", "n"]]
    if json_:
        typer.echo(json.dumps(json.loads(means.to_json(orient="records"))))
    else:
        shown = means.assign(**{name: means[name].map("{:.4g}".format) for name in ("value", "low", "high")})
        print_table(shown.replace("nan", ""), "Means over seeds, 95 % t-interval")
        typer.echo(f"Table: {out / 'table.csv'}")
