"""``fdlab diagnose attention``: the attention probe on any models."""

from __future__ import annotations

from pathlib import Path

import typer


def attention(
    models: list[str] = typer.Argument(..., help="SOURCE or label=SOURCE, several at once."),
    data: str = typer.Option("photos", "--data", help="digits, photos, locality:ALPHA, a folder, file.parquet."),
    images: int = typer.Option(256, min=1, help="How many images at most."),
    tolerance: float = typer.Option(
        0.02,
        min=0.0,
        help="Enough images once no 95 % half-width (metrics in 0 to 1, distance_ratio) is larger; 0: all.",
    ),
    renormalise: bool = typer.Option(
        True, help="Distances over the patches' own attention; without it as some published plots have them."
    ),
    maps: bool = typer.Option(
        False, "--maps", help="Averaged maps and learnt position biases too; says first how much memory they take."
    ),
    out: Path = typer.Option(Path("reports/attention"), "-o", "--out", help="Folder of the report."),
    control: bool = typer.Option(True, help="Add the first model's untrained start as a control."),
    batch: int = typer.Option(32, min=1, help="Images in one forward pass."),
    seed: int = typer.Option(0, min=0, help="Chooses the images; seeds the controls and the bootstrap."),
    device: str = typer.Option("cpu", help="cpu, cuda, mps or auto."),
    fresh: bool = typer.Option(False, "--fresh", help="Measure again what the store already holds."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress; print the page's path only."),
    json_: bool = typer.Option(False, "--json", help="Print the table as JSON."),
) -> None:
    """Attention distance, head similarity, entropy, NMI and position shares, per block and head.

    Example: [bold]fdlab diagnose attention a=dino.pth b=mae.pth --data my_photos/ -o reports/mine[/bold]
    """
    from fdlab.study.diagnosis import diagnose

    result = diagnose(
        "attention",
        models,
        data,
        out,
        images=images,
        seed=seed,
        device=device,
        batch=batch,
        fresh=fresh,
        control=control,
        tolerance=tolerance,
        maps=maps,
        **({} if renormalise else {"renormalise": False}),
        quiet=quiet,
    )
    if json_:
        typer.echo(result["table"].to_json(orient="records"))
        return
    if not quiet:
        from fdlab.cli.tables import print_table

        print_table(result["summary"], title="Means over the last half of the blocks (95 % interval over images)")
        for note in result["notes"]:
            typer.echo(f"Note: {note}", err=True)
    typer.echo(f"Report: {result['page']}" if not quiet else str(result["page"]))
