"""``fdlab pretrain``, ``distill`` and ``finetune``: trainings of a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from fdlab.cli import options
from fdlab.cli.given import given

DATA, SETTINGS, OUTPUT = ({"rich_help_panel": panel} for panel in ("Data", "Settings", "Output"))
Data = Annotated[str | None, Option(help="Training images: digits, a folder, file.parquet, ...", **DATA)]
Test = Annotated[str | None, Option(help="Held-out images, in the same grammar.", **DATA)]
Out = Annotated[Path | None, Option("-o", "--out", help="The run's folder; by default runs/NAME.", **OUTPUT)]
Fork = Annotated[str, Option(help="New run that goes on from --out's last state with these settings.", **OUTPUT)]
ProbeEvery = Annotated[int, Option(min=0, help="Epochs between attention probes, kept in the run.", **OUTPUT)]
Set = Annotated[list[str] | None, Option("--set", help="Any setting, e.g. optim.lr=3e-4 (repeatable).", **SETTINGS)]
Config = Annotated[str | None, Option(help="TOML file laid over the recipe.", **SETTINGS)]
Seed = Annotated[int | None, Option(min=0, help="Seed of everything.", **SETTINGS)]
Device = Annotated[str | None, Option(help="cpu, cuda, mps or auto.", **SETTINGS)]
DryRun = Annotated[bool, Option("--dry-run", help="Print every setting with its source; train nothing.", **OUTPUT)]
Quiet = Annotated[bool, Option("--quiet", help="No progress; print the run's folder only.", **OUTPUT)]
Json = Annotated[bool, Option("--json", help="Print the result as JSON.", **OUTPUT)]


@given(data=("data", "test"))
def pretrain(
    recipe: str | None = Argument(None, help=f"{options.RECIPE} Without one: contrastive, by your images."),
    data: Data = None,
    test: Test = None,
    out: Out = None,
    fork: Fork = "",
    probe_every: ProbeEvery = 0,
    overrides: Set = None,
    config: Config = None,
    seed: Seed = None,
    device: Device = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a small model from scratch: SimCLR, MoCo v3, DINO, SimMIM, MAE, supervised.

    Examples: [bold]fdlab pretrain digits/masked -o runs/mim[/bold],
    [bold]fdlab pretrain folder/contrastive --data my_photos -o runs/mine[/bold]
    """
    _start(None, {}, locals())


@given(models="teacher", data=("data", "test"))
def distill(
    recipe: str | None = Argument(None, help=f"{options.RECIPE} Without one: by your images."),
    teacher: str | None = Option(None, help="SOURCE: a file, a run folder, timm:NAME, FILE@teacher."),
    data: Data = None,
    test: Test = None,
    out: Out = None,
    fork: Fork = "",
    probe_every: ProbeEvery = 0,
    overrides: Set = None,
    config: Config = None,
    seed: Seed = None,
    device: Device = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Distil a frozen teacher's features into a fresh student, by the paper's method.

    Example: [bold]fdlab distill digits/distill --teacher runs/contrastive -o runs/student[/bold]
    """
    _start("distill", {"distill.teacher": teacher}, locals())


@given(models="model", data=("data", "test"))
def finetune(
    model: str | None = Argument(None, help="SOURCE of the start; random:RUN is the untrained control."),
    recipe: str | None = Option(None, help=f"{options.RECIPE} Without one: by your images."),
    data: Data = None,
    test: Test = None,
    out: Out = None,
    fork: Fork = "",
    probe_every: ProbeEvery = 0,
    overrides: Set = None,
    config: Config = None,
    seed: Seed = None,
    device: Device = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model on labelled images.

    Example: [bold]fdlab finetune runs/student --data digits#train --test digits#test -o runs/tuned[/bold]
    """
    _start("classify", {"classify.model": model}, locals())


def _start(task: str | None, settings: dict[str, Any], options: Mapping[str, Any]) -> None:
    """Trains with a verb's options, by their names; ``settings`` are those that no other verb has."""
    from fdlab.engine.distributed import is_leader
    from fdlab.engine.recipe import parse_overrides
    from fdlab.records.run_folder import RunFolder
    from fdlab.study import training

    planned = training.plan(
        options["recipe"],
        task=task,
        overrides=parse_overrides(options["overrides"] or []),
        config=options["config"],
        options={
            **settings,
            "data.source": options["data"],
            "data.test": options["test"],
            "run.seed": options["seed"],
            "run.device": options["device"],
            "watch.probe_every": options["probe_every"] or None,
        },
    )
    if options["dry_run"]:
        for key, value, origin in planned.describe():
            typer.echo(f"{key} = {value!r}  ({origin})")
        _announce(planned, options["out"])
        return
    folder = RunFolder(options["out"] or Path("runs") / Path(planned.name).stem)
    target = folder.beside(options["fork"]) if options["fork"] else folder
    quiet = options["quiet"] or not is_leader()
    if target.finished and not quiet:
        typer.echo(f"{target.path} is finished already.", err=True)
    training.run(planned, folder.path, quiet=quiet, fork=options["fork"])
    if is_leader():
        _print(str(target.path), target.facts(), quiet, options["as_json"])


def _announce(planned: Any, out: Path | None) -> None:
    """What the training would say before its first step; or what is missing for it. Nothing is written."""
    from fdlab.encoders.devices import pick_device
    from fdlab.engine.distributed import launched
    from fdlab.errors import FdlabError
    from fdlab.records.run_folder import RunFolder
    from fdlab.study.headline import headline
    from fdlab.study.inputs import prepared

    folder = RunFolder(out or Path("runs") / Path(planned.name).stem)
    try:
        with launched(str(pick_device(planned.recipe.run.device))) as device:
            task, _, steps = prepared(planned.recipe, planned.task, device)
    except FdlabError as error:
        typer.echo(f"Not ready: {error.what} {error.why}".strip(), err=True)
        return
    for line in headline(task, planned.recipe, steps, folder):
        typer.echo(line, err=True)


def _print(run: str, facts: Mapping[str, Any], quiet: bool, as_json: bool) -> None:
    """A finished run's notes and numbers, and its folder."""
    import json

    if as_json:
        typer.echo(json.dumps({"run": run, **facts}))
        return
    if not quiet:
        for note in facts.get("notes", []):
            typer.echo(f"Note: {note}", err=True)
        if facts.get("skipped_images"):
            typer.echo(f"Note: {facts['skipped_images']} images could not be read and were left out.", err=True)
        for name in ("final_loss", "test_loss", "accuracy", "validation_accuracy", "knn", "target_cosine"):
            if facts.get(name) is not None:
                typer.echo(f"{name.replace('_', ' ')}: {facts[name]:.4g}")
    typer.echo(run)
