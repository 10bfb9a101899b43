"""``fdlab diagnose features``: the feature probe on any models."""

from __future__ import annotations

from pathlib import Path

import typer


def features(
    models: list[str] = typer.Argument(..., help="SOURCE or label=SOURCE, several at once."),
    data: str = typer.Option("photos", "--data", help="digits, photos, locality:ALPHA, a folder, file.parquet."),
    images: int = typer.Option(256, min=1, help="How many images."),
    metric: list[str] = typer.Option([], "--metric", help="Only these; repeat it. By default all that the data allow."),
    pooling: list[str] = typer.Option(
        ["patches", "class"], help="Of k-NN and linear probe: patches, class, attentive (slower, a learnt query)."
    ),
    teacher: str = typer.Option("", help="SOURCE: how much of this model's tokens a ridge reads out (teacher_r2)."),
    out: Path = typer.Option(Path("reports/features"), "-o", "--out", help="Folder of the report."),
    control: bool = typer.Option(True, help="Add the first model's untrained start as a control."),
    batch: int = typer.Option(32, min=1, help="Images in one forward pass: memory, not the result."),
    seed: int = typer.Option(0, min=0, help="Chooses the images; seeds views, folds and intervals."),
    device: str = typer.Option("cpu", help="cpu, cuda, mps or auto."),
    fresh: bool = typer.Option(False, "--fresh", help="Measure again what the store already holds."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress; print the page's path only."),
    json_: bool = typer.Option(False, "--json", help="Print the table as JSON."),
) -> None:
    """CKA between blocks and models, Fourier share, rank and spectrum, token similarity, alignment, k-NN, linear probe.

    Example: [bold]fdlab diagnose features a=dino.pth b=mae.pth --data my_photos/ -o reports/mine[/bold]
    """
    from fdlab.study.diagnosis import diagnose

    chosen: dict[str, object] = {"metrics": metric} if metric else {}
    if set(pooling) != {"patches", "class"}:
        chosen["pooling"] = sorted(set(pooling))
    if teacher:
        chosen["teacher"] = teacher
    result = diagnose(
        "features",
        models,
        data,
        out,
        images=images,
        seed=seed,
        device=device,
        batch=batch,
        fresh=fresh,
        control=control,
        quiet=quiet,
        **chosen,
    )
    table = result["table"]
    if json_:
        typer.echo(table.to_json(orient="records"))
        return
    if not quiet:
        last = table[~table["metric"].isin(["cka", "singular_value"]) & ((table["depth"] == 1) | table["block"].isna())]
        columns = (last[name] for name in ("model", "metric", "value", "low", "high", "objective"))
        for model, name, value, low, high, said in zip(*columns, strict=True):
            bounds = f" ({low:.4g} to {high:.4g})" if low == low else ""
            typer.echo(f"{model}: {name} {value:.4g}{bounds}" + (f" [{said}]" if said else ""))
        for note in result["notes"]:
            typer.echo(f"Note: {note}", err=True)
    typer.echo(f"Report: {result['page']}" if not quiet else str(result["page"]))
