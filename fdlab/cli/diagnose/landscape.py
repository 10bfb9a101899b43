"""``fdlab diagnose landscape``: the loss along lines and planes through the weights of any models."""

from pathlib import Path

from typer import Option

from fdlab.cli import options
from fdlab.cli.diagnose.run import diagnose
from fdlab.cli.given import given


@given(models="models", data=("data",))
def landscape(
    models: options.Models,
    data: options.LossData = "digits",
    images: options.LossImages = 128,
    what: str = Option("line", help="line, plane, interpolation, trajectory or eigenvectors."),
    objective: options.Objective = "linear-probe",
    teacher: options.Teacher = "",
    to: str = Option("", "--to", help="SOURCE of the other model, for interpolation."),
    parameters: options.Parameters = "encoder",
    directions: int = Option(10, min=1, help="Random directions of line."),
    span: float = Option(1.0, help="How far to each side, in lengths of each filter."),
    points: int = Option(21, min=2, help="On a line, or on a side of a plane; odd."),
    adaptive: bool = Option(False, "--adaptive", help="Planes coarse to fine: from a seventh of the points on."),
    batch: options.MicroBatch = 32,
    out: options.Out = Path("reports/landscape"),
    control: bool = Option(True, help="Add the first model's untrained start as a control (line, plane)."),
    seed: int = Option(0, min=0, help="Chooses the images; seeds the control and the directions."),
    device: options.Device = "cpu",
    fresh: options.Fresh = False,
    quiet: options.Quiet = False,
    as_json: options.JsonTable = False,
) -> None:
    """Loss and accuracy around the weights: the same images and directions for all models, points kept as they come.

    Examples: [bold]fdlab diagnose landscape a=runs/contrastive b=runs/student --data digits[/bold],
    [bold]fdlab diagnose landscape a=runs/contrastive --what plane --points 41 --adaptive[/bold],
    [bold]fdlab diagnose landscape runs/one --what interpolation --to runs/two[/bold]
    """
    control = control and what in ("line", "plane")
    diagnose("landscape", locals())
