"""``fdlab sweep``: a recipe over a small grid of settings and seeds."""

from pathlib import Path

import typer
from typer import Option

from fdlab.cli import options


def sweep(
    recipe: options.Recipe,
    over: list[str] = Option([], help="A setting and its values: optim.lr=1e-3,3e-3 (repeatable)."),
    seeds: int = Option(1, min=1, help="Runs a point, with seeds --seed, --seed + 1, ..."),
    seed: options.FirstSeed = 0,
    out: Path = Option(Path("sweeps/sweep"), "-o", "--out", help="Folder of the runs and of table.csv."),
    overrides: list[str] = Option([], "--set", help="A setting of every run, e.g. run.steps=100 (repeatable)."),
    config: str | None = Option(None, help="TOML file laid over the recipe."),
    workers: options.Workers = 2,
    part: str = Option("1/1", help="I/N: only every N-th run from the I-th on (an array of jobs)."),
    quiet: options.NoProgress = False,
    as_json: bool = Option(False, "--json", help="Print the means over seeds as JSON."),
) -> None:
    """Train a recipe over a small grid of settings and seeds, into one table. The same command continues it.

    Example: [bold]fdlab sweep digits/distill --set distill.teacher=runs/contrastive --over
    distill.loss=smooth-l1,mse,cosine --seeds 3 -o sweeps/loss[/bold]
    """
    import json

    from fdlab.cli.show import print_table
    from fdlab.engine.recipe import parse_overrides
    from fdlab.errors import USAGE, FdlabError
    from fdlab.study.sweep import parse_over
    from fdlab.study.sweep import sweep as train_all

    turn, slash, turns = part.partition("/")
    if not (slash and turn.isdigit() and turns.isdigit()):
        raise FdlabError(f"--part {part!r} is no I/N.", fix="Write --part 2/8.", code=USAGE)
    table = train_all(
        recipe,
        parse_over(over),
        out,
        seeds=seeds,
        seed=seed,
        overrides=parse_overrides(overrides),
        config=config,
        workers=workers,
        part=(int(turn), int(turns)),
        quiet=quiet,
    )
    means = table[table["seed"].isna()][["model", "metric", "value", "low", "high", "n"]]
    if as_json:
        typer.echo(json.dumps(json.loads(means.to_json(orient="records"))))
    else:
        shown = means.assign(**{name: means[name].map("{:.4g}".format) for name in ("value", "low", "high")})
        print_table(shown.replace("nan", ""), "Means over seeds, 95 % t-interval")
        typer.echo(f"Table: {out / 'table.csv'}")
