"""``fdlab inspect`` and ``fdlab explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer


def inspect(
    model: str = typer.Argument(..., help="SOURCE: a file, a folder, a run, timm:NAME, random:NAME, FILE@teacher."),
    heads: int = typer.Option(None, help="Number of heads, where the file does not hold it."),
    image_size: int = typer.Option(None, help="Pixels; position tables are resized by the family's method."),
    activation: str = typer.Option(None, help="gelu, quick_gelu, ... where the file does not hold it."),
    report: Path = typer.Option(
        None, help="Write the file's structure here as JSON (names, shapes, types; no weights, no settings)."
    ),
    json_: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """What a checkpoint holds, as fdlab understands it, and what it had to assume.

    Nothing in the file is executed. A file that is refused: send the output of --report.

    Example: [bold]fdlab inspect dino_vitbase16_pretrain.pth --report structure.json[/bold]
    """
    import json

    from fdlab.checkpoints.inspection import facts
    from fdlab.checkpoints.open import open_model
    from fdlab.errors import FdlabError

    try:
        found = facts(open_model(model, heads=heads, image_size=image_size, activation=activation))
    except FdlabError as error:
        raise _with_report(model, report, error) from error
    if report is not None:
        _with_report(model, report, None)
    if json_:
        typer.echo(json.dumps(found, default=str))
        return
    for label, value in _rows(found):
        typer.echo(f"{label:<14} {value}")


def _with_report(model: str, report: Path | None, error: Any) -> Any:
    """The error with a word on the report; writes the report where one is asked for."""
    from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError

    path = next((Path(text) for text in (model, model.rpartition("@")[0]) if text and Path(text).exists()), None)
    if report is not None:
        if path is None:
            return error or FdlabError(f"{model} is no file.", "", "Leave --report out.", USAGE)
        from fdlab.checkpoints.inspection import write_structure

        write_structure(path, report, error)
        typer.echo(f"Wrote {report}: names, shapes and types only.", err=True)
        return error
    if error.code != NOT_UNDERSTOOD or path is None or not path.is_file():
        return error
    if "heads=" in error.fix or "image_size=" in error.fix:  # the layout is known, an option is missing
        return FdlabError(error.what, error.why, f"{error.fix} Here: --heads N, --image-size N.", error.code)
    fix = f"{error.fix} To report it: fdlab inspect {model} --report structure.json (no weights in it)."
    return FdlabError(error.what, error.why, fix.strip(), error.code)


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts in the order in which they are asked for."""
    kinds = found["prefix_kinds"]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    classes = f", {found['classes']} classes" if found["classes"] else ""
    grid = "x".join(map(str, found["grid"]))
    name = found["timm_name"] or f"none fits; nearest: {found['timm_line'] or 'no class of timm'}"
    depth = _stages(found["stage_depths"]) or found["depth"]
    rows = [
        ("family", found["family"]),
        ("container", found["container"]),
        ("taken", f"{found['taken']} (others: {', '.join(found['others']) or 'none'})"),
        (
            "size",
            f"depth {depth}, width {found['width']}, {found['parameters']:,} parameters{classes}",
        ),
        ("heads", f"{_stages(found['stage_heads']) or found['heads']} ({found['heads_from']})"),
        ("tokens", f"patch {found['patch_size']}, grid {grid}, {found['prefix_tokens']} prefix ({counts or 'none'})"),
        ("images", f"{found['image_size']} pixels, {found['interpolation']}"),
        ("mean", ", ".join(f"{value:g}" for value in found["mean"])),
        ("std", ", ".join(f"{value:g}" for value in found["std"])),
        ("inside", f"{found['activation']}, norm eps {found['norm_eps']:g}"),
        ("timm name", name),
        ("sha256", found["sha256"]),
    ]
    if found["windows"]:
        rows.insert(6, ("windows", ", ".join("x".join(map(str, window)) for window in found["windows"])))
    if found["positions"]:
        rows.insert(6, ("positions", found["positions"]))
    rows += [("option", text) for text in found["options"]]
    return rows + [("assumed", text) for text in found["assumed"]]


def _stages(values: Any) -> str:
    """A number a stage, as in 2+2+18+2; empty for models without stages."""
    return "+".join(map(str, values))


def explain(name: str = typer.Argument(..., help="A metric (distance, nmi, ...) or a figure's file.")) -> None:
    """A metric's formula and range, what it says and what it cannot say; or where a figure's file comes from.

    Examples: [bold]fdlab explain r2_relative[/bold], [bold]fdlab explain figures/attention_distance.pdf[/bold]
    """
    if name.lower().endswith((".pdf", ".svg", ".png")):
        from fdlab.report.provenance import read_note

        for field, value in read_note(name).items():
            typer.echo(f"{field}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
        return
    from fdlab.records.metrics import find_metric

    found = find_metric(name)
    for field in ("label", "unit", "formula", "low", "high", "says", "not_says", "source"):
        value = getattr(found, field)
        if value not in ("", None):
            typer.echo(f"{field.replace('_', ' ')}: {value}")
