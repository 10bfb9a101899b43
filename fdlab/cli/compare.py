"""``fdlab compare``: several probes on several models, with every difference and its interval."""

from pathlib import Path

from typer import Argument, Option

from fdlab.cli import options
from fdlab.cli.given import given


@given(models="models", data=("data",), otherwise="In a cohort file they are keys of a model: heads = 2.")
def compare(
    models: list[str] | None = Argument(None, help="SOURCE or label=SOURCE, several; or --cohort, --over-run."),
    data: str = Option("", help="Images for all models (default: the cohort's, else photos)."),
    baseline: str = Option("", help="The label that the others are compared with (default: the first)."),
    probes: str = Option("attention,features", help="By commas: attention, features, hessian, sharpness, ..."),
    teacher: str = Option("", help="SOURCE: how much of it the features hold (teacher_r2), with differences."),
    cohort: Path | None = Option(None, help="A TOML file: label, source, family, pair_of, control."),
    over_run: Path | None = Option(None, help="A run's snapshots as the models."),
    images: int = Option(256, min=2, help="How many images; curvature takes 128 at most, attribution 32."),
    out: options.Out = Path("reports/compare"),
    control: bool = Option(True, help="Add the first model's untrained start, unless the cohort names controls."),
    explore: bool = Option(False, "--explore", help="Also write explore.html: the maps of four images, to point at."),
    batch: options.Batch = 32,
    seed: int = Option(0, min=0, help="Chooses the images; seeds the controls and the intervals."),
    device: options.Device = "cpu",
    fresh: options.Fresh = False,
    quiet: options.Quiet = False,
    as_json: options.JsonTable = False,
) -> None:
    """One table of values and paired differences on the same images, with 95 % intervals; one page.

    What was measured before is taken from the store: a second run makes no forward pass.

    Examples: [bold]fdlab compare dino=dino.pth fd=runs/fd-dino --data my_photos/ -o reports/mine[/bold],
    [bold]fdlab compare --cohort cohort.toml --probes attention,sharpness[/bold]
    """
    from fdlab.cli.show import findings, show
    from fdlab.compare.cohort import read_cohort
    from fdlab.errors import USAGE, FdlabError
    from fdlab.study.comparison import compare as run
    from fdlab.study.comparison import snapshots_of

    if sum(map(bool, (models, cohort, over_run))) != 1:
        raise FdlabError(
            "Name the models in one way.", fix="Give SOURCEs, or --cohort FILE, or --over-run RUN.", code=USAGE
        )
    group = read_cohort(cohort) if cohort else None
    if group is not None and baseline:
        group.baseline = baseline
    result = run(
        group or (snapshots_of(over_run) if over_run else list(models or ())),
        data or (group.data if group else "") or "photos",
        out,
        probes=options.by_commas(probes),
        baseline=baseline,
        teacher=teacher,
        images=images,
        seed=seed,
        device=device,
        batch=batch,
        fresh=fresh,
        control=control,
        quiet=quiet,
        explorer=explore,
        command=options.typed_command(),
    )
    tables = {
        "Means over the last half of the blocks (95 % interval over images)": result["summary"],
        "Differences on the same images (95 % interval)": result["pairs"],
    }
    show(result, quiet=quiet, as_json=as_json, tables=tables, first=findings(result["findings"]))
