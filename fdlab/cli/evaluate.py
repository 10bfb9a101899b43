"""``fdlab evaluate``: how good frozen features are, or the model's own classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from fdlab.cli import options, show
from fdlab.cli.given import given

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(help="Accuracy of frozen features, or of the model's own classifier.", no_args_is_help=True)

Data = Annotated[str, Option("--data", help="Labelled images to fit on; without --test, a part of them judges.")]
Test = Annotated[str, Option("--test", help="Labelled images that judge; else the data's own part, or a fifth of it.")]
Pool = Annotated[str, Option(help="patches (their mean) or class (the class token).")]
Images = Annotated[int, Option(min=0, help="At most so many training images; 0: all.")]
Seed = Annotated[int, Option(min=0, help="Chooses the images where --images is given.")]


@app.command()
@given(models="models", data=("data", "test"))
def knn(
    models: options.Models,
    data: Data = "digits",
    test: Test = "",
    k: int = Option(20, min=1, help="Neighbours."),
    pool: Pool = "patches",
    images: Images = 0,
    seed: Seed = 0,
    device: options.Device = "cpu",
    as_json: options.Json = False,
    quiet: options.NoProgress = False,
) -> None:
    """k nearest neighbours on frozen features (DINO's weighted vote).

    Example: [bold]fdlab evaluate knn runs/contrastive --data my_photos[/bold]
    """
    from fdlab.study.evaluate import evaluate

    table = evaluate("knn", models, data, test, k=k, pool=pool, images=images, seed=seed, device=device, quiet=quiet)
    _print(table, as_json)


@app.command()
@given(models="models", data=("data", "test"))
def linear(
    models: options.Models,
    data: Data = "digits",
    test: Test = "",
    pool: Pool = "patches",
    images: Images = 0,
    seed: Seed = 0,
    device: options.Device = "cpu",
    as_json: options.Json = False,
    quiet: options.NoProgress = False,
) -> None:
    """Logistic regression on standardised frozen features (a convex linear probe).

    Example: [bold]fdlab evaluate linear runs/student --data my_photos[/bold]
    """
    from fdlab.study.evaluate import evaluate

    table = evaluate("linear", models, data, test, pool=pool, images=images, seed=seed, device=device, quiet=quiet)
    _print(table, as_json)


@app.command()
@given(models="models", data=("data",))
def classifier(
    models: options.Models,
    data: str = Option(..., "--data", "--test", help="Labelled test images, not those of the training."),
    out: Path | None = Option(None, "-o", "--out", help="Folder for tables, confusions and the surest mistakes."),
    seed: int = Option(0, min=0, help="Of random: weights."),
    device: options.Device = "cpu",
    as_json: options.Json = False,
    quiet: options.NoProgress = False,
) -> None:
    """The classifier of a finished fine-tuning, or one that a file holds: accuracy, by class, calibration, mistakes.

    Classes are matched by their names; by their order where a file names none.

    Example: [bold]fdlab evaluate classifier runs/tuned --data my_photos/test -o reports/tuned[/bold]
    """
    from fdlab.study.evaluate import classifier as accuracy
    from fdlab.study.evaluate import write_answers

    table, answers = accuracy(models, data, seed=seed, device=device, quiet=quiet)
    if as_json:
        typer.echo(table.to_json(orient="records"))
    else:
        _print_classes(table)
    if out:
        for path in write_answers(out, table, answers, data, seed=seed):
            typer.echo(str(path), err=as_json)


def _print_classes(table: pd.DataFrame) -> None:
    """Accuracy, the worst classes, and what the shares are worth, of each model."""
    for _, rows in table.groupby("model", sort=False):
        known = {row.metric: row for row in show.rows(rows) if row.metric != "class_accuracy"}
        _print(rows[rows["metric"] == "accuracy"], as_json=False)
        worst = rows[rows["metric"] == "class_accuracy"].nsmallest(3, "value")
        parts = [f"{row.objective} {100 * row.value:.0f} % of {row.n}" for row in show.rows(worst)]
        typer.echo(f"  lowest: {', '.join(parts)}")
        gap, error, chance = (known[m] for m in ("overconfidence", "calibration_error", "calibration_error_by_chance"))
        typer.echo(
            f"  shares of the named class are on average {100 * abs(gap.value):.1f} points "
            f"{'above' if gap.value > 0 else 'below'} the accuracy ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
        )
        typer.echo(
            f"  calibration error {error.value:.3f}; a calibrated classifier would show "
            f"{chance.low:.3f} to {chance.high:.3f} on {error.n} images"
        )


def _print(table: pd.DataFrame, as_json: bool) -> None:
    if as_json:
        typer.echo(table.to_json(orient="records"))
        return
    for row in table.to_dict("records"):
        value, low, high = (f"{100 * row[name]:.1f}" for name in ("value", "low", "high"))
        typer.echo(f"{row['model']}: {row['metric']} {value} % ({low} to {high}), n = {row['n']}")
