"""``fdlab diagnose attribution``: what a model's answer rests on, in the image and among its heads."""

from pathlib import Path

from typer import Option

from fdlab.cli import options
from fdlab.cli.diagnose.run import diagnose, without_defaults
from fdlab.cli.given import given


@given(models="models", data=("data",))
def attribution(
    models: options.Models,
    data: options.Data = "photos",
    images: int = Option(32, min=1, help="How many images; each costs hundreds of forward passes."),
    parts: list[str] = Option(["curves", "heads"], "--part", help="curves, heads; repeat it."),
    target: str = Option("auto", help="auto, label, prediction (logits) or feature (cosine to its own)."),
    orders: list[str] = Option(
        [], "--order", help="gradients, rollout; repeat it; random is always there. By default all that are possible."
    ),
    steps: int = Option(20, min=1, help="Points of a curve."),
    gradient_steps: int = Option(50, min=1, help="Points of the integrals of gradients and conductance."),
    out: options.Out = Path("reports/attribution"),
    control: options.Control = True,
    batch: int = Option(8, min=1, help="Images in one forward pass, at most 8: memory, not the result."),
    seed: int = Option(0, min=0, help="Chooses the images; seeds the control, the random order, the intervals."),
    device: options.Device = "cpu",
    fresh: options.Fresh = False,
    quiet: options.Quiet = False,
    as_json: options.JsonTable = False,
) -> None:
    """Patch deletion and insertion by integrated gradients, rollout and chance; effect and conductance of every head.

    Stopped and started again, it continues behind the last eight images.

    Example: [bold]fdlab diagnose attribution a=deit.pth b=mae_finetuned.pth --data my_photos/ --images 32[/bold]
    """
    orders = sorted(set(orders))
    diagnose("attribution", without_defaults(locals(), orders=[]))
