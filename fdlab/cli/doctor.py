"""``fdlab doctor``: is what this installation measures right?"""

from __future__ import annotations

import typer


def doctor(
    probes: bool = typer.Option(False, "--probes", help="Run every probe on cases with known answers (seconds)."),
    json_: bool = typer.Option(False, "--json", help="Print the table as JSON."),
) -> None:
    """Runs the probes on cases whose answers are known and prints each error against the truth.

    Leaves with code 5 where an answer is wrong.

    Example: [bold]fdlab doctor --probes[/bold]
    """
    from fdlab.errors import CHECK_NOT_MET, USAGE, FdlabError

    if not probes:
        raise FdlabError("Nothing to check.", "", "Say what: fdlab doctor --probes.", USAGE)
    from fdlab.cli.tables import print_table
    from fdlab.known_answers.doctor import known_answers

    table = known_answers()
    if json_:
        typer.echo(table.to_json(orient="records"))
    else:
        table.insert(3, "answer", ["wrong" if wrong else "right" for wrong in table["wrong"]])
        print_table(table)
    wrong = table[table["wrong"] > 0]
    if len(wrong):
        first = wrong.iloc[0]
        raise FdlabError(
            f"{len(wrong)} of {len(table)} cases have a wrong answer.",
            f"The first: {first['probe']} {first['case']} in {first['dtype']}, {first['worst']}.",
            "Do not use this installation's numbers; report the versions of torch and fdlab with this table.",
            CHECK_NOT_MET,
        )
    if not json_:
        typer.echo(f"All {len(table)} cases right ({int(table['checks'].sum())} numbers).")
