"""``fdlab claims``: what a report's numbers say of the paper's claims, or of one's own."""

from __future__ import annotations

from pathlib import Path

import typer


def claims(
    source: Path | None = typer.Argument(
        None, help="A folder that compare wrote (it gets the verdicts), or a table.csv."
    ),
    others: list[Path] | None = typer.Option(None, "--with", help="More folders or tables of these models."),
    file: Path | None = typer.Option(None, "--claims", help="A TOML file of claims (default: H1 to H13, C1 to C4)."),
    cohort: Path | None = typer.Option(None, "--cohort", help="Who is whose teacher (default: as compare kept it)."),
    show: bool = typer.Option(False, "--show", help="Print the packaged claims as a file to begin with, and leave."),
    quiet: bool = typer.Option(False, "--quiet", help="Print the written file only."),
    json_: bool = typer.Option(False, "--json", help="Print the verdicts as JSON."),
) -> None:
    """Supported, contradicted, undecided or not tested: every claim by its interval, corrected for their number (Holm).

    A claim about distillation is judged against its controls too: in the teacher's own design the effect must be there
    as well, and a student that did not learn from this teacher must not move as far. Seeds are the unit where there are
    several; with one, images are, and the verdict is about these checkpoints only. Nothing is measured.

    Examples: [bold]fdlab claims reports/mine[/bold], [bold]fdlab claims reports/mine --with trainability/table.csv
    --claims my.toml[/bold]
    """
    if show:
        from importlib import resources

        typer.echo(resources.files("fdlab.compare").joinpath("claims.toml").read_text(encoding="utf-8"))
        return
    if source is None:
        from fdlab.errors import USAGE, FdlabError

        raise FdlabError("No report is named.", "", "Give the folder that `fdlab compare` wrote.", USAGE)
    from fdlab.study.verdicts import claims as judge
    from fdlab.study.verdicts import effect_text

    result = judge(source, others or (), file=file, cohort=cohort)
    written = str(result["files"][0])
    if json_:
        typer.echo(result["table"].to_json(orient="records"))
        return
    if not quiet:
        import pandas as pd

        from fdlab.cli.tables import print_table

        lines = [
            {
                "id": one.claim.id,
                "claim": one.claim.statement,
                "verdict": one.verdict + (f" ({one.scope})" if one.scope else ""),
                "effect (95 %, uncorrected)": effect_text(one),
                "why": one.why,
                "not controlled": "; ".join(one.not_controlled),
            }
            for one in result["verdicts"]
        ]
        print_table(pd.DataFrame(lines), title="Claims; p over all tested claims of the file")
    typer.echo(written if quiet else f"Verdicts: {written}" + (f", {result['page']}" if result["page"] else ""))
