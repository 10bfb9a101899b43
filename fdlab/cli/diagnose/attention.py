"""``fdlab diagnose attention``: the attention probe on any models."""

from pathlib import Path

from typer import Option

from fdlab.cli import options
from fdlab.cli.diagnose.run import diagnose, without_defaults
from fdlab.cli.given import given


@given(models="models", data=("data",))
def attention(
    models: options.Models,
    data: options.Data = "photos",
    images: int = Option(256, min=1, help="How many images at most."),
    tolerance: float = Option(
        0.02,
        min=0.0,
        help="Enough images once no 95 % half-width (metrics in 0 to 1, distance_ratio) is larger; 0: all.",
    ),
    renormalise: bool = Option(
        True, help="Distances over the patches' own attention; without it as some published plots have them."
    ),
    maps: bool = Option(
        False, "--maps", help="Averaged maps and learnt position biases too; says first how much memory they take."
    ),
    out: options.Out = Path("reports/attention"),
    control: options.Control = True,
    batch: options.Batch = 32,
    seed: int = Option(0, min=0, help="Chooses the images; seeds the controls and the bootstrap."),
    device: options.Device = "cpu",
    fresh: options.Fresh = False,
    quiet: options.Quiet = False,
    as_json: options.JsonTable = False,
) -> None:
    """Attention distance, head similarity, entropy, NMI and position shares, per block and head.

    Example: [bold]fdlab diagnose attention a=dino.pth b=mae.pth --data my_photos/ -o reports/mine[/bold]
    """
    diagnose("attention", without_defaults(locals(), renormalise=True))
