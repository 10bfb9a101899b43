"""``fdlab doctor``: is what this installation measures right?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from typer import Option

from fdlab.cli import options

if TYPE_CHECKING:
    import pandas as pd


def doctor(
    probes: bool = Option(False, "--probes", help="Run every probe on cases with known answers (seconds)."),
    second_opinion: bool = Option(
        False, "--second-opinion", help="Also show the package loss-landscapes beside our line through weight space."
    ),
    as_json: options.JsonTable = False,
) -> None:
    """Run the probes on cases whose answers are known and print each error against the truth.

    Exits with code 5 where an answer is wrong.

    Example: [bold]fdlab doctor --probes[/bold]
    """
    from fdlab.errors import USAGE, FdlabError

    if not probes:
        raise FdlabError("Nothing to check.", fix="Say what: fdlab doctor --probes.", code=USAGE)
    from fdlab.known_answers import second_opinion as line
    from fdlab.known_answers.doctor import known_answers

    table = known_answers()
    points = line.second_opinion() if second_opinion else None
    if as_json:
        cases = table.to_json(orient="records")
        if points is not None:
            cases = f'{{"cases":{cases},"second_opinion":{points.to_json(orient="records")}}}'
        typer.echo(cases)
    else:
        _print(table, points, line.DIFFERENCES)
    _refuse_wrong(table, points)
    if not as_json:
        typer.echo(f"All {len(table)} cases right ({int(table['checks'].sum())} numbers).")


def _print(table: pd.DataFrame, points: pd.DataFrame | None, differences: tuple[str, ...]) -> None:
    from fdlab.cli.show import print_table

    table = table.copy()
    table.insert(3, "answer", ["wrong" if wrong else "right" for wrong in table["wrong"]])
    print_table(table)
    if points is not None:
        shown = points.drop(columns="wrong").map(lambda value: f"{value:.6g}" if value == value else "none")
        print_table(shown, "The loss along a line through the weights of a linear layer")
        typer.echo("What loss-landscapes does differently:")
        for sentence in differences:
            typer.echo(f"- {sentence}")


def _refuse_wrong(table: pd.DataFrame, points: pd.DataFrame | None) -> None:
    from fdlab.errors import CHECK_NOT_MET, FdlabError

    wrong = table[table["wrong"] > 0]
    fix = "Do not use this installation's numbers; report the versions of torch and fdlab with this table."
    if len(wrong):
        first = wrong.iloc[0]
        raise FdlabError(
            f"{len(wrong)} of {len(table)} cases have a wrong answer.",
            f"The first: {first['probe']} {first['case']} in {first['dtype']}, {first['worst']}.",
            fix,
            CHECK_NOT_MET,
        )
    if points is not None and points["wrong"].any():
        raise FdlabError(
            "Our line through weight space is not the known one.",
            f"{int(points['wrong'].sum())} of its {len(points)} points have another loss.",
            fix,
            CHECK_NOT_MET,
        )
