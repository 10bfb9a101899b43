"""``fdlab evaluate``: how good frozen features are, or the model's own classifier."""

from __future__ import annotations

import typer

app = typer.Typer(help="Accuracy of frozen features, or of the model's own classifier.", no_args_is_help=True)

MODELS = typer.Argument(..., help="SOURCE or label=SOURCE, several at once.")
DATA = typer.Option("digits#train", "--data", help="Labelled training images.")
TEST = typer.Option("digits#test", "--test", help="Labelled test images.")
POOL = typer.Option("patches", help="patches (their mean) or class (the class token).")
IMAGES = typer.Option(0, min=0, help="At most so many training images; 0: all.")
SEED = typer.Option(0, min=0, help="Chooses the images where --images is given.")
DEVICE = typer.Option("cpu", help="cpu, cuda, mps or auto.")
JSON = typer.Option(False, "--json", help="Print JSON.")
QUIET = typer.Option(False, "--quiet", help="No progress.")


@app.command()
def knn(
    models: list[str] = MODELS,
    data: str = DATA,
    test: str = TEST,
    k: int = typer.Option(20, min=1, help="Neighbours."),
    pool: str = POOL,
    images: int = IMAGES,
    seed: int = SEED,
    device: str = DEVICE,
    json_: bool = JSON,
    quiet: bool = QUIET,
) -> None:
    """k nearest neighbours on frozen features (DINO's weighted vote).

    Example: [bold]fdlab evaluate knn runs/contrastive --data digits#train --test digits#test[/bold]
    """
    from fdlab.study.evaluate import evaluate

    _print(
        evaluate("knn", models, data, test, pool=pool, images=images, seed=seed, device=device, quiet=quiet, k=k), json_
    )


@app.command()
def linear(
    models: list[str] = MODELS,
    data: str = DATA,
    test: str = TEST,
    pool: str = POOL,
    images: int = IMAGES,
    seed: int = SEED,
    device: str = DEVICE,
    json_: bool = JSON,
    quiet: bool = QUIET,
) -> None:
    """Logistic regression on standardised frozen features (a convex linear probe).

    Example: [bold]fdlab evaluate linear runs/student --data digits#train --test digits#test[/bold]
    """
    from fdlab.study.evaluate import evaluate

    _print(
        evaluate("linear", models, data, test, pool=pool, images=images, seed=seed, device=device, quiet=quiet), json_
    )


@app.command()
def classifier(
    models: list[str] = MODELS,
    test: str = TEST,
    seed: int = typer.Option(0, min=0, help="Of random: weights."),
    device: str = DEVICE,
    json_: bool = JSON,
    quiet: bool = QUIET,
) -> None:
    """The classifier that the file itself holds: no training, the classes in the file's order.

    Example: [bold]fdlab evaluate classifier finetuned.pth --test cifar10/test.parquet[/bold]
    """
    from fdlab.study.evaluate import classifier as accuracy

    _print(accuracy(models, test, seed=seed, device=device, quiet=quiet), json_)


def _print(table: object, json_: bool) -> None:
    import pandas as pd

    assert isinstance(table, pd.DataFrame)
    if json_:
        typer.echo(table.to_json(orient="records"))
        return
    for row in table.to_dict("records"):
        value, low, high = (f"{100 * row[name]:.1f}" for name in ("value", "low", "high"))
        typer.echo(f"{row['model']}: {row['metric']} {value} % ({low} to {high}), n = {row['n']}")
