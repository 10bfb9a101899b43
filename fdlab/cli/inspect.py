"""``fdlab inspect`` and ``fdlab explain``: what a checkpoint holds, and what a metric means."""

from pathlib import Path
from typing import Any

import typer
from typer import Argument, Option

from fdlab.cli import options
from fdlab.cli.given import given


@given(models="model")
def inspect(
    model: str = Argument(..., help="SOURCE: a file, a folder, a run, timm:NAME, random:NAME, FILE@teacher."),
    report: Path | None = Option(
        None, help="Write the file's structure here as JSON (names, shapes, types; no weights, no settings)."
    ),
    as_json: options.Json = False,
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
        model_facts = facts(open_model(model))
    except FdlabError as error:
        raise _with_report(model, report, error) from error
    if report is not None:
        _with_report(model, report, None)
    if as_json:
        typer.echo(json.dumps(model_facts, default=str))
        return
    for label, value in _rows(model_facts):
        typer.echo(f"{label:<14} {value}")


def _with_report(model: str, report: Path | None, error: Any) -> Any:
    """The error with a word on the report; writes the report where one is asked for."""
    from fdlab.checkpoints.sources import split_facts
    from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError

    model = split_facts(model)[0]
    path = next((Path(text) for text in (model, model.rpartition("@")[0]) if text and Path(text).exists()), None)
    if report is not None:
        if path is None:
            return error or FdlabError(f"{model} is no file.", fix="Leave --report out.", code=USAGE)
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


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts in the order in which they are asked for."""
    kinds = facts["prefix_kinds"]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    classes = f", {facts['classes']} classes" if facts["classes"] else ""
    grid = "x".join(map(str, facts["grid"]))
    name = facts["timm_name"] or f"none fits; nearest: {facts['timm_line'] or 'no class of timm'}"
    depth = _stages(facts["stage_depths"]) or facts["depth"]
    rows = [
        ("family", facts["family"]),
        ("container", facts["container"]),
        ("taken", f"{facts['taken']} (others: {', '.join(facts['others']) or 'none'})"),
        (
            "size",
            f"depth {depth}, width {facts['width']}, {facts['parameters']:,} parameters{classes}",
        ),
        ("heads", f"{_stages(facts['stage_heads']) or facts['heads']} ({facts['heads_from']})"),
        ("tokens", f"patch {facts['patch_size']}, grid {grid}, {facts['prefix_tokens']} prefix ({counts or 'none'})"),
        ("images", f"{facts['image_size']} pixels, {facts['interpolation']}"),
        ("mean", ", ".join(f"{value:g}" for value in facts["mean"])),
        ("std", ", ".join(f"{value:g}" for value in facts["std"])),
        ("inside", f"{facts['activation']}, norm eps {facts['norm_eps']:g}"),
        ("timm name", name),
        ("sha256", facts["sha256"]),
    ]
    if facts["repository"]:
        rows.insert(2, ("repository", facts["repository"]))
    if facts["windows"]:
        rows.insert(-6, ("windows", ", ".join("x".join(map(str, window)) for window in facts["windows"])))
    if facts["positions"]:
        rows.insert(-6, ("positions", facts["positions"]))
    rows += [("option", text) for text in facts["options"]]
    if facts["inferred"]:  # it holds what was assumed
        return rows + [("inferred", text) for text in facts["inferred"]]
    return rows + [("assumed", text) for text in facts["assumed"]]


def _stages(values: Any) -> str:
    """A number a stage, as in 2+2+18+2; empty for models without stages."""
    return "+".join(map(str, values))


def explain(name: str = Argument(..., help="A metric (distance, nmi, ...) or a figure's file.")) -> None:
    """A metric's formula and range, what it says and what it cannot say; or where a figure's file comes from.

    Examples: [bold]fdlab explain r2_relative[/bold], [bold]fdlab explain figures/attention_distance.pdf[/bold]
    """
    if name.lower().endswith((".pdf", ".svg", ".png")):
        from fdlab.report.provenance import read_note

        for field, value in read_note(name).items():
            typer.echo(f"{field}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
        return
    from fdlab.records.metrics import find_metric

    metric = find_metric(name)
    for field in ("label", "unit", "formula", "low", "high", "says", "not_says", "source"):
        value = getattr(metric, field)
        if value not in ("", None):
            typer.echo(f"{field.replace('_', ' ')}: {value}")
