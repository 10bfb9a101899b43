"""``fdlab trainability``: optimisation friendliness measured over learning rates and seeds."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer


def trainability(
    models: list[str] = typer.Argument(..., help="SOURCE or label=SOURCE, several at once."),
    recipe: str = typer.Option("", "--recipe", help="Of all fine-tunings (default: digits/finetune)."),
    data: str = typer.Option("", "--data", help="Labelled training images (default: the recipe's)."),
    test: str = typer.Option("", "--test", help="Held-out images, with --data."),
    rates: str = typer.Option("3e-4,1e-3,3e-3,1e-2", "--rates", help="The grid of learning rates, by commas."),
    seeds: int = typer.Option(3, min=1, help="Trainings a model and rate; three or more for intervals."),
    seed: int = typer.Option(0, min=0, help="The first seed."),
    set_: list[str] = typer.Option([], "--set", help="A setting of every training, e.g. run.steps=100 (repeatable)."),
    along: int = typer.Option(3, min=0, help="Places of each best run where curvature is measured; 0: nowhere."),
    images: int = typer.Option(64, min=2, help="Held-out images for the curvature."),
    device: str = typer.Option("cpu", help="cpu, cuda, mps or auto."),
    workers: int = typer.Option(2, min=1, help="Trainings at a time, one thread each; no number depends on it."),
    out: Path = typer.Option(Path("reports/trainability"), "-o", "--out", help="Folder of the runs and the report."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress; print the page's path only."),
    json_: bool = typer.Option(False, "--json", help="Print the table as JSON."),
) -> None:
    """Fine-tune every model over a grid of learning rates and seeds: best accuracy, lr_width, steps_to_loss.

    The rate is chosen on validation images and judged on test images. The same command continues what was stopped.

    Example: [bold]fdlab trainability teacher=runs/contrastive student=runs/student --rates 1e-3,3e-3,1e-2 -o
    reports/mine[/bold]
    """
    from fdlab.engine.recipe import parse_overrides
    from fdlab.errors import USAGE, FdlabError
    from fdlab.study.trainability import trainability as run

    try:
        grid = [float(rate) for rate in rates.split(",")]
    except ValueError:
        raise FdlabError(f"--rates {rates!r} are no numbers.", "", "Write --rates 1e-3,3e-3.", code=USAGE) from None
    if data and not recipe:
        raise FdlabError(
            "--data needs a --recipe: image size, labels and steps of digits/finetune are for digits.",
            "",
            "Name one (fdlab recipes), e.g. --recipe cifar/finetune or --recipe paper/finetune-dino-b-300ep.",
            code=USAGE,
        )
    given = {"data.source": data, "data.test": test} if data else {"data.test": test} if test else {}
    result = run(
        models,
        out,
        recipe=recipe or "digits/finetune",
        rates=grid,
        seeds=seeds,
        seed=seed,
        overrides={**parse_overrides(set_), **given},
        along=along,
        images=images,
        device=device,
        workers=workers,
        quiet=quiet,
        command=shlex.join(["fdlab", *sys.argv[1:]]),
    )
    if json_:
        typer.echo(result["table"].to_json(orient="records"))
        return
    if not quiet:
        from fdlab.cli.tables import print_table

        print_table(result["numbers"], title="Each model at its own best learning rate (mean over seeds, 95 % t)")
        for note in result["notes"]:
            typer.echo(f"Note: {note}", err=True)
    typer.echo(str(result["page"]) if quiet else f"Report: {result['page']}")
