"""``fdlab diagnose features``: the feature probe on any models."""

from pathlib import Path

from typer import Option

from fdlab.cli import options
from fdlab.cli.diagnose.run import diagnose, without_defaults
from fdlab.cli.given import given


@given(models="models", data=("data",))
def features(
    models: options.Models,
    data: options.Data = "photos",
    images: int = Option(256, min=1, help="How many images."),
    metrics: list[str] = Option([], "--metric", help="Only these; repeat it. By default all that the data allow."),
    pooling: list[str] = Option(
        ["patches", "class"], help="Of k-NN and linear probe: patches, class, attentive (slower, a learnt query)."
    ),
    teacher: str = Option("", help="SOURCE: how much of this model's tokens a ridge reads out (teacher_r2)."),
    out: options.Out = Path("reports/features"),
    control: options.Control = True,
    batch: int = Option(32, min=1, help="Images in one forward pass: memory, not the result."),
    seed: int = Option(0, min=0, help="Chooses the images; seeds views, folds and intervals."),
    device: options.Device = "cpu",
    fresh: options.Fresh = False,
    quiet: options.Quiet = False,
    as_json: options.JsonTable = False,
) -> None:
    """CKA between blocks and models, Fourier share, rank and spectrum, token similarity, alignment, k-NN, linear probe.

    Example: [bold]fdlab diagnose features a=dino.pth b=mae.pth --data my_photos/ -o reports/mine[/bold]
    """
    pooling = sorted(set(pooling))
    settings = without_defaults(locals(), metrics=[], pooling=["class", "patches"], teacher="")
    diagnose("features", settings)
