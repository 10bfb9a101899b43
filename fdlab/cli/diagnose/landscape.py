"""``fdlab diagnose landscape``: the loss along lines and planes through the weights of any models."""

from __future__ import annotations

from pathlib import Path

import typer


def landscape(
    models: list[str] = typer.Argument(..., help="SOURCE or label=SOURCE, several at once."),
    data: str = typer.Option("digits", "--data", help="Labelled images; distill and mim need no labels."),
    images: int = typer.Option(128, min=2, help="How many images; the loss is their mean."),
    what: str = typer.Option("line", help="line, plane, interpolation, trajectory or eigenvectors."),
    objective: str = typer.Option("linear-probe", help="linear-probe, classifier, distill or mim."),
    teacher: str = typer.Option("", help="SOURCE of the teacher, for distill."),
    to: str = typer.Option("", "--to", help="SOURCE of the other model, for interpolation."),
    parameters: str = typer.Option("encoder", help="encoder, or all (the head too)."),
    directions: int = typer.Option(10, min=1, help="Random directions of line."),
    span: float = typer.Option(1.0, help="How far to each side, in lengths of each filter."),
    points: int = typer.Option(21, min=2, help="On a line, or on a side of a plane; odd."),
    adaptive: bool = typer.Option(False, "--adaptive", help="Planes coarse to fine: about a seventh of the points."),
    micro_batch: int = typer.Option(32, "--micro-batch", min=1, help="Images at once: memory, not the result."),
    out: Path = typer.Option(Path("reports/landscape"), "-o", "--out", help="Folder of the report."),
    control: bool = typer.Option(True, help="Add the first model's untrained start as a control (line, plane)."),
    seed: int = typer.Option(0, min=0, help="Chooses the images; seeds the control and the directions."),
    device: str = typer.Option("cpu", help="cpu, cuda, mps or auto."),
    fresh: bool = typer.Option(False, "--fresh", help="Measure again what the store already holds."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress; print the page's path only."),
    json_: bool = typer.Option(False, "--json", help="Print the table as JSON."),
) -> None:
    """Loss and accuracy around the weights: the same images and directions for all models, points kept as they come.

    Examples: [bold]fdlab diagnose landscape a=runs/contrastive b=runs/student --data digits[/bold],
    [bold]fdlab diagnose landscape a=runs/contrastive --what plane --points 41 --adaptive[/bold],
    [bold]fdlab diagnose landscape runs/one --what interpolation --to runs/two[/bold]
    """
    from fdlab.study.diagnosis import diagnose

    result = diagnose(
        "landscape",
        models,
        data,
        out,
        images=images,
        seed=seed,
        device=device,
        batch=micro_batch,
        fresh=fresh,
        control=control and what in ("line", "plane"),
        quiet=quiet,
        what=what,
        objective=objective,
        teacher=teacher,
        to=to,
        parameters=parameters,
        directions=directions,
        span=span,
        points=points,
        adaptive=adaptive,
    )
    table = result["table"]
    if json_:
        typer.echo(table.to_json(orient="records"))
        return
    if not quiet:
        typer.echo(f"Loss: {table['objective'].iloc[0]}")
        shares = table[table["metric"].str.startswith("trajectory_")]
        for model, metric, number, value in zip(*(shares[c] for c in ("model", "metric", "x", "value")), strict=True):
            typer.echo(f"{model}: {metric} of axis {number:.0f}: {value:.1%}")
        shown = table[table["metric"].str.startswith(("loss_", "accuracy_"))]
        for (model, metric), own in shown.groupby(["model", "metric"], sort=False):
            middle = own[(own["x"] == 0) & own["y"].fillna(0).eq(0)]["value"]
            lost = int((own["value"].isna() & own["n"].notna()).sum())
            typer.echo(
                f"{model}: {metric} {float(middle.iloc[0]):.4g} at x = 0, {own['value'].min():.4g} to "
                f"{own['value'].max():.4g} over {int(own['n'].notna().sum())} points"
                + (f", {lost} of them not finite" if lost else "")
            )
        for note in result["notes"]:
            typer.echo(f"Note: {note}", err=True)
    typer.echo(f"Report: {result['page']}" if not quiet else str(result["page"]))
