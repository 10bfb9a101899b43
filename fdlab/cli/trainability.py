"""``fdlab trainability``: optimisation friendliness measured over learning rates and seeds."""

from pathlib import Path

from typer import Option

from fdlab.cli import options
from fdlab.cli.given import given
from fdlab.cli.show import show


@given(models="models", data=("data", "test"))
def trainability(
    models: options.Models,
    recipe: str = Option("", help="Of all fine-tunings (default: digits/finetune)."),
    data: str = Option("", help="Labelled training images (default: the recipe's)."),
    test: str = Option("", help="Held-out images, with --data."),
    rates: str = Option("3e-4,1e-3,3e-3,1e-2", help="The grid of learning rates, by commas."),
    seeds: int = Option(3, min=1, help="Trainings a model and rate; three or more for intervals."),
    seed: options.FirstSeed = 0,
    overrides: list[str] = Option([], "--set", help="A setting of every training, e.g. run.steps=100 (repeatable)."),
    along: int = Option(3, min=0, help="Places of each best run where curvature is measured; 0: nowhere."),
    images: int = Option(64, min=2, help="Held-out images for the curvature."),
    device: options.Device = "cpu",
    workers: options.Workers = 2,
    out: Path = Option(Path("reports/trainability"), "-o", "--out", help="Folder of the runs and the report."),
    quiet: options.Quiet = False,
    as_json: options.JsonTable = False,
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
        raise FdlabError(f"--rates {rates!r} are no numbers.", fix="Write --rates 1e-3,3e-3.", code=USAGE) from None
    if data and not recipe:
        raise FdlabError(
            "--data needs a --recipe: image size, labels and steps of digits/finetune are for digits.",
            fix="Name one (fdlab recipes), e.g. --recipe cifar/finetune or --recipe paper/finetune-dino-b-300ep.",
            code=USAGE,
        )
    images_of = {"data.source": data, "data.test": test} if data else {"data.test": test} if test else {}
    result = run(
        models,
        out,
        recipe=recipe or "digits/finetune",
        rates=grid,
        seeds=seeds,
        seed=seed,
        overrides={**parse_overrides(overrides), **images_of},
        along=along,
        images=images,
        device=device,
        workers=workers,
        quiet=quiet,
        command=options.typed_command(),
    )
    title = "Each model at its own best learning rate (mean over seeds, 95 % t)"
    show(result, quiet=quiet, as_json=as_json, tables={title: result["numbers"]})
