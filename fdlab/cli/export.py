"""``fdlab export``: a model as a folder for timm, torch, ONNX or transformers, or as one file for timm or fdlab."""

from __future__ import annotations

from pathlib import Path

import typer
from typer import Argument, Option

from fdlab.cli import options
from fdlab.cli.given import given


@given(models="model")
def export(
    model: str = Argument(..., help="A finished run's folder (with its classifier), or SOURCE: a file, timm:NAME, ..."),
    *,
    to: str = Option("timm", help="timm, torch (torch.export), onnx, hf (transformers), or safetensors (for fdlab)."),
    out: Path = Option(..., "-o", "--out", help="The folder; NAME.safetensors: one file (timm, safetensors)."),
    head: bool = Option(True, "--head/--no-head", help="With the classifier, where there is one."),
    force: bool = Option(False, "--force", help="Replace an earlier export in the folder."),
    as_json: options.Json = False,
    quiet: bool = Option(False, "--quiet", help="Print nothing."),
) -> None:
    """A model for use without fdlab, with a card; what was written is opened again and compared.

    Example: [bold]fdlab export runs/tuned --to timm -o tuned-timm[/bold]
    """
    if out.suffix == ".safetensors" or to == "safetensors":
        _one_file(model, to, out, as_json, quiet)
        return
    import json

    from fdlab.study.exports.export import export as write

    done = write(model, out=out, to=to, head=head, force=force)
    written = done.written
    if as_json:
        said = {"folder": str(done.folder), "form": to, "files": list(written.files), "output": done.output}
        difference = {"largest_difference": written.difference, "notes": list(written.notes)}
        typer.echo(json.dumps({**said, **difference, "upload": done.upload}))
    elif not quiet:
        typer.echo(f"Wrote {done.folder} ({', '.join(written.files)}). It is used so:\n")
        typer.echo("\n".join(f"    {line}" for line in written.code.replace("FOLDER", str(done.folder)).splitlines()))
        typer.echo(f"\nIt gives {done.output}.")
        if written.difference is not None:
            typer.echo(f"Read back: the largest difference is {written.difference:.1e} of the largest output.")
        for note in written.notes:
            typer.echo(f"Note: {note}")
        typer.echo(f"Nothing was uploaded. After reading README.md there, this would: {done.upload}")


def _one_file(model: str, to: str, out: Path, as_json: bool, quiet: bool) -> None:
    """The encoder as one safetensors file."""
    import json

    from fdlab.checkpoints.export import export_model
    from fdlab.checkpoints.open import open_model

    encoder = open_model(model)
    path, line = export_model(encoder, out, to)
    if as_json:
        typer.echo(json.dumps({"file": str(path), "open": line, "assumed": encoder.info.assumed}))
    elif not quiet:
        typer.echo(f"Wrote {path}, the encoder alone. Open it with\n\n    {line}\n")
        if to == "timm":
            mean, std = (tuple(round(v, 6) for v in values) for values in (encoder.info.mean, encoder.info.std))
            typer.echo(
                f"Images: mean {mean}, std {std}, {encoder.info.interpolation}. Assumed things stand in its card."
            )
