"""``fdlab claims``: what a report's numbers say of the paper's claims, or of one's own."""

from pathlib import Path
from typing import Any

import typer
from typer import Argument, Option

from fdlab.cli import options


def claims(
    source: Path | None = Argument(None, help="A folder that compare wrote (it gets the verdicts), or a table.csv."),
    others: options.More = None,
    file: Path | None = Option(None, "--claims", help="A TOML file of claims (default: H1 to H13, C1 to C4)."),
    cohort: Path | None = Option(None, help="Who is whose teacher (default: as compare kept it)."),
    show: bool = Option(False, "--show", help="Print the packaged claims as a file to begin with, and leave."),
    quiet: bool = Option(False, "--quiet", help="Print the written file only."),
    as_json: bool = Option(False, "--json", help="Print the verdicts as JSON."),
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

        raise FdlabError("No report is named.", fix="Give the folder that `fdlab compare` wrote.", code=USAGE)
    from fdlab.study.verdicts import claims as judge

    result = judge(source, others or (), file=file, cohort=cohort)
    written = str(result["files"][0])
    if as_json:
        typer.echo(result["table"].to_json(orient="records"))
    elif quiet:
        typer.echo(written)
    else:
        _print(result["verdicts"])
        typer.echo(f"Verdicts: {written}" + (f", {result['page']}" if result["page"] else ""))


def _print(verdicts: list[Any]) -> None:
    import pandas as pd

    from fdlab.cli.show import print_table
    from fdlab.study.verdicts import effect_text

    rows = [
        {
            "id": verdict.claim.id,
            "claim": verdict.claim.statement,
            "verdict": verdict.verdict + (f" ({verdict.scope})" if verdict.scope else ""),
            "effect (95 %, uncorrected)": effect_text(verdict),
            "why": verdict.why,
            "not controlled": "; ".join(verdict.not_controlled),
        }
        for verdict in verdicts
    ]
    print_table(pd.DataFrame(rows), title="Claims; p over all tested claims of the file")
