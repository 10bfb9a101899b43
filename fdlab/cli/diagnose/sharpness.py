"""``fdlab diagnose sharpness``: how much the loss rises around the weights of any models."""

from pathlib import Path

from typer import Option

from fdlab.cli import options
from fdlab.cli.diagnose.run import diagnose
from fdlab.cli.given import given


@given(models="models", data=("data",))
def sharpness(
    models: options.Models,
    data: options.LossData = "digits",
    images: options.LossImages = 128,
    objective: options.Objective = "linear-probe",
    teacher: options.Teacher = "",
    parts: list[str] = Option(
        ["average", "worst", "noise"], "--part", help="average, worst, noise, control; repeat it."
    ),
    parameters: options.Parameters = "encoder",
    directions: int = Option(20, min=2, help="Random directions of average and noise."),
    steps: int = Option(20, min=1, help="Gradient steps of the ascents of worst."),
    radius: float = Option(0.05, min=0, help="Noise of the plain average."),
    radius_adaptive: float = Option(0.2, min=0, help="Noise of the adaptive average, in shares of each weight."),
    radius_worst: float = Option(0.25, min=0, help="Length of the plain worst step."),
    radius_adaptive_worst: float = Option(0.5, min=0, help="Length of the adaptive worst step."),
    batch: options.MicroBatch = 32,
    out: options.Out = Path("reports/sharpness"),
    control: options.Control = True,
    seed: int = Option(0, min=0, help="Chooses the images; seeds the control and the directions."),
    device: options.Device = "cpu",
    fresh: options.Fresh = False,
    quiet: options.Quiet = False,
    as_json: options.JsonTable = False,
) -> None:
    """Average, worst-case and adaptive sharpness and the noise a model bears, over directions and images.

    [bold]--part control[/bold] measures copies of the model with other weights and the same function: it shows which
    of these numbers speak of the function at all.

    Example: [bold]fdlab diagnose sharpness a=runs/contrastive b=runs/student --data digits --part noise[/bold]
    """
    diagnose("sharpness", locals())
