"""``fdlab claims``: what a report's numbers say of the paper's claims, or of one's own."""

from pathlib import Path
from typing import Any

import typer
from typer import Argument, Option

from fdlab.cli import options


def claims(
    source: Path | None = Argument(None, help="A folder that compare wrote (it gets the verdicts), or a table.csv."),
    others: options.More = None,
    file: Path | None = Option(None, "--claims", help="A TOML file of claims (default: those of --show)."),
    cohort: Path | None = Option(None, help="Who is whose teacher (default: as compare kept it)."),
    show: bool = Option(False, "--show", help="Print the packaged claims as a file to begin with, and leave."),
    quiet: bool = Option(False, "--quiet", help="Print the written file only."),
    as_json: bool = Option(False, "--json", help="Print the verdicts as JSON."),
) -> None:
    """Every claim by its interval, for each group of models, corrected for the number of answers (Holm).

    The answers: supported; holds, not attributable (a control moves as far); does not hold (the effects lie on the
    other side); smaller than the margin of the claims file; undecided, with the smallest difference that these seeds
    would have shown. Controls of a distillation: in the teacher's own design the effect must be there as well, and a
    student that did not learn from this teacher must not move as far. Seeds are the unit; with one training a model
    there is no verdict, only what these checkpoints differ by. Nothing is measured.

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
    from fdlab.study.verdicts import answer_text, blocks_of, untested, verdict_text

    rows = []
    for verdict in verdicts:
        several = len(verdict.answers) > 1
        for number, answer in enumerate(verdict.answers):
            rows.append(
                {
                    "id": verdict.claim.id if not number else "",
                    "claim": verdict.claim.statement if not number else "",
                    "verdict": answer.verdict,
                    "models": answer.group,
                    "effect (95 %, uncorrected)": answer_text(answer, blocks_of(verdict.claim)),
                    "not controlled": "; ".join(answer.not_controlled),
                }
            )
        if several and verdict.differs:
            rows[-1]["effect (95 %, uncorrected)"] += f". Over the groups: {verdict_text(verdict)}."
    print_table(pd.DataFrame(rows), title="Claims; p over all tested answers of the file") if rows else None
    for reason, names in untested(verdicts):
        typer.echo(f"Not tested: {', '.join(names)}: {reason}.")
