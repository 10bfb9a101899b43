"""``fdlab pretrain``, ``distill``, ``finetune`` and ``runs``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

RECIPE = "Recipe: a packaged name (fdlab recipes) or a TOML file."
DATA = typer.Option(None, "--data", help="Training images: digits, a folder, file.parquet, ...", rich_help_panel="Data")
TEST = typer.Option(None, "--test", help="Held-out images, in the same grammar.", rich_help_panel="Data")
OUT = typer.Option(None, "-o", "--out", help="The run's folder; by default runs/NAME.", rich_help_panel="Output")
SET = typer.Option([], "--set", help="Any setting, e.g. optim.lr=3e-4 (repeatable).", rich_help_panel="Settings")
CONFIG = typer.Option(None, "--config", help="TOML file laid over the recipe.", rich_help_panel="Settings")
SEED = typer.Option(None, min=0, help="Seed of everything.", rich_help_panel="Settings")
DEVICE = typer.Option(None, help="cpu, cuda, mps or auto.", rich_help_panel="Settings")
PROBE = typer.Option(
    0, "--probe-every", min=0, help="Epochs between attention probes, kept in the run.", rich_help_panel="Output"
)
FORK = typer.Option(
    "", "--fork", help="New run that goes on from --out's last state with these settings.", rich_help_panel="Output"
)
DRY = typer.Option(
    False, "--dry-run", help="Print every setting with its source; train nothing.", rich_help_panel="Output"
)
QUIET = typer.Option(False, "--quiet", help="No progress; print the run's folder only.", rich_help_panel="Output")
JSON = typer.Option(False, "--json", help="Print the result as JSON.", rich_help_panel="Output")


def pretrain(
    recipe: str = typer.Argument("digits/contrastive", help=RECIPE),
    data: str = DATA,
    test: str = TEST,
    out: Path = OUT,
    fork: str = FORK,
    probe_every: int = PROBE,
    set_: list[str] = SET,
    config: str = CONFIG,
    seed: int = SEED,
    device: str = DEVICE,
    dry_run: bool = DRY,
    quiet: bool = QUIET,
    json_: bool = JSON,
) -> None:
    """Train a small model from scratch: SimCLR, MoCo v3, DINO, SimMIM, MAE, supervised.

    Example: [bold]fdlab pretrain digits/masked -o runs/mim[/bold]
    """
    options = {"data.source": data, "data.test": test, "run.seed": seed, "run.device": device}
    options["watch.probe_every"] = probe_every or None
    _start(recipe, None, options, out, fork, set_, config, dry_run, quiet, json_)


def distill(
    recipe: str = typer.Argument("digits/distill", help=RECIPE),
    teacher: str = typer.Option(None, "--teacher", help="SOURCE: a file, a run folder, timm:NAME, FILE@teacher."),
    data: str = DATA,
    test: str = TEST,
    out: Path = OUT,
    fork: str = FORK,
    probe_every: int = PROBE,
    set_: list[str] = SET,
    config: str = CONFIG,
    seed: int = SEED,
    device: str = DEVICE,
    dry_run: bool = DRY,
    quiet: bool = QUIET,
    json_: bool = JSON,
) -> None:
    """Distil a frozen teacher's features into a fresh student, by the paper's method.

    Example: [bold]fdlab distill digits/distill --teacher runs/contrastive -o runs/student[/bold]
    """
    options = {
        "distill.teacher": teacher,
        "data.source": data,
        "data.test": test,
        "run.seed": seed,
        "run.device": device,
        "watch.probe_every": probe_every or None,
    }
    _start(recipe, "distill", options, out, fork, set_, config, dry_run, quiet, json_)


def finetune(
    model: str = typer.Argument(None, help="SOURCE of the start; random:RUN is the untrained control."),
    recipe: str = typer.Option("digits/finetune", "--recipe", help=RECIPE),
    data: str = DATA,
    test: str = TEST,
    out: Path = OUT,
    fork: str = FORK,
    probe_every: int = PROBE,
    set_: list[str] = SET,
    config: str = CONFIG,
    seed: int = SEED,
    device: str = DEVICE,
    dry_run: bool = DRY,
    quiet: bool = QUIET,
    json_: bool = JSON,
) -> None:
    """Fine-tune a model on labelled images.

    Example: [bold]fdlab finetune runs/student --data digits#train --test digits#test -o runs/tuned[/bold]
    """
    options = {
        "classify.model": model,
        "data.source": data,
        "data.test": test,
        "run.seed": seed,
        "run.device": device,
        "watch.probe_every": probe_every or None,
    }
    _start(recipe, "classify", options, out, fork, set_, config, dry_run, quiet, json_)


def _start(
    recipe: str,
    task: str | None,
    options: dict[str, Any],
    out: Path | None,
    fork: str,
    set_: list[str],
    config: str | None,
    dry_run: bool,
    quiet: bool,
    json_: bool,
) -> None:
    import json

    from fdlab.engine.distributed import is_leader
    from fdlab.engine.recipe import parse_overrides
    from fdlab.records.run_folder import RunFolder
    from fdlab.study import training

    planned = training.plan(recipe, task=task, overrides=parse_overrides(set_), options=options, config=config)
    if dry_run:
        for key, value, origin in planned.describe():
            typer.echo(f"{key} = {value!r}  ({origin})")
        return
    folder = RunFolder(out or Path("runs") / Path(recipe).stem)
    quiet = quiet or not is_leader()
    target = folder.beside(fork) if fork else folder
    if target.finished and not quiet:
        typer.echo(f"{target.path} is finished already.", err=True)
    training.run(planned, folder.path, quiet=quiet, fork=fork)
    folder = target
    if not is_leader():
        return
    facts = folder.facts()
    if json_:
        typer.echo(json.dumps({"run": str(folder.path), **facts}))
        return
    if not quiet:
        for note in facts.get("notes", []):
            typer.echo(f"Note: {note}", err=True)
        if facts.get("skipped_images"):
            typer.echo(f"Note: {facts['skipped_images']} images could not be read and were left out.", err=True)
        for name in ("final_loss", "test_loss", "accuracy", "validation_accuracy", "knn", "target_cosine"):
            if facts.get(name) is not None:
                typer.echo(f"{name.replace('_', ' ')}: {facts[name]:.4g}")
    typer.echo(str(folder.path))
