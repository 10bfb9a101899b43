"""``fdlab compare``: several probes on several models, with every difference and its interval."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer


def compare(
    models: list[str] | None = typer.Argument(None, help="SOURCE or label=SOURCE, several; or --cohort, --over-run."),
    data: str = typer.Option("", "--data", help="Images for all models (default: the cohort's, else photos)."),
    baseline: str = typer.Option("", help="The label that the others are compared with (default: the first)."),
    probes: str = typer.Option("attention,features", help="By commas: attention, features, hessian, sharpness, ..."),
    teacher: str = typer.Option("", help="SOURCE: how much of it the features hold (teacher_r2), with differences."),
    cohort: Path | None = typer.Option(None, "--cohort", help="A TOML file: label, source, family, pair_of, control."),
    over_run: Path | None = typer.Option(None, "--over-run", help="A run's snapshots as the models."),
    images: int = typer.Option(256, min=2, help="How many images; curvature takes 128 at most, attribution 32."),
    out: Path = typer.Option(Path("reports/compare"), "-o", "--out", help="Folder of the report."),
    control: bool = typer.Option(True, help="Add the first model's untrained start, unless the cohort names controls."),
    batch: int = typer.Option(32, min=1, help="Images in one forward pass."),
    seed: int = typer.Option(0, min=0, help="Chooses the images; seeds the controls and the intervals."),
    device: str = typer.Option("cpu", help="cpu, cuda, mps or auto."),
    fresh: bool = typer.Option(False, "--fresh", help="Measure again what the store already holds."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress; print the page's path only."),
    json_: bool = typer.Option(False, "--json", help="Print the table as JSON."),
) -> None:
    """One table of values and paired differences on the same images, with 95 % intervals; one page.

    What was measured before is taken from the store: a second run makes no forward pass.

    Examples: [bold]fdlab compare dino=dino.pth fd=runs/fd-dino --data my_photos/ -o reports/mine[/bold],
    [bold]fdlab compare --cohort cohort.toml --probes attention,sharpness[/bold]
    """
    from fdlab.compare.cohort import read_cohort
    from fdlab.errors import USAGE, FdlabError
    from fdlab.study.comparison import compare as run
    from fdlab.study.comparison import snapshots_of

    if sum(map(bool, (models, cohort, over_run))) != 1:
        raise FdlabError(
            "Name the models in one way.", "", "Give SOURCEs, or --cohort FILE, or --over-run RUN.", code=USAGE
        )
    group = read_cohort(cohort) if cohort else None
    if group is not None and baseline:
        group.baseline = baseline
    result = run(
        group or (snapshots_of(over_run) if over_run else list(models or ())),
        data or (group.data if group else "") or "photos",
        out,
        probes=[name.strip() for name in probes.split(",") if name.strip()],
        baseline=baseline,
        teacher=teacher,
        images=images,
        seed=seed,
        device=device,
        batch=batch,
        fresh=fresh,
        control=control,
        quiet=quiet,
        command=shlex.join(["fdlab", *sys.argv[1:]]),
    )
    if json_:
        typer.echo(result["table"].to_json(orient="records"))
        return
    if not quiet:
        from fdlab.cli.tables import print_table

        print_table(result["summary"], title="Means over the last half of the blocks (95 % interval over images)")
        if len(result["pairs"]):
            print_table(result["pairs"], title="Differences on the same images (95 % interval)")
        for note in result["notes"]:
            typer.echo(f"Note: {note}", err=True)
    typer.echo(str(result["page"]) if quiet else f"Report: {result['page']}")
