"""``fdlab export``: a model for stock timm, or as fdlab's own file."""

from __future__ import annotations

from pathlib import Path

import typer


def export(
    model: str = typer.Argument(..., help="SOURCE: a file, a folder, timm:NAME, FILE@teacher."),
    to: str = typer.Option("timm", "--to", help="timm (loads without fdlab) or safetensors (fdlab.open_model)."),
    out: Path = typer.Option(..., "-o", "--out", help="The file to write, NAME.safetensors."),
    heads: int = typer.Option(None, help="Number of heads, where the file does not hold it."),
    image_size: int = typer.Option(None, help="Pixels; position tables are resized by the family's method."),
    activation: str = typer.Option(None, help="gelu, quick_gelu, ... where the file does not hold it."),
    json_: bool = typer.Option(False, "--json", help="Print JSON."),
    quiet: bool = typer.Option(False, "--quiet", help="Print nothing."),
) -> None:
    """A model as one safetensors file with a model card; the file is opened again and checked.

    Example: [bold]fdlab export dinov2_vits14_reg4_pretrain.pth --to timm -o dinov2.safetensors[/bold]
    """
    import json

    from fdlab.checkpoints.export import export_model
    from fdlab.checkpoints.open import open_model

    encoder = open_model(model, heads=heads, image_size=image_size, activation=activation)
    path, line = export_model(encoder, out, to)
    if json_:
        typer.echo(json.dumps({"file": str(path), "open": line, "assumed": encoder.info.assumed}))
    elif not quiet:
        typer.echo(f"Wrote {path}. Open it with\n\n    {line}\n")
        if to == "timm":
            mean, std = (tuple(round(v, 6) for v in values) for values in (encoder.info.mean, encoder.info.std))
            typer.echo(
                f"Images: mean {mean}, std {std}, {encoder.info.interpolation}. Assumed things stand in its card."
            )
