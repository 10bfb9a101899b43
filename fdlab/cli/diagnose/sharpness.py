"""``fdlab diagnose sharpness``: how much the loss rises around the weights of any models."""

from __future__ import annotations

from pathlib import Path

import typer


def sharpness(
    models: list[str] = typer.Argument(..., help="SOURCE or label=SOURCE, several at once."),
    data: str = typer.Option("digits", "--data", help="Labelled images; distill and mim need no labels."),
    images: int = typer.Option(128, min=2, help="How many images; the loss is their mean."),
    objective: str = typer.Option("linear-probe", help="linear-probe, classifier, distill or mim."),
    teacher: str = typer.Option("", help="SOURCE of the teacher, for distill."),
    part: list[str] = typer.Option(["average", "worst", "noise"], help="average, worst, noise, control; repeat it."),
    parameters: str = typer.Option("encoder", help="encoder, or all (the head too)."),
    directions: int = typer.Option(20, min=2, help="Random directions of average and noise."),
    steps: int = typer.Option(20, min=1, help="Gradient steps of the ascents of worst."),
    radius: float = typer.Option(0.05, min=0, help="Noise of the plain average."),
    radius_adaptive: float = typer.Option(0.2, min=0, help="Noise of the adaptive average, in shares of each weight."),
    radius_worst: float = typer.Option(0.25, min=0, help="Length of the plain worst step."),
    radius_adaptive_worst: float = typer.Option(0.5, min=0, help="Length of the adaptive worst step."),
    micro_batch: int = typer.Option(32, "--micro-batch", min=1, help="Images at once: memory, not the result."),
    out: Path = typer.Option(Path("reports/sharpness"), "-o", "--out", help="Folder of the report."),
    control: bool = typer.Option(True, help="Add the first model's untrained start as a control."),
    seed: int = typer.Option(0, min=0, help="Chooses the images; seeds the control and the directions."),
    device: str = typer.Option("cpu", help="cpu, cuda, mps or auto."),
    fresh: bool = typer.Option(False, "--fresh", help="Measure again what the store already holds."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress; print the page's path only."),
    json_: bool = typer.Option(False, "--json", help="Print the table as JSON."),
) -> None:
    """Average, worst-case and adaptive sharpness and the noise a model bears, over directions and images.

    [bold]--part control[/bold] measures copies of the model with other weights and the same function: it shows which
    of these numbers speak of the function at all.

    Example: [bold]fdlab diagnose sharpness a=runs/contrastive b=runs/student --data digits --part noise[/bold]
    """
    from fdlab.study.diagnosis import diagnose

    result = diagnose(
        "sharpness",
        models,
        data,
        out,
        images=images,
        seed=seed,
        device=device,
        batch=micro_batch,
        fresh=fresh,
        control=control,
        quiet=quiet,
        parts=part,
        objective=objective,
        teacher=teacher,
        parameters=parameters,
        directions=directions,
        steps=steps,
        radius=radius,
        radius_adaptive=radius_adaptive,
        radius_worst=radius_worst,
        radius_adaptive_worst=radius_adaptive_worst,
    )
    table = result["table"]
    if json_:
        typer.echo(table.to_json(orient="records"))
        return
    if not quiet:
        from fdlab.records.metrics.names import MAPS

        typer.echo(f"Loss: {table['objective'].iloc[0]}")
        maps = list(MAPS.values())
        for row in table[table["metric"] != "noise_curve"].itertuples():
            place = f" ({maps[int(row.x) - 1]})" if row.metric.startswith("moved_") else ""
            bounds = f" ({row.low:.4g} to {row.high:.4g})" if row.low == row.low else ""
            typer.echo(f"{row.model}: {row.metric} {row.value:.4g}{bounds}{place}")
        for note in result["notes"]:
            typer.echo(f"Note: {note}", err=True)
    typer.echo(f"Report: {result['page']}" if not quiet else str(result["page"]))
