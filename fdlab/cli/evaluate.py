"""``fdlab evaluate``: how good frozen features are, or the model's own classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from fdlab.cli import options

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(help="Accuracy of frozen features, or of the model's own classifier.", no_args_is_help=True)

Data = Annotated[str, Option("--data", help="Labelled training images.")]
Test = Annotated[str, Option("--test", help="Labelled test images.")]
Pool = Annotated[str, Option(help="patches (their mean) or class (the class token).")]
Images = Annotated[int, Option(min=0, help="At most so many training images; 0: all.")]
Seed = Annotated[int, Option(min=0, help="Chooses the images where --images is given.")]


@app.command()
def knn(
    models: options.Models,
    data: Data = "digits#train",
    test: Test = "digits#test",
    k: int = Option(20, min=1, help="Neighbours."),
    pool: Pool = "patches",
    images: Images = 0,
    seed: Seed = 0,
    device: options.Device = "cpu",
    as_json: options.Json = False,
    quiet: options.NoProgress = False,
) -> None:
    """k nearest neighbours on frozen features (DINO's weighted vote).

    Example: [bold]fdlab evaluate knn runs/contrastive --data digits#train --test digits#test[/bold]
    """
    from fdlab.study.evaluate import evaluate

    table = evaluate("knn", models, data, test, k=k, pool=pool, images=images, seed=seed, device=device, quiet=quiet)
    _print(table, as_json)


@app.command()
def linear(
    models: options.Models,
    data: Data = "digits#train",
    test: Test = "digits#test",
    pool: Pool = "patches",
    images: Images = 0,
    seed: Seed = 0,
    device: options.Device = "cpu",
    as_json: options.Json = False,
    quiet: options.NoProgress = False,
) -> None:
    """Logistic regression on standardised frozen features (a convex linear probe).

    Example: [bold]fdlab evaluate linear runs/student --data digits#train --test digits#test[/bold]
    """
    from fdlab.study.evaluate import evaluate

    table = evaluate("linear", models, data, test, pool=pool, images=images, seed=seed, device=device, quiet=quiet)
    _print(table, as_json)


@app.command()
def classifier(
    models: options.Models,
    test: Test = "digits#test",
    seed: int = Option(0, min=0, help="Of random: weights."),
    device: options.Device = "cpu",
    as_json: options.Json = False,
    quiet: options.NoProgress = False,
) -> None:
    """The classifier that the file itself holds: no training, the classes in the file's order.

    Example: [bold]fdlab evaluate classifier finetuned.pth --test cifar10/test.parquet[/bold]
    """
    from fdlab.study.evaluate import classifier as accuracy

    _print(accuracy(models, test, seed=seed, device=device, quiet=quiet), as_json)


def _print(table: pd.DataFrame, as_json: bool) -> None:
    if as_json:
        typer.echo(table.to_json(orient="records"))
        return
    for row in table.to_dict("records"):
        value, low, high = (f"{100 * row[name]:.1f}" for name in ("value", "low", "high"))
        typer.echo(f"{row['model']}: {row['metric']} {value} % ({low} to {high}), n = {row['n']}")
