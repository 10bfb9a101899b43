"""``fdlab diagnose hessian``: the curvature of a loss on any models."""

from pathlib import Path

from typer import Option

from fdlab.cli import options
from fdlab.cli.diagnose.run import diagnose
from fdlab.cli.given import given


@given(models="models", data=("data",))
def hessian(
    models: options.Models,
    data: options.LossData = "digits",
    images: options.LossImages = 128,
    objective: options.Objective = "linear-probe",
    teacher: options.Teacher = "",
    parts: list[str] = Option(["whole", "balanced"], "--part", help="whole, balanced, blocks, minibatches; repeat it."),
    matrix: str = Option("hessian", help="hessian, or ggn (its Gauss-Newton part)."),
    parameters: options.Parameters = "encoder",
    k: int = Option(5, min=1, max=5, help="How many of the largest eigenvalues."),
    probes: int = Option(4, min=0, help="Random probes for trace and density, 30 products each."),
    minibatch: int = Option(32, min=1, help="Images in each minibatch of the part minibatches."),
    batch: options.MicroBatch = 16,
    out: options.Out = Path("reports/hessian"),
    control: options.Control = True,
    seed: int = Option(0, min=0, help="Chooses the images; seeds the control and the probes."),
    device: options.Device = "cpu",
    fresh: options.Fresh = False,
    quiet: options.Quiet = False,
    as_json: options.JsonTable = False,
) -> None:
    """Largest and lowest Hessian eigenvalues, trace and spectrum, each with its error; raw and balanced.

    Example: [bold]fdlab diagnose hessian a=runs/contrastive b=runs/student --data digits --part whole[/bold]
    """
    diagnose("hessian", locals())
