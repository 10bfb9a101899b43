"""``fdlab export``: a model for stock timm, or as fdlab's own file."""

from pathlib import Path

import typer
from typer import Argument, Option

from fdlab.cli import options
from fdlab.cli.given import given


@given(models="model")
def export(
    model: str = Argument(..., help="SOURCE: a file, a folder, timm:NAME, FILE@teacher."),
    *,
    to: str = Option("timm", help="timm (loads without fdlab) or safetensors (fdlab.open_model)."),
    out: Path = Option(..., "-o", "--out", help="The file to write, NAME.safetensors."),
    as_json: options.Json = False,
    quiet: bool = Option(False, "--quiet", help="Print nothing."),
) -> None:
    """A model as one safetensors file with a model card; the file is opened again and checked.

    Example: [bold]fdlab export dinov2_vits14_reg4_pretrain.pth --to timm -o dinov2.safetensors[/bold]
    """
    import json

    from fdlab.checkpoints.export import export_model
    from fdlab.checkpoints.open import open_model

    encoder = open_model(model)
    path, line = export_model(encoder, out, to)
    if as_json:
        typer.echo(json.dumps({"file": str(path), "open": line, "assumed": encoder.info.assumed}))
    elif not quiet:
        typer.echo(f"Wrote {path}. Open it with\n\n    {line}\n")
        if to == "timm":
            mean, std = (tuple(round(v, 6) for v in values) for values in (encoder.info.mean, encoder.info.std))
            typer.echo(
                f"Images: mean {mean}, std {std}, {encoder.info.interpolation}. Assumed things stand in its card."
            )
