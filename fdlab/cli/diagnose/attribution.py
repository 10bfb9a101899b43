"""``fdlab diagnose attribution``: what a model's answer rests on, in the image and among its heads."""

from __future__ import annotations

from pathlib import Path

import typer


def attribution(
    models: list[str] = typer.Argument(..., help="SOURCE or label=SOURCE, several at once."),
    data: str = typer.Option("photos", "--data", help="digits, photos, locality:ALPHA, a folder, file.parquet."),
    images: int = typer.Option(32, min=1, help="How many images; each costs hundreds of forward passes."),
    part: list[str] = typer.Option(["curves", "heads"], help="curves, heads; repeat it."),
    target: str = typer.Option("auto", help="auto, label, prediction (logits) or feature (cosine to its own)."),
    order: list[str] = typer.Option(
        [], "--order", help="gradients, rollout; repeat it; random is always there. By default all that are possible."
    ),
    steps: int = typer.Option(20, min=1, help="Points of a curve."),
    gradient_steps: int = typer.Option(50, min=1, help="Points of the integrals of gradients and conductance."),
    out: Path = typer.Option(Path("reports/attribution"), "-o", "--out", help="Folder of the report."),
    control: bool = typer.Option(True, help="Add the first model's untrained start as a control."),
    batch: int = typer.Option(8, min=1, help="Images in one forward pass, at most 8: memory, not the result."),
    seed: int = typer.Option(0, min=0, help="Chooses the images; seeds the control, the random order, the intervals."),
    device: str = typer.Option("cpu", help="cpu, cuda, mps or auto."),
    fresh: bool = typer.Option(False, "--fresh", help="Measure again what the store already holds."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress; print the page's path only."),
    json_: bool = typer.Option(False, "--json", help="Print the table as JSON."),
) -> None:
    """Patch deletion and insertion by integrated gradients, rollout and chance; effect and conductance of every head.

    Stopped and started again, it continues behind the last eight images.

    Example: [bold]fdlab diagnose attribution a=deit.pth b=mae_finetuned.pth --data my_photos/ --images 32[/bold]
    """
    from fdlab.study.diagnosis import diagnose

    chosen: dict[str, object] = {"orders": sorted(set(order))} if order else {}
    result = diagnose(
        "attribution",
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
        parts=part,
        target=target,
        steps=steps,
        gradient_steps=gradient_steps,
        **chosen,
    )
    table = result["table"]
    if json_:
        typer.echo(table.to_json(orient="records"))
        return
    if not quiet:
        for text in dict.fromkeys(
            f"{m}: score: {said}" for m, said in zip(table["model"], table["objective"], strict=True)
        ):
            typer.echo(text)
        shown = table[table["metric"].str.contains("_gain_|_area_|completeness|score_")]
        for row in shown.itertuples():
            value = f"{row.value:.4g}" if row.value == row.value else "undefined"
            typer.echo(f"{row.model}: {row.metric} {value}{_bounds(row)}")
        for model, own in table[table["metric"] == "head_effect"].groupby("model", sort=False):
            for row in own.sort_values("value", ascending=False).head(3).itertuples():
                place = f"block {int(row.block) + 1} head {int(row.head) + 1}"
                typer.echo(f"{model}: head_effect {row.value:.4g}{_bounds(row)} of {place}")
        for note in result["notes"]:
            typer.echo(f"Note: {note}", err=True)
    typer.echo(f"Report: {result['page']}" if not quiet else str(result["page"]))


def _bounds(row: object) -> str:
    low, high = (float(getattr(row, name)) for name in ("low", "high"))
    return f" ({low:.4g} to {high:.4g})" if low == low else ""
