"""``fdlab predict``: which cheap measures rank models as their fine-tuning does."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer


def predict(
    source: Path = typer.Argument(..., help="A folder that compare wrote, or a table.csv."),
    others: list[Path] | None = typer.Option(None, "--with", help="More folders or tables of these models."),
    score: str = typer.Option("", help="The score (default: the cohort's score, else best_accuracy, accuracy)."),
    measures: str = typer.Option("", help="By commas: these alone, chosen in advance (default: all)."),
    cohort: Path | None = typer.Option(None, "--cohort", help="Scores and families (default: as compare kept them)."),
    blocks: str = typer.Option("last half", help="Blocks of measures by block: last quarter, first half, all, ..."),
    untrained: bool = typer.Option(False, "--untrained", help="Keep untrained models; nearly all measures tell them."),
    out: Path | None = typer.Option(None, "-o", "--out", help="Folder of the report (default: SOURCE/predict)."),
    quiet: bool = typer.Option(False, "--quiet", help="Print the page's path only."),
    json_: bool = typer.Option(False, "--json", help="Print the table as JSON."),
) -> None:
    """Kendall's tau-b between every measure and the fine-tuning score, with interval, exact p, and without one family.

    One model (all its seeds) is one pair of values. Five models are the fewest that can say anything, and only of a
    measure named in advance (--measures). Nothing is measured.

    Example: [bold]fdlab predict reports/mine --with trainability/table.csv --measures distance_spread,knn[/bold]
    """
    from fdlab.study.prediction import predict as run
    from fdlab.study.prediction import readable

    result = run(
        source,
        others or (),
        cohort=cohort,
        score=score,
        measures=[name.strip() for name in measures.split(",") if name.strip()],
        blocks=blocks,
        untrained=untrained,
        out=out,
        command=shlex.join(["fdlab", *sys.argv[1:]]),
    )
    if json_:
        typer.echo(result["table"].to_json(orient="records"))
        return
    if not quiet:
        from fdlab.cli.tables import print_table

        found = result["prediction"]
        print_table(readable(found), title=f"Rank correlation with {found.score}")
        for sentence in found.said:
            typer.echo(sentence)
    typer.echo(str(result["page"]) if quiet else f"Report: {result['page']}")
