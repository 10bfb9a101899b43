"""``fdlab diagnose hessian``: the curvature of a loss on any models."""

from __future__ import annotations

from pathlib import Path

import typer


def hessian(
    models: list[str] = typer.Argument(..., help="SOURCE or label=SOURCE, several at once."),
    data: str = typer.Option("digits", "--data", help="Labelled images; distill and mim need no labels."),
    images: int = typer.Option(128, min=2, help="How many images; the loss is their mean."),
    objective: str = typer.Option("linear-probe", help="linear-probe, classifier, distill or mim."),
    teacher: str = typer.Option("", help="SOURCE of the teacher, for distill."),
    part: list[str] = typer.Option(["whole", "balanced"], help="whole, balanced, blocks, minibatches; repeat it."),
    matrix: str = typer.Option("hessian", help="hessian, or ggn (its Gauss-Newton part)."),
    parameters: str = typer.Option("encoder", help="encoder, or all (the head too)."),
    k: int = typer.Option(5, min=1, max=5, help="How many of the largest eigenvalues."),
    probes: int = typer.Option(4, min=0, help="Random probes for trace and density, 30 products each."),
    minibatch: int = typer.Option(32, min=1, help="Images in each minibatch of the part minibatches."),
    micro_batch: int = typer.Option(16, "--micro-batch", min=1, help="Images at once: memory, not the result."),
    out: Path = typer.Option(Path("reports/hessian"), "-o", "--out", help="Folder of the report."),
    control: bool = typer.Option(True, help="Add the first model's untrained start as a control."),
    seed: int = typer.Option(0, min=0, help="Chooses the images; seeds the control and the probes."),
    device: str = typer.Option("cpu", help="cpu, cuda, mps or auto."),
    fresh: bool = typer.Option(False, "--fresh", help="Measure again what the store already holds."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress; print the page's path only."),
    json_: bool = typer.Option(False, "--json", help="Print the table as JSON."),
) -> None:
    """Largest and lowest Hessian eigenvalues, trace and spectrum, each with its error; raw and balanced.

    Example: [bold]fdlab diagnose hessian a=runs/contrastive b=runs/student --data digits --part whole[/bold]
    """
    from fdlab.study.diagnosis import diagnose

    result = diagnose(
        "hessian",
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
        matrix=matrix,
        parameters=parameters,
        k=k,
        probes=probes,
        minibatch=minibatch,
    )
    table = result["table"]
    if json_:
        typer.echo(table.to_json(orient="records"))
        return
    if not quiet:
        typer.echo(f"Loss: {table['objective'].iloc[0]}")
        shown = table[~table["metric"].isin(["spectral_mass", "max_eigenvalue"])]
        for model, metric, block, value, low, high in zip(
            *(shown[name] for name in ("model", "metric", "block", "value", "low", "high")), strict=True
        ):
            place = f" block {int(str(block)) + 1}" if str(block).isdigit() else ""
            bounds = f" ({low:.4g} to {high:.4g})" if low == low else ""
            typer.echo(f"{model}{place}: {metric} {value:.4g}{bounds}")
        for note in result["notes"]:
            typer.echo(f"Note: {note}", err=True)
    typer.echo(f"Report: {result['page']}" if not quiet else str(result["page"]))
